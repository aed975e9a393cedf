"""Paired differences of the joint score -> which rule is ahead of which, in tables and in sentences.

Nothing is said beyond what the differences show after Holm's correction for all comparisons of a suite on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maxbench.report.columns import NOT_SHOWN, column
from maxbench.report.runs import Results
from maxbench.report.verdicts import BETTER, WORSE, joined, same_pictures, weigh
from maxbench.report.winner import RANKED

JOINT = "joint"
COLUMNS = ("rule", "rival", "value", "low", "high", "n", "p", "win_rate", "level")
"""Of a table of comparisons: rule minus rival, p before any correction, and the level of the intervals."""

NAMED = 4  # rivals that a sentence names; of more it says how many


def rules_of(results: Results) -> list[str]:
    """The rules of a run that are compared with each other, in the order of its tables.

    What varies in one number is a curve and no rule of its own.
    """
    metrics = results.metrics
    if "role" not in metrics:  # of an older version
        return []
    own = metrics[metrics.role.isin(RANKED) & (metrics.metric == JOINT)]
    if "setting" in own:
        own = own[own.setting.isna()]
    return list(dict.fromkeys(own.method))


def comparisons(differences: pd.DataFrame | None, rules: Sequence[str], level: float) -> pd.DataFrame:
    """Every pair of rules whose difference in the joint score was tested, once: the earlier rule minus the later one.

    differences: as in differences.csv. Pairs that it does not have are left out.
    """
    if differences is None or "p" not in differences:
        return pd.DataFrame(columns=list(COLUMNS))
    place = {name: number for number, name in enumerate(rules)}
    own = differences[
        (differences.metric == JOINT) & differences.method.isin(place) & differences.baseline.isin(place)
    ].dropna(subset=["value", "p"])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in own.itertuples():
        turned = place[row.method] > place[row.baseline]
        pair = (row.baseline, row.method) if turned else (row.method, row.baseline)
        if pair in found:
            continue
        value, low, high, rate = row.value, row.low, row.high, getattr(row, "win_rate", float("nan"))
        if turned:
            value, low, high, rate = -value, -high, -low, 1 - rate
        found[pair] = dict(zip(COLUMNS, (*pair, value, low, high, row.n, row.p, rate, level), strict=True))
    ordered = sorted(found, key=lambda pair: (place[pair[0]], place[pair[1]]))
    return pd.DataFrame([found[pair] for pair in ordered], columns=list(COLUMNS))


def judged(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The comparisons of every run, weighed with one correction for all of them, see :func:`weigh`.

    Call it for each suite by itself: of two suites nothing is compared, and neither makes the other less sure.
    """
    filled = {run: table for run, table in tables.items() if len(table)}
    if not filled:
        return {run: table.assign(p_holm=[], verdict=[]) for run, table in tables.items()}
    every = pd.concat(filled.values(), keys=filled.keys(), names=["run", None])
    every = weigh(every, every.level)
    empty = {run: table.assign(p_holm=[], verdict=[]) for run, table in tables.items() if run not in filled}
    return {**{run: every.loc[run].reset_index(drop=True) for run in filled}, **empty}


def of_rule(table: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The comparisons of one rule, all as it minus the rival."""
    own = table[table.rule == rule]
    theirs = table[table.rival == rule]
    turned = theirs.assign(
        rule=theirs.rival, rival=theirs.rule, value=-theirs.value, low=-theirs.high, high=-theirs.low,
        win_rate=1 - theirs.win_rate, verdict=theirs.verdict.replace({BETTER: WORSE, WORSE: BETTER}),
    )  # fmt: skip
    return pd.concat([own, turned], ignore_index=True) if len(own) and len(turned) else turned if own.empty else own


# --- one run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a run says to the question which rule satisfies all conditions.

    best: the rule with the highest joint score; None where there is none.
    """

    question: str
    sentence: str
    best: str | None


def question(conditions: Sequence[str]) -> str:
    """What is asked of a run."""
    if len(conditions) < 2:
        return "How well is the condition followed?"
    return f"Which way of fusing the controls makes {joined(conditions)} hold in one picture?"


def answer(results: Results, conditions: Sequence[str], judgement: pd.DataFrame, total: int) -> Answer:
    """The answer of a run's judged comparisons. total: comparisons of the run's suite on the page."""
    asked = question(conditions)
    levels = _levels(results)
    rules = [name for name in levels if name in set(judgement.rule) | set(judgement.rival)]
    if not rules:
        return Answer(asked, _without(results, levels), next(iter(levels), None))
    best = rules[0]
    own = of_rule(judgement, best)
    own, same = own[~same_pictures(own)], own[same_pictures(own)]
    judgement = judgement[~same_pictures(judgement)]
    counted = _comparisons(total)
    count = int(pd.concat([own, same]).n.iloc[0])
    after = f"(paired over N = {count}; Holm's correction for the {counted} of this page on {results.suite})"
    among = "" if best == next(iter(levels)) else " of the rules that are compared"
    has = f"{best} has the highest joint score{among}, {levels[best]}"
    if len(same):
        has += f", as has {_names(same.rival)} with the same pictures"
    if not len(judgement):
        return Answer(asked, f"{has}; all rules that are compared make the same pictures.", best)
    ahead, open_ = own[own.verdict == BETTER], own[own.verdict != BETTER]
    if not len(judgement[judgement.verdict != NOT_SHOWN]):
        every = not len(same) and len(judgement) == len(rules) * (len(rules) - 1) // 2
        many = f"any two of the {len(rules)} rules" if every else "any two rules that are compared"
        many = "the two rules" if len(rules) == 2 else many
        return Answer(asked, f"No difference between {many} is shown {after}; {has}.", best)
    if own.empty:
        return Answer(asked, f"{has}; it is compared with no rule that makes other pictures {after}.", best)
    if not len(open_):
        rivals = "the other rule" if len(own) == 1 else f"each of the {len(own)} other rules that it is compared with"
        return Answer(asked, f"{has}, and is shown ahead of {rivals}: of {_listed(ahead)} {after}.", best)
    if not len(ahead):
        return Answer(
            asked, f"No rule is shown to be the best: {has}, and is not shown ahead of any other {after}.", best
        )
    return Answer(
        asked,
        f"No single rule is shown to be the best: {has}, and is shown ahead of {_listed(ahead)}, but no difference "
        f"from {_names(open_.rival)} is shown {after}.",
        best,
    )


def _levels(results: Results) -> dict[str, str]:
    """Rule -> its joint score in words, the highest first."""
    metrics = results.metrics
    if "role" not in metrics:
        return {}
    own = metrics[(metrics.metric == JOINT) & metrics.method.isin(rules_of(results))].dropna(subset=["value"])
    own = own.sort_values("value", ascending=False, kind="stable")
    return {row.method: _interval(row.value, row.low, row.high, signed=False) for row in own.itertuples()}


def _without(results: Results, levels: Mapping[str, str]) -> str:
    """Why a run answers nothing."""
    if not levels:
        metrics = results.metrics
        varied = "setting" in metrics and (metrics.metric.eq(JOINT) & metrics.setting.notna()).any()
        if varied:
            return (
                "This run varies one number of a rule; the curves below are its answer, and no two rules are compared."
            )
        return "This run has no joint score of several rules, so that nothing is compared here; see its tables."
    if len(levels) == 1:
        name, level = next(iter(levels.items()))
        return f"This run has one rule, {name}, with a joint score of {level}; nothing is compared here."
    return (
        f"{next(iter(levels))} has the highest joint score, {next(iter(levels.values()))}; no paired difference "
        "between two rules was kept, so that none is shown."
    )


# --- several runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """A rule over all runs of one suite: comparisons, and how they end; by run its joint score, in words."""

    rule: str
    compared: int
    ahead: int
    behind: int
    levels: Mapping[str, str]

    @property
    def open(self) -> int:
        """Comparisons that show no difference."""
        return self.compared - self.ahead - self.behind


def leaderboard(runs: Mapping[str, Results], judgement: Mapping[str, pd.DataFrame]) -> list[Standing]:
    """The rules over all runs: those first that are ahead most often, of equal ones those that are behind least often.

    runs: whose joint scores stand beside it. judgement: what counts: a table for each run, or for several that differ
    in their seed alone. Rules that make the same pictures are not compared with each other.
    """
    levels = {run: _levels(results) for run, results in runs.items()}
    order = list(dict.fromkeys(name for results in runs.values() for name in rules_of(results)))
    standings = []
    for rule in order:
        verdicts = [
            verdict for table in judgement.values()
            for verdict in of_rule(table[~same_pictures(table)], rule).verdict
        ]  # fmt: skip
        own = {run: said[rule] for run, said in levels.items() if rule in said}
        standings.append(Standing(rule, len(verdicts), verdicts.count(BETTER), verdicts.count(WORSE), own))
    return sorted(standings, key=lambda each: (-each.ahead, each.behind, -each.compared))


def overall(standings: Sequence[Standing], suite: str, runs: int) -> str:
    """One sentence over several runs of a suite, of which those that differ in their seed alone are one."""
    total = sum(each.compared for each in standings) // 2
    where = f"in {runs} run{'' if runs == 1 else 's'} on {suite}"
    if not total:
        return f"No two rules are compared {where}."
    if not any(each.ahead for each in standings):
        return f"No difference between any two rules is shown {where} ({_comparisons(total)})."
    first = standings[0]
    most = [each for each in standings if each.ahead == first.ahead]
    if len(most) == 1:
        if first.compared == first.ahead:
            return f"{first.rule} is shown ahead in all of its {_comparisons(first.compared)} {where}."
        return (
            f"{first.rule} is shown ahead most often: in {first.ahead} of its {_comparisons(first.compared)} {where}; "
            f"it is behind in {first.behind or 'none'}, and {first.open or 'none'} show{'s' * (first.open == 1)} no "
            "difference."
        )
    behind = [f"{each.rule} {'is behind ' * (each is first)}in {each.behind or 'none'}" for each in most]
    alone = "" if most[1].behind > first.behind else " No rule stands alone at the top."
    return (
        f"{joined([each.rule for each in most])} are shown ahead most often: in {_comparisons(first.ahead)} each "
        f"{where}; {joined(behind)}.{alone}"
    )


def same_of(judgement: Mapping[str, pd.DataFrame]) -> list[str]:
    """Which rules make the same pictures, in sentences, and in how many runs where not in all that compare them."""
    found: dict[frozenset[str], list[bool]] = {}
    named: dict[frozenset[str], str] = {}
    for table in judgement.values():
        for row, same in zip(table.itertuples(), same_pictures(table), strict=True):
            pair = frozenset((row.rule, row.rival))
            named.setdefault(pair, f"{row.rival} makes the same pictures as {row.rule}")
            found.setdefault(pair, []).append(bool(same))
    return [
        f"{named[pair]}{'' if all(where) else f' in {sum(where)} of {len(where)} runs'}; this counts as no comparison."
        for pair, where in found.items()
        if any(where)
    ]


def variants(standings: Sequence[Standing], configs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rules of a leaderboard that are variants of one: of one class, or called as another with more after it."""
    classes: dict[str, set[str]] = {}
    for config in configs:
        for name, entry in (config.get("methods") or {}).items():
            rule = entry.get("rule") if isinstance(entry, Mapping) else None
            if isinstance(rule, Mapping) and "_target_" in rule:
                classes.setdefault(name, set()).add(str(rule["_target_"]))
    groups: list[list[str]] = []
    for name in (each.rule for each in standings):
        own = classes.get(name, set())
        near = [
            group for group in groups if any(_related(name, each, own & classes.get(each, set())) for each in group)
        ]
        groups = [group for group in groups if group not in near] + [
            [*(each for group in near for each in group), name]
        ]
    return [group for group in groups if len(group) > 1]


def _related(name: str, other: str, shared: set[str]) -> bool:
    return bool(shared) or name.startswith(f"{other}_") or other.startswith(f"{name}_")


def _comparisons(count: int) -> str:
    return f"{count} comparison{'' if count == 1 else 's'}"


# --- words ----------------------------------------------------------------------------------------------------------


def _listed(table: pd.DataFrame) -> str:
    """The rivals of a rule with the differences, the smallest lead first."""
    ordered = table.sort_values("value", kind="stable")
    said = [f"{row.rival} by {_interval(row.value, row.low, row.high)}" for row in ordered.itertuples()]
    if len(said) <= NAMED:
        return joined(said)
    return f"{', '.join(said[:NAMED])} and {len(said) - NAMED} more by larger differences"


def _names(names: Sequence[str]) -> str:
    names = list(names)
    return joined(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _interval(value: float, low: float, high: float, signed: bool = True) -> str:
    digits, sign = column(JOINT).digits, "+" if signed else ""
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
