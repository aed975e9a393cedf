"""Fusion rules: N features of one layer go in; one comes out (merge), or N to go on with (unmerge)."""

from maxbench.fusion.application import ALL_SITES, SITES, Fusion
from maxbench.fusion.base import RATIO_CAP, Decision, Feature, NotFinite, Rule, RuleError, require_finite
from maxbench.fusion.gated import GatedSum
from maxbench.fusion.maxfusion import MaxFusion
from maxbench.fusion.plain import Average, Sum, Weighted
from maxbench.fusion.published import PublishedMaxFusion
from maxbench.fusion.spatial_weighting import (
    LargestNorm,
    RandomBlobs,
    RandomChoice,
    SoftmaxSaliency,
    SpatialWeighting,
)

__all__ = [
    "ALL_SITES", "RATIO_CAP", "SITES", "Average", "Decision", "Feature", "Fusion", "GatedSum", "LargestNorm",
    "MaxFusion", "NotFinite", "PublishedMaxFusion", "RandomBlobs", "RandomChoice", "Rule", "RuleError",
    "SoftmaxSaliency", "SpatialWeighting", "Sum", "Weighted", "require_finite",
]  # fmt: skip
