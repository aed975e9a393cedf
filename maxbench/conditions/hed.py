"""Soft edges, as a holistically-nested edge detector draws them (Xie & Tu, ICCV 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from maxbench.conditions.base import Annotator, Images, Levels, Maps, to_levels
from maxbench.conditions.ruler import LevelRuler, SoftEdgeMSE, SoftEdgeMSSSIM, SoftEdgeSSIM


@dataclass(frozen=True)
class HED(Levels):
    """Soft edges as an annotator draws them."""

    name = "hed"
    annotator = "hed"
    rulers = (SoftEdgeSSIM(), SoftEdgeMSSSIM(), SoftEdgeMSE())

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return to_levels(annotator(images))


def _of_three_levels(ruler: LevelRuler) -> LevelRuler:
    """A ruler under a protocol of its own: its numbers are no others' soft edges'."""
    ruler.protocol = f"{ruler.protocol}, maps of three levels"
    return ruler


@dataclass(frozen=True)
class SafeHED(Levels):
    """Soft edges of three levels: below a third nothing, below two thirds 127, else 255.

    The "safe" soft edge of ControlNet 1.1 (`safe_step` with step = 2 in its `annotator/util.py`): floor(3x) / 2, cut
    off at 1, in 8 bits rounded down. A soft edge map can hold a faint grey copy of the picture, which a control may
    follow to a high score without following an edge; three levels leave no room for it.
    """

    name = "hed"
    annotator = "hed"
    rulers = tuple(map(_of_three_levels, (SoftEdgeSSIM(), SoftEdgeMSSSIM(), SoftEdgeMSE())))

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        steps = (annotator(images)[:, 0].float().clamp(0, 1) * 3).floor().clamp(max=2)  # (B, H, W) of 0, 1, 2
        return (steps * 127.5).to(torch.uint8).cpu()
