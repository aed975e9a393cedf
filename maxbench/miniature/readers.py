"""Annotators and scorers of the miniature, and how a suite loads them: pictures in [0, 1] => levels or logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from maxbench.conditions.base import Images
from maxbench.models.files import digest_of
from maxbench.models.loading import load_network


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


class Shared:
    """One network behind the readers of several conditions, which ask about the same pictures one after another."""

    def __init__(self, look: Callable[[Tensor], Tensor], device: torch.device):
        self.look, self.device = look, device
        self.images: Tensor | None = None

    def __call__(self, images: Images) -> Tensor:
        if self.images is not images:
            self.output = self.look(images.to(self.device) * 2 - 1)
            self.images = images
        return self.output


@lru_cache(maxsize=4)
def _load(kind: type[ModelMixin], folder: Path, device: torch.device, digest: str) -> Shared:
    """A network, loaded anew when its files have changed."""
    net = load_network(kind, folder, device)
    return Shared((lambda pixels: net(pixels, 0, return_dict=False)[0]) if kind is UNet2DModel else net, device)


@dataclass(frozen=True)
class MapReader:
    """Some channels of a network that reads pictures in [-1, 1].

    channels: from and to of the network's output; null for all. output: "levels" for values already in about
    [0, 1], "logits" for per-pixel logits of one level, "classes" for logits (B, classes, H, W).
    """

    network: Shared
    output: str
    channels: Sequence[int] | None = None

    @classmethod
    def unet(cls, folder: Path, device: torch.device, output: str, channels: Sequence[int] | None = None) -> MapReader:
        """A diffusers `UNet2DModel`, read once, at timestep 0."""
        return cls(_load(UNet2DModel, folder, device, digest_of(folder)), output, channels)

    @classmethod
    def dilated(
        cls, folder: Path, device: torch.device, output: str, channels: Sequence[int] | None = None
    ) -> MapReader:
        """A :class:`DilatedNet`."""
        return cls(_load(DilatedNet, folder, device, digest_of(folder)), output, channels)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        result = self.network(images)
        if self.channels is not None:
            result = result[:, slice(*self.channels)]
        return result.sigmoid() if self.output == "logits" else result
