"""Semantic segmentation: class numbers on disk, a palette's colours for the ControlNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maxbench.conditions.base import Annotator, AsGiven, Images, Maps, Valid
from maxbench.errors import UserError
from maxbench.metrics.fidelity import confusion, per_image_iou

IGNORE = 255


@dataclass(frozen=True)
class Segmentation(AsGiven):
    """Labels are compared by intersection over union of classes.

    palette: RGB in 0-255 of every class, in the order in which the suite's ControlNet was trained; class 0
        is "nothing said". Label 255 is ignored.
    """

    palette: Sequence[Sequence[int]]

    name = "seg"
    annotator = "seg"
    metric, sample_metric = "seg_miou", "seg_image_iou"
    protocol = "data set, classes present, x100"
    higher_is_better = True
    null_value = 0

    def __post_init__(self):
        if not self.palette or any(len(colour) != 3 for colour in self.palette):
            raise UserError(
                "A segmentation palette needs one [red, green, blue] for every class; correct suite.palette."
            )

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return annotator(images).argmax(1).to(torch.uint8).cpu()

    def hint(self, maps: Maps) -> Images:
        colours = torch.zeros(IGNORE + 1, 3)
        colours[: len(self.palette)] = torch.tensor([list(colour) for colour in self.palette], dtype=torch.float32)
        return (colours[maps.long()] / 255).permute(0, 3, 1, 2).contiguous()

    def compare(self, given: Maps, measured: Maps, valid: Valid = None) -> np.ndarray:
        if valid is not None:
            given = given.masked_fill(~valid, IGNORE)
        return confusion(given.long(), measured.long(), len(self.palette), IGNORE).numpy()  # (B, C, C)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        return per_image_iou(torch.from_numpy(np.asarray(statistics))).numpy()
