"""A contact sheet: the conditions and where they were taken from, then one column a method, a handful of samples."""

from __future__ import annotations

import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from maxbench.errors import UserError
from maxbench.store.files import write_atomically
from maxbench.store.runfolder import mask_file, source_file

CELL, GAP, MARGIN = 144, 6, 16  # pixels
LARGE = 224  # pixels, of a cell of a preview
LINE = 18  # pixels, of a heading or a caption
INK, PAPER, FAINT, SILENT = (25, 25, 30), (255, 255, 255), (110, 110, 120), (20, 24, 60)
ABSENT = (238, 238, 240)  # in place of a picture that is not there
LIGHT, DARK = (255, 255, 255), (0, 0, 0)  # an outline and its edges: one of them is visible on any colour
ORANGE = (230, 159, 0)  # Okabe and Ito's
SATISFIED, NOT_SATISFIED = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermilion
HALF = 0.5  # what the smallest q must exceed for all conditions to count as satisfied
SHEET = "contact_sheet.png"
"""Its file in a run's folder."""

LARGEST = 1_900_000  # bytes; a sheet that needs more is kept with fewer colours
CONTROL, EVALUATION = "control_masks", "evaluation_masks"
SCORES = ("q", "joint", "conflict")
DOT, BETWEEN = 14, "  "  # pixels for a dot before scores; what stands between them
JOINT = ""  # in place of a condition

Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""(sample, row of the tables) -> condition -> q, and JOINT -> the smallest."""


@dataclass(frozen=True)
class _Column:
    """What stands below one heading.

    picture: sample, as in the manifest => its picture, None where there is none. row: of samples.parquet, whose scores
    stand below the picture. conditions: whose masks are outlined and whose q is shown; none for a map.
    """

    heading: str
    picture: Callable[[dict], Image.Image | None]
    row: str = ""
    conditions: Sequence[str] = ()


def write_sheet(folder: Path, samples: int = 8, output: Path | None = None) -> Path:
    """Draw a run's first `samples` samples from its files; return where, by default the run's `contact_sheet.png`.

    Each condition's picture stands beside its map where conditions come from several pictures. What a condition
    controls is outlined (where it is scored, if that is all that is limited). Below every picture stand its q, if the
    run has a samples.parquet.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text())
    everything = json.loads((folder / "manifest.json").read_text())
    manifest = everything["samples"][:samples]
    columns = [*_given(folder, config, manifest), *_methods(folder, everything, list(config["conditions"]))]
    scores, conflict = _scores(folder)
    headings = [_wrapped(column.heading, _font(15), CELL) for column in columns]
    first = 44 + LINE + LINE * max(map(len, headings))  # where the first row begins
    deep = max((len(_score_lines(found, list(config["conditions"]))) for found in scores.values()), default=0)
    high = CELL + (deep + 1) * LINE + 10
    sheet = Image.new("RGB", (_left(len(columns)) - GAP + MARGIN, first + high * len(manifest) + 4), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 12), f"{config['name']} on {config['suite']['name']}, seed {config['seed']}", INK, _font(20))
    outlined = any(_masks(folder, sample, column.conditions) for sample in manifest for column in columns)
    _legend(draw, outlined, scores, list(config["conditions"]))
    for number, lines in enumerate(headings):
        for place, line in enumerate(reversed(lines)):
            draw.text((_left(number) + CELL / 2, first - 8 - LINE * place), line, INK, _font(15), anchor="ms")
    for row, sample in enumerate(manifest):
        top = first + high * row
        for number, column in enumerate(columns):
            sheet.paste(_cell(folder, column, sample), (_left(number), top))
            if found := scores.get((sample["id"], column.row)):
                _write_scores(draw, (_left(number), top + CELL + 11), found, column.conditions)
        words = textwrap.shorten(sample["prompt"], 150, placeholder=" ...")
        if sample["id"] in conflict:
            words = f"conflict {_number(conflict[sample['id']])}: {words}"
        draw.text((MARGIN, top + high - LINE - 8), words, FAINT, _font(14))
    path = output or folder / SHEET
    write_atomically(path, _encoded(sheet))
    return path


def write_preview(folder: Path, output: Path, about: str, absent: Mapping[str, str]) -> Path:
    """Draw the samples of a folder as they are before anything is generated; return where.

    Every source picture stands before the maps that were drawn from it. Outlined in white is what its conditions
    control, in orange where they are scored, if that is elsewhere. Below stands the whole prompt.

    about: what stands below the title. absent: condition -> why it has no maps, which stands in their places.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())["samples"]
    groups = _sharing(config, manifest)
    columns = [(names, name) for names in groups for name in ("", *names)]
    whose = {tuple(names): f"picture of {', '.join(names)}" if len(groups) > 1 else "picture" for names in groups}
    headings = [name or whose[tuple(names)] for names, name in columns]
    width = max(MARGIN + len(columns) * (LARGE + GAP) - GAP + MARGIN, 640)
    prompts = [_wrapped(f"{sample['id']}: {sample['prompt']}", _font(14), width - 2 * MARGIN) for sample in manifest]
    heights = [LARGE + LINE * len(lines) + 22 for lines in prompts]
    notes = _wrapped(about, _font(14), width - 2 * MARGIN)
    marks = [_outlines(folder, sample, names) for sample in manifest for names in groups]
    if any(control for control, _ in marks):
        notes.append("White: the border of what a condition controls. Dark blue in a map: nothing is said.")
    if any(evaluation for _, evaluation in marks):
        notes.append("Orange: the border of where a condition is scored, if that is another.")
    first = 44 + LINE * len(notes) + 34
    sheet = Image.new("RGB", (width, first + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 12), f"{config['name']} on {config['suite']['name']}, seed {config['seed']}", INK, _font(20))
    for place, line in enumerate(notes):
        draw.text((MARGIN, 42 + LINE * place), line, FAINT, _font(14))
    for place, heading in enumerate(headings):
        left = MARGIN + place * (LARGE + GAP) + LARGE / 2
        draw.text((left, first - 8), heading, INK, _font(15), anchor="ms")
    top = first
    for sample, lines, height in zip(manifest, prompts, heights, strict=True):
        for place, (names, name) in enumerate(columns):
            drawn = _given_cell(folder, config, sample, names, name, absent)
            sheet.paste(drawn, (MARGIN + place * (LARGE + GAP), top))
        for line, words in enumerate(lines):
            draw.text((MARGIN, top + LARGE + 6 + LINE * line), words, INK, _font(14))
        top += height
    write_atomically(output, _encoded(sheet))
    return output


def _given_cell(
    folder: Path, config: dict, sample: dict, names: Sequence[str], name: str, absent: Mapping[str, str]
) -> Image.Image:
    """A source picture of `names` with its outlines, or, if a condition is named, its map, or why there is none."""
    if name in absent:
        return _words_cell(f"No map of {name}. {absent[name]}")
    if name:
        return given_map(folder, config, name, sample).resize((LARGE, LARGE), Image.Resampling.BICUBIC)
    picture = _open(folder / source_file("real", sample["sources"][names[0]]))
    picture = picture.resize((LARGE, LARGE), Image.Resampling.BICUBIC)
    control, evaluation = _outlines(folder, sample, names)
    return outlined(outlined(picture, evaluation, ORANGE), control)


def _outlines(folder: Path, sample: dict, names: Iterable[str]) -> tuple[list[Image.Image], list[Image.Image]]:
    """Control masks, and those evaluation masks whose border is another."""
    kinds = []
    for kind in (CONTROL, EVALUATION):
        paths = [folder / mask_file(kind, name, sample["id"]) for name in names]
        kinds.append([mask.convert("L") for mask in map(_open, paths) if mask is not None])
    control, evaluation = kinds
    known = {each.tobytes() for mask in control for each in (mask, ImageOps.invert(mask))}
    return control, [mask for mask in evaluation if mask.tobytes() not in known]


def _words_cell(words: str) -> Image.Image:
    """Words in the place of a picture, as many as it holds."""
    cell = Image.new("RGB", (LARGE, LARGE), ABSENT)
    lines = _wrapped(words, _font(13), LARGE - 16)
    most = (LARGE - 16) // 17
    if len(lines) > most:
        lines = [*lines[: most - 1], "..."]
    for place, line in enumerate(lines):
        ImageDraw.Draw(cell).text((8, 8 + 17 * place), line, FAINT, _font(13))
    return cell


# --- what is shown --------------------------------------------------------------------------------------------------


def _given(folder: Path, config: dict, manifest: Sequence[dict]) -> list[_Column]:
    """The maps, each beside the picture that it was drawn from; conditions that always share theirs stand together."""
    columns = []
    sharing = _sharing(config, manifest)
    for names in sharing:
        columns += [_Column(name, lambda sample, name=name: given_map(folder, config, name, sample)) for name in names]
        heading = "real" if len(sharing) == 1 else f"source of {', '.join(names)}"
        columns.append(
            _Column(
                heading,
                lambda sample, name=names[0]: _open(folder / source_file("real", sample["sources"][name])),
                "real",
                names,
            )
        )
    return columns


def _sharing(config: dict, manifest: Sequence[dict]) -> list[list[str]]:
    """The conditions, those together that always share their picture."""
    sharing: dict[tuple, list[str]] = {}
    for name in config["conditions"]:
        sharing.setdefault(tuple(sample["sources"][name] for sample in manifest), []).append(name)
    return list(sharing.values())


def _methods(folder: Path, everything: dict, conditions: Sequence[str]) -> list[_Column]:
    """Every method that has pictures, then the rows whose pictures were made elsewhere."""

    def column(name: str, heading: str, place: str) -> _Column:
        return _Column(heading, lambda sample: _open(folder / place / f"{sample['id']}-0.png"), name, conditions)

    made = [each["name"] for each in everything["methods"] if (folder / "images" / each["name"]).is_dir()]
    listed = folder / "records" / "entered"
    names = sorted(path.relative_to(listed).with_suffix("").as_posix() for path in listed.rglob("*.json"))
    entered = [name for name in names if (folder / "entered" / name).is_dir()]
    return [
        *(column(name, name, f"images/{name}") for name in made),
        *(column(name, f"{name} (entered)", f"entered/{name}") for name in entered),
    ]


def _scores(folder: Path) -> tuple[Scores, dict[str, float]]:
    """The scores of every picture of the first replicate, and every sample's degree of conflict."""
    path = folder / "samples.parquet"
    if not path.exists():
        return {}, {}
    try:
        table = pd.read_parquet(path, columns=["sample", "replicate", "method", "condition", "metric", "value"])
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are ValueErrors
        raise UserError(f"{path} is damaged; delete it and run the same command again.") from error
    table = table[table.metric.isin(SCORES) & (table.replicate == 0)].dropna(subset=["value"])
    conflict = table[table.metric == "conflict"]
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for each in table[table.metric != "conflict"].itertuples():
        condition = JOINT if each.metric == "joint" else each.condition
        scores.setdefault((each.sample, each.method), {}).setdefault(condition, float(each.value))
    return scores, dict(zip(conflict["sample"], conflict.value, strict=True))


# --- one picture ----------------------------------------------------------------------------------------------------


def _cell(folder: Path, column: _Column, sample: dict) -> Image.Image:
    picture = column.picture(sample)
    if picture is None:
        return Image.new("RGB", (CELL, CELL), ABSENT)
    picture = picture.resize((CELL, CELL), Image.Resampling.BICUBIC)
    return outlined(picture, _masks(folder, sample, column.conditions))


def outlined(picture: Image.Image, masks: Sequence[Image.Image], colour: tuple[int, int, int] = LIGHT) -> Image.Image:
    """A picture with the borders of masks as lines, white by default, with dark edges, one pixel wide each.

    A mask and its complement have the same border. The picture's own border is none.
    """
    line = np.zeros((picture.height, picture.width), bool)
    for mask in masks:
        mask = mask.convert("L")
        if mask.getpixel((0, 0)) > 127:  # so that rounding treats a mask and its complement alike
            mask = ImageOps.invert(mask)
        inside = np.asarray(mask.resize(picture.size, Image.Resampling.BILINEAR)) > 127
        line[:, :-1] |= inside[:, 1:] != inside[:, :-1]
        line[:-1] |= inside[1:] != inside[:-1]
    if not line.any():
        return picture
    white = Image.fromarray(np.uint8(255 * line))
    drawn = picture.copy()
    drawn.paste(DARK, mask=white.filter(ImageFilter.MaxFilter(3)))
    drawn.paste(colour, mask=white)
    return drawn


def _masks(folder: Path, sample: dict, conditions: Sequence[str]) -> list[Image.Image]:
    """The control masks of these conditions; where they have none, their evaluation masks."""
    for kind in (CONTROL, EVALUATION):
        paths = [folder / mask_file(kind, condition, sample["id"]) for condition in conditions]
        found = [mask for mask in map(_open, paths) if mask is not None]
        if found:
            return found
    return []


def _open(path: Path) -> Image.Image | None:
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.convert("RGB")


def given_map(folder: Path, config: dict, condition: str, sample: dict) -> Image.Image | None:
    """A condition's given map as people see it: classes in the palette's colours, levels in grey, silence dark blue."""
    path = folder / source_file(f"conditions/{condition}", sample["sources"][condition])
    palette = config["conditions"][condition].get("palette")
    drawn = _painted(path, palette) if palette else _open(path)
    shown = folder / mask_file(CONTROL, condition, sample["id"])
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


# --- words ----------------------------------------------------------------------------------------------------------


def _legend(draw: ImageDraw.ImageDraw, outlined: bool, scores: Scores, conditions: Sequence[str]) -> None:
    """How to read the sheet, in one line below the title."""
    x, y = MARGIN, 46
    said = ["White line: the border of what a condition controls."] * outlined
    if scores:
        absent = [name for name in conditions if not any(name in found for found in scores.values())]
        without = f" (left out: {', '.join(absent)})" if absent else ""
        said.append(f"Below: q{without}, 0 no control, 1 the single control; the smallest in black, above 1/2:")
    draw.text((x, y), "  ".join(said), FAINT, _font(14), anchor="lm")
    if scores:
        x += draw.textlength("  ".join(said), _font(14)) + 12
        for satisfied, words in ((True, "yes"), (False, "no")):
            _dot(draw, x, y, satisfied)
            draw.text((x + 10, y), words, FAINT, _font(14), anchor="lm")
            x += 26 + draw.textlength(words, _font(14))


def _write_scores(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], scores: Mapping[str, float], conditions: Sequence[str]
) -> None:
    """A dot for the joint score, then q of each condition, the smallest in black; place is the left of the first."""
    x, y = place
    if JOINT in scores:
        _dot(draw, x + 5, y, scores[JOINT] > HALF)
    smallest = min((scores[name] for name in conditions if name in scores), default=None)
    for row, line in enumerate(_score_lines(scores, conditions)):
        at = x + DOT
        for name in line:
            words, least = _said(name, scores), scores[name] == smallest
            # the font has no bold face, a thin stroke makes one
            draw.text((at, y + LINE * row), words, INK if least else FAINT, _font(13), anchor="lm",
                      stroke_width=0.3 * least)  # fmt: skip
            at += draw.textlength(words + BETWEEN, _font(13))


def _score_lines(scores: Mapping[str, float], conditions: Sequence[str]) -> list[list[str]]:
    """The conditions that have a q, in lines that fit below a picture."""
    lines: list[list[str]] = [[]]
    for name in (name for name in conditions if name in scores):
        words = BETWEEN.join(_said(each, scores) for each in [*lines[-1], name])
        if lines[-1] and _font(13).getlength(words) > CELL - DOT:
            lines.append([])
        lines[-1].append(name)
    return lines


def _said(name: str, scores: Mapping[str, float]) -> str:
    return f"{name} {_number(scores[name])}"


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, satisfied: bool) -> None:
    """Full where every condition is satisfied, else a ring: the shape says it without the colour."""
    box = (x - 4, y - 4, x + 4, y + 4)
    if satisfied:
        draw.ellipse(box, fill=SATISFIED)
    else:
        draw.ellipse(box, outline=NOT_SATISFIED, width=2)


def _number(value: float) -> str:
    """Two decimals without a leading zero: .92, -.31, 1.04."""
    rounded = round(value, 2)
    text = f"{rounded + 0.0:.2f}"
    return text.replace("0.", ".", 1) if math.fabs(rounded) < 1 else text


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most this width, broken after what joins the parts of a name; within a part that is too long."""
    lines = [""]
    for part in re.split(r"(?<=[ _/+=.])", text):
        for piece in [part] if font.getlength(part.rstrip()) <= width else part:
            if lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return [line.strip() for line in lines]


def _left(column: int) -> int:
    return MARGIN + column * (CELL + GAP)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _encoded(sheet: Image.Image) -> bytes:
    """As a PNG of moderate size: with fewer levels of each colour where it needs them, at last with 128 colours.

    With 6 bits a channel is off by at most 2 of 255.
    """
    pixels = np.asarray(sheet)
    for bits in (8, 6, 5):
        levels = 2**bits - 1
        coarse = np.round(np.round(np.arange(256) / 255 * levels) * 255 / levels).astype(np.uint8)
        drawn = _png(Image.fromarray(coarse[pixels]))
        if len(drawn) <= LARGEST:
            return drawn
    return _png(sheet.quantize(palette=sheet.quantize(128), dither=Image.Dither.FLOYDSTEINBERG))


def _png(image: Image.Image) -> bytes:
    drawn = io.BytesIO()
    image.save(drawn, format="PNG")
    return drawn.getvalue()
