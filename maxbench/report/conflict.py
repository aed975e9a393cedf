"""The joint score by the measured degree of conflict -> one figure, as wide as a column of a paper."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from maxbench.errors import UserError
from maxbench.report.base import COLOURS, MARKERS, SINGLE, SMALL, NotThere, save, style
from maxbench.report.pictures import Shown
from maxbench.report.runs import Results

FILE, PICTURE = "conflict.csv", "conflict.png"
FUSING = ("fusion", "entered")  # roles of the rows that may satisfy all conditions
LINES = 6  # in colour; more cannot be told apart
WIDTH, HEIGHT = SINGLE, 4.0  # inches
STEP = 0.012  # between the intervals of two methods in one bin, of the axis' length: they would hide each other
REQUIRED = {"method", "role", "branches", "parameter", "bin", "conflict", "conflict_low", "conflict_high", "value",
            "low", "high", "n"}  # fmt: skip
NUMBERS = ("conflict", "conflict_low", "conflict_high", "value", "low", "high", "n")


def write_conflict(folder: Path) -> Path | None:
    """Draw `conflict.png` of a run that has a `conflict.csv`; None where it has none.

    The best fusion methods by their mean joint score and the run's baselines are in colour, the other ones pale; each
    condition's own single control is dashed. No control is 0 by definition and not drawn.
    """
    try:
        (figure,) = conflict(Results(folder), Shown()).values()
    except NotThere:
        return None
    (path,) = save(figure, (folder / PICTURE).with_suffix(""), ["png"])
    return path


def conflict(results: Results, shown: Shown) -> dict[str, Figure]:
    """The figure of a run's `conflict.csv`; the named methods in colour, else the best and the baselines."""
    path = results.folder / FILE
    if not path.exists():
        raise NotThere(
            "there is no conflict.csv: its conditions come from one picture, or it has fewer than the 20 samples that "
            "five shares need"
        )
    try:
        table = pd.read_csv(path)
        numbers = [name for name in NUMBERS if name in table]
        table[numbers] = table[numbers].apply(pd.to_numeric)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; delete it and run the same command again.") from error
    if missing := sorted(REQUIRED - set(table)):
        raise UserError(f"{path} has no column {missing[0]}: it is damaged, or of an older version.")
    if table.empty:
        raise NotThere(f"{FILE} has no rows")
    named = [name for name in shown.methods if name in set(table.method[table.role.isin(FUSING)])]
    return {"conflict": _figure(table, results.config, named or _baselines(results.folder), named)}


def lines_in_colour(table: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    """The fusion methods that are told apart, at most LINES, the best first: of all images, not of single bins.

    The baselines that fuse are among them, in place of the last: they are what the others are compared with.
    """
    fusing = table[table.role.isin(FUSING)]
    weighted = fusing.assign(total=fusing.value * fusing.n).groupby("method", sort=False)[["total", "n"]].sum()
    ranked = (weighted.total / weighted.n).sort_values(ascending=False, kind="stable").index.tolist()
    kept = [name for name in ranked if name in baselines][:LINES]
    best = [name for name in ranked if name not in kept][: LINES - len(kept)]
    return [name for name in ranked if name in kept or name in best]


def _baselines(folder: Path) -> list[str]:
    """What the run's differences are to."""
    path = folder / "differences.csv"
    try:
        return pd.read_csv(path).baseline.unique().tolist()
    except (FileNotFoundError, pd.errors.EmptyDataError):  # a run of one method has none
        return []


def _figure(table: pd.DataFrame, config: dict, baselines: Sequence[str], named: Sequence[str] = ()) -> Figure:
    with style():
        return _drawn(table, config, named or lines_in_colour(table, baselines))


def _drawn(table: pd.DataFrame, config: dict, shown: Sequence[str]) -> Figure:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.subplots()
    low, high = _limits(table)
    axis.set_xlim(low, high)
    pale = [name for name in table[table.role.isin(FUSING)].method.unique() if name not in shown]
    for place, name in enumerate(pale):
        line = _line(table, name)
        label = "_" if place else "other fusions"  # one of them stands in the legend for all
        axis.plot(line.conflict, line.value, color="0.75", lw=0.8, zorder=1, label=label)
    for name, dashes in zip(_singles(table), ((4, 2), (1, 1.5), (6, 2, 1, 2)), strict=False):
        line = _line(table, name)
        axis.plot(line.conflict, line.value, color="0.35", lw=0.9, dashes=dashes, zorder=2, label=name)
    for number, (name, colour, marker) in enumerate(zip(shown, cycle(COLOURS), cycle(MARKERS), strict=False)):
        line = _line(table, name)
        beside = (number - (len(shown) - 1) / 2) * STEP * (high - low)
        axis.errorbar(line.conflict + beside, line.value, [line.value - line.low, line.high - line.value], color=colour,
                      marker=marker, ms=3.5, lw=1.1, elinewidth=0.7, capsize=1.5, zorder=3, label=name)  # fmt: skip
    axis.axhline(0, color="0.6", lw=0.6, zorder=0)
    for border in _borders(table):
        axis.axvline(border, color="0.88", lw=0.6, zorder=0)
    axis.set_xlabel("degree of conflict: mean of 1 - q in the other's\n"
                    "picture (0 they agree, 1 no better than the text)")  # fmt: skip
    axis.set_ylabel("joint score: mean of the smallest q\n(0 no control, 1 the single controls)")
    axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: (labels[place] not in shown, place))
    figure.legend([handles[place] for place in order], [labels[place] for place in order], loc="outside upper center",
                  ncols=2, fontsize=SMALL, frameon=False, columnspacing=1, handlelength=2.4)  # fmt: skip
    figure.supxlabel(caption(table, config), fontsize=SMALL, x=0.01, ha="left", color="0.3")
    return figure


def caption(table: pd.DataFrame, config: dict) -> str:
    """What the figure is of: the run, N, and what the bars and the grey lines are."""
    bins = table.groupby("bin").n.first()
    said = (
        f"{config['name']} on {config['suite']['name']}: N = {bins.sum()} images in {len(bins)} bins of equal share "
        f"({bins.min()} to {bins.max()} each, grey lines between them), at their mean conflict. "
        f"Bars: {100 * config['metrics']['level']:g}% intervals of a mean, by bootstrap."
    )
    return textwrap.fill(said, 68)


def _line(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table.method == name].sort_values("conflict")


def _singles(table: pd.DataFrame) -> list[str]:
    """Each condition's single control: the first of those that differ in what was tuned or varied."""
    singles = table[(table.role == "single") & table.parameter.isna()]
    return singles.drop_duplicates("branches").method.tolist()


def _borders(table: pd.DataFrame) -> np.ndarray:
    """Halfway between the last image of a bin and the first of the next."""
    bins = table.drop_duplicates("bin").sort_values("conflict")
    return (bins.conflict_high.to_numpy()[:-1] + bins.conflict_low.to_numpy()[1:]) / 2


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Of the axis of conflict, within [0, 1] up to a margin: tenths that hold all bins."""
    low, high = np.floor(10 * table.conflict.min()) / 10, np.ceil(10 * table.conflict.max()) / 10
    margin = 0.07 * (high - low) if high > low else 0.05
    return float(low - margin), float(high + margin)
