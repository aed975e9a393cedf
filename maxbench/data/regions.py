"""Parts of a picture: where a map is a control, and where its fidelity is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy.ndimage import distance_transform_edt

from maxbench.data.coco import CocoImages, Instance
from maxbench.errors import UserError
from maxbench.images import centre, square

MARGIN = 1 / 8
"""Of the window around an object, as a share of the picture's side."""


class Region(Protocol):
    """A part of a picture; its text is what a manifest says of it."""

    def mask(self, images: CocoImages, size: int) -> np.ndarray:
        """(size, size) bool, of the square that a picture is cut to."""
        ...

    def identity(self, images: CocoImages) -> Any:
        """What the mask depends on besides its size, as plain data."""
        ...


@dataclass(frozen=True)
class Half:
    """The left or the right half."""

    side: str

    def mask(self, images: CocoImages, size: int) -> np.ndarray:
        left = np.broadcast_to(np.arange(size) < size // 2, (size, size))
        return left.copy() if self.side == "left" else ~left

    def identity(self, images: CocoImages) -> Any:
        return {"half": self.side}

    def __str__(self) -> str:
        return f"{self.side} half"


@dataclass(frozen=True)
class Object:
    """What one annotated object of an image covers, or all that it does not.

    number: of the object among the image's instances.
    margin: share of the picture's side by which the object is widened in every direction, as far as the picture goes.
    """

    image: int
    number: int
    outside: bool = False
    margin: float = 0.0

    def window(self, margin: float = MARGIN) -> Object:
        """The object and what is near it: where a picture is looked at to see whether the object spills over."""
        return replace(self, outside=False, margin=margin)

    def mask(self, images: CocoImages, size: int) -> np.ndarray:
        covered = square(images.mask(self._instance(images)).astype(np.uint8), size, smooth=False) > 0
        if self.margin > 0 and covered.any():
            covered = distance_transform_edt(~covered) <= self.margin * size
        return covered != self.outside

    def inside(self, images: CocoImages) -> float:
        """Share of the object's pixels that lie in the square that its picture is cut to; 0 if it has none."""
        mask = images.mask(self._instance(images))
        return float(mask[centre(*mask.shape)].sum() / max(mask.sum(), 1))

    def identity(self, images: CocoImages) -> Any:
        outline = self._instance(images).annotation["segmentation"]
        exact = {"outline": outline, "size": images.size(self.image), "outside": self.outside}
        return {**exact, "margin": self.margin} if self.margin > 0 else exact

    def _instance(self, images: CocoImages) -> Instance:
        instances = images.picture(self.image).instances
        if self.number >= len(instances):
            raise UserError(
                f"Image {self.image} of '{images.name}' has {len(instances)} objects and no number {self.number}; "
                "its annotations have changed: restore them, or start the run anew."
            )
        return instances[self.number]

    def __str__(self) -> str:
        margin = f" with a margin of {self.margin:g}" if self.margin > 0 else ""
        return f"{'outside ' if self.outside else ''}object {self.number} of image {self.image}{margin}"
