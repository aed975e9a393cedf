"""Differences that stand on one page, of one run or several: which are shown, after one correction for all."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from maxbench.metrics.statistics import holm
from maxbench.report.columns import NOT_SHOWN

BETTER, WORSE = "better", "worse"
"""Verdicts on a row minus another one, beside NOT_SHOWN; the words of differences.csv."""


def weigh(differences: pd.DataFrame, level: float | pd.Series) -> pd.DataFrame:
    """Paired differences (`value`, `low`, `high`, `p`, in which more is better) with what is shown of all of them.

    Adds `p_holm`, `correction`, `comparisons` and `verdict`. Holm's correction is for every row of the table, whatever
    run it is of, but for rows of the same pictures, which are no test. level: of the intervals, also of each row; a
    difference is shown where the corrected p is below 1 - level.
    """
    tested = differences.p.where(~same_pictures(differences))
    adjusted = pd.Series(holm(tested.to_numpy(float)), index=differences.index)
    shown = adjusted < 1 - level
    verdicts = [
        (BETTER if value > 0 else WORSE) if yes else NOT_SHOWN
        for value, yes in zip(differences.value, shown, strict=True)
    ]
    return differences.assign(
        p_holm=adjusted, correction="Holm", comparisons=int(tested.notna().sum()), verdict=verdicts
    )


def same_pictures(differences: pd.DataFrame) -> pd.Series:
    """Whether each difference is zero to the last digit in every image: of rules that make the same pictures."""
    return differences.value.eq(0) & differences.low.eq(0) & differences.high.eq(0)


def joined(parts: Sequence[str]) -> str:
    """Names as a sentence has them: with commas, and `and` before the last."""
    parts = list(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
