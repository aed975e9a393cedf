"""What every fusion rule is, and the arithmetic that several share.

Everything is decided and averaged in float32 (float64 stays float64) and returned in the dtype that came in:
in bfloat16 some winners flip, and a sum of two large float16 features overflows.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Feature = Float[Tensor, "batch channel height width"]
Maps = Float[Tensor, "branch batch 1 height width"]

# The winner is chosen by *relative* saliency, so sigma_i / sigma_w may exceed 1, though not the ratio of the
# two sums over space: the cap acts only on a branch that is a thousand times louder as a whole.
RATIO_CAP = 1000.0


class Rule(Protocol):
    """What to do where N branches meet; N >= 1 features of one shape, none of them ever written to."""

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        """N features for N branches to go on with."""
        ...

    def merge(self, features: Sequence[Feature]) -> Feature:
        """One feature for all."""
        ...


def upcast(features: Sequence[Feature]) -> list[Feature]:
    return [feature.to(torch.promote_types(feature.dtype, torch.float32)) for feature in features]


def tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def require_equal_shapes(features: Sequence[Feature]) -> None:
    if len(features) == 0:
        raise ValueError("a fusion rule needs at least one feature, it was given none")
    first = tuple(features[0].shape)
    for i, feature in enumerate(features):
        if feature.ndim != 4 or feature.shape != features[0].shape:
            raise ValueError(
                f"feature {i} has shape {tuple(feature.shape)}, feature 0 {first}: "
                "a fusion rule takes features of one shape (batch, channel, height, width)"
            )


def pick(of: Sequence[Tensor], winner: Tensor) -> Tensor:
    """Everywhere the winner's value. A chain of `where` is several times faster than a gather."""
    picked = of[0]
    for i in range(1, len(of)):
        picked = torch.where(winner == i, of[i], picked)
    return picked


def spread(feature: Feature, correction: int = 0) -> Float[Tensor, "batch 1 height width"]:
    """sigma: the standard deviation over the channels."""
    return feature.std(dim=1, keepdim=True, correction=correction)


def at_own_saliency(features: Sequence[Feature], shared: Feature) -> list[Feature]:
    """One shared feature for every branch to go on with, each at its own saliency, as MaxFusion hands on f_w."""
    sigma = spread(shared)
    ratios = (spread(each) / sigma.clamp_min(tiny(sigma)) for each in features)
    return [ratio.clamp_max(RATIO_CAP) * shared for ratio in ratios]
