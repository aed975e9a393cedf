"""Paired differences of the joint score -> which rule is ahead of which, in tables and in sentences.

Nothing is said beyond what the differences show after Holm's correction for all comparisons of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maxbench.metrics.statistics import holm
from maxbench.report.columns import NOT_SHOWN, column
from maxbench.report.runs import Results

JOINT = "joint"
RULES = ("fusion", "entered")
"""Roles of the rows that may satisfy all conditions; of these a leaderboard is made."""

AHEAD, BEHIND = "ahead", "behind"
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
    own = metrics[metrics.role.isin(RULES) & (metrics.metric == JOINT)]
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
    """The comparisons of every run with `p_holm`, corrected for all comparisons of all runs, and a `verdict`."""
    filled = {run: table for run, table in tables.items() if len(table)}
    if not filled:
        return {run: table.assign(p_holm=[], verdict=[]) for run, table in tables.items()}
    every = pd.concat(filled.values(), keys=filled.keys(), names=["run", None])
    every["p_holm"] = holm(every.p.to_numpy(float))
    shown = every.p_holm < 1 - every.level
    every["verdict"] = [
        (AHEAD if value > 0 else BEHIND) if yes else NOT_SHOWN for value, yes in zip(every.value, shown, strict=True)
    ]
    empty = {run: table.assign(p_holm=[], verdict=[]) for run, table in tables.items() if run not in filled}
    return {**{run: every.loc[run].reset_index(drop=True) for run in filled}, **empty}


def of_rule(table: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The comparisons of one rule, all as it minus the rival."""
    own = table[table.rule == rule]
    theirs = table[table.rival == rule]
    turned = theirs.assign(
        rule=theirs.rival, rival=theirs.rule, value=-theirs.value, low=-theirs.high, high=-theirs.low,
        win_rate=1 - theirs.win_rate, verdict=theirs.verdict.replace({AHEAD: BEHIND, BEHIND: AHEAD}),
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
    return f"Which way of fusing the controls makes {_and(conditions)} hold in one picture?"


def answer(results: Results, conditions: Sequence[str], judgement: pd.DataFrame, total: int) -> Answer:
    """The answer of a run's judged comparisons. total: comparisons of the page."""
    asked = question(conditions)
    levels = _levels(results)
    rules = [name for name in levels if name in set(judgement.rule) | set(judgement.rival)]
    if not rules:
        return Answer(asked, _without(results, levels), next(iter(levels), None))
    best = rules[0]
    own = of_rule(judgement, best)
    counted = f"{total} comparison{'' if total == 1 else 's'}"
    after = f"(paired over N = {int(own.n.iloc[0])}; Holm's correction for the {counted} of this page)"
    among = "" if best == next(iter(levels)) else " of the rules that are compared"
    has = f"{best} has the highest joint score{among}, {levels[best]}"
    ahead, open_ = own[own.verdict == AHEAD], own[own.verdict != AHEAD]
    if not len(judgement[judgement.verdict != NOT_SHOWN]):
        every = len(judgement) == len(rules) * (len(rules) - 1) // 2
        many = f"any two of the {len(rules)} rules" if every else "any two rules that are compared"
        many = "the two rules" if len(rules) == 2 else many
        return Answer(asked, f"No difference between {many} is shown {after}; {has}.", best)
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
    """The rules over all runs, those first that are ahead more often than behind."""
    levels = {run: _levels(results) for run, results in runs.items()}
    order = list(dict.fromkeys(name for results in runs.values() for name in rules_of(results)))
    standings = []
    for rule in order:
        verdicts = [verdict for run in runs for verdict in of_rule(judgement[run], rule).verdict]
        own = {run: said[rule] for run, said in levels.items() if rule in said}
        standings.append(Standing(rule, len(verdicts), verdicts.count(AHEAD), verdicts.count(BEHIND), own))
    return sorted(standings, key=lambda each: (each.behind - each.ahead, -each.compared))


def overall(standings: Sequence[Standing], suite: str, runs: int) -> str:
    """One sentence over several runs of a suite."""
    total = sum(each.compared for each in standings) // 2
    where = f"in {runs} run{'' if runs == 1 else 's'} on {suite}"
    if not total:
        return f"No two rules are compared {where}."
    if not any(each.ahead for each in standings):
        return f"No difference between any two rules is shown {where} ({total} comparisons)."
    first = standings[0]
    same = [each.rule for each in standings if (each.ahead, each.behind) == (first.ahead, first.behind)]
    if first.compared == first.ahead and len(same) == 1:
        return f"{first.rule} is shown ahead in all of its {first.compared} comparisons {where}."
    unbeaten = "behind in none" if not first.behind else f"behind in {first.behind}"
    if len(same) > 1:
        return (
            f"{_and(same)} are each shown ahead in {first.ahead} comparisons and {unbeaten} {where}; no rule stands "
            "alone at the top."
        )
    return (
        f"{first.rule} is shown ahead most often: in {first.ahead} of its {first.compared} comparisons {where}, "
        f"{unbeaten}, and {first.open} show no difference."
    )


# --- words ----------------------------------------------------------------------------------------------------------


def _listed(table: pd.DataFrame) -> str:
    """The rivals of a rule with the differences, the smallest lead first."""
    ordered = table.sort_values("value", kind="stable")
    said = [f"{row.rival} by {_interval(row.value, row.low, row.high)}" for row in ordered.itertuples()]
    if len(said) <= NAMED:
        return _and(said)
    return f"{', '.join(said[:NAMED])} and {len(said) - NAMED} more by larger differences"


def _names(names: Sequence[str]) -> str:
    names = list(names)
    return _and(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _and(parts: Sequence[str]) -> str:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _interval(value: float, low: float, high: float, signed: bool = True) -> str:
    digits, sign = column(JOINT).digits, "+" if signed else ""
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
