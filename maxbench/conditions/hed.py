"""Soft edges, as a holistically-nested edge detector draws them (Xie & Tu, ICCV 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maxbench.conditions.base import Annotator, Images, Levels, Maps, Valid, in_channel, to_levels, unit
from maxbench.metrics.fidelity import soft_edge_ssim


@dataclass(frozen=True)
class HED(Levels):
    """Soft edges are compared by structural similarity (Wang et al., TIP 2004)."""

    name = "hed"
    annotator = "hed"
    metric = sample_metric = "hed_ssim"
    protocol = "data_range 1"
    higher_is_better = True

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return to_levels(annotator(images))

    def compare(self, given: Maps, measured: Maps, valid: Valid = None) -> np.ndarray:
        return soft_edge_ssim(unit(given), unit(measured), in_channel(valid)).numpy()
