"""Methods that differ in one number -> curves over that number."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from maxbench.report.base import COLOURS, MARKERS
from maxbench.report.tables import column_name
from maxbench.store.files import write_atomically

SHOWN = ("q_mean", "joint", "clip_score", "fid", "fd_clip")


def write_curves(folder: Path) -> Path | None:
    """Draw `curves.png` of a run whose methods vary one number; None where none does."""
    metrics = pd.read_csv(folder / "metrics.csv", dtype={"condition": str})
    series = {each["name"]: each["series"] for each in json.loads((folder / "manifest.json").read_text())["methods"]}
    points = metrics.dropna(subset=["setting"]).assign(family=lambda table: table.method.map(series))
    if points.empty:
        return None
    points, metrics = (table.assign(condition=table.condition.fillna("")) for table in (points, metrics))
    found = list(dict.fromkeys(zip(points.metric, points.condition, strict=True)))
    shown = [*(key for key in found if key[0] == "q"), *(key for name in SHOWN for key in found if key[0] == name)]
    numbers = list(dict.fromkeys(points.parameter))
    looks = dict(zip(points.family.unique(), zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    named = {}  # family -> what stands for it in the legend
    figure = Figure(figsize=(3.1 * len(shown), 3.6 * len(numbers)), layout="constrained")
    for axes, number in zip(figure.subplots(len(numbers), len(shown), squeeze=False), numbers, strict=True):
        own = points[points.parameter == number]
        for axis, (metric, condition) in zip(axes, shown, strict=True):
            panel, everything = (
                table[(table.metric == metric) & (table.condition == condition)] for table in (own, metrics)
            )
            _panel(axis, panel, everything, number, looks)
            axis.set_title(column_name(metric, condition), fontsize=9)
        named |= dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(named.values(), named, loc="outside lower center", ncols=2 * len(shown), fontsize=7, frameon=False)
    path = folder / "curves.png"
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    write_atomically(path, drawn.getvalue())
    return path


def _panel(
    axis, points: pd.DataFrame, everything: pd.DataFrame, number: str, looks: Mapping[str, tuple[str, str]]
) -> None:
    for family, line in points.groupby("family", sort=False):
        colour, marker = looks[family]
        line = line.sort_values("setting")
        axis.errorbar(line.setting, line.value, [line.value - line.low, line.high - line.value],
                      color=colour, marker=marker, ms=4, lw=1.2, capsize=2, label=family)  # fmt: skip
    none = everything[everything.role == "none"].value
    if len(none):
        axis.axhline(float(none.iloc[0]), color="grey", lw=0.8, ls=":")
    ticks: Sequence[float] = sorted(points.setting.unique())
    if min(ticks) > 0 and max(ticks) / min(ticks) > 8:
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlabel(number, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
