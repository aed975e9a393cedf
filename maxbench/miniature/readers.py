"""Annotators and scorers of the miniature, and how a suite loads them: pictures in [0, 1] => levels or logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from maxbench.conditions.base import Images
from maxbench.models.files import digest_of
from maxbench.models.libraries import diffusers
from maxbench.models.loading import load_network


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
def _load(kind: type[diffusers.ModelMixin], folder: Path, device: torch.device, digest: str) -> Shared:
    """A network, loaded anew when its files have changed."""
    net = load_network(kind, folder, device)
    return Shared(
        (lambda pixels: net(pixels, 0, return_dict=False)[0]) if kind is diffusers.UNet2DModel else net, device
    )


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
        return cls(_load(diffusers.UNet2DModel, folder, device, digest_of(folder)), output, channels)

    @classmethod
    def dilated(
        cls, folder: Path, device: torch.device, output: str, channels: Sequence[int] | None = None
    ) -> MapReader:
        """A :class:`maxbench.miniature.dilated.DilatedNet`."""
        from maxbench.miniature.dilated import DilatedNet  # a class of diffusers', which takes seconds to import

        return cls(_load(DilatedNet, folder, device, digest_of(folder)), output, channels)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        result = self.network(images)
        if self.channels is not None:
            result = result[:, slice(*self.channels)]
        return result.sigmoid() if self.output == "logits" else result
