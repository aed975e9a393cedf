"""What a condition is: a map drawn from a picture, a hint made of the map, and a ruler for pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]  # float32 RGB in [0, 1]
Maps = UInt8[Tensor, "batch height width"]  # levels or class numbers, as stored on disk
Valid = Bool[Tensor, "batch height width"] | None  # where a condition is scored; everywhere if None

Annotator = Callable[[Images], Tensor]
"""A network that looks at pictures: levels (B, 1, H, W) in [0, 1], or logits (B, classes, H, W)."""


class Condition(Protocol):
    """One kind of control, by the name of its maps ("depth", "seg", "hed", "canny"; "style" is no map but a picture).

    `compare` gives what is known of each sample, first axis the sample. `score` turns that into a number:
    of one sample's statistics, or of the mean of many samples' statistics, which is the table's number. The
    two differ where a data-set score is no mean of sample scores (mIoU).
    """

    name: ClassVar[str]
    version: ClassVar[int]  # of how it draws, shows and compares, in the keys of maps, images and scores
    annotator: ClassVar[str | None]  # the suite's network that draws the maps; None where arithmetic does
    metric: ClassVar[str]  # the data set's score
    sample_metric: ClassVar[str]  # one sample's score
    protocol: ClassVar[str]
    higher_is_better: ClassVar[bool]
    null_value: ClassVar[int]  # the value of a map that says nothing at a place
    is_spatial: ClassVar[bool]  # whether it can be given and scored in a part of a picture

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        """The maps of pictures."""
        ...

    def hint(self, maps: Maps) -> Images:
        """What a ControlNet is shown."""
        ...

    def as_measured(self, given: Maps, scorer: Annotator | None) -> Tensor:
        """Given maps as `compare` takes them: most are compared as they are."""
        ...

    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        """Statistics (B, ...) of how far the maps measured in pictures are those that were given."""
        ...

    def score(self, statistics: np.ndarray) -> np.ndarray:
        """(n, ...) => (n,)"""
        ...


class AsGiven:
    """The shared part of every condition whose maps are compared as they were given, place by place."""

    is_spatial: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def as_measured(self, given: Maps, scorer: Annotator | None) -> Maps:
        return given


class Levels(AsGiven):
    """The shared half of every condition whose maps are grey levels."""

    null_value: ClassVar[int] = 0

    def hint(self, maps: Maps) -> Images:
        return (maps[:, None].float() / 255).expand(-1, 3, -1, -1)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        return statistics


def to_levels(values: Float[Tensor, "batch 1 height width"]) -> Maps:
    """Levels in [0, 1] as 8-bit maps."""
    return (values[:, 0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def unit(maps: Maps) -> Float[Tensor, "batch 1 height width"]:
    """8-bit maps as levels in [0, 1]."""
    return maps[:, None].float() / 255


def in_channel(valid: Valid) -> Bool[Tensor, "batch 1 height width"] | None:
    """A region as the fidelity metrics take it."""
    return None if valid is None else valid[:, None]
