"""Relative depth, near = bright."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maxbench.conditions.base import Annotator, Images, Levels, Maps, Valid, in_channel, to_levels, unit
from maxbench.metrics.fidelity import depth_rmse


@dataclass(frozen=True)
class Depth(Levels):
    """Depth re-estimated from a picture is compared after a least-squares fit of scale and shift.

    Monocular depth is known only up to scale and shift (Ranftl et al., TPAMI 2020, Sec. 5); without the
    fit the score would measure the estimator's convention.
    """

    name = "depth"
    annotator = "depth"
    metric = sample_metric = "depth_rmse"
    protocol = "0-255, least-squares scale and shift"
    higher_is_better = False

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return to_levels(annotator(images))

    def compare(self, given: Maps, measured: Maps, valid: Valid = None) -> np.ndarray:
        return depth_rmse(unit(given), unit(measured), in_channel(valid)).numpy()
