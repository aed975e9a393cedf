"""What a condition is: a map drawn from a picture, a hint made of the map, and rulers for pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from maxbench.conditions.ruler import Ruler

Images = Float[Tensor, "batch 3 height width"]  # float32 RGB in [0, 1]
Maps = UInt8[Tensor, "batch height width"]  # levels or class numbers, as stored on disk

Annotator = Callable[[Images], Tensor]
"""A network that looks at pictures: levels (B, 1, H, W) in [0, 1], or logits (B, classes, H, W)."""


class Condition(Protocol):
    """One kind of control, by the name of its maps: "depth", "seg", "hed", "canny"; of "style" they are pictures."""

    name: ClassVar[str]
    version: ClassVar[int]  # of how it draws and shows, in the keys of maps and images; rulers have their own
    annotator: ClassVar[str | None]  # the suite's network that draws the maps; None where arithmetic does
    null_value: ClassVar[int]  # the value of a map that says nothing at a place
    is_spatial: ClassVar[bool]  # whether it can be given and scored in a part of a picture
    knows_objects: ClassVar[bool]  # whether an object has an exact map by its outline and category

    @property
    def rulers(self) -> Sequence[Ruler]:
        """How pictures are held against its maps; the first is the headline, of which q is made."""
        ...

    @property
    def object_rulers(self) -> Sequence[Ruler]:
        """The same where it gives an object, whose class and outline the data set knows."""
        ...

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        """The maps of pictures."""
        ...

    def hint(self, maps: Maps) -> Images:
        """What a ControlNet is shown."""
        ...

    def object_map(self, outline: Bool[Tensor, "height width"], category: str) -> UInt8[Tensor, "height width"]:
        """The exact map of an object by its outline and category, where it knows objects."""
        ...

    def as_measured(self, given: Maps, scorer: Annotator | None) -> Tensor:
        """Given maps as rulers take them: most are compared as they are."""
        ...


class AsGiven:
    """The shared part of every condition whose maps are compared as they were given, place by place."""

    is_spatial: ClassVar[bool] = True
    knows_objects: ClassVar[bool] = False
    version: ClassVar[int] = 1

    @property
    def object_rulers(self) -> Sequence[Ruler]:
        return self.rulers

    def as_measured(self, given: Maps, scorer: Annotator | None) -> Maps:
        return given


class Levels(AsGiven):
    """The shared half of every condition whose maps are grey levels."""

    null_value: ClassVar[int] = 0

    def hint(self, maps: Maps) -> Images:
        return (maps[:, None].float() / 255).expand(-1, 3, -1, -1)


def to_levels(values: Float[Tensor, "batch 1 height width"]) -> Maps:
    """Levels in [0, 1] as 8-bit maps."""
    return (values[:, 0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
