"""Parts of a picture: where a map is a control, and where its fidelity is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from maxbench.data.coco import CocoImages, Instance
from maxbench.errors import UserError
from maxbench.images import square


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
    """

    image: int
    number: int
    outside: bool = False

    def mask(self, images: CocoImages, size: int) -> np.ndarray:
        covered = square(images.mask(self._instance(images)).astype(np.uint8), size, smooth=False) > 0
        return covered != self.outside

    def identity(self, images: CocoImages) -> Any:
        outline = self._instance(images).annotation["segmentation"]
        return {"outline": outline, "size": images.size(self.image), "outside": self.outside}

    def _instance(self, images: CocoImages) -> Instance:
        instances = images.picture(self.image).instances
        if self.number >= len(instances):
            raise UserError(
                f"Image {self.image} of '{images.name}' has {len(instances)} objects and no number {self.number}; "
                "its annotations have changed: restore them, or start the run anew."
            )
        return instances[self.number]

    def __str__(self) -> str:
        return f"{'outside ' if self.outside else ''}object {self.number} of image {self.image}"
