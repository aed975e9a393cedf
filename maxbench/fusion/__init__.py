"""Fusion rules: N features of one layer go in; one comes out (merge), or N to go on with (unmerge)."""

from maxbench.fusion.application import ALL_SITES, BLOCK_SITES, SITES, Fusion, clash
from maxbench.fusion.base import (
    RATIO_CAP,
    Decision,
    Feature,
    NotFinite,
    Rule,
    RuleError,
    SpatialWeighting,
    require_finite,
)
from maxbench.fusion.cross_controlnet import ChannelFusion, PixFusion
from maxbench.fusion.gated import GatedSum
from maxbench.fusion.maxfusion import MaxFusion
from maxbench.fusion.plain import Average, Sum, Weighted
from maxbench.fusion.published import PublishedMaxFusion
from maxbench.fusion.spatial_weighting import LargestNorm, RandomBlobs, RandomChoice, SoftmaxSaliency

__all__ = [
    "ALL_SITES", "BLOCK_SITES", "RATIO_CAP", "SITES", "Average", "ChannelFusion", "Decision", "Feature", "Fusion",
    "GatedSum", "LargestNorm", "MaxFusion", "NotFinite", "PixFusion", "PublishedMaxFusion", "RandomBlobs",
    "RandomChoice", "Rule", "RuleError", "SoftmaxSaliency", "SpatialWeighting", "Sum", "Weighted", "clash",
    "require_finite",
]  # fmt: skip
