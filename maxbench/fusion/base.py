"""What every fusion rule is, and the arithmetic that several share.

Everything is decided and averaged in float32 (float64 stays float64) and returned in the dtype that came in:
in bfloat16 some winners flip, and a sum of two large float16 features overflows.

A rule that decides location by location looks at the features once, for small maps without channels, and then mixes
them with one weight per branch and location (`mix`). Written so, the large tensors are read few times: see
scripts/measure_cost.py.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Feature = Float[Tensor, "batch channel height width"]
Map = Float[Tensor, "batch 1 height width"]
Maps = Float[Tensor, "branch batch 1 height width"]

# The winner is chosen by *relative* saliency, so sigma_i / sigma_w may exceed 1, though not the ratio of the
# two sums over space: the cap acts only on a branch that is a thousand times louder as a whole.
RATIO_CAP = 1000.0


# In which rules compute: what is narrower is brought to float32.
WIDE = (torch.float32, torch.float64)


class Decision(NamedTuple):
    """What a rule sees and decides at every location.

    sigma: saliency of every branch. rho: its similarity to the winner. cluster: those that are averaged.
    """

    sigma: Maps
    rho: Maps
    winner: Int[Tensor, "batch 1 height width"]
    cluster: Bool[Tensor, "branch batch 1 height width"]


class Rule(ABC):
    """What to do where N branches meet; N >= 1 features of one shape, none of them ever written to.

    A rule says `unmerge` and `merge`; everything else has a default. Both return float tensors of the shape and dtype
    that came in, and raise ValueError for features of different shape, and NotFinite. A rule is best a frozen
    dataclass: its fields are what images made by it are known by, see :mod:`maxbench.store.identity`.

    version: of the arithmetic, in the keys of images. Raise it with every change that changes a number.
    is_chance: whether a draw decides and no feature does: a control experiment, which no table ranks.
    """

    version: ClassVar[int] = 1
    is_chance: ClassVar[bool] = False

    @abstractmethod
    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        """N features for N branches to go on with."""

    @abstractmethod
    def merge(self, features: Sequence[Feature]) -> Feature:
        """One feature for all, of the down blocks' residuals."""

    def merge_mid(self, features: Sequence[Feature]) -> Feature:
        """One feature for all, of the mid block's residual; as of the others unless a rule says otherwise."""
        return self.merge(features)

    @property
    def needs_guidance(self) -> bool:
        """Whether the batch must hold both halves of classifier-free guidance."""
        return False

    def for_images(self) -> "Rule":
        """The rule where a batch holds images and not guidance halves: the features of T2I-Adapters."""
        return self

    def for_branches(self, names: Sequence[str]) -> "Rule":
        """The rule for the features of these branches, in this order; for a rule that keeps a record by name."""
        return self

    def decide(self, features: Sequence[Feature]) -> Decision | None:
        """What the rule sees and decides at every location, for pictures and logs; None where it decides nothing."""
        return None


class SpatialWeighting(Rule):
    """A rule that makes one feature of N at every location, by its own `weigh`."""

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        require_features(features)
        if len(features) == 1:
            return list(features)
        f = [upcast(feature) for feature in features]
        weights, own = self._weigh(f)
        shared = blend(weights, f)
        scale = ratio(own, channel_std(shared))
        return [narrow(scale_i * shared, features[0].dtype) for scale_i in scale]

    def merge(self, features: Sequence[Feature]) -> Feature:
        require_features(features)
        if len(features) == 1:
            return features[0]
        f = [upcast(feature) for feature in features]
        return narrow(blend(self.weigh(f), f), features[0].dtype)

    @abstractmethod
    def weigh(self, f: list[Feature]) -> Maps:
        """The weight of every branch at every location, from features in float32."""

    def _weigh(self, f: list[Feature]) -> tuple[Maps, Maps]:
        """The same, and every branch's saliency."""
        return self.weigh(f), stds(f)


class SaliencyWeighting(SpatialWeighting):
    """A spatial weighting that looks at the branches' saliency alone: it is computed once."""

    def weigh(self, f: list[Feature]) -> Maps:
        return self.weigh_by(stds(f))

    @abstractmethod
    def weigh_by(self, sigma: Maps) -> Maps:
        """The weight of every branch at every location, from the branches' saliency in float32."""

    def _weigh(self, f: list[Feature]) -> tuple[Maps, Maps]:
        sigma = stds(f)
        return self.weigh_by(sigma), sigma


class TwoBranches(Rule):
    """The mean where two branches agree, elsewhere the winner; the other goes on with it at its own saliency.

    The batch is [unconditional half, conditional half], prompts in the same order in both; several prompts at once
    behave as each alone would. One branch passes untouched; more than two are a RuleError.

    The released code of MaxFusion, and that of Cross-ControlNet after it, mixes up the two halves in two places.
    A rule says `_decide` and has, as fields of a dataclass:
    normaliser: "pair" (released: a sum over the whole tensor, that is both guidance halves of a prompt) or "sample"
        (paper: each half by itself).
    halves: True (released) gives both halves the unconditional half's down-block residuals and the conditional half's
        mid-block residual, because the merged tensor is unpacked along the batch; False (paper) gives each its own.
    """

    normaliser: str
    halves: bool

    @property
    def needs_guidance(self) -> bool:
        """Whether the batch must hold both guidance halves."""
        return self.halves or self.normaliser == "pair"

    def for_images(self) -> Self:
        """The rule where there are no halves: an adapter's features belong to the image, not to a prompt."""
        return replace(self, halves=False, normaliser="sample")

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        self._require(features)
        if len(features) == 1:
            return list(features)
        f = [upcast(feature) for feature in features]
        sigma, _, winner, cluster = self._decide(features, f)
        factors = torch.where(cluster.all(dim=0), 1.0, ratio(sigma, torch.where(winner == 1, sigma[1], sigma[0])))
        shared = blend(mean_weights(cluster, sigma), f)  # the winner's where they do not agree
        return [narrow(factor * shared, features[0].dtype) for factor in factors]

    def merge(self, features: Sequence[Feature]) -> Feature:
        """Of the down blocks' residuals."""
        self._require(features)
        return features[0] if len(features) == 1 else self._given_to_both(self._fused(features), half=0)

    def merge_mid(self, features: Sequence[Feature]) -> Feature:
        """Of the mid block's residual."""
        self._require(features)
        return features[0] if len(features) == 1 else self._given_to_both(self._fused_mid(features), half=1)

    def decide(self, features: Sequence[Feature]) -> Decision:
        """Who wins where, and where both are averaged; rho is by the rule's own similarity."""
        self._require(features)
        return self._decide(features, [upcast(feature) for feature in features])

    @abstractmethod
    def _decide(self, features: Sequence[Feature], f: Sequence[Feature]) -> Decision:
        """Of two features, which are refused if they are not finite; f: the same in float32."""

    def _fused(self, features: Sequence[Feature]) -> Feature:
        """One feature of two, before guidance halves are unpacked."""
        f = [upcast(feature) for feature in features]
        sigma, _, _, cluster = self._decide(features, f)
        return narrow(blend(mean_weights(cluster, sigma), f), features[0].dtype)

    def _fused_mid(self, features: Sequence[Feature]) -> Feature:
        """Likewise of the mid block's residuals."""
        return self._fused(features)

    def _given_to_both(self, merged: Feature, half: int) -> Feature:
        """half: the guidance half whose residual both are given."""
        return torch.cat([merged.chunk(2)[half]] * 2) if self.halves else merged

    def _total(self, saliency: Tensor) -> Tensor:
        total = saliency.sum(dim=(-2, -1), keepdim=True)
        if self.normaliser == "sample":
            return total
        unconditional, conditional = total.chunk(2)
        return (unconditional + conditional).repeat(2, 1, 1, 1)

    def _require(self, features: Sequence[Feature]) -> None:
        require_one_shape(features)
        if len(features) == 1:  # else `_decide` finds it out
            require_finite(features)
        if len(features) > 2:
            raise RuleError(f"{type(self).__name__} is for two branches, not {len(features)}; take MaxFusion")
        if self.needs_guidance and len(features[0]) % 2:
            raise RuleError(
                f"a batch of {len(features[0])} has no two guidance halves, which the released rule needs; "
                "set a guidance scale other than 1"
            )


class RuleError(ValueError):
    """A rule cannot do with what it is given: a user's choice, not a fault of the program."""


class NotFinite(RuleError):
    """A branch gives infinities or NaN, which no rule can weigh."""


def require_features(features: Sequence[Feature]) -> None:
    """Features of one shape, and finite as far as that can be known; see :func:`require_finite`."""
    require_one_shape(features)
    require_finite(features)


def require_one_shape(features: Sequence[Feature]) -> None:
    """At least one feature, all (batch, channel, height, width) and of one shape; else ValueError."""
    if len(features) == 0:
        raise ValueError("a fusion rule needs at least one feature, it was given none")
    first = tuple(features[0].shape)
    for i, feature in enumerate(features):
        if feature.ndim != 4 or feature.shape != features[0].shape:
            raise ValueError(
                f"feature {i} has shape {tuple(feature.shape)}, feature 0 {first}: "
                "a fusion rule takes features of one shape (batch, channel, height, width)"
            )


def require_finite(features: Sequence[Tensor], seen: Tensor | None = None) -> None:
    """Refuse infinities and NaN on a processor.

    seen: numbers computed from all of the features that are not finite where a feature is not, such as sums of squares.
    Where their sum is finite, nothing else is read; where it is not, it may have overflowed, and the features decide.

    On an accelerator, and in a compiled graph, nobody waits for the values: there an infinity passes, ends as NaN in
    the picture, and the run marks it as defective.
    """
    if torch.compiler.is_compiling() or any(feature.device.type != "cpu" for feature in features):
        return
    if seen is not None and math.isfinite(upcast(seen).sum().item()):
        return
    for i, feature in enumerate(features):
        if feature.numel() == 0:
            continue
        least, most = feature.detach().aminmax()
        if not (math.isfinite(least.item()) and math.isfinite(most.item())):
            raise NotFinite(
                f"feature {i} has values that are infinite or NaN, in {str(feature.dtype).removeprefix('torch.')}: "
                "its branch has overflowed or its weights are damaged"
            )


def require_choices(rule: Rule, choices: dict[str, tuple[str, ...]]) -> None:
    """ValueError for a field that is none of its choices."""
    for name, allowed in choices.items():
        if getattr(rule, name) not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not {getattr(rule, name)!r}")


def upcast(feature: Tensor) -> Tensor:
    return feature if feature.dtype in WIDE else feature.float()


def tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def mix(weights: Sequence[Map], features: Sequence[Feature]) -> Feature:
    """sum over i of w_i f_i, each weight one number per location, in the features' dtype."""
    return narrow(blend(weights, features), features[0].dtype)


def blend(weights: Sequence[Map], features: Sequence[Feature]) -> Feature:
    """The same in the wider dtype of weights and features. What is upcast already is faster to read on a processor."""
    (first, weight), *others = zip(features, weights, strict=True)
    mixed = weight * first
    for feature, weight in others:
        mixed = mixed.addcmul_(weight, feature)
    return mixed


def narrow(feature: Feature, dtype: torch.dtype) -> Feature:
    """A result in the dtype that came in: what float16 cannot hold, a quiet winner made loud, saturates."""
    if feature.dtype == dtype:
        return feature
    if dtype == torch.float16:
        limit = torch.finfo(dtype).max
        feature = feature.clamp(-limit, limit)
    return feature.to(dtype)


def pick(of: Sequence[Tensor], won: Sequence[Tensor]) -> Tensor:
    """Everywhere the winner's value. A chain of `where` is several times faster than a gather."""
    picked = of[0]
    for value, wins in zip(of[1:], won[1:], strict=True):
        picked = torch.where(wins, value, picked)
    return picked


def winners(maps: Sequence[Tensor]) -> Bool[Tensor, "branch batch 1 height width"]:
    """Where each branch's map is the largest, of equals the first: as numbers, the weights of a selection.

    On a processor `argmax` over the first dimension of so few maps takes longer than the statistics of their features.
    """
    if len(maps) == 1:
        return torch.ones_like(maps[0], dtype=torch.bool)[None]
    best, above = maps[0], maps[1] > maps[0]
    won = [~above, above]
    for last, each in pairwise(maps[1:]):
        best = torch.maximum(best, last)
        above = each > best
        won = [*(other & ~above for other in won), above]
    return torch.stack(won)


def won_by(winner: Tensor, branches: int) -> Bool[Tensor, "branch batch 1 height width"]:
    """Where each branch is the winner, of its index."""
    return torch.stack([winner == i for i in range(branches)])


def mean_weights(cluster: Tensor, like: Tensor) -> Maps:
    """Weights of the mean over the cluster."""
    members = cluster.to(like.dtype)
    return members / members.sum(dim=0)


def dot(one: Feature, other: Feature) -> Map:
    return (one * other).sum(dim=1, keepdim=True)


def mean_and_variance(feature: Feature) -> tuple[Map, Map]:
    """Over the channels, the variance without correction. On a processor `torch.var_mean` is eight times slower."""
    mean = feature.mean(dim=1, keepdim=True)
    return mean, (feature - mean).square_().mean(dim=1, keepdim=True)


def channel_std(feature: Feature) -> Map:
    """sigma: the standard deviation over the channels."""
    return mean_and_variance(feature)[1].sqrt()


def stds(features: Sequence[Feature]) -> Maps:
    """sigma of every branch."""
    return torch.stack([channel_std(feature) for feature in features])


def norms(mean: Tensor, variance: Tensor, channels: int) -> Tensor:
    """|f|, from what is known already."""
    return torch.addcmul(variance, mean, mean).mul_(channels).sqrt_()


def ratio(sigma: Tensor, of: Tensor) -> Tensor:
    """sigma / of, capped; 0 where both are 0."""
    return (sigma / of.clamp_min(tiny(of))).clamp_max_(RATIO_CAP)
