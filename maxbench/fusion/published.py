"""MaxFusion as its authors released it, which is not quite what the paper says.

Known from reading and running the code; every departure is a parameter, and with all of them at the paper's value
this is :class:`maxbench.fusion.MaxFusion` for two branches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maxbench.fusion.base import (
    Decision,
    Feature,
    Rule,
    RuleError,
    dot,
    mean_and_variance,
    mix,
    pick,
    ratio,
    require_features,
    tiny,
    upcast,
    won_by,
)


@dataclass(frozen=True)
class PublishedMaxFusion(Rule):
    """The released rule for two branches under classifier-free guidance.

    The batch is [unconditional half, conditional half], prompts in the same order in both; several prompts at once
    behave as each alone would.

    delta: similarity above which branches are averaged; equality is not above.
    similarity: "pearson" (released: correlation over the channels) or "cosine" (paper).
    saliency: "variance" (released) or "std" (paper), of the winner. The rescaling uses the unbiased standard deviation
        in the released code and the biased one in the paper: the ratio of two is the same.
    normaliser: "pair" (released: a sum over the whole tensor, that is both guidance halves of a prompt) or "sample"
        (paper: each half by itself).
    halves: True (released) gives both halves the unconditional half's down-block residuals and the conditional half's
        mid-block residual, because the merged tensor is unpacked along the batch; False (paper) gives each its own.
    """

    delta: float = 0.7
    similarity: str = "pearson"
    saliency: str = "variance"
    normaliser: str = "pair"
    halves: bool = True

    def __post_init__(self):
        if not isinstance(self.delta, int | float) or not math.isfinite(self.delta):
            raise ValueError(f"delta is a similarity, a finite number, not {self.delta}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def needs_guidance(self) -> bool:
        """Whether the batch must hold both guidance halves."""
        return self.halves or self.normaliser == "pair"

    def for_images(self) -> "PublishedMaxFusion":
        """The rule where there are no halves: an adapter's features belong to the image, not to a prompt."""
        return replace(self, halves=False, normaliser="sample")

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        self._require(features)
        if len(features) == 1:
            return list(features)
        sigma, _, winner, cluster = self._decide(features)
        agree, f_w = cluster.all(dim=0), won_by(winner, 2).to(sigma)
        scale = ratio(sigma, pick(sigma, winner))
        return [mix(torch.where(agree, 0.5, scale_i * f_w), features) for scale_i in scale]

    def merge(self, features: Sequence[Feature]) -> Feature:
        """Of the down blocks' residuals."""
        return self._merge(features, half=0)

    def merge_mid(self, features: Sequence[Feature]) -> Feature:
        """Of the mid block's residual."""
        return self._merge(features, half=1)

    def _merge(self, features: Sequence[Feature], half: int) -> Feature:
        """half: the guidance half whose residual both are given."""
        self._require(features)
        if len(features) == 1:
            return features[0]
        sigma, _, _, cluster = self._decide(features)
        merged = mix(cluster.to(sigma) / cluster.sum(dim=0), features)
        return torch.cat([merged.chunk(2)[half]] * 2) if self.halves else merged

    def decide(self, features: Sequence[Feature]) -> Decision:
        """Who wins where, and where both are averaged; rho is by the rule's own similarity."""
        self._require(features)
        return self._decide(features)

    def _decide(self, features: Sequence[Feature]) -> Decision:
        f = [upcast(feature) for feature in features]
        means, variances = zip(*map(mean_and_variance, f), strict=True)
        saliency = [each.sqrt() for each in variances] if self.saliency == "std" else variances
        first, second = (each / self._total(each).clamp_min(tiny(each)) for each in saliency)
        if self.similarity == "pearson":
            f = [each - mean for each, mean in zip(f, means, strict=True)]
            squares = [each.shape[1] * variance for each, variance in zip(f, variances, strict=True)]
        else:
            squares = [dot(each, each) for each in f]
        norms = squares[0].sqrt() * squares[1].sqrt()
        rho = dot(*f) / norms.clamp_min(tiny(norms))
        # 0 / 0 is NaN in the released code and not above any delta: the winner stands there
        agree, winner = (rho > self.delta) & (norms > 0), torch.where(first >= second, 0, 1)
        sigma = torch.stack([variance.sqrt() for variance in variances])
        return Decision(sigma, rho.expand(2, *rho.shape), winner, agree | won_by(winner, 2))

    def _total(self, saliency: Tensor) -> Tensor:
        total = saliency.sum(dim=(-2, -1), keepdim=True)
        if self.normaliser == "sample":
            return total
        unconditional, conditional = total.chunk(2)
        return (unconditional + conditional).repeat(2, 1, 1, 1)

    def _require(self, features: Sequence[Feature]) -> None:
        require_features(features)
        if len(features) > 2:
            raise RuleError(f"the released rule is for two branches, not {len(features)}; take MaxFusion")
        if self.needs_guidance and len(features[0]) % 2:
            raise RuleError(
                f"a batch of {len(features[0])} has no two guidance halves, which the released rule needs; "
                "set a guidance scale other than 1"
            )


CHOICES = {"similarity": ("pearson", "cosine"), "saliency": ("variance", "std"), "normaliser": ("pair", "sample")}
