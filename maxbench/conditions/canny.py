"""Hard edges by Canny's detector (Canny, PAMI 1986), through OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from maxbench.conditions.base import Annotator, Images, Levels, Maps
from maxbench.conditions.ruler import EdgeF1
from maxbench.errors import UserError
from maxbench.images import to_bytes


@dataclass(frozen=True)
class Canny(Levels):
    """Hard edges.

    low, high: hysteresis thresholds on the grey picture's gradient, in 8-bit levels; 100 and 200 are the defaults of
        ControlNet's own tool, whose model was trained with random ones. That tool gives OpenCV the colours, of which
        it takes the channel that changes most: it draws more edges.
    """

    low: int = 100
    high: int = 200

    name = "canny"
    annotator = None
    rulers = (EdgeF1(1), EdgeF1(0))

    def __post_init__(self):
        if not 0 <= self.low <= self.high:
            raise UserError(
                f"Canny needs 0 <= low <= high, not low={self.low}, high={self.high}; correct the thresholds."
            )

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in to_bytes(images)]
        return torch.from_numpy(np.stack([cv2.Canny(image, self.low, self.high) for image in grey]))
