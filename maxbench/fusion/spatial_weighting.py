"""Competitors: rules that choose or mix at every location, without asking whether branches agree.

In lockstep every branch goes on with what was chosen, at its own saliency, as MaxFusion's losers do.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maxbench.fusion.base import (
    Feature,
    Maps,
    Rule,
    channel_std,
    dot,
    mix,
    narrow,
    ratio,
    require_features,
    tiny,
    upcast,
    won_by,
)


class SpatialWeighting(Rule):
    """A rule that makes one feature of N at every location, by its own `weigh`."""

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        require_features(features)
        if len(features) == 1:
            return list(features)
        f = [upcast(feature) for feature in features]
        shared = mix(self.weigh(f), f)
        sigma = channel_std(shared)
        return [narrow(ratio(channel_std(each), sigma) * shared, features[0].dtype) for each in f]

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_features(features)
        return features[0] if len(features) == 1 else mix(self.weigh([upcast(each) for each in features]), features)

    @abstractmethod
    def weigh(self, f: list[Feature]) -> Maps:
        """The weight of every branch at every location, from features in float32."""


@dataclass(frozen=True)
class SoftmaxSaliency(SpatialWeighting):
    """Branches mixed by a softmax of their relative saliency: MaxFusion's winner with soft borders.

    w_i = softmax over i of sbar_i / temperature, sbar_i being sigma_i over its mean in the sample (1 = as salient as
    the branch is on average). Temperature to 0 is selection by saliency (MaxFusion at delta >= 1), to infinity the
    average. A per-location softmax of activity is common in feature fusion (e.g. DenseFuse, Li & Wu, TIP 2019).
    """

    temperature: float = 0.3

    def __post_init__(self):
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise ValueError(f"a softmax needs a temperature above 0, not {self.temperature}")

    def weigh(self, f: list[Feature]) -> Maps:
        sigma = torch.stack([channel_std(each) for each in f])
        relative = sigma / sigma.mean(dim=(-2, -1), keepdim=True).clamp_min(tiny(sigma))
        return (relative / self.temperature).softmax(dim=0)


@dataclass(frozen=True)
class LargestNorm(SpatialWeighting):
    """At every location the feature of the largest Euclidean norm: choose-max, the classic of image fusion.

    Burt & Kolczynski, ICCV 1993, choose by the local energy of a pyramid's coefficients. Without a normaliser a
    louder branch wins everywhere: what the relative saliency of MaxFusion is there to prevent.
    """

    def weigh(self, f: list[Feature]) -> Maps:
        loudest = torch.stack([dot(each, each) for each in f]).argmax(dim=0)
        return won_by(loudest, len(f)).to(f[0])


@dataclass(frozen=True)
class RandomChoice(SpatialWeighting):
    """At every location a branch drawn at random, the same for every sample, step and layer of one size.

    The control experiment: what choosing is worth when nothing guides the choice.
    """

    seed: int = 0

    def weigh(self, f: list[Feature]) -> Maps:
        height, width = f[0].shape[-2:]
        draw = _noise(height, width, self.seed, f[0].device)
        return won_by((draw * len(f)).long().clamp(max=len(f) - 1), len(f)).to(f[0])


def _noise(height: int, width: int, seed: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) that look random, (1, 1, H, W): arithmetic alone, so that a compiler can trace it."""
    y = torch.arange(height, device=device, dtype=torch.float64)[:, None]
    x = torch.arange(width, device=device, dtype=torch.float64)[None, :]
    return (torch.sin(12.9898 * y + 78.233 * x + 37.719 * (seed + 1)) * 43758.5453).frac().abs()[None, None]
