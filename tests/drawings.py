"""What tests ask of figures: the words that are drawn, where, in which size; what a PDF of them holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure

DOTS = 144  # per inch
TOUCH = 0.3  # points by which two words may come closer than touching: rounding to pixels


@dataclass(frozen=True)
class Words:
    """One line of words; the box of its ink in points from the lower left: left, bottom, right, top."""

    text: str
    size: float
    box: tuple[float, float, float, float]

    def meets(self, other: Words) -> bool:
        (a, b, c, d), (e, f, g, h) = self.box, other.box
        return min(c, g) - max(a, e) > TOUCH and min(d, h) - max(b, f) > TOUCH


class Recorder(RendererAgg):
    """Draws like any other, and remembers the words."""

    def __init__(self, figure: Figure):
        self.words: list[Words] = []
        self.size = figure.get_size_inches() * DOTS
        super().__init__(*self.size, DOTS)

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        if s.strip():
            width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
            y = self.size[1] - y
            box = (x, y - descent, x + width, y - descent + height)
            if angle == 90:
                box = (x - height + descent, y, x + descent, y + width)
            scaled = tuple(float(each) * 72 / DOTS for each in box)
            self.words.append(Words(s, prop.get_size_in_points(), scaled))
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)


@cache
def words_of(figure: Figure) -> list[Words]:
    """Every line of words that drawing the figure draws."""
    figure.set_dpi(DOTS)
    recorder = Recorder(figure)
    figure.draw(recorder)
    return recorder.words


def require_legible(figure: Figure, smallest: float) -> list[Words]:
    """No words are cut off, meet others, or are smaller than `smallest` points; returns them."""
    words = words_of(figure)
    assert words
    wide, high = figure.get_size_inches() * 72
    for each in words:
        left, bottom, right, top = each.box
        assert min(left, bottom) > -TOUCH and right < wide + TOUCH and top < high + TOUCH, f"cut off: {each}"
        assert each.size >= smallest, f"too small: {each}"
    for place, each in enumerate(words):
        for other in words[:place]:
            assert not each.meets(other), f"{each} meets {other}"
    return words


def require_embedded(pdf: bytes) -> None:
    """Every font of a PDF is in it, as TrueType."""
    assert pdf.startswith(b"%PDF")
    described = len(re.findall(rb"/Type /FontDescriptor", pdf))
    assert described and described == len(re.findall(rb"/FontFile2 ", pdf))
    assert b"/Type3" not in pdf


def lightness(colour: tuple[float, ...]) -> float:
    """L* of CIELAB, 0 to 100, of an sRGB colour in [0, 1]: what remains of it in a grey copy."""
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour[:3]]
    y = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * np.cbrt(y) - 16 if y > 0.008856 else 903.3 * y
