"""What was recorded of the rules' decisions -> pictures: saliency, winners, and curves (MaxFusion, Figs. 3-4)."""

from __future__ import annotations

import re
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from maxbench.errors import UserError
from maxbench.report.base import (
    DOTS,
    DOUBLE,
    FAINT,
    MARKERS,
    POINTS,
    SMALL,
    TEXT,
    Canvas,
    NotThere,
    leading,
    save,
    style,
    width_of,
    wrapped,
)
from maxbench.report.layers import (
    adapter_layers,
    control_layers,
    main_layers,
    step_name,
    unet_layers,
    unmerged_layers,
)
from maxbench.report.pictures import Album, Made, Shown
from maxbench.report.runs import Results

FOLDER = "diagnostics"
KEY = r"\w+/\d+/\d+/\w+"  # of an array: kind, place, step, what
COLOURS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#009E73")
"""Of branches, in their order: Okabe and Ito's, the first three as far apart in lightness as in colour."""
MERGED = "whitesmoke"
DECIDED = ("step", "kind", "place", "size", "rule", "decided_by", "merged", "rho")  # columns of a recording
LABEL, GAP, MARGIN = 54.0, 3.0, 1.0  # points; a row's label, between cells
LAYERS, STEPS, METHODS = 8, 3, 4
"""The most of each that a figure shows."""
LARGEST = 60.0  # points, of a cell
BAR = 26.0  # points, for a bar of colours
HEAT = "viridis"
COMMON = 99  # percentile of all maps of a figure at which its colours end


def write_maps(folder: Path) -> list[Path]:
    """Draw a run's recordings, if it has any; return the pictures."""
    album = Album(Results(folder))
    if not recordings(album):
        return []
    paths = []
    for make in (variance_maps, winner_maps, fusion_curves):
        try:
            figures = make(album, Shown())
        except NotThere:
            continue
        for name, figure in figures.items():
            paths += save(figure, folder / name, ["png"])
    return paths


def summaries(folder: Path) -> dict[str, pd.DataFrame]:
    """Method -> its row of every site and step, where a rule had something to decide."""
    return _summaries(Album(Results(folder)))


def _summaries(album: Album) -> dict[str, pd.DataFrame]:
    found = {}
    for name, recording in recordings(album).items():
        path = recording.path.with_suffix(".csv")
        try:
            table = pd.read_csv(path) if path.exists() and path.stat().st_size > 1 else pd.DataFrame()
        except ValueError as error:
            raise album.results.damaged(f"{FOLDER}/{name}.csv") from error
        if len(table) and not set(DECIDED) <= set(table):
            raise album.results.damaged(f"{FOLDER}/{name}.csv")
        if len(table):
            found[name] = table
    return found


@dataclass(frozen=True)
class Recording:
    """The maps that a run has kept of one method; made: what the manifest says of it."""

    path: Path
    made: Made
    results: Results

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path) as archive:
                found = {key: archive[key] for key in archive.files}
                if not all(re.fullmatch(KEY, key) for key in found):
                    raise ValueError("arrays of another kind")
                return found
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise self.results.damaged(f"{FOLDER}/{self.made.name}.npz") from error

    def entries(self, kind: str, what: str) -> dict[tuple[int, int], np.ndarray]:
        """(step, place) -> array."""
        found = {}
        for key, array in self.arrays.items():
            own, place, step, name = key.split("/")
            if own == kind and name == what:
                found[int(step), int(place)] = array
        return found

    def timestep(self, step: int) -> float | None:
        """Of the diffusion at a step; None in recordings of older versions."""
        array = self.arrays.get(f"unet/0/{step}/timestep")
        return None if array is None else float(array)


def recordings(album: Album) -> dict[str, Recording]:
    """Method -> what was recorded of it, in the order of the run's methods."""
    found = {}
    for each in album.methods:
        path = album.folder / FOLDER / f"{each.name}.npz"
        if not each.entered and path.exists():
            found[each.name] = Recording(path, each, album.results)
    return found


class Row(NamedTuple):
    """One row of maps. label: what is recorded, and when. pictures: before the maps. maps: by layer; below: words."""

    label: list[str]
    pictures: list[Image.Image | None]
    maps: list[np.ndarray | None]
    below: list[str]


class Section(NamedTuple):
    """Rows under the same headings. end: of saliency, the value at which its colours end."""

    headings: list[str]
    rows: list[Row]
    end: float | None = None


# --- saliency -------------------------------------------------------------------------------------------------------


def variance_maps(album: Album, shown: Shown) -> dict[str, Figure]:
    """Saliency of every control alone at its outputs, and of the U-Net's blocks under the text alone (Figs. 3-4)."""
    recorded = [each for each in recordings(album).values() if each.made.role in ("none", "single")]
    recorded = [each for each in recorded if each.made.parameter is None and not each.made.tuned]
    sample, number = _sample(album, shown, [*recorded])
    sections: dict[tuple[str, ...], list[Row]] = {}
    for recording in recorded:
        branches = recording.made.branches
        found = recording.entries("output" if branches else "unet", "saliency")
        if not found:
            continue
        layers = _layers(album, recording.made, found)
        kept = main_layers(layers, LAYERS)
        given = album.map(branches[0], sample) if branches else None
        picture = album.column(recording.made).picture(sample, 0)
        for step in _steps(found):
            maps, below = [], []
            for place in kept:
                array = found.get((step, place))
                sigma = None if array is None else array[0, number].astype(float)
                maps.append(None if sigma is None else sigma / max(sigma.mean(), 1e-12))
                below.append("" if sigma is None else f"mean {sigma.mean():.2g}")
            label = [branches[0] if branches else "text", *_moment(album, recording, found, step)]
            sections.setdefault(tuple(layers[place] for place in kept), []).append(
                Row(label, [given, picture], maps, below)
            )
    if not sections:
        raise NotThere(f"no control alone was recorded; {RECORD}")
    said = (
        "Saliency σ, the standard deviation over channels, divided by its mean over the map, which stands below each. "
        "Text: of the U-Net's blocks without control. Else: of what a control alone adds to the U-Net (of a ControlNet "
        "after its zero convolutions)"
        f"{_left_out(sections)}. One picture, no average."
    )
    drawn = [Section(list(names), rows, _end(rows)) for names, rows in sections.items()]
    return {"variance_maps": _grid(album, sample, drawn, ["map", "picture"], said)}


def _end(rows: Sequence[Row]) -> float:
    """Where the colours of some rows end: nearly at their largest value."""
    values = np.concatenate([each.ravel() for row in rows for each in row.maps if each is not None])
    return float(np.percentile(values, COMMON))


RECORD = "run it with diagnostics.samples=8 diagnostics.maps=4"


def _left_out(sections: Mapping[tuple[str, ...], Sequence[Row]]) -> str:
    few = any(any(", layer" in name for name in names) and not any("halved" in name for name in names)
              for names in sections)  # fmt: skip
    return ", of each down block after its last layer" if few else ""


# --- winners --------------------------------------------------------------------------------------------------------


def winner_maps(album: Album, shown: Shown) -> dict[str, Figure]:
    """Who wins where at the outputs of the methods that fuse, and where branches are merged."""
    deciding = {name: each for name, each in recordings(album).items() if each.entries("output", "winner")}
    chosen = _fusing(album, shown, deciding)
    sample, number = _sample(album, shown, list(chosen.values()))
    tables = _summaries(album)
    sections: dict[tuple[str, ...], list[Row]] = {}
    for name, recording in chosen.items():
        winners, merged = (recording.entries("output", what) for what in ("winner", "merged"))
        layers = _layers(album, recording.made, winners)
        kept = main_layers(layers, LAYERS)
        palette = np.array([to_rgb(_colour(album, branch)) for branch in recording.made.branches])
        given = [album.map(condition, sample) for condition in album.conditions]
        picture = album.column(recording.made).picture(sample, 0)
        by = _decided_by(tables.get(name))
        for step in _steps(winners):
            maps, below = [], []
            for place in kept:
                if (step, place) not in winners:
                    maps.append(None)
                    below.append("")
                    continue
                together = merged[step, place][number].astype(bool)
                drawn = palette[winners[step, place][number].astype(int)]
                drawn[together] = to_rgb(MERGED)
                maps.append(drawn)
                below.append(f"{100 * together.mean():.0f}% mean")
            label = [*wrapped(name, LABEL - 4, SMALL), *by, *_moment(album, recording, winners, step)]
            sections.setdefault(tuple(layers[place] for place in kept), []).append(
                Row(label, [*given, picture], maps, below)
            )
    said = (
        "The branch with the largest relative saliency at each location of the outputs, and where all branches are "
        f"merged into their mean, with its share{_left_out(sections)}. One picture, no average."
    )
    legend = [(_colour(album, name), f"{name} wins") for name in album.conditions] + [(MERGED, "mean of all")]
    figure = _grid(album, sample, [Section(list(names), rows) for names, rows in sections.items()],
                   [*album.conditions, "picture"], said, legend)  # fmt: skip
    return {"winner_maps": figure}


def _fusing(album: Album, shown: Shown, among: Mapping[str, Any]) -> dict[str, Any]:
    """The named methods; else at most METHODS: rules that decide by themselves first."""
    if shown.methods:
        among = {name: among[name] for name in shown.methods if name in among}
    if not among:
        raise NotThere(f"no decision of a rule was recorded; {RECORD}")
    tables = _summaries(album)
    made = {each.name: each for each in album.methods}
    ranked = sorted(among, key=lambda name: (bool(_decided_by(tables.get(name))), album.rank(made[name])))
    kept = ranked[: max(METHODS, len(shown.methods))]
    return {name: among[name] for name in among if name in kept}


def _decided_by(table: pd.DataFrame | None) -> list[str]:
    """Whose decisions are shown, if not the rule's own."""
    if table is None or (table.decided_by == table.rule).all():
        return []
    return [f"(as {table.decided_by[table.decided_by != table.rule].iloc[0]}", "would decide)"]


# --- what they share ------------------------------------------------------------------------------------------------


def _sample(album: Album, shown: Shown, recorded: Sequence[Recording]) -> tuple[dict, int]:
    """The sample whose maps are drawn, and its number among those that were recorded."""
    if not recorded:
        raise NotThere(f"nothing was recorded of its rules; {RECORD}")
    count = 0
    for recording in recorded:
        for key, array in recording.arrays.items():
            if not key.endswith("timestep"):
                count = max(count, array.shape[1] if key.endswith("saliency") else array.shape[0])
    if not shown.ids:
        return album.samples[0], 0
    places = {each["id"]: place for place, each in enumerate(album.samples[:count])}
    for name in shown.ids:
        if name in places:
            return album.samples[places[name]], places[name]
    album.sampled(shown)  # an id that does not exist
    raise UserError(f"No maps were recorded of sample '{shown.ids[0]}', but of {', '.join(places)}; name one of those.")


def _steps(found: Mapping[tuple[int, int], Any]) -> list[int]:
    """At most STEPS of those that were recorded, from the first to the last."""
    steps = sorted({step for step, _ in found})
    return [steps[place] for place in sorted(set(np.linspace(0, len(steps) - 1, STEPS).round().astype(int)))]


def _moment(album: Album, recording: Recording, found: Mapping[tuple[int, int], Any], step: int) -> list[str]:
    if _is_adapter(album, recording.made.branches) and len({at for at, _ in found}) == 1:
        return ["once, before", "the first step"]
    steps = (album.config.get("sampler") or {}).get("steps")
    return step_name(step, steps, recording.timestep(step)).split("\n")


def _is_adapter(album: Album, branches: Sequence[str]) -> bool:
    suite = album.config["suite"]
    controls, adapters = suite.get("controls") or {}, suite.get("adapters") or {}
    return bool(branches) and all(adapters.get(each) and controls.get(each) == adapters.get(each) for each in branches)


def _layers(album: Album, made: Made, found: Mapping[tuple[int, int], np.ndarray]) -> list[str]:
    """Names of the layers at which a method was recorded."""
    count = 1 + max(place for _, place in found)
    if not made.branches:
        return unet_layers(count)
    if _is_adapter(album, made.branches):
        return adapter_layers(count)
    sides = {place: array.shape[-1] for (_, place), array in found.items()}
    return control_layers([sides.get(place, 0) for place in range(count)])


def _colour(album: Album, condition: str) -> str:
    names = album.conditions
    return COLOURS[names.index(condition) % len(COLOURS)] if condition in names else "0.5"


def _grid(album: Album, sample: dict, sections: Sequence[Section], before: Sequence[str], said: str,
          key: Sequence[tuple[str, str]] = ()) -> Figure:  # fmt: skip
    """Rows of maps under their headings, a bar of colours below each section of saliency. key: (colour, words)."""
    width = DOUBLE * POINTS
    most = len(before) + max(len(section.headings) for section in sections)
    cell = min(LARGEST, (width - 2 * MARGIN - LABEL - GAP * (most - 1)) / most)
    caption = wrapped(said, width - 2 * MARGIN, SMALL)
    prompt = f"{album.title}, sample {sample['id']}: {sample.get('prompt', '')}"
    title = wrapped(prompt, width - 2 * MARGIN, TEXT + 1)
    heads = [[_heading(words, cell) for words in [*before, *section.headings]] for section in sections]
    tall = [max(map(len, head)) * leading(SMALL) + 2 for head in heads]
    row = cell + leading(SMALL) + 4
    deep = [max([row, *(len(each.label) * leading(SMALL) + 3 for each in section.rows)]) for section in sections]
    first = 2 + len(title) * leading(TEXT + 1) + len(caption) * leading(SMALL) + 4
    bars = sum(BAR for section in sections if section.end is not None)
    height = first + sum(tall) + sum(d * len(s.rows) for d, s in zip(deep, sections, strict=True)) + bars
    canvas = Canvas(width, height + (14 if key else 0))
    y = canvas.lines(title, MARGIN, 2, TEXT + 1)
    canvas.lines(caption, MARGIN, y, SMALL, colour=FAINT)
    y = first
    for section, head, head_height, row_height in zip(sections, heads, tall, deep, strict=True):
        for number, lines in enumerate(head):
            at = MARGIN + LABEL + number * (cell + GAP) + cell / 2
            canvas.lines(lines, at, y + head_height - 2 - len(lines) * leading(SMALL), SMALL, align="center")
        y += head_height
        for each in section.rows:
            _draw_row(canvas, each, y, cell, section.end)
            y += row_height
        if section.end is not None:
            _draw_bar(canvas, section.end, y + 3)
            y += BAR
    x = MARGIN + LABEL
    for colour, words in key:
        canvas.patch(x, y + 3, 6, colour)
        canvas.write(words, x + 9, y + 6, SMALL, valign="center")
        x += 21 + width_of(words, SMALL)
    return canvas.figure


def _heading(name: str, width: float) -> list[str]:
    """A layer's name in lines; in narrow columns blocks lose the word."""
    parts = name.split(", ")
    if any(width_of(part, SMALL) > width for part in parts):
        parts = [part.replace("down block", "down").replace("up block", "up") for part in parts]
    return [line for part in parts for line in wrapped(part, width, SMALL)]


def _draw_row(canvas: Canvas, row: Row, y: float, cell: float, end: float | None) -> None:
    canvas.lines(row.label, MARGIN, y, SMALL)
    side = round(cell / POINTS * DOTS)
    for number, picture in enumerate(row.pictures):
        if picture is not None:
            drawn = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
            canvas.picture(drawn, MARGIN + LABEL + number * (cell + GAP), y, cell, interpolation="none")
    for number, (array, words) in enumerate(zip(row.maps, row.below, strict=True), start=len(row.pictures)):
        x = MARGIN + LABEL + number * (cell + GAP)
        if array is not None:
            heat = {} if end is None else {"cmap": HEAT, "vmin": 0, "vmax": end}
            canvas.picture(array, x, y, cell, interpolation="nearest", **heat)
        canvas.lines([words], x + cell / 2, y + cell + 1, SMALL, colour=FAINT, align="center")


def _draw_bar(canvas: Canvas, end: float, y: float) -> None:
    bar = canvas.axes(MARGIN + LABEL, y, 150, 6)
    with style():
        canvas.figure.colorbar(ScalarMappable(Normalize(0, end), HEAT), cax=bar, orientation="horizontal", extend="max")
        bar.tick_params(labelsize=SMALL)
    words = "σ / mean of σ over the map (1 everywhere: no location stands out)"
    canvas.write(words, MARGIN + LABEL + 162, y + 3, SMALL, valign="center")


# --- curves ---------------------------------------------------------------------------------------------------------


def fusion_curves(album: Album, shown: Shown) -> dict[str, Figure]:
    """Similarity, merged share and winners over steps and layers, and the distribution of rho at the outputs."""
    tables = _fusing(album, shown, _summaries(album))
    made = {each.name: each for each in album.methods}
    with style():
        wide = max(2, len(tables))
        figure = Figure(figsize=(DOUBLE * min(1, (0.4 + wide) / (0.4 + METHODS)), 7.6), layout="constrained")
        axes = figure.subplots(4, len(tables), squeeze=False, sharey="row")
        most = max(float(_histogram(table).max()) for table in tables.values())
        for column, (name, table) in enumerate(tables.items()):
            by = "\n".join(["", " ".join(_decided_by(table))]).rstrip()
            axes[0, column].set_title("\n".join(textwrap.wrap(name, 22)) + by.replace(" would", "\nwould"))
            heat = _column_of_curves(album, made[name], table, axes[:, column], most)
        for axis, words in zip(
            axes[:, 0],
            ("mean over layers", "mean over steps", "share of locations won", "similarity ρ\nto the winner"),
            strict=True,
        ):
            axis.set_ylabel(words)
        bar = figure.colorbar(heat, ax=list(axes[3]), location="right", fraction=0.05, pad=0.02)
        bar.set_label("share of locations")
        handles = {}
        for axis in (axes[0, 0], *axes[0, 1:], *axes[2]):
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        count = (album.config.get("diagnostics") or {}).get("samples")
        said = (
            f"{album.title}: means over N = {count} samples and all locations, both guidance halves; no intervals. "
            "Layers are numbered block.layer; ↓ is a block's downsampling."
        )
        figure.suptitle("\n".join(textwrap.wrap(said, 34 * wide)))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    return {"fusion_curves": figure}


def _histogram(table: pd.DataFrame) -> np.ndarray:
    """Shares of the similarities at the outputs, (bins, layers)."""
    bins = [name for name in table if name.startswith("rho/")]
    return table[table.kind == "output"].groupby("place")[bins].mean().to_numpy().T


def _column_of_curves(album: Album, made: Made, table: pd.DataFrame, axes: Sequence[Axes], most: float) -> Any:
    """Four panels of one method; returns what the last one's colours are of. most: at which share those end."""
    outputs, unmerged = table[table.kind == "output"], table[table.kind == "unmerge"]
    sides = outputs.groupby("place")["size"].first()
    is_adapter = _is_adapter(album, made.branches)
    layers = adapter_layers(len(sides)) if is_adapter else control_layers(sides.tolist())
    sites = (album.config.get("methods", {}).get(made.entry) or {}).get("sites") or []
    at = list(range(len(layers))) if is_adapter else unmerged_layers(layers, [str(site) for site in sites])
    looks = (("ρ", "rho", COLOURS[0], "o"), ("share merged", "merged", "#D55E00", "s"))
    for kind, rows, dashes in (("when unmerging", unmerged, (2, 1.5)), ("at the outputs", outputs, ())):
        for words, measure, colour, marker in looks:
            line = {"color": colour, "marker": marker, "ms": 2.5, "lw": 1, "dashes": dashes or (None, None),
                    "mfc": "white" if dashes else colour, "label": f"{words}, {kind}"}  # fmt: skip
            over = rows.groupby("step")[measure].mean()
            axes[0].plot(over.index + 1, over, **line)
            along = rows.groupby("place")[measure].mean()
            if kind == "at the outputs":
                axes[1].plot(along.index, along, **line)
            elif len(along) == len(at):
                along = along.groupby(np.array(at)).mean()
                axes[1].plot(along.index, along, **line)
    for axis in axes[:2]:
        axis.set_ylim(-0.35, 1.05)
    for number, condition in enumerate(album.conditions):
        if condition in made.branches and f"wins/{condition}" in outputs:
            means = outputs.groupby("place")[f"wins/{condition}"].mean()
            axes[2].plot(means.index, means, color=_colour(album, condition), marker=MARKERS[2 + number], ms=3, lw=1,
                         label=f"{condition} wins")  # fmt: skip
    axes[2].set_ylim(0, 1.05)
    shares = _histogram(table)
    heat = axes[3].imshow(shares, aspect="auto", origin="lower", cmap="cividis", vmin=0, vmax=most,
                          extent=(-0.5, shares.shape[1] - 0.5, -1, 1))  # fmt: skip
    steps = sorted(table.step.unique() + 1)
    axes[0].set_xlabel(f"denoising step, of {steps[-1]}")
    axes[0].set_xticks(sorted({steps[0], steps[len(steps) // 2], steps[-1]}))
    short = [name.replace("down block", "down").replace(", layer ", ".").replace(", halved", " ↓")
             .replace("input convolution", "input").replace("mid block", "mid").replace("adapter level", "level")
             for name in layers]  # fmt: skip
    for axis in axes[1:]:
        axis.set_xlim(-0.5, len(layers) - 0.5)
        axis.set_xticks(range(len(layers)), short if axis is axes[3] else [""] * len(layers), rotation=90)
    axes[3].set_xlabel("layer")
    for axis in axes[:3]:
        axis.grid(alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    return heat
