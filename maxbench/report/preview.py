"""The samples of an experiment as they are before anything is generated, as a sheet for the screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from maxbench.report.pictures import (
    CONTROL,
    EVALUATION,
    given_map,
    opened,
    outlined,
    read_config,
    sharing_pictures,
    small_png,
)
from maxbench.store.files import write_atomically
from maxbench.store.runfolder import MANIFEST, mask_file, source_file

GAP, MARGIN = 6, 16  # pixels
LARGE = 224  # pixels, of a cell
LINE = 18  # pixels, of a line of words
INK, PAPER, FAINT = (25, 25, 30), (255, 255, 255), (110, 110, 120)
ABSENT = (238, 238, 240)  # in place of a picture that is not there
ORANGE = (230, 159, 0)  # Okabe and Ito's


def write_preview(folder: Path, output: Path, about: str, absent: Mapping[str, str]) -> Path:
    """Draw the samples of a folder as they are before anything is generated; return where.

    Every source picture stands before the maps that were drawn from it. Outlined in white is what its conditions
    control, in orange where they are scored, if that is elsewhere. Below stands the whole prompt.

    about: what stands below the title. absent: condition -> why it has no maps, which stands in their places.
    """
    config = read_config(folder)
    manifest = json.loads((folder / MANIFEST).read_text())["samples"]
    groups = sharing_pictures(list(config["conditions"]), manifest)
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
    write_atomically(output, small_png(sheet))
    return output


def _given_cell(
    folder: Path, config: dict, sample: dict, names: Sequence[str], name: str, absent: Mapping[str, str]
) -> Image.Image:
    """A source picture of `names` with its outlines, or, if a condition is named, its map, or why there is none."""
    if name in absent:
        return _words_cell(f"No map of {name}. {absent[name]}")
    if name:
        return given_map(folder, config, name, sample).resize((LARGE, LARGE), Image.Resampling.BICUBIC)
    picture = opened(folder / source_file("real", sample["sources"][names[0]]))
    picture = picture.resize((LARGE, LARGE), Image.Resampling.BICUBIC)
    control, evaluation = _outlines(folder, sample, names)
    return outlined(outlined(picture, evaluation, ORANGE), control)


def _outlines(folder: Path, sample: dict, names: Iterable[str]) -> tuple[list[Image.Image], list[Image.Image]]:
    """Control masks, and those evaluation masks whose border is another."""
    kinds = []
    for kind in (CONTROL, EVALUATION):
        paths = [folder / mask_file(kind, name, sample["id"]) for name in names]
        kinds.append([mask.convert("L") for mask in map(opened, paths) if mask is not None])
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


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most this width, broken after what joins the parts of a name; within a part that is too long."""
    lines = [""]
    for part in re.split(r"(?<=[ _/+=.])", text):
        for piece in [part] if font.getlength(part.rstrip()) <= width else part:
            if lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return [line.strip() for line in lines]


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
