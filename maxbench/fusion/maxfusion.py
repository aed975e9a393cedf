"""The paper's rule.

Nair et al., "MaxFusion: Plug&Play Multi-Modal Generation in Text-to-Image Diffusion Models", ECCV 2024,
arXiv 2404.09977, Sec. 3.4 "MaxFusion", Sec. 3.5 "InterModel Unmerging" and Algorithm 1. At every location (j, k)
a feature is a vector f_i over the channels, and

    sigma_i     = standard deviation of f_i                    saliency
    sigma_bar_i = sigma_i / sum over (j, k) of sigma_i         relative saliency, each sample by itself
    w           = argmax_i sigma_bar_i                         winner, a tie going to the lower index
    rho_i       = f_i . f_w / (|f_i| |f_w|)                    similarity to the winner
    cluster     = {w} and every i with rho_i > delta

    merge       = mean of the cluster
    unmerge_i   = mean of the cluster if i is in it, else (sigma_i / sigma_w) f_w

For N = 2 this is the paper's rule: the mean where rho > delta, elsewhere the winner. For N > 2, which the
paper shows and does not define, averaging the winner's cluster is our reading. Its limits: delta <= -1 is the
mean everywhere, delta >= 1 the winner everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from maxbench.fusion.base import RATIO_CAP, Feature, Maps, pick, require_equal_shapes, tiny, upcast


class Decision(NamedTuple):
    """What MaxFusion sees and decides at every location: the maps to look at, and all that the rule needs."""

    sigma: Maps
    rho: Maps
    winner: Int[Tensor, "batch 1 height width"]
    cluster: Bool[Tensor, "branch batch 1 height width"]
    f_w: Feature


@dataclass(frozen=True)
class MaxFusion:
    """The mean where branches agree, the relatively most salient branch where they do not.

    delta: similarity above which a branch joins the winner; equality is not above. Finite, else ValueError.
    rescale: a branch outside the cluster goes on with f_w at its own saliency, (sigma_i / sigma_w) f_w. False
        hands it f_w as it is, an ablation: the paper's method figure says "without any change".
    """

    delta: float = 0.7
    rescale: bool = True

    def __post_init__(self):
        if not isinstance(self.delta, int | float) or not math.isfinite(self.delta):
            raise ValueError(f"delta is a similarity, a finite number, not {self.delta}")

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        require_equal_shapes(features)
        if len(features) == 1:  # nothing to decide: spare a single control the cost
            return list(features)
        f, dtype = upcast(features), features[0].dtype
        sigma, _, winner, cluster, f_w = self._decide(f)
        mean = _mean_of(f, cluster)
        # sigma_w = 0 only where every sigma_i = 0, so what stands in for it does not matter
        ratio = (sigma / pick(sigma, winner).clamp_min(tiny(sigma))).clamp_max(RATIO_CAP)
        others = [ratio_i * f_w for ratio_i in ratio] if self.rescale else [f_w] * len(f)
        return [torch.where(c, mean, other).to(dtype) for c, other in zip(cluster, others, strict=True)]

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_equal_shapes(features)
        if len(features) == 1:
            return features[0]
        f = upcast(features)
        return _mean_of(f, self._decide(f).cluster).to(features[0].dtype)

    def decide(self, features: Sequence[Feature]) -> Decision:
        """Who wins where, who agrees with the winner, and why: for pictures and logs."""
        require_equal_shapes(features)
        return self._decide(upcast(features))

    def _decide(self, f: list[Feature]) -> Decision:
        sigma, norm = map(torch.stack, zip(*map(_saliency_and_norm, f), strict=True))
        sigma_bar = sigma / sigma.sum(dim=(-2, -1), keepdim=True).clamp_min(tiny(sigma))
        winner = sigma_bar.argmax(dim=0)  # of equals the first
        f_w, norm_w = pick(f, winner), pick(norm, winner)

        zero = math.sqrt(tiny(norm))  # a norm whose square is still a normal number
        dot = torch.stack([(f_i * f_w).sum(dim=1, keepdim=True) for f_i in f])
        rho = dot / (norm.clamp_min(zero) * norm_w.clamp_min(zero))
        silent = (norm < zero) & (norm_w < zero)
        rho = torch.where(silent, 1.0, rho.clamp(-1.0, 1.0))  # two that say nothing agree

        # even an exact opposite, rho = -1, joins at delta = -1, where the rule is the mean everywhere
        threshold = self.delta if self.delta > -1 else -math.inf
        is_winner = torch.stack([winner == i for i in range(len(f))])
        return Decision(sigma, rho, winner, (rho > threshold) | is_winner, f_w)


def _saliency_and_norm(f_i: Feature) -> tuple[Tensor, Tensor]:
    """sigma_i and |f_i|, (B, 1, H, W) each; the mean and the variance give both."""
    mean = f_i.mean(dim=1, keepdim=True)
    variance = (f_i - mean).square().mean(dim=1, keepdim=True)
    return variance.sqrt(), (f_i.shape[1] * (variance + mean.square())).sqrt()


def _mean_of(f: Sequence[Feature], cluster: Tensor) -> Feature:
    members = [torch.where(c, f_i, 0.0) for f_i, c in zip(f, cluster, strict=True)]
    return reduce(torch.add, members) / cluster.sum(dim=0)
