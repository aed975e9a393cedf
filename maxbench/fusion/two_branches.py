"""What published rules for two branches share: one winner or the mean, and what released code does to guidance halves.

The released code of MaxFusion, and that of Cross-ControlNet after it, runs the two halves of classifier-free guidance
as one batch and mixes them up in two places. Each is a parameter of every rule here.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from maxbench.fusion.base import (
    Decision,
    Feature,
    Rule,
    RuleError,
    mix,
    pick,
    ratio,
    require_features,
    won_by,
)


class TwoBranches(Rule):
    """The mean where two branches agree, elsewhere the winner; the other goes on with it at its own saliency.

    The batch is [unconditional half, conditional half], prompts in the same order in both; several prompts at once
    behave as each alone would. One branch passes untouched; more than two are a RuleError.

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
        sigma, _, winner, cluster = self._decide(features)
        agree, f_w = cluster.all(dim=0), won_by(winner, 2).to(sigma)
        scale = ratio(sigma, pick(sigma, winner))
        return [mix(torch.where(agree, 0.5, scale_i * f_w), features) for scale_i in scale]

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
        return self._decide(features)

    @abstractmethod
    def _decide(self, features: Sequence[Feature]) -> Decision:
        """Of two features, in float32."""

    def _fused(self, features: Sequence[Feature]) -> Feature:
        """One feature of two, before guidance halves are unpacked."""
        sigma, _, _, cluster = self._decide(features)
        return mix(cluster.to(sigma) / cluster.sum(dim=0), features)

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
        require_features(features)
        if len(features) > 2:
            raise RuleError(f"{type(self).__name__} is for two branches, not {len(features)}; take MaxFusion")
        if self.needs_guidance and len(features[0]) % 2:
            raise RuleError(
                f"a batch of {len(features[0])} has no two guidance halves, which the released rule needs; "
                "set a guidance scale other than 1"
            )


def require_choices(rule: Rule, choices: dict[str, tuple[str, ...]]) -> None:
    """ValueError for a field that is none of its choices."""
    for name, allowed in choices.items():
        if getattr(rule, name) not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not {getattr(rule, name)!r}")
