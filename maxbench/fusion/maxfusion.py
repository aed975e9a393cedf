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

import torch
from torch import Tensor

from maxbench.fusion.base import (
    Decision,
    Feature,
    Maps,
    Rule,
    channel_std_and_norm,
    dot,
    mix,
    pick,
    ratio,
    require_features,
    tiny,
    upcast,
    won_by,
)


@dataclass(frozen=True)
class MaxFusion(Rule):
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
        require_features(features)
        if len(features) == 1:  # nothing to decide: spare a single control the cost
            return list(features)
        sigma, _, winner, cluster = self._decide(features)
        mean, f_w = _share(cluster, sigma), won_by(winner, len(features)).to(sigma)
        # sigma_w = 0 only where every sigma_i = 0, so what stands in for it does not matter
        scale = ratio(sigma, pick(sigma, winner)) if self.rescale else torch.ones_like(sigma)
        going_on = (torch.where(c, mean, scale_i * f_w) for c, scale_i in zip(cluster, scale, strict=True))
        return [mix(weights, features) for weights in going_on]

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_features(features)
        if len(features) == 1:
            return features[0]
        sigma, _, _, cluster = self._decide(features)
        return mix(_share(cluster, sigma), features)

    def decide(self, features: Sequence[Feature]) -> Decision:
        """Who wins where, who agrees with the winner, and why: for pictures and logs."""
        require_features(features)
        return self._decide(features)

    def _decide(self, features: Sequence[Feature]) -> Decision:
        f = [upcast(feature) for feature in features]
        sigma, norm = map(torch.stack, zip(*map(channel_std_and_norm, f), strict=True))
        sigma_bar = sigma / sigma.sum(dim=(-2, -1), keepdim=True).clamp_min(tiny(sigma))
        winner = sigma_bar.argmax(dim=0)  # of equals the first

        zero = math.sqrt(tiny(norm))  # a norm whose square is still a normal number
        norm_w, spoken = pick(norm, winner), norm.clamp_min(zero)
        rho = _dots_with_winner(f, norm, winner) / (spoken * norm_w.clamp_min(zero))
        silent = (norm < zero) & (norm_w < zero)
        rho = torch.where(silent, 1.0, rho.clamp(-1.0, 1.0))  # two that say nothing agree

        # even an exact opposite, rho = -1, joins at delta = -1, where the rule is the mean everywhere
        threshold = self.delta if self.delta > -1 else -math.inf
        return Decision(sigma, rho, winner, (rho > threshold) | won_by(winner, len(f)))


def _dots_with_winner(f: Sequence[Feature], norm: Maps, winner: Tensor) -> Maps:
    """f_i . f_w for every i. Each pair is multiplied once: for N <= 3 that is less than picking f_w and reading it."""
    count = len(f)
    dots = {(i, j): dot(f[i], f[j]) for i in range(count) for j in range(i + 1, count)}
    dots |= {(i, i): norm[i].square() for i in range(count)}
    return torch.stack([pick([dots[min(i, j), max(i, j)] for j in range(count)], winner) for i in range(count)])


def _share(cluster: Tensor, like: Tensor) -> Maps:
    """Weights of the mean over the cluster."""
    return cluster.to(like) / cluster.sum(dim=0)
