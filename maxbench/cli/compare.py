"""The verb `compare`: several runs in one table, and which rule is shown ahead in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from maxbench.cli.output import output_file, write_output
from maxbench.errors import UserError
from maxbench.report.compare import JOINT, Comparison, Member, Verdicts, titles
from maxbench.report.runs import Results, anchors, by_seed, find
from maxbench.report.verdicts import weigh
from maxbench.report.winner import RANKED, undecided

ALL = "all"
OF_A_FAMILY = ("p_holm", "correction", "comparisons", "needed", "verdict")
"""Columns that depend on what else was tested, which in a comparison is more or less than in the run's own table."""

Differences = Callable[[Sequence[str]], pd.DataFrame]
"""Baselines -> paired differences of every method of a run to them, as in differences.csv."""


def compare(
    names: Sequence[str],
    output_dir: str = "runs",
    methods: str = "",
    metrics: str = "",
    baseline: str = "",
    latex: bool = False,
    csv: bool = False,
    output: str | None = None,
) -> int:
    """Print one table of several runs; with a baseline also which rules are shown ahead of it or behind it.

    methods, metrics, baseline: names with commas between them; baseline may be `all`: every other row.
    latex, csv: print it so. output: a file that gets the same.
    """
    if not names:
        raise UserError("Name the runs to compare, as `python -m maxbench list` does.")
    if latex and csv:
        raise UserError("--latex and --csv both say how to print; leave one of them out.")
    if output is not None:
        output_file(Path(output))
    folders = find(names, output_dir)
    if len({each.resolve() for each in folders}) < len(folders):
        raise UserError("A run is named twice; name each once.")
    results = [Results(folder) for folder in folders]
    for each in results:
        _ = each.metrics  # whether it is a finished run at all
    _check_parts(results)
    members, differences, notes = _members(results)
    comparison = Comparison(members, _list(methods, "--methods"), _list(metrics, "--metrics"))
    parts: list[Comparison | Verdicts] = [comparison]
    if baseline:
        parts.append(_verdicts(members, differences, comparison.methods, _list(baseline, "--baseline")))
    if csv:
        text = parts[-1].table().to_csv(index=False)
    else:
        said = [each.latex() if latex else each.markdown() for each in parts]
        text = (
            "\n\n".join([*(each.rstrip() for each in said), *(f"{'% ' if latex else ''}{note}" for note in notes)])
            + "\n"
        )
    if output is not None:
        write_output(Path(output), text)
    print(text, end="")
    return 0


def _list(words: str, option: str) -> list[str]:
    """Names with commas between them."""
    if not words:
        return []
    found = [each.strip() for each in words.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise UserError(f"{option} is '{words}'; write names with commas between them, each once: maxfusion,sum.")
    return found


def _check_parts(results: Sequence[Results]) -> None:
    """A pooled result beside a run that it is made of would count that twice."""
    names = {each.id for each in results}
    for each in results:
        parts = each.config.get("pooled")
        if twice := sorted(names & set(parts if isinstance(parts, list) else [])):
            raise UserError(f"{each.id} is made of {', '.join(twice)}, which is named as well; leave one of them out.")


# --- runs that differ in their seed alone ---------------------------------------------------------------------


def _members(results: Sequence[Results]) -> tuple[list[Member], dict[str, Differences], list[str]]:
    """The runs of the comparison, those that differ in their seed alone as one; how to get their differences; notes."""
    members, differences, notes = [], {}, []
    names = anchors([each.id for each in results])  # folders of other places may have the same name
    runs = {each.folder: name for each, name in zip(results, names, strict=True)}
    for group in by_seed(results):
        member = None
        if len(group) > 1:
            try:
                member, of = _pooled(group)
            except UserError as error:
                notes.append(f"Not pooled, although they seem to differ in their seed alone: {error}")
        for each in [] if member is not None else group:
            metrics = each.metrics.assign(run=runs[each.folder])
            silent = undecided(each.differences)
            members.append(Member(runs[each.folder], each.origin, each.config, metrics, _references([each]), silent))
            differences[runs[each.folder]] = _differences_of(each)
        if member is not None:
            members.append(member)
            differences[member.run] = of
            notes.append(f"Pooled, with one cluster for each sample: {', '.join(each.id for each in group)}.")
    return members, differences, notes


def _pooled(group: Sequence[Results]) -> tuple[Member, Differences]:
    """One result of runs that differ in their seed alone, from what they have measured; nothing is written."""
    from maxbench.cli.pool import called, merged  # torch, which comparing single runs does without

    folders, configs, state, tables = merged([each.folder for each in group])
    run = called(state, [folder.resolve().name for folder in folders])
    metrics = tables().metrics()
    metrics.insert(0, "run", run)
    config = {**configs[0], "seed": state.seeds}
    origins = {each.folder: each.origin for each in group}
    origin, silent = " and ".join(origins[folder] for folder in folders), undecided(tables().differences())
    member = Member(run, origin, config, metrics, _references(group), silent)
    return member, lambda baselines: tables(baselines).differences()


def _references(group: Sequence[Results]) -> tuple[int, ...] | None:
    """The pictures that distances of some runs are to; None where one does not say it."""
    listed = [(each.manifest or {}).get("reference") for each in group]
    return tuple(sorted({number for own in listed for number in own})) if all(map(bool, listed)) else None


def _differences_of(results: Results) -> Differences:
    """From differences.csv where it has them, else computed from what was measured."""

    def differences(baselines: Sequence[str]) -> pd.DataFrame:
        known = results.differences
        if known is not None and {"p", "win_rate"} <= set(known) and set(baselines) <= set(known.baseline):
            return known[known.baseline.isin(baselines)]
        from maxbench.cli.pool import read_config, read_state, tables_of

        return tables_of(read_state(results.folder), read_config(results.folder), baselines).differences()

    return differences


# --- verdicts ---------------------------------------------------------------------------------------------------


def _verdicts(
    members: Sequence[Member], differences: dict[str, Differences], methods: Sequence[str], baselines: Sequence[str]
) -> Verdicts:
    """Rules minus baselines in every run, with one correction for all comparisons."""
    if ALL in baselines and len(baselines) > 1:
        raise UserError(f"--baseline is '{','.join(baselines)}'; `{ALL}` means every row, so name nothing beside it.")
    joint, others, left_out, called = [], [], {}, titles(members)
    for member in members:
        if JOINT not in set(zip(member.metrics.metric, member.metrics.condition.fillna(""), strict=True)):
            left_out[called[member.run]] = "it has no joint score"
            continue
        if "role" not in member.metrics:
            left_out[called[member.run]] = "it is of an older version, which does not say which of its rows are rules"
            continue
        rules = _rules(member, methods)
        if not rules or (baselines != [ALL] and not any(rule != rival for rule in rules for rival in baselines)):
            left_out[called[member.run]] = f"it has no rule to compare with {', '.join(baselines)}"
            continue
        if baselines == [ALL]:
            table, order = _turned(differences[member.run](rules)), [*reversed(rules)]
        else:
            table = differences[member.run](baselines).rename(columns={"method": "rule", "baseline": "rival"})
            order = baselines
        table = _once(table[table.rule.isin(rules)], rules, order)
        about = member.metrics.drop_duplicates("method").set_index("method")
        table = table.drop(columns=["run", *OF_A_FAMILY], errors="ignore")
        table = table.assign(role=table.rule.map(about.role), delta=table.rule.map(about.delta))
        table.insert(0, "run", member.run)
        joint.append(table[table.metric == "joint"])
        others.append(table[table.metric != "joint"])
    if not joint:
        raise UserError(f"No run here can be weighed: {'; '.join(f'{key}: {why}' for key, why in left_out.items())}.")
    levels = {float(member.config["metrics"]["level"]) for member in members}
    if len(levels) > 1:
        raise UserError("The runs have intervals of different levels (metrics.level); compare runs of one level.")
    weighed = weigh(pd.concat(joint, ignore_index=True), levels.pop())
    return Verdicts(members, weighed, pd.concat(others, ignore_index=True), left_out)


def _rules(member: Member, methods: Sequence[str]) -> list[str]:
    """The rows that are weighed: those that are named, or all that fuse."""
    roles = dict(zip(member.metrics.method, member.metrics.role, strict=True))
    if methods:
        return [name for name in methods if name in roles]
    return [name for name, role in roles.items() if role in RANKED]


def _turned(table: pd.DataFrame) -> pd.DataFrame:
    """Differences of every row to the rules as differences of the rules to every row."""
    turned = table.rename(columns={"baseline": "rule", "method": "rival"})
    return turned.assign(value=-table.value, low=-table.high, high=-table.low, win_rate=1 - table.win_rate)


def _once(table: pd.DataFrame, rules: Sequence[str], rivals: Sequence[str]) -> pd.DataFrame:
    """Each pair once: of two rows that are both rule and rival the one that stands first in `rivals` is the rival."""
    place = {name: number for number, name in enumerate(rivals)}
    twice = [
        rival in place and rule in place and rival in rules and place[rule] < place[rival]
        for rule, rival in zip(table.rule, table.rival, strict=True)
    ]
    return table[[not each for each in twice]]
