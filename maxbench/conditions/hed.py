"""Soft edges, as a holistically-nested edge detector draws them (Xie & Tu, ICCV 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from maxbench.conditions.base import Annotator, Images, Levels, Maps, to_levels
from maxbench.conditions.ruler import SoftEdgeMSE, SoftEdgeMSSSIM, SoftEdgeSSIM


@dataclass(frozen=True)
class HED(Levels):
    """Soft edges as an annotator draws them."""

    name = "hed"
    annotator = "hed"
    rulers = (SoftEdgeSSIM(), SoftEdgeMSSSIM(), SoftEdgeMSE())

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return to_levels(annotator(images))
