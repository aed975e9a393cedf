"""The image convention: (B, 3, H, W) float32 RGB in [0, 1] in memory, 8-bit PNG on disk.

Maps of conditions are (B, H, W) uint8: levels (255 = near, 255 = edge) or class numbers.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from maxbench.errors import UserError

BLACK = 2 / 255
"""An image no value of which is above this is called black: what an overflow or a safety checker leaves."""

MOST_PIXELS = 89_478_485
"""Of an image file; beyond it Pillow warns of files that are small on disk and fill the memory."""


ORIENTATION = 0x0112  # the tag in EXIF


def to_bytes(images: Float[Tensor, "batch 3 height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Quantise to 8 bits, rounding to nearest; values outside [0, 1] are clipped and NaN becomes 0."""
    levels = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def from_bytes(arrays: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    return torch.from_numpy(np.ascontiguousarray(arrays)).permute(0, 3, 1, 2).float() / 255


def defect(image: Float[Tensor, "3 height width"]) -> str | None:
    """`"nan"` for an image with a value that is no number, `"black"` for one without light, else None."""
    if not torch.isfinite(image).all():
        return "nan"
    return "black" if image.max() <= BLACK else None


def encode_png(array: np.ndarray) -> bytes:
    """The same array gives the same bytes with one version of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def read_png(path: Path, mode: str | None = "RGB") -> np.ndarray:
    """Read an image file as uint8, (H, W, 3) for "RGB" or (H, W) for "L"; UserError if it is damaged.

    Pixels come as they are stored, which is what COCO's annotations speak of: a camera's note to turn the picture is
    not followed, transparency is dropped, of 16-bit levels the upper 8 bits are kept, of an animation the first frame.

    mode: None for "RGB" where the file has colours, else "L".
    """
    with _opened(path) as image:
        return levels_of(image, f"The image {path}", mode)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, as stored; its pixels are not decoded."""
    with _opened(path) as image:
        return image.size


def read_orientation(path: Path) -> int | None:
    """How an image file is to be turned, by EXIF's numbers: 1 is upright; None where nothing is said."""
    with _opened(path) as image:
        return image.getexif().get(ORIENTATION)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, open; whatever Pillow says against it, now or when it is decoded, is a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is refused below
            opened = Image.open(path)
        with opened as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(
                    f"The image {path} has {image.width} x {image.height} pixels; make it smaller, "
                    f"{MOST_PIXELS:,} pixels are the most."
                )
            yield image
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"There is no image {path}; restore it, or make the data set anew.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder where an image belongs; put the image in its place.") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"The image {path} has far too many pixels; make it smaller, {MOST_PIXELS:,} pixels are the most."
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on damaged files
        said = " ".join(str(error).split())
        raise UserError(
            f"The image {path} cannot be read ({said}); restore it, or delete it and make it anew."
        ) from error


def levels_of(image: Image.Image, what: str, mode: str | None = None) -> np.ndarray:
    """The 8-bit levels of an open picture, see :func:`read_png`; what: its name in an error."""
    if image.mode in ("I", "F"):
        raise UserError(f"{what} has 32-bit levels of unknown range; save it with 8 bits a channel.")
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip everything above 255
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    return np.asarray(image.convert(mode or ("L" if image.mode in ("1", "L", "LA") else "RGB")))


def existing(path: Path) -> Path:
    """The path itself if it is a file; UserError if it is none."""
    if not path.is_file():
        raise UserError(f"There is no image {path}; restore it, or make the data set anew.")
    return path


def read_images(paths: Sequence[Path], size: int) -> Float[Tensor, "batch 3 size size"]:
    """Read pictures as squares of `size` pixels; see :func:`square`."""
    return from_bytes(np.stack([square(read_png(path), size) for path in paths]))


def centre(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest square in the middle of a picture; of two middles the upper, the left one."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def square(array: np.ndarray, size: int, smooth: bool = True) -> np.ndarray:
    """The centre of a uint8 picture (H, W[, 3]), as a square of `size` pixels; labels want `smooth=False`.

    Pictures are resized by Pillow's bicubic filter, which takes the average over what becomes one pixel, labels and
    masks by the nearest pixel; both from the same square.
    """
    if array.shape[:2] == (size, size):
        return array
    cut = Image.fromarray(array[centre(*array.shape[:2])])
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST))


def read_maps(paths: Sequence[Path]) -> UInt8[Tensor, "batch height width *colours"]:
    """Maps as they were stored, all of one size; a style's are pictures."""
    maps = [read_png(path, None) for path in paths]
    for path, each in zip(paths, maps, strict=True):
        if each.shape != maps[0].shape:
            raise UserError(
                f"The map {path} is of shape {each.shape}, but {paths[0]} {maps[0].shape}; delete it and make it anew."
            )
    return torch.from_numpy(np.stack(maps))
