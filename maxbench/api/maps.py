"""Pictures, condition maps and masks as a person has them -> as a run has them, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.conditions.seg import IGNORE, Segmentation
from maxbench.errors import UserError

Given = Image.Image | np.ndarray | torch.Tensor | str | Path
"""A picture, a map or a mask: a PIL image, an array (H, W) or (H, W, 3) of uint8 or of floats in [0, 1], a tensor
(H, W), (1, H, W) or (3, H, W) of either, or a file."""

LOOSE = 0.01
"""By how much the sides of maps of one picture may differ in proportion: they were cut and rounded elsewhere."""


def pictures(given: Given | Sequence[Given], size: int) -> UInt8[np.ndarray, "batch size size 3"]:
    """Pictures, each cut to the square in its middle and resized, as a run's sources are."""
    return np.stack([im.square(_colours(_levels(each, "the picture"), "the picture"), size) for each in listed(given)])


def maps(
    given: Mapping[str, Given | Sequence[Given]], conditions: Mapping[str, Condition], count: int, size: int
) -> dict[str, np.ndarray]:
    """Condition -> maps (count, size, size[, 3]) uint8, in the order of the conditions; one map may serve all.

    Maps of another size are cut and resized as pictures are; those of one picture must be of one shape.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"maps is a {type(given).__name__}; give condition: map, maps={{'depth': ...}}.")
    for name in given:
        if name not in conditions:
            raise UserError(
                f"maps has '{name}', and the pipeline was loaded with {', '.join(conditions)}; load it with that, too, "
                "or leave the map out."
            )
    read = {name: [_map(each, name, conditions[name]) for each in _spread(given[name], f"maps['{name}']", count)]
            for name in conditions if name in given}  # fmt: skip
    spatial = {name: own for name, own in read.items() if conditions[name].is_spatial}
    for place in range(count):
        _require_one_shape({name: own[place] for name, own in spatial.items()})
    return {
        name: np.stack([im.square(each, size, smooth=not isinstance(conditions[name], Segmentation)) for each in own])
        for name, own in read.items()
    }


def masks(
    given: Mapping[str, Given | Sequence[Given]] | None,
    conditions: Mapping[str, Condition],
    known: Mapping[str, Any],
    count: int,
    size: int,
) -> dict[str, Bool[np.ndarray, "count size size"]]:
    """Condition -> where its map is given; what is not 0 (or False) is inside."""
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"masks is a {type(given).__name__}; give condition: mask, masks={{'depth': ...}}.")
    read = {}
    for name, own in (given or {}).items():
        if name not in known:
            raise UserError(
                f"masks has '{name}', of which there is no map; maps are of {', '.join(known) or 'nothing'}."
            )
        if not conditions[name].is_spatial:
            raise UserError(f"masks has '{name}', which holds for the whole picture; leave its mask out.")
        arrays = [_levels(each, f"masks['{name}']") for each in _spread(own, f"masks['{name}']", count)]
        for each in arrays:
            if each.ndim != 2:
                raise UserError(f"masks['{name}'] has colours; a mask has one channel, and 0 is outside.")
        read[name] = np.stack([im.square(each, size, smooth=False) > 0 for each in arrays])
    return read


def within(
    found: Mapping[str, np.ndarray], inside: Mapping[str, np.ndarray], conditions: Mapping[str, Condition]
) -> dict[str, np.ndarray]:
    """Maps that say nothing outside of their masks, as a run's are."""
    return {
        name: np.where(inside[name], own, np.uint8(conditions[name].null_value)) if name in inside else own
        for name, own in found.items()
    }


def shown(condition: Condition, array: np.ndarray) -> Image.Image:
    """A map as a picture that `maps=` takes back: levels in grey, class numbers with their colours in a palette."""
    picture = Image.fromarray(array)
    if isinstance(condition, Segmentation):
        picture.putpalette([level for colour in condition.palette for level in colour])
    return picture


def listed(given: Any) -> list[Any]:
    """One or several, as a list; a batch may also be an array or a tensor of four dimensions."""
    if isinstance(given, np.ndarray | torch.Tensor):
        return list(given) if given.ndim == 4 else [given]
    several = isinstance(given, Sequence) and not isinstance(given, str)
    if several and not given:
        raise UserError("A list is empty; give at least one picture or map.")
    return list(given) if several else [given]


def _spread(given: Any, what: str, count: int) -> list[Any]:
    """As many as there are pictures."""
    own = listed(given)
    if len(own) not in (1, count):
        raise UserError(f"{what} has {len(own)} for {count} pictures; give one for all, or one for each of them.")
    return own * count if len(own) == 1 else own


def _map(given: Given, name: str, condition: Condition) -> np.ndarray:
    """A map at its own size: levels or class numbers (H, W), or a picture where the condition is one."""
    what = f"maps['{name}']"
    array = _levels(given, what, labels=isinstance(condition, Segmentation))
    if not condition.is_spatial:
        return _colours(array, what)
    if isinstance(condition, Segmentation):
        return _classes(array, what, condition)
    if array.ndim == 3:
        if (array != array[..., :1]).any():
            raise UserError(f"{what} has colours; a map of '{name}' is grey levels. annotate() draws one of a picture.")
        array = array[..., 0]
    return array


def _classes(array: np.ndarray, what: str, condition: Segmentation) -> UInt8[np.ndarray, "height width"]:
    """Class numbers, of numbers or of the palette's colours."""
    count = len(condition.palette)
    if array.ndim == 2:
        wrong = array[(array >= count) & (array != IGNORE)]
        if wrong.size:
            raise UserError(
                f"{what} has the class {wrong[0]}; there are classes 0 to {count - 1}, and {IGNORE} for none."
            )
        return array
    codes = (array.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)
    numbers = np.full(codes.shape, -1)
    for number, (red, green, blue) in reversed(list(enumerate(condition.palette))):
        numbers[codes == (red << 16) + (green << 8) + blue] = number
    if (numbers < 0).any():
        colour = tuple(int(level) for level in array[numbers < 0][0])
        raise UserError(
            f"{what} has the colour {colour}, which is no class's, at {100 * (numbers < 0).mean():.0f}% of its pixels; "
            "take the suite's palette, and a file that keeps colours exactly, such as PNG."
        )
    return numbers.astype(np.uint8)


def _colours(array: np.ndarray, what: str) -> UInt8[np.ndarray, "height width 3"]:
    return np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array


def _levels(given: Any, what: str, labels: bool = False) -> UInt8[np.ndarray, "height width *colours"]:
    """8-bit levels of a picture, an array, a tensor or a file; labels: whether numbers are names and no amounts."""
    if isinstance(given, str | Path):
        return im.read_png(Path(given).expanduser(), None)
    if isinstance(given, Image.Image):
        return im.levels_of(given, what)
    if isinstance(given, torch.Tensor):
        array = given.detach().cpu()
        array = (array.float() if array.dtype in (torch.float16, torch.bfloat16) else array).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    elif isinstance(given, np.ndarray):
        array = given
    else:
        raise UserError(f"{what} is a {type(given).__name__}; give a PIL image, an array, a tensor or a file.")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)) or 0 in array.shape:
        form = "a tensor (H, W), (1, H, W) or (3, H, W)" if isinstance(given, torch.Tensor) else "(H, W) or (H, W, 3)"
        raise UserError(f"{what} has the shape {tuple(given.shape)}; give {form}.")
    if array.dtype == bool:
        return array.astype(np.uint8) * (1 if labels else 255)
    if array.dtype.kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise UserError(f"{what} has numbers from {array.min()} to {array.max()}; they must be from 0 to 255.")
        return array.astype(np.uint8)
    if array.dtype.kind != "f":
        raise UserError(f"{what} holds {array.dtype}; give uint8, or floats in [0, 1].")
    if labels and array.ndim == 2:
        raise UserError(f"{what} holds {array.dtype}; class numbers are whole, take uint8.")
    if not np.isfinite(array).all():
        raise UserError(f"{what} has values that are NaN or infinite; correct it before it is given.")
    if array.min() < 0 or array.max() > 1:
        raise UserError(
            f"{what} has floats from {array.min():.3g} to {array.max():.3g}; they must be in [0, 1], or be uint8."
        )
    return (array.astype(np.float32) * 255).round().astype(np.uint8)


def _require_one_shape(found: Mapping[str, np.ndarray]) -> None:
    """Maps of one picture that are of other proportions would be cut in other places."""
    shapes = {name: each.shape[:2] for name, each in found.items()}
    for name, (height, width) in shapes.items():
        first, (rows, columns) = next(iter(shapes.items()))
        if abs(height * columns / (width * rows) - 1) > LOOSE:
            raise UserError(
                f"maps['{first}'] is {columns} x {rows} and maps['{name}'] {width} x {height}: cut to squares they "
                "would not lie on each other; give maps of one shape."
            )
