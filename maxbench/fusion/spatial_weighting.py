"""Competitors: rules that choose or mix at every location, without asking whether branches agree.

In lockstep every branch goes on with what was chosen, at its own saliency, as MaxFusion's losers do.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from maxbench.fusion.base import Feature, Maps, SaliencyWeighting, SpatialWeighting, dot, tiny, winners, won_by


@dataclass(frozen=True)
class SoftmaxSaliency(SaliencyWeighting):
    """Branches mixed by a softmax of their relative saliency: MaxFusion's winner with soft borders.

    w_i = softmax over i of sbar_i / temperature, sbar_i being sigma_i over its mean in the sample (1 = as salient as
    the branch is on average). Temperature to 0 is selection by saliency (MaxFusion at delta >= 1), to infinity the
    average. A per-location softmax of activity is common in feature fusion (e.g. DenseFuse, Li & Wu, TIP 2019).
    """

    temperature: float = 0.3

    def __post_init__(self):
        if not isinstance(self.temperature, int | float) or not 0 < self.temperature < math.inf:
            raise ValueError(f"a softmax needs a temperature above 0, not {self.temperature}")

    def weigh_by(self, sigma: Maps) -> Maps:
        relative = sigma / sigma.mean(dim=(-2, -1), keepdim=True).clamp_min(tiny(sigma))
        return (relative / self.temperature).softmax(dim=0)


@dataclass(frozen=True)
class LargestNorm(SpatialWeighting):
    """At every location the feature of the largest Euclidean norm: choose-max, the classic of image fusion.

    Burt & Kolczynski, ICCV 1993, choose by the local energy of a pyramid's coefficients. Without a normaliser a
    louder branch wins everywhere: what the relative saliency of MaxFusion is there to prevent.
    """

    def weigh(self, f: list[Feature]) -> Maps:
        return winners([dot(each, each) for each in f]).to(f[0])


@dataclass(frozen=True)
class RandomChoice(SpatialWeighting):
    """At every location a branch drawn at random, the same for every sample, step and layer of one size.

    The control experiment: what choosing is worth when nothing guides the choice.
    """

    is_chance: ClassVar[bool] = True

    seed: int = 0

    def weigh(self, f: list[Feature]) -> Maps:
        height, width = f[0].shape[-2:]
        draw = _noise(height, width, self.seed, f[0].device)
        return won_by((draw * len(f)).long().clamp(max=len(f) - 1), len(f)).to(f[0])


@dataclass(frozen=True)
class RandomBlobs(SpatialWeighting):
    """At every location a branch drawn at random, the same over whole blobs: a coherent choice that nothing guides.

    The control experiment for "saliency decides who wins": `RandomChoice` also breaks the picture into single
    locations, this one does not. Blobs are the Voronoi cells of one point in each square of a grid; each belongs to
    one branch, as equally many to each as their number allows, and over the seeds every branch has the same expected
    area. The pattern is a function of the place in the picture, so that it is the same at the resolution of every
    layer, in every step and, as under `RandomChoice`, for every sample: a rule cannot tell samples apart.

    size: side of a blob as a share of the map's side, in [0.05, 0.5], taken to the nearest 1 / n.
    """

    is_chance: ClassVar[bool] = True

    seed: int = 0
    size: float = 0.25

    def __post_init__(self):
        if not isinstance(self.size, int | float) or not 0.05 <= self.size <= 0.5:
            raise ValueError(f"size is a share of the map's side, from 0.05 to 0.5, not {self.size}")

    def weigh(self, f: list[Feature]) -> Maps:
        device, side = f[0].device, round(1 / self.size)
        jitter_y, jitter_x, lots, shift = (_noise(side, side, 4 * self.seed + draw, device) for draw in range(4))
        squares = torch.arange(side, device=device, dtype=torch.float64)
        y = ((squares[:, None] + jitter_y) / side).flatten()
        x = ((squares[None, :] + jitter_x) / side).flatten()
        height, width = (_centres(length, device) for length in f[0].shape[-2:])
        blob = ((height[:, None, None] - y).square() + (width[None, :, None] - x).square()).argmin(dim=-1)

        lots, blobs = lots.flatten(), side * side
        rank = (lots[:, None] > lots).sum(dim=1)  # a shuffle of the blobs
        # dealt out in equal parts from a random place on, so that what is left over goes to any branch
        owner = ((rank / blobs + shift[..., 0, 0].flatten()) * len(f)).long() % len(f)
        return won_by(owner[blob][None, None], len(f)).to(f[0])


def _centres(length: int, device: torch.device) -> Tensor:
    """The centres of a map's rows or columns, in (0, 1)."""
    return (torch.arange(length, device=device, dtype=torch.float64) + 0.5) / length


def _noise(height: int, width: int, seed: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) that look random, (1, 1, H, W): arithmetic alone, so that a compiler can trace it."""
    y = torch.arange(height, device=device, dtype=torch.float64)[:, None]
    x = torch.arange(width, device=device, dtype=torch.float64)[None, :]
    return (torch.sin(12.9898 * y + 78.233 * x + 37.719 * (seed + 1)) * 43758.5453).frac().abs()[None, None]
