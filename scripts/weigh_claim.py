"""Which rule wins, against every baseline: python scripts/weigh_claim.py RUN ... [--rules NAME ...] [--output FILE].

For every run (or pooled result): the joint score of each rule minus that of every other method, per image, paired over
samples with the same noise, each with its own interval; p by sign flips, corrected for all comparisons of this page
(Holm). A run whose conditions cannot be scored together is named and left out. Beside it what a win may cost: the
difference in CLIP score and in each fidelity, likewise paired.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from maxbench.configuration.component import CONDITION, component
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import NOT_SHOWN, Tables
from maxbench.evaluation.runner import STATE
from maxbench.evaluation.state import State
from maxbench.metrics.statistics import holm
from maxbench.report.tables import column, column_name, markdown_table
from maxbench.store.stamp import origin

RULES = ("gated_sum", "maxfusion", "outputs_only")
VERDICTS = {True: "ahead", False: "behind"}


def read(folder: Path, rules: list[str]) -> Tables:
    """The tables of a run, with differences to `rules`."""
    try:
        state = State.unpack((folder / STATE).read_bytes())
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no finished run ({error}); name the folder of one.") from error
    conditions = {name: component(entry, name, CONDITION) for name, entry in config["conditions"].items()}
    present = [name for name in rules if name in {row.name for row in state.rows}]
    if not present:
        raise UserError(f"{folder} has none of {', '.join(rules)}; name rules that it has with --rules.")
    tables = Tables(state, conditions, config["metrics"]["resamples"], config["metrics"]["level"], present)
    if tables.joint is None or len(tables.joint.conditions) < 2:
        raise UserError(f"{folder} has no joint score of two conditions: {tables.joint_note}.")
    return tables


def levels(tables: Tables) -> pd.DataFrame:
    """The joint score of every method and what goes with it, with intervals."""
    metrics = tables.metrics()
    return metrics[metrics.metric.isin(["joint", "share_both", "q_mean", "q"]) & (metrics.role != "reference")]


def differences(tables: Tables) -> pd.DataFrame:
    """Rule minus rival: `differences` has the rules as baselines, so signs turn round."""
    table = tables.differences().copy()
    table["rule"], table["rival"] = table.baseline, table.method
    table["value"], table["low"], table["high"] = -table.value, -table.high, -table.low
    table["win_rate"] = 1 - table.win_rate
    return table


def cell(row: pd.Series) -> str:
    digits = column(row.metric).digits
    return f"{row.value:+.{digits}f} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"


def page(folders: list[Path], rules: list[str]) -> str:
    tables = {folder: read(folder, rules) for folder in folders}
    changes = {folder: differences(each) for folder, each in tables.items()}
    own = {folder: _once(each[each.metric == "joint"], rules) for folder, each in changes.items()}
    adjusted = holm(np.concatenate([each.p.to_numpy(float) for each in own.values()]))
    parts, start, counts = [], 0, pd.Series(dtype=int)
    for folder, each in own.items():
        p = adjusted[start : start + len(each)]
        start += len(each)
        shown = p < 1 - tables[folder].level
        verdicts = [VERDICTS[value > 0] if yes else NOT_SHOWN for value, yes in zip(each.value, shown, strict=True)]
        counts = counts.add(pd.Series(verdicts).value_counts(), fill_value=0)
        parts.append(_one(folder, tables[folder], each.assign(p_holm=p, verdict=verdicts), changes[folder]))
    said = ", ".join(f"{name} {int(count)}" for name, count in counts.items())
    return (
        "# Which rule wins?\n\n"
        f"Made by `scripts/weigh_claim.py` from {', '.join(map(origin, folders))}. Joint scores are per image; every "
        f"difference is paired, with its own interval; verdicts are after Holm's correction for the {len(adjusted)} "
        f"comparisons of this page ({said}).\n\n" + "\n\n".join(parts) + "\n"
    )


def _once(changes: pd.DataFrame, rules: list[str]) -> pd.DataFrame:
    """Two rules are compared once, the one that was named first with the other."""
    place = {name: number for number, name in enumerate(rules)}
    twice = [
        rival in place and place[rival] < place[rule] for rule, rival in zip(changes.rule, changes.rival, strict=True)
    ]
    return changes[~np.array(twice)].reset_index(drop=True)


def _level(row: Any) -> str:
    return "-" if row is None else f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


def _one(folder: Path, tables: Tables, joint: pd.DataFrame, changes: pd.DataFrame) -> str:
    state = tables.state
    seeds = ", ".join(map(str, state.seeds))
    lines = [f"## {state.experiment}, seed {seeds}, N = {len(np.unique(state.groups))}"]
    if tables.joint_note:
        lines.append(f"Joint score {tables.joint_note}.")
    found = levels(tables)
    names = list(dict.fromkeys(zip(found.metric, found.condition.fillna(""), strict=True)))
    cells = {(row.method, row.metric, row.condition or ""): row for row in found.itertuples()}
    rows = []
    for method in dict.fromkeys(found.method):
        rows.append([method, *(_level(cells.get((method, *name))) for name in names)])
    lines.append(markdown_table(["method", *(column_name(*name) for name in names)], rows))
    others = [
        key
        for key in dict.fromkeys(zip(changes.metric, changes.condition.fillna(""), strict=True))
        if key[0] not in ("q", "q_mean", "joint")
    ]
    lookup = {(row.rule, row.rival, row.metric, row.condition or ""): row for row in changes.itertuples()}
    rows = []
    for row in joint.itertuples():
        cost = (lookup.get((row.rule, row.rival, *key)) for key in others)
        rows.append(
            [
                row.rule, row.rival, cell(row), f"{100 * row.win_rate:.0f}%",
                f"{row.p_holm:.2g}", row.verdict, *("-" if each is None else cell(each) for each in cost),
            ]
        )  # fmt: skip
    headings = ["rule", "minus", "joint", "wins", "p (Holm)", "verdict", *(column_name(*key) for key in others)]
    lines.append(markdown_table(headings, rows))
    return "\n\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    try:
        text = page(chosen.runs, chosen.rules)
    except UserError as error:
        print(f"weigh_claim: {error}", file=sys.stderr)
        return 2
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
