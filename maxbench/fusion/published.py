"""MaxFusion as its authors released it, which is not quite what the paper says.

Known from reading and running the code; every departure is a parameter, and with all of them at the paper's value
this is :class:`maxbench.fusion.MaxFusion` for two branches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from maxbench.fusion.base import (
    Decision,
    Feature,
    TwoBranches,
    dot,
    mean_and_variance,
    require_choices,
    require_finite,
    tiny,
    won_by,
)


@dataclass(frozen=True)
class PublishedMaxFusion(TwoBranches):
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
        require_choices(self, CHOICES)

    def _decide(self, features: Sequence[Feature], f: Sequence[Feature]) -> Decision:
        means, variances = zip(*map(mean_and_variance, f), strict=True)
        sigma = torch.stack(variances).sqrt()
        require_finite(features, sigma)  # an infinite value has no finite variance
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
        return Decision(sigma, rho.expand(2, *rho.shape), winner, agree | won_by(winner, 2))


CHOICES = {"similarity": ("pearson", "cosine"), "saliency": ("variance", "std"), "normaliser": ("pair", "sample")}
