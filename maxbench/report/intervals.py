"""Figures of every method's scores with their intervals, and of paired differences with their verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from maxbench.errors import UserError
from maxbench.report.base import COLOURS, DOUBLE, MARKERS, SMALL, NotThere, style
from maxbench.report.columns import ARROWS, FIDELITIES, column, column_name
from maxbench.report.pictures import Shown
from maxbench.report.runs import Results

UNITS = {
    "joint": "mean of the smallest q", "q": "0 none, 1 single control", "hed_ssim": "SSIM",
    "depth_rmse": "RMSE, levels of 0-255", "seg_image_iou": "mean IoU of a picture, %", "seg_object_iou": "IoU, %",
    "canny_f1": "F1", "style_clip_i": "100 x cosine",
}  # fmt: skip
"""What the axis of a panel counts."""
CHANGES = {
    "depth_rmse": "difference, levels of 0-255", "seg_image_iou": "difference, %", "seg_object_iou": "difference, %",
    "style_clip_i": "difference, 100 x cosine",
}  # fmt: skip
"""The same of a difference; of what has no unit it is a difference."""
ROLES = {"none": 6, "single": 1, "fusion": 0, "entered": 4, "chance": 5}
"""Role of a row -> its colour and marker."""
VERDICTS = {"better": ("^", COLOURS[0], True), "worse": ("v", COLOURS[1], True), "not shown": ("o", "#5a5a62", False)}
"""Verdict -> marker, colour, filled or not."""
SAID = {"better": "shown better", "worse": "shown worse", "not shown": "not shown"}
WIDE = 4
"""Panels beside each other."""
ROW, HEAD, FOOT = 0.135, 0.62, 0.75  # inches, for each method and around the panels
ROWS = 40
Key = tuple[str, str]


def intervals(results: Results, shown: Shown) -> dict[str, Figure]:
    """Joint score, q and fidelity of every method with its interval: one panel a score, one row a method."""
    table = _named(results.metrics, results)
    table = table[table.role.isin(ROLES)]
    names = _rows(table, shown, results)
    keys = _keys(table)
    if not keys:
        raise NotThere("it has no joint score and no fidelity")
    with style():
        figure, axes = _panels(len(keys), len(names))
        for axis, key in zip(axes, keys, strict=True):
            own = table[(table.metric == key[0]) & (table.condition == key[1])]
            for each in own[own.method.isin(names)].itertuples():
                place = ROLES[each.role]
                _bar(axis, each, names.index(each.method), COLOURS[place], MARKERS[place], True)
            _finish(axis, key, names, UNITS.get(key[0], column_name(*key)))
        handles = [_handle(MARKERS[place], COLOURS[place], True, words) for role, place, words in (
            ("none", ROLES["none"], "no control"), ("single", ROLES["single"], "a control alone"),
            ("fusion", ROLES["fusion"], "several controls"), ("entered", ROLES["entered"], "made elsewhere"),
            ("chance", ROLES["chance"], "a random choice"),
        ) if role in set(table.role)]  # fmt: skip
        counts = table[table.metric.isin([key[0] for key in keys])].n.dropna()
        _words(figure, handles, f"{_title(results)}: {_counted(counts)}. Bars: {_level(results)} intervals, each by "
               "itself, by bootstrap over samples (BCa up to 512).")  # fmt: skip
    return {"intervals": figure}


def differences(results: Results, shown: Shown) -> dict[str, Figure]:
    """Paired differences to each baseline with Holm's verdict: one figure a baseline, one panel a score."""
    table = results.differences
    if table is None:
        raise NotThere("no paired differences were tested in it")
    table = _named(table, results)
    keys = _keys(table)
    if not keys:
        raise NotThere("it has no differences of a joint score or a fidelity")
    figures = {}
    for baseline, group in table.groupby("baseline", sort=False):
        mine = Shown([name for name in shown.methods if name != baseline], shown.samples)
        names = _rows(group, mine, results)
        with style():
            figure, axes = _panels(len(keys), len(names))
            for axis, key in zip(axes, keys, strict=True):
                own = group[(group.metric == key[0]) & (group.condition == key[1]) & group.method.isin(names)]
                axis.axvline(0, color="0.5", lw=0.7, zorder=0)
                for each in own.itertuples():
                    marker, colour, filled = VERDICTS.get(each.verdict, VERDICTS["not shown"])
                    _bar(axis, each, names.index(each.method), colour, marker, filled)
                _finish(axis, key, names, CHANGES.get(key[0], "difference"))
            handles = [_handle(*VERDICTS[verdict], words) for verdict, words in SAID.items()]
            count = f" for {int(group.comparisons.iloc[0])} comparisons" if "comparisons" in group else ""
            said = (
                f"{_title(results)}: each method minus {baseline} on the same samples and noise, "
                f"{_counted(group.n.dropna())}. Bars: {_level(results)} percentile bootstrap intervals, "
                f"each by itself. Markers: paired sign-flip test with Holm's correction{count}."
            )
            _words(figure, handles, said)
        figures[f"differences_{baseline}".replace("/", "_").replace(" ", "_")] = figure
    return figures


def _named(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    if "role" not in table:
        raise NotThere("its tables are of an older version, without a column role")
    return table.assign(condition=table.condition.fillna("")).dropna(subset=["value"])


def _keys(table: pd.DataFrame) -> list[Key]:
    """Panels: the joint score, q of every condition, and the fidelity that it is made of, of single images."""
    found = list(dict.fromkeys(zip(table.metric, table.condition, strict=True)))
    joint = [key for key in found if key[0] == "joint"]
    return [*joint, *(key for key in found if key[0] == "q"), *(key for key in found if key[0] in FIDELITIES.values())]


def _rows(table: pd.DataFrame, shown: Shown, results: Results) -> list[str]:
    names = list(dict.fromkeys(table.method))
    for name in shown.methods:
        if name not in names:
            raise UserError(f"{results.folder.name} has no row '{name}'; it has {', '.join(names)}.")
    names = list(shown.methods) or names
    if len(names) > ROWS:
        raise UserError(f"{len(names)} methods are too many for a figure; name at most {ROWS} with --methods.")
    return names


def _panels(count: int, rows: int) -> tuple[Figure, list[Axes]]:
    wide = min(WIDE, count) if count <= WIDE else min(WIDE, -(-count // -(-count // WIDE)))
    tall = -(-count // wide)
    figure = Figure(figsize=(DOUBLE, tall * (HEAD + ROW * rows) + FOOT), layout="constrained")
    grid = figure.subplots(tall, wide, squeeze=False, sharey=True)
    for axis in grid.flatten()[count:]:
        axis.set_visible(False)
    return figure, list(grid.flatten()[:count])


def _bar(axis: Axes, each, row: int, colour: str, marker: str, filled: bool) -> None:
    if each.low == each.low:  # no interval is NaN
        axis.plot([each.low, each.high], [row, row], color=colour, lw=1, solid_capstyle="butt", zorder=2)
    axis.plot([each.value], [row], marker=marker, ms=3.6, color=colour, mfc=colour if filled else "white", zorder=3)


def _finish(axis: Axes, key: Key, names: Sequence[str], label: str) -> None:
    axis.set_title(column_name(*key) + ARROWS[column(key[0]).better])
    axis.set_xlabel(label, fontsize=SMALL)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="y", color="0.92", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _handle(marker: str, colour: str, filled: bool, words: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, ms=3.6, lw=1, mfc=colour if filled else "white", label=words)


def _words(figure: Figure, handles: Sequence[Line2D], said: str) -> None:
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.supxlabel(textwrap.fill(said, 145), x=0.01, ha="left", color="0.3")


def _title(results: Results) -> str:
    seeds = results.seeds
    said = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"{results.experiment} on {results.suite}, {said}"


def _counted(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"N = {high} samples" if low == high else f"N = {low} to {high} samples"


def _level(results: Results) -> str:
    try:
        return f"{100 * results.config['metrics']['level']:g}%"
    except (KeyError, TypeError) as error:
        raise results.no_configuration() from error
