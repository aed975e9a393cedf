"""A gated sum: the sum where all branches speak, a selection where one of them is silent. maxbench's own rule.

At every location (j, k), sigma_i being the standard deviation of f_i over the channels, as in MaxFusion,

    sigma_bar_i = sigma_i / sum over (j, k) of sigma_i         relative saliency, each sample by itself
    g_i         = (sigma_bar_i / max over i of sigma_bar_i) ** power
    merge       = sum over i of g_i f_i

The relatively most salient branch counts fully, every other the less the quieter it is there. Limits: power 0 is
`Sum`; power to infinity is selection by saliency, MaxFusion at delta >= 1, but for ties. Where nobody is salient
every gate is 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from maxbench.fusion.base import Maps, SaliencyWeighting, tiny


@dataclass(frozen=True)
class GatedSum(SaliencyWeighting):
    """Branches added, each gated by how salient it is compared with the most salient one.

    In lockstep every branch goes on with the gated sum at its own saliency, (sigma_i / sigma_sum) sum, as under every
    spatial weighting: what is shared says what the outputs would say, and each keeps the amplitude that its next
    block was trained on.

    power: how steep a gate is; finite, 0 or more.
    normaliser: what a branch's saliency is divided by before branches are compared: "sum" over space in each sample
        (the paper's relative saliency), "max" over space, or "none": then a louder branch shuts the others.
    smoothing: standard deviation, in locations of the layer, of a Gaussian that smooths the relative saliency before
        the gates are made of it; 0 for none. Very large, every gate is 1.
    sides: of the maps that are gated, the least and the most locations a side; other layers are added. None for all.
    """

    power: float = 2.0
    normaliser: str = "sum"
    smoothing: float = 0.0
    sides: Sequence[int] | None = None

    def __post_init__(self):
        for name in ("power", "smoothing"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is a finite number, 0 or more, not {value}")
        if self.normaliser not in NORMALISERS:
            raise ValueError(f"normaliser is one of {', '.join(NORMALISERS)}, not {self.normaliser!r}")
        if self.sides is not None:
            sides = tuple(self.sides) if isinstance(self.sides, Sequence) else ()
            if len(sides) != 2 or not all(isinstance(each, int) for each in sides) or not 0 < sides[0] <= sides[1]:
                raise ValueError(f"sides are two numbers, the least and the most, or null, not {self.sides!r}")
            object.__setattr__(self, "sides", sides)  # one value for a list and a tuple: the rule is known by it

    def weigh_by(self, sigma: Maps) -> Maps:
        if self.sides is not None and not self.sides[0] <= max(sigma.shape[-2:]) <= self.sides[1]:
            return torch.ones_like(sigma)
        relative = sigma / NORMALISERS[self.normaliser](sigma).clamp_min(tiny(sigma))
        if self.smoothing > 0:
            relative = blurred(relative, self.smoothing)
        most = relative.amax(dim=0)
        # the most salient is 1 also where `most` is 0, or too small a number to divide by
        gate = torch.where(relative == most, 1.0, relative / most.clamp_min(tiny(most)))
        return gate.pow(self.power)


NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda sigma: sigma.sum(dim=(-2, -1), keepdim=True),
    "max": lambda sigma: sigma.amax(dim=(-2, -1), keepdim=True),
    "none": torch.ones_like,
}


def blurred(maps: Maps, std: float) -> Maps:
    """Maps smoothed by a Gaussian cut at three standard deviations, zeros outside.

    At a border every branch loses the same share, so that their ratio, which is all that matters, does not change.
    Shifted sums instead of a convolution, which an accelerator may round to ten bits.
    """
    for dim in (-2, -1):
        side = maps.shape[dim]
        reach = min(math.ceil(3 * std), side - 1)
        if reach == 0:
            continue
        padding = (reach, reach) if dim == -1 else (0, 0, reach, reach)
        padded = functional.pad(maps, padding)
        weights = [math.exp(-0.5 * (shift / std) ** 2) for shift in range(-reach, reach + 1)]
        parts = [weight * padded.narrow(dim, place, side) for place, weight in enumerate(weights)]
        maps = torch.stack(parts).sum(dim=0) / sum(weights)
    return maps
