"""A contact sheet: the conditions, then one column a method, a handful of samples."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

from maxbench.store.files import write_atomically

CELL, GAP, MARGIN, CAPTION = 144, 6, 16, 34  # pixels
INK, PAPER, FAINT, SILENT = (25, 25, 30), (255, 255, 255), (110, 110, 120), (20, 24, 60)


def write_sheet(folder: Path, samples: int = 8, output: Path | None = None) -> Path:
    """Draw a run's first `samples` samples from its files; return where, by default the run's `contact_sheet.png`."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    everything = json.loads((folder / "manifest.json").read_text())
    manifest = everything["samples"][:samples]
    made = _made(folder, [each["name"] for each in everything["methods"]], manifest)
    conditions = list(config["conditions"])
    one_source = all(len(set(sample["sources"].values())) == 1 for sample in manifest)
    headings = [*conditions, *(["real"] if one_source else []), *made]
    sheet = Image.new("RGB", _size(len(headings), len(manifest)), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = f"{config['name']} on {config['suite']['name']}, seed {config['seed']}"
    draw.text((MARGIN, 12), title, INK, _font(20))
    for column, heading in enumerate(headings):
        draw.text((_left(column) + CELL / 2, 62), heading, INK, _font(15), anchor="ms")
    for row, sample in enumerate(manifest):
        cells = [_map(folder, config, name, sample) for name in conditions]
        if one_source:
            cells.append(_open(folder / "real" / f"{next(iter(sample['sources'].values())):012d}.png"))
        cells += [_open(folder / place / f"{sample['id']}-0.png") for place in made.values()]
        top = _top(row)
        for column, cell in enumerate(cells):
            sheet.paste(cell.resize((CELL, CELL), Image.Resampling.BICUBIC), (_left(column), top))
        words = textwrap.shorten(sample["prompt"], 150, placeholder=" ...")
        draw.text((MARGIN, top + CELL + 6), words, FAINT, _font(14))
    path = output or folder / "contact_sheet.png"
    drawn = io.BytesIO()
    sheet.save(drawn, format="PNG")
    write_atomically(path, drawn.getvalue())
    return path


def _made(folder: Path, methods: Sequence[str], samples: Sequence[dict]) -> dict[str, Path]:
    """Heading -> where the pictures lie, of the methods whose pictures are there and of those made elsewhere."""
    entered = sorted(path.stem for path in (folder / "records" / "entered").glob("*.json"))
    places = {name: Path("images", name) for name in methods}
    places |= {f"{name} (entered)": Path("entered", name) for name in entered}
    return {
        heading: place
        for heading, place in places.items()
        if all((folder / place / f"{each['id']}-0.png").is_file() for each in samples)
    }


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _top(row: int) -> int:
    return 72 + row * (CELL + CAPTION)


def _size(columns: int, rows: int) -> tuple[int, int]:
    return _left(columns) - GAP + MARGIN, _top(rows) + 8


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _map(folder: Path, config: dict, condition: str, sample: dict) -> Image.Image:
    """A condition's given map as people see it: classes in the palette's colours, levels in grey, silence dark blue."""
    path = folder / "conditions" / condition / f"{sample['sources'][condition]:012d}.png"
    palette = config["conditions"][condition].get("palette")
    drawn = _painted(path, palette) if palette else _open(path)
    shown = folder / "control_masks" / condition / f"{sample['id']}.png"
    if shown.exists():
        with Image.open(shown) as mask:
            drawn = Image.composite(drawn, Image.new("RGB", drawn.size, SILENT), mask.convert("L"))
    return drawn


def _painted(path: Path, palette: list) -> Image.Image:
    with Image.open(path) as image:
        labels = np.asarray(image.convert("L"))
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return Image.fromarray(colours[labels])
