"""Differences that stand on one page, of one run or several: which are shown, after one correction for all."""

from __future__ import annotations

import pandas as pd

from maxbench.metrics.statistics import holm

AHEAD, BEHIND, OPEN = "ahead", "behind", "not shown"


def weigh(differences: pd.DataFrame, level: float) -> pd.DataFrame:
    """Paired differences (`value`, `p`, in which more is better) with `p_holm` and `verdict` over all of them.

    Holm's correction is for every row of the table, whatever run it is of. level: of the intervals; a difference is
    shown where the corrected p is below 1 - level.
    """
    adjusted = holm(differences.p.to_numpy(float))
    verdicts = [
        (AHEAD if value > 0 else BEHIND) if p < 1 - level else OPEN
        for value, p in zip(differences.value, adjusted, strict=True)
    ]
    return differences.assign(p_holm=adjusted, verdict=verdicts)
