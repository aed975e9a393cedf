"""Sheets of pictures: conditions and where they were taken from, then a column for each method, a row for each sample.

Three kinds: the contact sheet (MaxFusion, Figs. 5-8), no control beside each control beside all (Fig. 10), and a method
at every value of what varies in it (Fig. 9).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from maxbench.errors import UserError
from maxbench.report.base import (
    DOTS,
    DOUBLE,
    FAINT,
    INK,
    POINTS,
    SINGLE,
    SMALL,
    TEXT,
    Canvas,
    NotThere,
    encoded,
    leading,
    shortened,
    width_of,
    wrapped,
)
from maxbench.report.pictures import JOINT, MOST, Album, Column, Made, Shown, masks_of, outlined, small_png
from maxbench.report.runs import SHEET, Results
from maxbench.store.files import write_atomically

GAP, MARGIN, BORDER = 3.0, 1.0, 4.0  # points: between pictures, on the left, on the right
LARGEST = 76.0  # points, of a cell
ROWS = 40
"""Rows of one sheet; more is no figure."""
ABSENT = (238, 238, 240)  # in place of a picture that is not there
SATISFIED, NOT_SATISFIED = "#0072B2", "#D55E00"  # Okabe and Ito's blue and vermilion
HALF = 0.5  # what the smallest q must exceed for all conditions to count as satisfied
WIDEST = "1.00"  # of the usual scores
INDENT, BETWEEN = 6.0, " "  # points for a dot before scores; what stands between them
THRESHOLDS = ("maxbench.fusion.MaxFusion", "maxbench.fusion.PublishedMaxFusion")
"""Rules whose `delta` is the paper's threshold; what its limits are."""
LIMITS = {-1.0: "mean at every site", 1.0: "selection at every site"}
MOST_SETTINGS = 8


def write_sheet(folder: Path, samples: int = 8, output: Path | None = None) -> Path:
    """Draw a run's first `samples` samples from its files; return where, by default the run's `contact_sheet.png`.

    It has at most six methods: what a user has added, then no control, the sums, and MaxFusion's rule.
    """
    album = Album(Results(folder))
    (figure, *_) = contact_sheets(album, Shown(samples=samples)).values()
    with Image.open(io.BytesIO(encoded(figure, "png"))) as drawn:
        path = output or folder / SHEET
        write_atomically(path, small_png(drawn.convert("RGB")))
    return path


def contact_sheets(album: Album, shown: Shown) -> dict[str, Figure]:
    """Sheets of at most six methods: one, or as many as the named methods need; by the names of their files.

    Each condition's picture stands beside its map where conditions come from several pictures. What a condition
    controls is outlined (where it is scored, if that is all that is limited). Below every picture stand its q, if the
    run has scores.
    """
    chosen = album.chosen(shown)
    parts = [chosen[first : first + MOST] for first in range(0, len(chosen), MOST)]
    names = ["contact_sheet", *(f"contact_sheet_{number}" for number in range(2, len(parts) + 1))]
    return {name: _sheet(album, shown, [(each, "") for each in part]) for name, part in zip(names, parts, strict=True)}


def conditioning(album: Album, shown: Shown) -> dict[str, Figure]:
    """No control, each control alone, each pair where there are three, and all (MaxFusion, Fig. 10)."""
    plain = [each for each in album.pictured if not each.tuned and each.parameter is None and not each.entered]
    none = [each for each in plain if each.role == "none"]
    singles = [each for each in plain if each.role == "single"]
    singles = list({each.branches: each for each in reversed(singles)}.values())[::-1]  # the first of each condition
    fusing = [each for each in plain if each.role == "fusion" and len(each.branches) == len(album.conditions)]
    fusing.sort(key=lambda each: each.series != "maxfusion")
    if shown.methods:
        fusing = [each for each in album.chosen(shown) if each in fusing]
    if not none or not singles or not fusing:
        raise NotThere("it needs pictures without control, of each control alone, and of all together")
    rule = fusing[0]
    pairs = [each for each in plain if 1 < len(each.branches) < len(album.conditions)]
    columns = [(none[0], "text only")]
    columns += [(each, f"only {' + '.join(each.branches)}") for each in singles]
    columns += [(each, " + ".join(each.branches)) for each in pairs[: MOST - 1 - len(columns)]]
    columns.append((rule, f"all, {rule.name}"))
    return {"conditioning": _sheet(album, shown, columns)}


def settings(album: Album, shown: Shown) -> dict[str, Figure]:
    """Each method that varies a number, at its values in ascending order (MaxFusion, Fig. 9): one sheet a method."""
    families: dict[tuple[str, str], list[Made]] = {}
    for each in album.pictured:
        if each.parameter is not None and each.setting is not None:
            families.setdefault((each.series, each.parameter), []).append(each)
    if shown.methods:
        wanted = {(each.series, each.parameter) for each in album.chosen(shown)}
        families = {key: family for key, family in families.items() if key in wanted}
    if not families:
        raise NotThere("no method of it varies a number")
    figures = {}
    for (series, parameter), family in families.items():
        family.sort(key=lambda each: each.setting)
        if len(family) > MOST_SETTINGS:
            kept = np.linspace(0, len(family) - 1, MOST_SETTINGS).round().astype(int)
            family = [family[place] for place in kept]
        columns = [(each, _setting(album, each)) for each in family]
        name = f"settings_{series}_{parameter}".replace("/", "_")
        figures[name] = _sheet(album, shown, columns, f"{series}, {_parameter(parameter)} varied")
    return figures


def _parameter(name: str) -> str:
    return "δ" if name == "rule.delta" else name.removeprefix("rule.")


def _setting(album: Album, each: Made) -> str:
    rule = (album.config.get("methods", {}).get(each.entry) or {}).get("rule") or {}
    limit = LIMITS.get(each.setting, "") if rule.get("_target_") in THRESHOLDS else ""
    said = f"{_parameter(each.parameter)} = {each.setting:g}".replace("-", "−")
    return f"{said} {limit}".strip()


# --- one sheet ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where things are, in points. words: lines of scores below a picture, the same for all rows."""

    columns: int
    words: int

    @property
    def cell(self) -> float:
        room = DOUBLE * POINTS - MARGIN - BORDER - GAP * (self.columns - 1)
        return min(LARGEST, room / self.columns)

    @property
    def width(self) -> float:
        return max(self.left(self.columns) - GAP + BORDER, SINGLE * POINTS)

    @property
    def row(self) -> float:
        """The height of a row of pictures with what stands below it."""
        return self.cell + 2 + (self.words + 1) * leading(SMALL) + 5

    def left(self, column: int) -> float:
        return MARGIN + column * (self.cell + GAP)


def _sheet(album: Album, shown: Shown, methods: Sequence[tuple[Made, str]], about: str = "") -> Figure:
    samples = album.sampled(shown)
    rows = [(sample, replicate) for sample in samples for replicate in range(shown.replicates)]
    if len(rows) > ROWS:
        raise UserError(f"{len(rows)} rows are too many for a sheet; show at most {ROWS}, or choose with --sample.")
    columns = [*album.given(samples), *(album.column(each, heading) for each, heading in methods)]
    scores, conflict = album.scored
    width = Layout(len(columns), 0).cell
    found = [scores.get((sample["id"], replicate, column.row), {}) for sample, replicate in rows for column in columns]
    known = [name for name in album.conditions if any(name in each for each in found)]
    lines = score_lines(known, width)
    layout = Layout(len(columns), len(lines) if any(found) else 0)
    headings = [wrapped(column.heading, layout.cell) for column in columns]
    top = [shortened(f"{album.title}{f': {about}' if about else ''}", layout.width - 2 * MARGIN, TEXT + 1)]
    legend = wrapped(" ".join(_legend(album, rows, columns, any(found))), layout.width - 2 * MARGIN, SMALL)
    first = 2 + leading(TEXT + 1) + len(legend) * leading(SMALL) + 4 + max(map(len, headings)) * leading(TEXT) + 1
    canvas = Canvas(layout.width, first + layout.row * len(rows) - 4)
    below = canvas.lines(top, MARGIN, 2, TEXT + 1)
    canvas.lines(legend, MARGIN, below, SMALL, colour=FAINT)
    for number, heading in enumerate(headings):
        at = layout.left(number) + layout.cell / 2
        canvas.lines(heading, at, first - 1 - len(heading) * leading(TEXT), align="center")
    for number, (sample, replicate) in enumerate(rows):
        _row(canvas, layout, first + layout.row * number, album, columns, lines, sample, replicate)
        words = str(sample.get("prompt", ""))
        if sample["id"] in conflict:
            words = f"conflict {number_text(conflict[sample['id']])}: {words}"
        if shown.replicates > 1:
            words = f"noise {replicate + 1}. {words}"
        words = shortened(words, layout.width - 2 * MARGIN, SMALL)
        at = first + layout.row * number + layout.cell + 2 + layout.words * leading(SMALL)
        canvas.lines([words], MARGIN, at, SMALL, colour=FAINT)
    return canvas.figure


def _row(
    canvas: Canvas, layout: Layout, y: float, album: Album, columns: Sequence[Column], lines: Sequence[Sequence[str]],
    sample: dict, replicate: int,
) -> None:  # fmt: skip
    scores, _ = album.scored
    for number, column in enumerate(columns):
        x = layout.left(number)
        canvas.picture(_cell(album, column, sample, replicate, layout.cell), x, y, layout.cell, interpolation="none")
        if found := scores.get((sample["id"], replicate, column.row)):
            own = [[name for name in line if name in column.conditions and name in found] for line in lines]
            _write_scores(canvas, x, y + layout.cell + 2, found, own, layout.cell)


def _cell(album: Album, column: Column, sample: dict, replicate: int, size: float) -> np.ndarray:
    """A picture as it is printed, (side, side, 3) uint8."""
    side = round(size / POINTS * DOTS)
    picture = column.picture(sample, replicate)
    if picture is None:
        return np.full((side, side, 3), ABSENT, np.uint8)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(outlined(picture, masks_of(album.folder, sample, column.conditions)))


def _legend(album: Album, rows: Sequence, columns: Sequence[Column], scored: bool) -> list[str]:
    """How to read the sheet, in sentences."""
    count, every = len(dict.fromkeys(sample["id"] for sample, _ in rows)), len(album.samples)
    said = [f"{count} of {every} samples; the same noise in a row."]
    if any(masks_of(album.folder, sample, column.conditions) for sample, _ in rows for column in columns):
        said.append("White line: the border of what a condition controls.")
    if scored:
        scores, _ = album.scored
        absent = [name for name in album.conditions if not any(name in found for found in scores.values())]
        without = f" (left out: {', '.join(absent)})" if absent else ""
        said.append(
            f"Below: q of each condition{without}, 0 as without control, 1 as its single control; "
            "the smallest bold. Disc: it is above 1/2; ring: it is not."
        )
    return said


def _write_scores(
    canvas: Canvas, x: float, y: float, scores: Mapping[str, float], lines: Sequence[Sequence[str]], width: float
) -> None:
    """A dot for the joint score, then q of each condition, the smallest bold."""
    if JOINT in scores:
        satisfied = scores[JOINT] > HALF
        canvas.dot(x + 2.5, y + 3.9, satisfied, SATISFIED if satisfied else NOT_SATISFIED)
    lines = [line for line in lines if line]
    smallest = min((scores[name] for line in lines for name in line), default=None)
    for row, line in enumerate(lines):
        at = x + INDENT
        for name in line:
            words, least = f"{_clipped(name, width)} {number_text(scores[name])}", scores[name] == smallest
            canvas.lines([words], at, y + leading(SMALL) * row, SMALL, colour=INK if least else FAINT, bold=least)
            at += width_of(words + BETWEEN + ".", SMALL, True) - width_of(".", SMALL, True)


def score_lines(conditions: Sequence[str], width: float) -> list[list[str]]:
    """Conditions whose q stand in one line below a picture of this width; the same for all pictures of a sheet."""
    lines: list[list[str]] = [[]]
    for name in conditions:
        words = BETWEEN.join(f"{_clipped(each, width)} {WIDEST}" for each in [*lines[-1], name])
        if lines[-1] and width_of(words, SMALL, True) > width - INDENT:
            lines.append([])
        lines[-1].append(name)
    return lines


def _clipped(name: str, width: float) -> str:
    """A condition's name, or as much of it as stands beside its q below a picture."""
    kept = name
    while len(kept) > 2 and width_of(f"{kept} {WIDEST}", SMALL, True) > width - INDENT:
        kept = f"{kept.removesuffix('.')[:-1]}."
    return kept


def number_text(value: float) -> str:
    """Two decimals without a leading zero: .92, −.31, 1.04."""
    rounded = round(value, 2)
    text = f"{rounded + 0.0:.2f}".replace("-", "−")
    return text.replace("0.", ".", 1) if math.fabs(rounded) < 1 else text
