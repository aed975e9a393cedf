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
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from maxbench.fusion.base import (
    Decision,
    Feature,
    Map,
    Maps,
    Rule,
    blend,
    dot,
    mean_and_variance,
    mean_weights,
    narrow,
    norms,
    pick,
    ratio,
    require_features,
    require_finite,
    require_one_shape,
    tiny,
    upcast,
    winners,
)


class Seen(NamedTuple):
    """What the rule sees at every location, of features that are read here and then only to be mixed.

    sigma: saliency of every branch. won: where each of them is the winner. cluster: those that are averaged.
    """

    sigma: Maps
    won: Bool[Tensor, "branch batch 1 height width"]
    cluster: Bool[Tensor, "branch batch 1 height width"]


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
        require_one_shape(features)
        if len(features) == 1:  # nothing to decide: spare a single control the cost
            require_finite(features)
            return list(features)
        f = [upcast(feature) for feature in features]
        sigma, won, cluster = self._see(features, f)
        # sigma_w = 0 only where every sigma_i = 0, so what stands in for it does not matter
        scale = ratio(sigma, pick(sigma.unbind(), won.unbind())) if self.rescale else torch.ones_like(sigma)
        mean = mean_weights(cluster, sigma)
        if len(f) == 2:  # outside of the cluster is one branch at most, and then the mean is f_w: mixed once
            shared, (one, other) = blend(mean, f), scale.masked_fill_(cluster, 1.0)
            going_on = [one * shared, shared.mul_(other)]
        else:
            f_w = won.to(mean)
            own = (torch.where(c, mean, scale_i * f_w) for c, scale_i in zip(cluster, scale, strict=True))
            going_on = [blend(weights, f) for weights in own]
        return [narrow(each, features[0].dtype) for each in going_on]

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_one_shape(features)
        if len(features) == 1:
            require_finite(features)
            return features[0]
        f = [upcast(feature) for feature in features]
        sigma, _, cluster = self._see(features, f)
        return narrow(blend(mean_weights(cluster, sigma), f), features[0].dtype)

    def decide(self, features: Sequence[Feature]) -> Decision:
        """Who wins where, who agrees with the winner, and why: for pictures and logs."""
        require_features(features)
        f = [upcast(feature) for feature in features]
        sigma, won, cluster = self._see(features, f)
        norm = torch.stack([norms(*mean_and_variance(each), each.shape[1]) for each in f])
        rho = torch.stack(_with_winner(_similarities(f, norm), won))
        return Decision(sigma, rho.clamp(-1.0, 1.0), won.long().argmax(dim=0), cluster)

    def _see(self, features: Sequence[Feature], f: Sequence[Feature]) -> Seen:
        """f: the features, upcast."""
        mean, variance = map(torch.stack, zip(*map(mean_and_variance, f), strict=True))
        sigma = variance.sqrt()
        total = sigma.sum(dim=(-2, -1), keepdim=True)
        require_finite(features, total)  # an infinite value has no finite variance
        won = winners((sigma / total.clamp_min(tiny(sigma))).unbind())
        rho = _similarities(f, norms(mean, variance, f[0].shape[1]))

        # even an exact opposite, rho = -1, joins at delta = -1, where the rule is the mean everywhere, and not even
        # parallel ones, whose rho may round to more than 1, join at delta = 1
        threshold = -math.inf if self.delta <= -1 else math.inf if self.delta >= 1 else self.delta
        joined = [each > threshold for each in rho]
        if len(f) > 2:
            return Seen(sigma, won, torch.stack(_with_winner(joined, won)))
        return Seen(sigma, won, joined[0] | won)  # of two, if the loser joins both are in it


def _similarities(f: Sequence[Feature], norm: Maps) -> list[Map]:
    """rho_ij of every pair i < j, up to rounding. For N <= 3 that is less than picking f_w and reading it."""
    zero = math.sqrt(tiny(norm))  # a norm whose square is still a normal number
    norm, spoken = norm.unbind(), norm.clamp_min(zero).unbind()

    def rho(i: int, j: int) -> Map:
        similarity = dot(f[i], f[j]).div_(spoken[i] * spoken[j])
        return similarity.masked_fill_(torch.maximum(norm[i], norm[j]) < zero, 1.0)  # two that say nothing agree

    return [rho(i, j) for i, j in combinations(range(len(f)), 2)]


def _with_winner(of_pairs: Sequence[Map], won: Tensor) -> list[Map]:
    """Of every branch and the winner, what is known of every pair i < j; 1, or true, of the winner and itself."""
    count, own = len(won), torch.ones_like(of_pairs[0])
    numbers = {pair: number for number, pair in enumerate(combinations(range(count), 2))}

    def pair(i: int, j: int) -> Map:
        return own if i == j else of_pairs[numbers[min(i, j), max(i, j)]]

    won = won.unbind()
    return [pick([pair(i, j) for j in range(count)], won) for i in range(count)]
