"""Methods that differ in one number -> curves over that number, as PNG, PDF and the table of what is drawn."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from math import log
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy import stats

from maxbench.report.base import COLOURS, MARKERS
from maxbench.report.columns import ARROWS, FIDELITIES, column, column_name
from maxbench.report.runs import Results
from maxbench.store.files import write_atomically

PICTURE, PRINT, DRAWN = "curves.png", "curves.pdf", "curves.csv"
SHOWN = ("joint", "q", *FIDELITIES, "clip_score", "fid", "fd_clip")
"""What has a panel, in this order, and then the share that is merged."""
MERGED = "merged"
MOST = 4
"""Panels beside each other, and methods that do not vary."""
NAMED = ("maxbench.fusion.MaxFusion", "maxbench.fusion.PublishedMaxFusion")
"""Rules whose `delta` is the paper's threshold."""
PAPER = 0.7
ENDS = {-1.0: "mean at\nevery site", 1.0: "selection at\nevery site"}
"""What the threshold's limits are."""
UNITS = {
    "joint": "mean of the smaller q\n(0 no control, 1 single controls)",
    "q": "q (0 no control, 1 its single control)",
    "hed_ssim": "SSIM (at most 1)",
    "depth_rmse": "RMSE in levels of 255",
    "seg_miou": "mIoU in %",
    "seg_object_iou": "IoU in %",
    "canny_f1": "F1 (at most 1)",
    "style_clip_i": "100 x cosine",
    "clip_score": "100 x cosine",
    "fid": "Fréchet distance",
    "fd_clip": "Fréchet distance",
    MERGED: "share of locations, mean\nover sites and steps",
}
SMALL = 7  # points
BESIDE = 0.012  # of the axis, between bars at the same setting
FLAT = ((4, 2), (1, 1.5), (6, 2, 1, 2), (3, 1, 1, 1, 1, 1))
"""Dashes of lines of methods that do not vary."""


def write_curves(folder: Path) -> Path | None:
    """Draw `curves.png` and `curves.pdf` of a run whose methods vary one number, and leave `curves.csv`, what is drawn.

    Returns the picture's path; None where no method varies.
    """
    results = Results(folder)
    table = drawn(results)
    if table is None:
        return None
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # text that can be searched and edited
        figure = _figure(table, results)
        for name, more in ((PRINT, {"metadata": {"CreationDate": None}}), (PICTURE, {"dpi": 150})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=Path(name).suffix[1:], **more)
            write_atomically(folder / name, buffer.getvalue())
    write_atomically(folder / DRAWN, table.to_csv(index=False))
    return folder / PICTURE


# --- what is drawn ----------------------------------------------------------------------------------------

COLUMNS = (
    "series", "method", "role", "parameter", "setting", "metric", "condition", "protocol", "value", "low", "high", "n",
)  # fmt: skip


def drawn(results: Results) -> pd.DataFrame | None:
    """One row for each point of a curve, and for each method that is a line because nothing varies in it.

    None where no method varies. The columns are COLUMNS, as in `metrics.csv`; `series` is a method's name without the
    setting.
    """
    metrics, manifest = results.metrics, results.manifest
    if manifest is None or "setting" not in metrics or metrics.setting.isna().all():
        return None
    series = {each["name"]: each["series"] for each in manifest["methods"]}
    metrics = metrics.assign(condition=metrics.condition.fillna(""), series=metrics.method.map(series))
    shown = metrics.metric.isin(SHOWN) & metrics.value.notna()
    points = metrics[shown & metrics.setting.notna()]
    flat = metrics[shown & metrics.method.isin(_flat(results)) & metrics.metric.isin(points.metric)]
    merged = _merged(results, points.drop_duplicates("method"))
    parts = [part[list(COLUMNS)] for part in (points, flat, merged) if not part.empty]
    table = pd.concat(parts, ignore_index=True)
    order = {metric: place for place, metric in enumerate((*SHOWN, MERGED))}
    return table.sort_values("metric", key=lambda each: each.map(order), kind="stable").reset_index(drop=True)


def _flat(results: Results) -> list[str]:
    """Methods that are drawn as lines: no control, and those that fuse, the baselines of the run before others."""
    metrics, differences = results.metrics, results.differences
    still = metrics[metrics.setting.isna()]
    none = still[still.role == "none"].method.unique().tolist()
    baselines = [] if differences is None else differences.baseline.unique().tolist()
    fusing = still[still.role.isin(("fusion", "entered"))].method.unique().tolist()
    return [*none, *sorted(fusing, key=lambda name: name not in baselines)][:MOST]


def _merged(results: Results, points: pd.DataFrame) -> pd.DataFrame:
    """The share of locations at which branches are averaged, of the samples that were traced; a t interval over them.

    Only of rules that decide by themselves: what is recorded of others is what MaxFusion would do.
    """
    rows, level = [], _level(results)
    for point in points.itertuples():
        table = results.decisions(point.method)
        shares = None if table is None else _shares(table)
        if shares is None or shares.empty:
            continue
        mean, error = shares.mean(), shares.sem() if len(shares) > 1 else float("nan")
        half = stats.t.ppf((1 + level) / 2, len(shares) - 1) * error if error == error else float("nan")
        rows.append({
            **{name: getattr(point, name) for name in ("series", "method", "role", "parameter", "setting")},
            "metric": MERGED, "condition": "", "protocol": "mean over sites and steps; t interval over samples",
            "value": mean, "low": max(mean - half, 0), "high": min(mean + half, 1), "n": len(shares),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _shares(table: pd.DataFrame) -> pd.Series | None:
    """By sample; None of a rule that decides nothing, and of traces of older versions."""
    own = [name for name in table if name.startswith(f"{MERGED}/")]
    if not own or "rule" not in table or (table.rule != table.decided_by).any():
        return None
    return table[own].mean()


def _level(results: Results) -> float:
    try:
        return float(results.config["metrics"]["level"])
    except (KeyError, TypeError, ValueError) as error:
        raise results.no_configuration() from error


# --- the figure -------------------------------------------------------------------------------------------


class Look(NamedTuple):
    colour: str
    marker: str


def _figure(table: pd.DataFrame, results: Results) -> Figure:
    points, flat = table[table.setting.notna()], table[table.setting.isna()]
    panels = list(dict.fromkeys(zip(table.metric, table.condition, strict=True)))
    numbers = list(dict.fromkeys(points.parameter))
    wide = min(MOST, len(panels))
    tall = -(-len(panels) // wide)
    names = [*points.series.unique(), *flat.method.unique()]
    looks = {name: Look(*each) for name, each in zip(names, zip(cycle(COLOURS), cycle(MARKERS)), strict=False)}
    looks |= {name: Look("0.35", "") for name in flat[flat.role == "none"].method}
    figure = Figure(figsize=(2.5 * wide, 2.15 * tall * len(numbers) + 0.9), layout="constrained")
    grid = figure.subplots(tall * len(numbers), wide, squeeze=False)
    legend: dict[str, object] = {}
    scales = [Scale.of(points[points.parameter == each], each, results) for each in numbers]
    for block, (number, scale) in enumerate(zip(numbers, scales, strict=True)):
        own = points[points.parameter == number]
        cells = grid[block * tall : (block + 1) * tall].flatten()
        for place, (axis, key) in enumerate(zip(cells, panels, strict=False)):
            of_panel = [each[(each.metric == key[0]) & (each.condition == key[1])] for each in (own, flat)]
            _panel(axis, *of_panel, looks, scale)
            axis.set_title(_title(*key), fontsize=SMALL + 1, pad=10 if scale.marked else 6)
            axis.set_ylabel(UNITS.get(key[0], ""), fontsize=SMALL - 0.5)
            below = place + wide < len(panels)
            axis.set_xlabel("" if below and not scale.ends else scale.label, fontsize=SMALL)
            legend |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        for axis in cells[len(panels) :]:
            axis.set_visible(False)
    figure.legend(legend.values(), legend, loc="outside upper center", ncols=min(5, len(legend)), fontsize=SMALL,
                  frameon=False)  # fmt: skip
    said = caption(table, results, scales, width=round(40 * wide))
    figure.supxlabel(said, fontsize=SMALL - 0.5, x=0.01, ha="left", color="0.3")
    return figure


def _title(metric: str, condition: str) -> str:
    return "merged" if metric == MERGED else column_name(metric, condition) + ARROWS[column(metric).better]


def _is_threshold(points: pd.DataFrame, number: str, results: Results) -> bool:
    """Whether the number is the paper's threshold in every method that varies it."""
    if number != "rule.delta":
        return False
    entries = {each["name"]: each["entry"] for each in (results.manifest or {}).get("methods", ())}
    methods = results.config.get("methods", {})
    targets = {methods.get(entries.get(name), {}).get("rule", {}).get("_target_") for name in points.method}
    return targets <= set(NAMED)


class Scale(NamedTuple):
    """The axis of what varies. marked: the paper's value, if it has one. ends: whether the limits have names."""

    label: str
    settings: Sequence[float]
    logarithmic: bool
    marked: float | None
    ends: bool

    @classmethod
    def of(cls, points: pd.DataFrame, number: str, results: Results) -> Scale:
        settings, is_threshold = sorted(points.setting.unique()), _is_threshold(points, number, results)
        label = "threshold δ of the cosine similarity" if is_threshold else number
        marked = PAPER if is_threshold and settings[0] < PAPER < settings[-1] else None
        far = min(settings) > 0 and max(settings) / min(settings) > 8
        return cls(label, settings, far, marked, is_threshold and bool(ENDS.keys() & set(settings)))

    def at(self, setting: float) -> float:
        """Where a setting lies, from 0 to 1."""
        low, high = (self._along(each) for each in (self.settings[0], self.settings[-1]))
        return (self._along(setting) - low) / (high - low) if high > low else 0.5

    def _along(self, setting: float) -> float:
        return log(setting) if self.logarithmic else setting

    @property
    def labelled(self) -> dict[float, str]:
        """Settings with a label, such that labels do not touch: the ends, then what is far enough from all others."""
        kept: list[float] = []
        for each in dict.fromkeys([self.settings[0], self.settings[-1], *self.settings]):
            if all(abs(self.at(each) - self.at(other)) >= 0.12 for other in kept):
                kept.append(each)
        return {each: f"{each:g}" + (f"\n{ENDS[each]}" if self.ends and each in ENDS else "") for each in sorted(kept)}


def _panel(axis: Axes, points: pd.DataFrame, flat: pd.DataFrame, looks: Mapping[str, Look], scale: Scale) -> None:
    if scale.logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    for (_, line), dashes in zip(flat.iterrows(), cycle(FLAT)):
        colour = looks[line.method].colour
        if line.low == line.low:
            axis.axhspan(line.low, line.high, color=colour, alpha=0.12, lw=0, zorder=1)
        axis.axhline(line.value, color=colour, lw=1, dashes=dashes, zorder=2, label=line.method)
    width = 0.0 if scale.logarithmic else BESIDE * (scale.settings[-1] - scale.settings[0])
    names = points.series.unique()
    for number, name in enumerate(names):
        line = points[points.series == name].sort_values("setting")
        places = line.setting + width * (number - (len(names) - 1) / 2)  # so that bars do not hide each other
        bars = [line.value - line.low, line.high - line.value]
        look = {"color": looks[name].colour, "marker": looks[name].marker, "ms": 3.5, "lw": 1.2, "elinewidth": 0.8}
        axis.errorbar(places, line.value, bars, capsize=2, zorder=3, label=name, **look)
    if scale.marked is not None:
        axis.axvline(scale.marked, color="0.5", lw=0.8, ls=":", zorder=0)
        axis.annotate(f"{scale.marked:g}", (scale.marked, 1), (0, 1), ("data", "axes fraction"), "offset points",
                      fontsize=SMALL - 1, color="0.35", ha="center", va="bottom")  # fmt: skip
    labels = scale.labelled
    axis.set_xticks(list(labels), list(labels.values()))
    axis.set_xticks([each for each in scale.settings if each not in labels], minor=True)
    axis.tick_params(labelsize=SMALL - 0.5)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def caption(table: pd.DataFrame, results: Results, scales: Sequence[Scale] = (), width: int = 150) -> str:
    """What the figure is of: the run, N of every panel, what bars and bands are, and what is marked."""
    counts: dict[int, list[str]] = {}
    for (metric, condition), own in table.groupby(["metric", "condition"], sort=False):
        name = _title(metric, condition).rstrip(" ↑↓")
        for count in own.n.dropna().astype(int).unique():
            counts.setdefault(count, []).append(name)
    usual = max(counts, key=lambda count: len(counts[count]), default=0)
    others = [f"of {', '.join(names)}: {count}" for count, names in counts.items() if count != usual]
    seeds = ", ".join(map(str, results.seeds))
    said = (
        f"{results.experiment} on {results.suite}, seed {seeds}: N = {usual}" + "".join(f"; {each}" for each in others)
        + f". Bars and bands: {100 * _level(results):g}% intervals. "
        "Lines across: methods in which nothing varies."
    )  # fmt: skip
    if any(scale.marked for scale in scales):
        said += f" Dotted: {PAPER:g}, the paper's threshold."
    return textwrap.fill(said, width)
