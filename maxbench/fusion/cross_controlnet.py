"""The rules of a successor of MaxFusion, for two branches.

Liu et al., "Cross-ControlNet: Training-Free Fusion of Multiple Conditions for Text-to-Image Generation", ICLR 2026:
PixFusion and ChannelFusion. With f_i at location (j, k) a vector over the channels, K a smoothing by the kernel
[1 2 1; 2 12 2; 1 2 1] / 24 with zeros outside the map, and sigma_i the standard deviation of f_i over the channels,

    PixFusion      rho = correlation over the channels of K(f_1 - mean f_1) and K(f_2 - mean f_2)
                   s_i = K(sigma_i / sum over (j, k) of sigma_i), w = argmax_i s_i, a tie going to the first
                   merge     = (f_1 + f_2) / 2 if rho > delta, else f_w
                   unmerge_i = (f_1 + f_2) / 2 if rho > delta, else (sigma_i / sigma_w) f_w

    ChannelFusion  v_i = variance of a channel over space
                   merge     = the channel of the larger variance if min v / max v < consistency,
                               else (v_1 f_1 + v_2 f_2) / (v_1 + v_2)

Unmerged after `conv_in`, after every down block the hidden state alone (site "hidden": the residuals that a block
collects stay each branch's own), and after the mid block. Down outputs are merged by PixFusion, unscaled; the mid
output by ChannelFusion. The third part of the method, KV-injection, which shows the second branch's attention the
keys and values of the first under masks from the text, is no rule about features and is not part of this.

Released code departs from this as MaxFusion's does, and each departure is a parameter: see `PixFusion`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from maxbench.fusion.base import (
    Decision,
    Feature,
    TwoBranches,
    dot,
    mean_and_variance,
    mix,
    require_choices,
    require_finite,
    tiny,
    upcast,
    won_by,
)


@dataclass(frozen=True)
class PixFusion(TwoBranches):
    """PixFusion everywhere, of the mid output too.

    The defaults are the paper's, as far as its abstract says: standard deviations, each sample by itself.
    delta: correlation above which branches are averaged; equality is not above.
    saliency: "std" (paper) or "variance" (released), of the winner.
    normaliser: "sample" (paper), or "pair" (released): a sum over both guidance halves of a prompt.
    halves: False (paper), or True (released): both guidance halves are given the unconditional half's down outputs and
        the conditional half's mid output, because the merged tensor is unpacked along the batch.

    Where a winner says the same in every channel, sigma_w = 0, released code divides by it; here the ratio is capped.
    """

    delta: float = 0.7
    saliency: str = "std"
    normaliser: str = "sample"
    halves: bool = False

    def __post_init__(self):
        if not isinstance(self.delta, int | float) or not math.isfinite(self.delta):
            raise ValueError(f"delta is a similarity, a finite number, not {self.delta}")
        require_choices(self, {"saliency": ("std", "variance"), "normaliser": ("sample", "pair")})

    def _decide(self, features: Sequence[Feature], f: Sequence[Feature]) -> Decision:
        means, variances = zip(*map(mean_and_variance, f), strict=True)
        sigma = torch.stack(variances).sqrt()
        require_finite(features, sigma)  # an infinite value has no finite variance
        smooth = [smoothed(each - mean) for each, mean in zip(f, means, strict=True)]
        norms = dot(smooth[0], smooth[0]).sqrt() * dot(smooth[1], smooth[1]).sqrt()
        rho = dot(*smooth) / norms.clamp_min(tiny(norms))

        saliency = sigma if self.saliency == "std" else torch.stack(variances)
        first, second = (smoothed(each / self._total(each).clamp_min(tiny(each))) for each in saliency)
        # 0 / 0 is NaN in the released code and not above any delta: the winner stands there
        agree, winner = (rho > self.delta) & (norms > 0), torch.where(first >= second, 0, 1)
        return Decision(sigma, rho.expand(2, *rho.shape), winner, agree | won_by(winner, 2))


@dataclass(frozen=True)
class ChannelFusion(PixFusion):
    """Cross-ControlNet's two rules as it combines them: PixFusion, and ChannelFusion of the mid output.

    consistency: ratio of the smaller to the larger variance of a channel below which the larger is taken whole; in
        [0, 1]. At 0 every channel is a weighted mean, at 1 all but equally variable ones are chosen. Two channels that
        do not vary are averaged; in the released code they are NaN.
    Other parameters are those of `PixFusion`. What `decide` says is PixFusion's, also at the mid output.
    """

    consistency: float = 0.7

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.consistency, int | float) or not 0 <= self.consistency <= 1:
            raise ValueError(f"consistency is a ratio of variances, from 0 to 1, not {self.consistency}")

    def _fused_mid(self, features: Sequence[Feature]) -> Feature:
        one, two = map(_variance_over_space, features)
        require_finite(features, one + two)
        total, largest = one + two, torch.maximum(one, two)
        silent = total < tiny(total)
        share = torch.where(silent, 0.5, one / total.clamp_min(tiny(total)))  # (B, C, 1, 1)
        chosen = torch.minimum(one, two) < self.consistency * largest
        share = torch.where(chosen & ~silent, (one > two).to(share), share)
        return mix([share, 1 - share], features)


def _variance_over_space(feature: Feature) -> Tensor:
    feature = upcast(feature)
    return (feature - feature.mean(dim=(-2, -1), keepdim=True)).square().mean(dim=(-2, -1), keepdim=True)


def smoothed(maps: Feature) -> Feature:
    """Every channel smoothed by [1 2 1; 2 12 2; 1 2 1] / 24, zeros outside.

    The kernel is [1 2 1] along both sides plus 8 at its centre: sums of shifted maps instead of a convolution, which
    an accelerator may round to ten bits.
    """
    rows = functional.pad(maps, (0, 0, 1, 1))
    rows = rows[..., :-2, :] + 2 * maps + rows[..., 2:, :]
    both = functional.pad(rows, (1, 1))
    both = both[..., :-2] + 2 * rows + both[..., 2:]
    return (both + 8 * maps) / 24
