"""A network for maps of another make than a U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=step, dilation=step) for step in (dilation, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            inner = conv(F.silu(norm(inner)))
        return x + inner


class DilatedNet(ModelMixin, ConfigMixin):
    """A dilated residual network for maps (Yu, Koltun & Funkhouser, CVPR 2017), small enough for the miniature.

    It keeps one resolution throughout and widens its view by dilation, where a U-Net goes down and up: an annotator
    and a scorer of different make do not share their mistakes. Pictures (B, 3, H, W) in [-1, 1] become maps
    (B, `out_channels`, H, W); H and W are multiples of `fold`.

    fold: side of the pixel blocks that become channels in the first layer, and pixels again after the last.
    dilations: one residual block each.
    """

    @register_to_config
    def __init__(
        self, out_channels: int, channels: int = 64, fold: int = 2, dilations: Sequence[int] = (1, 2, 4, 8, 4, 2, 1)
    ):
        super().__init__()
        self.fold = fold
        self.enter = nn.Conv2d(3 * fold**2, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(channels, dilation) for dilation in dilations))
        self.leave = nn.Conv2d(channels, out_channels * fold**2, 3, padding=1)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch out height width"]:
        hidden = self.blocks(self.enter(F.pixel_unshuffle(images, self.fold)))
        return F.pixel_shuffle(self.leave(F.silu(hidden)), self.fold)
