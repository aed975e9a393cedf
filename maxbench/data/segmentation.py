"""The outline of an object, in any of COCO's three forms, as a mask.

pycocotools draws polygons. Run lengths are decoded here: its C code trusts the numbers that it is given, and reads or
writes outside of the picture where they do not add up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as polygons

from maxbench.data.annotations import is_number, shown

DIGITS = 12
"""Characters of one compressed run at most, five bits each."""


def is_given(segmentation: Any) -> bool:
    """Whether there is anything to decode."""
    return segmentation not in (None, [], {})


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask of a segmentation, (height, width) bool; a ValueError says what is wrong with it."""
    if isinstance(segmentation, list):
        return _draw(segmentation, height, width)
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"is of the size {shown(size)}, but its picture has {height} rows and {width} columns")
        runs = _runs(counts)
        if sum(runs) != height * width:
            raise ValueError(f"has runs of {sum(runs)} pixels in all, but its picture has {height * width}")
        values = np.arange(len(runs)) % 2 == 1  # the first run lies outside of the object
        return np.repeat(values, runs).reshape((height, width), order="F")
    raise ValueError(f"is {shown(segmentation)}, which is neither polygons nor run lengths")


def _draw(outline: Sequence[Any], height: int, width: int) -> np.ndarray:
    for polygon in outline:
        if not isinstance(polygon, list) or not all(map(is_number, polygon)):
            raise ValueError(f"has the polygon {shown(polygon)}, which is not a list of numbers")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {len(polygon)} numbers; it takes x and y of at least three points")
        for side, values in ((width, polygon[0::2]), (height, polygon[1::2])):
            # a little outside is cut off; far outside are the points of another picture, and no end of memory
            if min(values) < -side or max(values) > 2 * side:
                raise ValueError(f"has a point far outside of its picture, which is {width} x {height} pixels")
    return polygons.decode(polygons.merge(polygons.frPyObjects(outline, height, width))).astype(bool)


def _runs(counts: Any) -> list[int]:
    """Lengths of the runs, none negative."""
    if isinstance(counts, str):
        runs = _decompress(counts)
    elif isinstance(counts, list):
        runs = counts
    else:
        raise ValueError(f"has the counts {shown(counts)}, which are neither text nor a list")
    for run in runs:
        if not isinstance(run, int) or isinstance(run, bool) or run < 0:
            raise ValueError(f"has a run of {shown(run)} pixels")
    return runs


def _decompress(text: str) -> list[int]:
    """Run lengths from COCO's text: base-32 digits from the low end, bit 5 for "more", each from the third on a
    difference to the last but one (`rleFrString` in pycocotools' maskApi.c).
    """
    runs: list[int] = []
    value = digits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or digits == DIGITS:
            raise ValueError(f"has counts that are no run lengths, at {shown(character)}")
        value |= (code & 31) << 5 * digits
        digits += 1
        if code & 32:
            continue
        if code & 16:
            value -= 1 << 5 * digits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = digits = 0
    if digits:
        raise ValueError("has counts that end within a number")
    return runs
