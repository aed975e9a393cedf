"""What a ruler is: how far the maps measured in pictures are those that were given.

A condition has several. Each is known by its name and version for itself, so that adding or changing one measures
anew with it alone, and remakes no map and no picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from maxbench.metrics.fidelity import (
    accuracy_of_counts,
    class_counts,
    depth_residuals,
    depth_rmse,
    depth_rmse_controlnetpp,
    edge_f1,
    iou_of_counts,
    ms_ssim,
    mse,
    own_class_iou,
    soft_edge_ssim,
    unmatched_edges,
)

Valid = Tensor | None
"""(B, H, W) bool, where a condition is scored; None for everywhere. Outside, both maps hold the null value."""


class Ruler(ABC):
    """One way to compare maps, (B, H, W) uint8 as they lie on disk.

    `compare` gives what is known of each picture, first axis the picture. `score` turns that into a number: of one
    picture's statistics, or of the mean of many pictures' statistics, which is the table's number. The two differ where
    a data set's score is no mean of its pictures' scores (mIoU).

    The law of every ruler: maps compared with themselves score `best`, whatever the region. It is None for another's
    definition that breaks the law by itself.
    """

    version: ClassVar[int] = 1
    metric: ClassVar[str]  # the data set's score
    sample_metric: ClassVar[str]  # one picture's score
    protocol: ClassVar[str]
    higher_is_better: ClassVar[bool]
    best: ClassVar[float | None]

    @property
    def sample_protocol(self) -> str:
        """Of one picture's score, and of its mean."""
        return self.protocol.replace("data set", "mean over images")

    @abstractmethod
    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        """Statistics (B, ...)."""

    def error(self, given: Tensor, measured: Tensor, valid: Valid = None) -> Tensor:
        """How far the maps differ at every place, (B, H, W) in [0, 1], for people to look at; 0 outside of `valid`.

        Of levels their difference; of all else whether they differ.
        """
        return _within((given != measured).double(), valid)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        """(n, ...) => (n,)"""
        return statistics

    def oriented(self, scores: np.ndarray) -> np.ndarray:
        """Scores of which more is better."""
        return scores if self.higher_is_better else -scores


Compare = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class LevelRuler(Ruler):
    """A ruler of grey levels, by a function of maps (B, 1, H, W) in [0, 1]."""

    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        region = None if valid is None else valid[:, None]
        return self.distance(_unit(given), _unit(measured), region).numpy()

    def error(self, given: Tensor, measured: Tensor, valid: Valid = None) -> Tensor:
        return _within((given.double() - measured.double()).abs() / 255, valid)

    @abstractmethod
    def distance(self, given: Tensor, measured: Tensor, valid: Tensor | None) -> Tensor:
        """(B,) float64."""


class DepthRMSE(LevelRuler):
    """Depth re-estimated from a picture, after a least-squares fit of scale and shift.

    Monocular depth is known only up to scale and shift (Ranftl et al., TPAMI 2020, Sec. 5); without the fit the score
    would measure the estimator's convention.
    """

    metric = sample_metric = "depth_rmse"
    protocol = "0-255, least-squares scale and shift"
    higher_is_better, best = False, 0.0
    distance = staticmethod(depth_rmse)

    def error(self, given: Tensor, measured: Tensor, valid: Valid = None) -> Tensor:
        """After the fit."""
        region = None if valid is None else valid[:, None]
        return depth_residuals(_unit(given), _unit(measured), region)[:, 0].abs().clamp(max=1)


class DepthControlNetPlusPlus(LevelRuler):
    """As ControlNet++ (Li et al., ECCV 2024) evaluates depth; see :func:`depth_rmse_controlnetpp` for its defect."""

    metric = sample_metric = "depth_rmse_controlnetpp"
    protocol = "ControlNet++: label by its range, prediction by its maximum, of the scorer's 8-bit map, 0-255"
    higher_is_better, best = False, None
    distance = staticmethod(depth_rmse_controlnetpp)


class DepthMSE(LevelRuler):
    """Mean squared error as it is, without a fit."""

    metric = sample_metric = "depth_mse"
    protocol = "levels in [0, 1], no fit"
    higher_is_better, best = False, 0.0
    distance = staticmethod(mse)


class SoftEdgeSSIM(LevelRuler):
    """Soft edges by structural similarity (Wang et al., TIP 2004)."""

    metric = sample_metric = "hed_ssim"
    protocol = "data_range 1"
    higher_is_better, best = True, 1.0
    distance = staticmethod(soft_edge_ssim)


class SoftEdgeMSSSIM(LevelRuler):
    """Soft edges by multi-scale structural similarity (Wang et al., 2003), as ControlNet++ evaluates them.

    Its coarse windows know no regions: where a condition is scored in a part of the picture, both maps are blank and
    equal outside.
    """

    metric = sample_metric = "hed_ms_ssim"
    protocol = "multi-scale, data_range 1"
    higher_is_better, best = True, 1.0

    def distance(self, given: Tensor, measured: Tensor, valid: Tensor | None) -> Tensor:
        return ms_ssim(given, measured)


class SoftEdgeMSE(LevelRuler):
    """Mean squared error of soft edges."""

    metric = sample_metric = "hed_mse"
    protocol = "levels in [0, 1]"
    higher_is_better, best = False, 0.0
    distance = staticmethod(mse)


@dataclass(frozen=True)
class EdgeF1(Ruler):
    """Hard edges, the same if they lie within `tolerance` pixels of each other."""

    tolerance: int = 1

    higher_is_better, best = True, 1.0

    @property
    def metric(self) -> str:
        return "canny_f1" if self.tolerance else "canny_f1_strict"

    sample_metric = metric

    @property
    def protocol(self) -> str:
        return f"tolerance {self.tolerance} px"

    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        region = None if valid is None else valid[:, None]
        return edge_f1(_edges(given), _edges(measured), tolerance=self.tolerance, valid=region).numpy()

    def error(self, given: Tensor, measured: Tensor, valid: Valid = None) -> Tensor:
        region = None if valid is None else valid[:, None]
        return unmatched_edges(_edges(given), _edges(measured), self.tolerance, region)[:, 0]


@dataclass(frozen=True)
class MeanIoU(Ruler):
    """Labels by intersection over union of the classes that are present.

    The data set's number is of the summed counts of all pictures; a picture's own weighs small classes otherwise. Of a
    confusion only the intersection and the two totals of every class are kept: every score here is a function of these,
    and with 150 classes they are fifty times smaller.
    """

    classes: int
    ignore: int = 255

    metric, sample_metric = "seg_miou", "seg_image_iou"
    protocol = "data set, classes present, x100"
    higher_is_better, best = True, 100.0

    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        return class_counts(given.long(), measured.long(), self.classes, self.ignore, valid).numpy()  # (B, 3, C)

    def error(self, given: Tensor, measured: Tensor, valid: Valid = None) -> Tensor:
        return super().error(given, measured, valid) * (given != self.ignore)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        return iou_of_counts(torch.from_numpy(np.asarray(statistics))).numpy()


@dataclass(frozen=True)
class PixelAccuracy(MeanIoU):
    """The share of labelled pixels that carry the given label."""

    metric = sample_metric = "seg_accuracy"
    protocol = "pixels, x100"

    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        counts = class_counts(given.long(), measured.long(), self.classes, self.ignore, valid)
        return counts.sum(-1).numpy()  # (B, 3)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        return accuracy_of_counts(torch.from_numpy(np.asarray(statistics))[..., None]).numpy()


class OwnClassIoU(Ruler):
    """An object by the intersection over union of its own class with its own outline, inside a window around it.

    The truth is the data set's: the instance's category and mask, not what an annotator made of the picture. The given
    map holds the object's class inside its outline and the null value elsewhere; the window is the evaluation mask, the
    outline and a margin, so that spilling over costs.
    """

    metric = sample_metric = "seg_object_iou"
    protocol = "IoU of the object's own class in a window around it, mean over images, x100"
    higher_is_better, best = True, 100.0

    def compare(self, given: Tensor, measured: Tensor, valid: Valid = None) -> np.ndarray:
        outline = given > 0
        own = given.flatten(1).max(1).values.long()
        window = torch.ones_like(outline) if valid is None else valid
        return own_class_iou(measured.long(), outline, own, window).numpy()

    def error(self, given: Tensor, measured: Tensor, valid: Valid = None) -> Tensor:
        own = given.flatten(1).max(1).values[:, None, None]
        return _within(((measured == own) != (given > 0)).double(), valid)


def _within(error: Tensor, valid: Valid) -> Tensor:
    return error if valid is None else error * valid


def _unit(maps: Tensor) -> Tensor:
    """8-bit maps as levels (B, 1, H, W) in [0, 1]."""
    return maps[:, None].float() / 255


def _edges(maps: Tensor) -> Tensor:
    return maps[:, None] > 127
