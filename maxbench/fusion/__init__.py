"""Fusion rules: N features of one layer go in; one comes out (merge), or N to go on with (unmerge)."""

from maxbench.fusion.base import RATIO_CAP, Decision, Feature, NotFinite, Rule, RuleError, require_finite
from maxbench.fusion.spatial_weighting import SpatialWeighting, LargestNorm, RandomChoice, SoftmaxSaliency
from maxbench.fusion.maxfusion import MaxFusion
from maxbench.fusion.plain import Average, Sum, Weighted
from maxbench.fusion.published import PublishedMaxFusion

__all__ = [
    "RATIO_CAP", "Average", "SpatialWeighting", "Decision", "Feature", "LargestNorm", "MaxFusion", "NotFinite",
    "PublishedMaxFusion", "RandomChoice", "Rule", "RuleError", "SoftmaxSaliency", "Sum", "Weighted",
    "require_finite",
]  # fmt: skip
