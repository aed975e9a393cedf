"""What was recorded of the rules' decisions -> pictures: saliency, winners, and curves (MaxFusion, Figs. 3-4)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from maxbench.store.files import write_atomically

FOLDER = "diagnostics"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")  # of branches, in their order
MERGED = "whitesmoke"
CELL = 0.95  # inches


def write_maps(folder: Path) -> list[Path]:
    """Draw a run's recordings, if it has any; return the pictures."""
    recorded = _recordings(folder)
    if not recorded:
        return []
    config = yaml.safe_load((folder / "config.yaml").read_text())
    sample = json.loads((folder / "manifest.json").read_text())["samples"][0]
    drawn = {
        "variance_maps.png": _variance_maps(folder, config, sample, recorded),
        "winner_maps.png": _winner_maps(folder, config, sample, recorded),
        "fusion_curves.png": _curves(folder, config),
    }
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            drawing = io.BytesIO()
            figure.savefig(drawing, dpi=90)
            write_atomically(folder / name, drawing.getvalue())
            paths.append(folder / name)
    return paths


def summaries(folder: Path) -> dict[str, pd.DataFrame]:
    """Method -> its row of every site and step, where a rule had something to decide."""
    found = {method: pd.read_csv(path.with_suffix(".csv")) for method, path in _recordings(folder).items()
             if path.with_suffix(".csv").stat().st_size > 1}  # fmt: skip
    return {method: table for method, table in found.items() if len(table)}


def _recordings(folder: Path) -> dict[str, Path]:
    """Method -> its archive of maps, in the order of the run's methods."""
    places = {each["name"]: folder / FOLDER / f"{each['name']}.npz" for each in _methods(folder)}
    return {name: path for name, path in places.items() if path.exists()}


def _methods(folder: Path) -> list[dict]:
    """What the manifest says of every method: its name, role and branches."""
    return json.loads((folder / "manifest.json").read_text())["methods"]


def _entries(archive: np.lib.npyio.NpzFile, kind: str, what: str) -> dict[tuple[int, int], np.ndarray]:
    """(step, place) -> array."""
    found = {}
    for key in archive.files:
        own, place, step, name = key.split("/")
        if own == kind and name == what:
            found[int(step), int(place)] = archive[key]
    return found


def _variance_maps(folder: Path, config: dict, sample: dict, recorded: dict[str, Path]) -> Figure | None:
    """Saliency of every control alone after the zero convolutions, and of the U-Net's blocks under the text alone."""
    rows: list[tuple[str, str, Path | None, dict[int, np.ndarray]]] = []
    pictures: dict[str, Path] = {}
    for each in _methods(folder):
        if each["role"] not in ("none", "single") or each["name"] not in recorded:
            continue
        name, path = each["name"], recorded[each["name"]]
        condition = each["branches"][0] if each["branches"] else None
        kind = "unet" if condition is None else "output"
        given = None if condition is None else _map_file(folder, condition, sample)
        with np.load(path) as archive:
            found = _entries(archive, kind, "saliency")
        label = "text" if condition is None else condition
        pictures[label] = folder / "images" / name / f"{sample['id']}-0.png"
        for step in sorted({step for step, _ in found}):
            maps = {place: array[0, 0].astype(float) for (at, place), array in found.items() if at == step}
            rows.append((label, f"step {step + 1}", given, maps))
    if not rows:
        return None
    figure, cells = _grid(len(rows), 2 + max(len(maps) for *_, maps in rows))
    for (label, step, given, maps), (first, second, *panels) in zip(rows, cells, strict=True):
        first.set_ylabel(f"{label}\n{step}", fontsize=7)
        _show(first, given)
        _show(second, pictures[label])
        for place, saliency in maps.items():
            panels[place].imshow(saliency, cmap="viridis", interpolation="nearest")
            panels[place].set_title(f"{place}: {saliency.min():.2g}-{saliency.max():.2g}", fontsize=5, pad=2)
    cells[0][0].set_title("given", fontsize=7)
    cells[0][1].set_title("picture", fontsize=7)
    figure.suptitle(
        f"Saliency (standard deviation over channels), {config['suite']['name']}: outputs of each control alone "
        "in the order of the forward pass,\nand of the U-Net's down and up blocks under the text alone. "
        f"'{sample['prompt'][:80]}'",
        fontsize=8,
    )
    return figure


def _winner_maps(folder: Path, config: dict, sample: dict, recorded: dict[str, Path]) -> Figure | None:
    """Who wins where at the outputs of every method that fuses, and where branches are merged."""
    rows = []
    for method, path in recorded.items():
        with np.load(path) as archive:
            winners, merged = (_entries(archive, "output", what) for what in ("winner", "merged"))
        for step in sorted({step for step, _ in winners}):
            rows.append((method, step, {place: (winners[at, place][0], merged[at, place][0])
                                        for at, place in winners if at == step}))  # fmt: skip
    if not rows:
        return None
    conditions = list(config["conditions"])
    branches_of = {each["name"]: each["branches"] for each in _methods(folder)}
    figure, cells = _grid(len(rows), len(conditions) + 1 + max(len(maps) for *_, maps in rows))
    for (method, step, maps), axes in zip(rows, cells, strict=True):
        axes[0].set_ylabel(f"{method}\nstep {step + 1}", fontsize=6)
        for axis, condition in zip(axes, conditions, strict=False):
            _show(axis, _map_file(folder, condition, sample))
        _show(axes[len(conditions)], folder / "images" / method / f"{sample['id']}-0.png")
        branches = branches_of[method]
        palette = ListedColormap([COLOURS[conditions.index(name) % len(COLOURS)] for name in branches])
        for place, (winner, together) in maps.items():
            panel = axes[len(conditions) + 1 + place]
            shown = palette(winner / max(len(branches) - 1, 1))[..., :3]
            shown[together.astype(bool)] = to_rgb(MERGED)
            panel.imshow(shown, interpolation="nearest")
            panel.set_title(f"{place}: {100 * together.mean():.0f}% merged", fontsize=5, pad=2)
    for axis, condition in zip(cells[0], [*conditions, "picture"], strict=False):
        axis.set_title(condition, fontsize=7)
    patches = [Patch(color=COLOURS[i % len(COLOURS)], label=f"{name} wins") for i, name in enumerate(conditions)]
    patches.append(Patch(facecolor=MERGED, edgecolor="grey", label="merged"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=7)
    figure.suptitle(f"Who wins where at the outputs. '{sample['prompt'][:80]}'", fontsize=8)
    return figure


def _curves(folder: Path, config: dict) -> Figure | None:
    """Similarity, merged share and winners over steps and layers, and the distribution of rho at the outputs."""
    tables = summaries(folder)
    if not tables:
        return None
    figure = Figure(figsize=(2.6 * len(tables), 8.4), layout="constrained")
    axes = figure.subplots(4, len(tables), squeeze=False)
    for column, (method, table) in enumerate(tables.items()):
        wins = [name for name in table if name.startswith("wins/")]
        seen = "" if (table.decided_by == table.rule).all() else f"\n(as {table.decided_by.iloc[0]} would decide)"
        axes[0, column].set_title(f"{method}{seen}", fontsize=8)
        for row, along in enumerate(("step", "place")):
            for kind, style in (("unmerge", "--"), ("output", "-")):
                means = table[table.kind == kind].groupby(along)[["rho", "merged"]].mean()
                for measure, colour in (("rho", "black"), ("merged", "tab:red")):
                    axes[row, column].plot(means.index, means[measure], style, color=colour, lw=1.2,
                                           label=f"{measure}, {kind}" if len(means) else None)  # fmt: skip
            axes[row, column].set_ylim(-0.3, 1.05)
        outputs = table[table.kind == "output"]
        for name in wins:
            condition = name.removeprefix("wins/")
            means = outputs.groupby("place")[name].mean()
            axes[2, column].plot(means.index, means, ".-", label=condition, color=_colour(config, condition), lw=1.2)
        axes[2, column].set_ylim(0, 1)
        bins = [name for name in table if name.startswith("rho/")]
        shares = outputs.groupby("place")[bins].mean().to_numpy().T
        axes[3, column].imshow(shares, aspect="auto", origin="lower", cmap="magma", vmin=0,
                               extent=(-0.5, shares.shape[1] - 0.5, -1, 1))  # fmt: skip
        for row, words in enumerate(("step of the sampler", "layer", "output", "output")):
            axes[row, column].set_xlabel(words, fontsize=7)
            axes[row, column].tick_params(labelsize=6)
    for row, words in enumerate(
        ("over steps", "over layers", "share of locations won", "distribution of rho of the losers")
    ):
        axes[row, 0].set_ylabel(words, fontsize=7)
    axes[0, -1].legend(fontsize=5)
    axes[2, 0].legend(fontsize=6)
    return figure


def _colour(config: dict, condition: str) -> str:
    names = list(config["conditions"])
    return COLOURS[names.index(condition) % len(COLOURS)] if condition in names else "grey"


def _map_file(folder: Path, condition: str, sample: dict) -> Path:
    return folder / "conditions" / condition / f"{sample['sources'][condition]:012d}.png"


def _grid(rows: int, columns: int) -> tuple[Figure, list[Sequence]]:
    figure = Figure(figsize=(CELL * columns + 0.6, CELL * rows * 1.08 + 0.9), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False)
    for axis in cells.flatten():
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    return figure, list(cells)


def _show(axis, path: Path | None) -> None:
    if path is not None and path.exists():
        with Image.open(path) as image:
            array = np.asarray(image)
        axis.imshow(array, cmap="gray" if array.max(initial=0) > 32 else "tab20", interpolation="nearest")
