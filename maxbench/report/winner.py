"""Who is best in a table, as far as the paired differences show it: in marks, ranks and one sentence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import pandas as pd

from maxbench.report.columns import NOT_SHOWN, Key, column, keys_of
from maxbench.report.verdicts import BETTER, WORSE, joined

RANKED = ("fusion", "entered")
"""Roles of the rows that may win: what sees several conditions. No control, one control alone, a random choice and real
pictures are not what a reader chooses from."""
NAMED = 3
"""Rules that a sentence names; of more it says how many there are."""


class Comparison(NamedTuple):
    """The first row of a column minus another one; shown: after Holm's correction, and to the first one's advantage."""

    other: str
    value: float
    low: float
    high: float
    shown: bool

    @property
    def is_tie(self) -> bool:
        """Whether both are the same, to the last digit: rules that make the same pictures."""
        return self.value == self.low == self.high == 0


def undecided(differences: pd.DataFrame | None) -> dict[Key, int | None]:
    """Columns in which no rule that fuses is shown to differ from a baseline, and the fewest samples that may show one.

    That no control, single controls and a random choice differ does not count where there are such rules: nobody ranks
    those. The number is the smallest of all that are estimated, and so a lower bound; None where nothing differs.
    """
    if differences is None:
        return {}
    fusing = differences[differences.role.isin(RANKED)]
    differences = differences if fusing.empty else fusing
    silent = {}
    for key, group in differences.assign(condition=differences.condition.fillna("")).groupby(
        ["metric", "condition"], sort=False
    ):
        if (group.verdict == NOT_SHOWN).all():
            needed = group.needed.dropna()
            silent[key] = int(needed.min()) if len(needed) else None
    return silent


def ranking(metrics: pd.DataFrame, key: Key) -> list[Any]:
    """The rows of a column that may win, the best first; none where no way is better."""
    better = column(key[0]).better
    if better is None or "role" not in metrics:  # of an older version
        return []
    own = metrics[
        (metrics.metric == key[0])
        & (metrics.condition.fillna("") == key[1])
        & metrics.role.isin(RANKED)
        & metrics.value.notna()
    ]
    return list(own.sort_values("value", ascending=better == "lower", kind="stable").itertuples())


def comparisons(differences: pd.DataFrame, key: Key, first: str, others: Sequence[str]) -> list[Comparison]:
    """What is tested between a row of a column and some others, each once: it, or the other, may be the baseline."""
    own = differences[(differences.metric == key[0]) & (differences.condition.fillna("") == key[1])]
    found: dict[str, Comparison] = {}
    for row in own.itertuples():
        if row.method == first and row.baseline in others:
            found[row.baseline] = Comparison(row.baseline, row.value, row.low, row.high, row.verdict == BETTER)
        elif row.baseline == first and row.method in others and row.method not in found:
            found[row.method] = Comparison(row.method, -row.value, -row.high, -row.low, row.verdict == WORSE)
    return list(found.values())


def best(metrics: pd.DataFrame, differences: pd.DataFrame | None) -> set[tuple[str, Key]]:
    """(method, column) of the best of each column, where it is shown ahead of all that it is tested against.

    Rules that make the same pictures as the best are as good, and marked like it.
    """
    marked: set[tuple[str, Key]] = set()
    for key in [] if differences is None else keys_of(metrics):
        order = ranking(metrics, key)
        if len(order) < 2:
            continue
        tested = comparisons(differences, key, order[0].method, [row.method for row in order[1:]])
        others = [each for each in tested if not each.is_tie]
        if others and all(each.shown for each in others):
            marked |= {(name, key) for name in (order[0].method, *(each.other for each in tested if each.is_tie))}
    return marked


def ranks(metrics: pd.DataFrame, silent: Collection[Key]) -> tuple[set[tuple[str, Key]], set[tuple[str, Key]]]:
    """(method, column) of the best and of the second best of each column by its numbers; none of a `silent` column."""
    first: set[tuple[str, Key]] = set()
    second: set[tuple[str, Key]] = set()
    for key in keys_of(metrics):
        order = [] if key in silent else ranking(metrics, key)
        values = list(dict.fromkeys(row.value for row in order))
        if len(values) < 2:
            continue
        first |= {(row.method, key) for row in order if row.value == values[0]}
        second |= {(row.method, key) for row in order if row.value == values[1]}
    return first, second


def winner(metrics: pd.DataFrame, differences: pd.DataFrame | None) -> str:
    """Which rule has the highest joint score and what it is shown ahead of, in a sentence; empty without that score."""
    key = ("joint", "")
    order = ranking(metrics, key)
    if len(order) < 2:
        return ""
    top = order[0]
    head = f"`{top.method}` has the highest joint score, {top.value:.2f} [{top.low:.2f}, {top.high:.2f}]"
    tested = [] if differences is None else comparisons(differences, key, top.method, [row.method for row in order[1:]])
    if not tested:
        return f"{head}; no difference of it from another rule was tested."
    same = [each for each in tested if each.is_tie]
    tested = [each for each in tested if not each.is_tie]
    if same:
        head += f", as has {joined([f'`{each.other}`' for each in same])} with the same pictures"
    ahead, open_ = [each for each in tested if each.shown], [each for each in tested if not each.shown]
    count = int(differences.comparisons.iloc[0]) if "comparisons" in differences else len(tested)
    corrected = f"after Holm's correction for {count} comparisons"
    if not ahead:
        return f"No rule is shown to win: {head}, but no difference is shown from {_minus(open_)} ({corrected})."
    said = f"{head}, and is shown ahead of {_minus(ahead)}"
    if open_:
        said += f"; no difference is shown from {_minus(open_)}"
    return f"{said} ({corrected})."


def _minus(tested: Sequence[Comparison]) -> str:
    """Rules with the differences to them, the nearest first; of many the nearest ones and how many more there are."""
    near = sorted(tested, key=lambda each: abs(each.value))
    named = [f"`{each.other}` ({each.value:+.2f} [{each.low:+.2f}, {each.high:+.2f}])" for each in near[:NAMED]]
    rest = len(near) - NAMED
    return joined([*named, f"{rest} more"] if rest > 0 else named) if named else "any other rule"
