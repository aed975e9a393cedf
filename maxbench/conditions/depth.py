"""Relative depth, near = bright."""

from __future__ import annotations

from dataclasses import dataclass

from maxbench.conditions.base import Annotator, Images, Levels, Maps, to_levels
from maxbench.conditions.ruler import DepthControlNetPlusPlus, DepthMSE, DepthRMSE


@dataclass(frozen=True)
class Depth(Levels):
    """Depth as an annotator estimates it."""

    name = "depth"
    annotator = "depth"
    rulers = (DepthRMSE(), DepthMSE(), DepthControlNetPlusPlus())

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return to_levels(annotator(images))
