"""The image convention: (B, 3, H, W) float32 RGB in [0, 1] in memory, 8-bit PNG on disk.

Maps of conditions are (B, H, W) uint8: levels (255 = near, 255 = edge) or class numbers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from maxbench.errors import UserError

BLACK = 2 / 255
"""An image no value of which is above this is called black: what an overflow or a safety checker leaves."""


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

    mode: None for "RGB" where the file has colours, else "L".
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode or ("RGB" if image.mode == "RGB" else "L")))
    except FileNotFoundError as error:
        raise UserError(f"There is no image {path}; restore it, or make the data set anew.") from error
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise UserError(
            f"The image {path} cannot be read ({error}); restore it, or delete it and make it anew."
        ) from error


def existing(path: Path) -> Path:
    """The path itself if it is a file; UserError if it is none."""
    if not path.is_file():
        raise UserError(f"There is no image {path}; restore it, or make the data set anew.")
    return path


def read_images(paths: Sequence[Path], size: int) -> Float[Tensor, "batch 3 size size"]:
    """Read pictures as squares of `size` pixels; see :func:`square`."""
    return from_bytes(np.stack([square(read_png(path), size) for path in paths]))


def square(array: np.ndarray, size: int, smooth: bool = True) -> np.ndarray:
    """The centre of a uint8 picture (H, W[, 3]), as a square of `size` pixels; labels want `smooth=False`."""
    if array.shape[:2] == (size, size):
        return array
    side = min(array.shape[:2])
    top, left = ((length - side) // 2 for length in array.shape[:2])
    cut = Image.fromarray(array[top : top + side, left : left + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST))


def read_maps(paths: Sequence[Path]) -> UInt8[Tensor, "batch height width *colours"]:
    """Maps as they were stored; a style's are pictures."""
    return torch.from_numpy(np.stack([read_png(path, None) for path in paths]))
