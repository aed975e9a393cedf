"""Rules without a decision: branches run independently, and their outputs are added with weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from maxbench.fusion.base import Feature, Rule, RuleError, require_features, require_finite, require_one_shape, upcast


class Independent(Rule):
    """A rule whose branches know nothing of each other until their outputs meet."""

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        require_features(features)
        return list(features)


@dataclass(frozen=True)
class Sum(Independent):
    """Branches run independently and their outputs are added, as diffusers' MultiControlNetModel does.

    Added in the order of the branches and in their own dtype, hence equal to diffusers to the last bit.
    """

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_one_shape(features)
        total = reduce(torch.add, features)
        require_finite(features, total)
        return total


@dataclass(frozen=True)
class Average(Independent):
    """Branches run independently and their outputs are averaged (the paper's naive baseline, f_avg)."""

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_one_shape(features)
        total = reduce(torch.add, map(upcast, features))
        require_finite(features, total)
        return (total / len(features)).to(features[0].dtype)


@dataclass(frozen=True)
class Weighted(Independent):
    """Branches run independently and their outputs are added with a fixed weight each.

    What users of several ControlNets do by hand (diffusers' `controlnet_conditioning_scale` as a list).
    weights: one per branch, in their order; another number of branches is a RuleError. Where branches come and go, or
        are of several kinds, take `branch_scale` of a method instead.
    """

    weights: Sequence[float]

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_features(features)
        if len(self.weights) != len(features):
            raise RuleError(f"{len(self.weights)} weights and {len(features)} branches: give one weight per branch")
        parts = [weight * feature for weight, feature in zip(self.weights, map(upcast, features), strict=True)]
        return reduce(torch.add, parts).to(features[0].dtype)
