"""What figures share: colours and markers, sizes in print, fonts, and a canvas for pictures and words."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from maxbench.errors import UserError
from maxbench.store.files import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of lines: those of Okabe and Ito (2008) that can be told apart without red or green, less the yellow, which is too
faint on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # one more than colours: a pair comes again after 56 lines

SINGLE, DOUBLE = 8.4 / 2.54, 17 / 2.54
"""Width of a figure in a paper's column, and in two; inches."""
TEXT, SMALL = 7.0, 6.0
"""Sizes of words at that width; points. Nothing is smaller."""
DOTS = 300  # per inch, of a PNG
POINTS = 72  # per inch
INK, FAINT = "#19191e", "#5a5a62"
FORMATS = ("pdf", "png")
STYLE = {
    "pdf.fonttype": 42, "ps.fonttype": 42,  # TrueType, which publishers take and programs can edit
    "font.family": ["DejaVu Sans"], "font.size": TEXT, "axes.titlesize": TEXT, "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "figure.titlesize": TEXT,
    "figure.labelsize": SMALL, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.major.size": 2, "ytick.major.size": 2, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "0.35",
    "xtick.color": INK, "ytick.color": INK, "axes.unicode_minus": True, "savefig.dpi": DOTS,
}  # fmt: skip


class NotThere(UserError):
    """A figure that cannot be drawn of this run, because the run has not recorded what it shows."""


def style() -> AbstractContextManager:
    """Within it figures are made and saved: sizes as in print, fonts embedded."""
    return matplotlib.rc_context(STYLE)


def encoded(figure: Figure, kind: str) -> bytes:
    """A figure as a `pdf` or `png`, without the time at which it was drawn."""
    drawing = io.BytesIO()
    with style():
        figure.savefig(drawing, format=kind, dpi=DOTS, metadata={"CreationDate": None} if kind == "pdf" else None)
    return drawing.getvalue()


def save(figure: Figure, place: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write a figure beside `place`, a path without an ending, once in each format; return the paths."""
    paths = []
    for kind in formats:
        path = place.with_name(f"{place.name}.{kind}")
        write_atomically(path, encoded(figure, kind))
        paths.append(path)
    return paths


@lru_cache(maxsize=4096)
def width_of(words: str, size: float = TEXT, bold: bool = False) -> float:
    """How wide words are, in points."""
    font = FontProperties(family=STYLE["font.family"], size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(words, font, False)[0]


def wrapped(text: str, width: float, size: float = TEXT) -> list[str]:
    """Lines of at most this width, broken after what joins the parts of a name; within a part that is too long."""
    lines = [""]
    for part in re.split(r"(?<=[ _/+=.])", text):
        for piece in [part] if width_of(part.rstrip(), size) <= width else part:
            if lines[-1] and width_of((lines[-1] + piece).rstrip(), size) > width:
                lines.append("")
            lines[-1] += piece
    return [line.strip() for line in lines]


def shortened(text: str, width: float, size: float = TEXT) -> str:
    """A text in one line of at most this width, with its last words left out where it is longer."""
    if width_of(text, size) <= width:
        return text
    words = text.split()
    while words and width_of(" ".join([*words, "..."]), size) > width:
        words.pop()
    return " ".join([*words, "..."])


class Canvas:
    """A figure on which pictures and words are placed, in points from its upper left corner."""

    def __init__(self, width: float, height: float):
        with style():
            self.figure = Figure(figsize=(width / POINTS, height / POINTS))
            self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.width, self.height = width, height
        self.axis.set_axis_off()
        self.axis.set_xlim(0, width)
        self.axis.set_ylim(height, 0)
        self.axis.autoscale(False)

    def picture(self, pixels: np.ndarray, x: float, y: float, width: float, height: float | None = None, **looks
                ) -> AxesImage:  # fmt: skip
        """Place an array of shape (height, width) or (height, width, 3)."""
        height = width if height is None else height
        return self.axis.imshow(pixels, extent=(x, x + width, y + height, y), aspect="auto", **looks)

    def write(self, words: str, x: float, y: float, size: float = TEXT, colour: str = INK, align: str = "left",
              valign: str = "top", bold: bool = False, rotation: float = 0) -> Text:  # fmt: skip
        return self.axis.text(x, y, words, fontsize=size, color=colour, ha=align, va=valign, rotation=rotation,
                              weight="bold" if bold else "normal", linespacing=1.15)  # fmt: skip

    def lines(self, lines: Sequence[str], x: float, y: float, size: float = TEXT, **looks) -> float:
        """Write lines below each other; return where the next would begin."""
        for number, line in enumerate(lines):
            self.write(line, x, y + number * leading(size) + size, size, valign="baseline", **looks)
        return y + len(lines) * leading(size)

    def dot(self, x: float, y: float, filled: bool, colour: str) -> None:
        """A disc or a ring."""
        self.axis.add_patch(Circle((x, y), 1.9, facecolor=colour if filled else "none", edgecolor=colour, lw=1))

    def patch(self, x: float, y: float, size: float, colour: str) -> None:
        """A small square with a grey border."""
        self.axis.add_patch(Rectangle((x, y), size, size, facecolor=colour, edgecolor="0.5", lw=0.5))

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes of their own within the canvas."""
        with style():
            return self.figure.add_axes(
                (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
            )


def leading(size: float) -> float:
    """From one line of words to the next, in points."""
    return size * 1.32
