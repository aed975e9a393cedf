"""Doors through which networks become annotators: pictures in [0, 1] in, levels or logits out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor

from maxbench.conditions.base import Images


@dataclass(frozen=True)
class UNetAnnotator:
    """A diffusers `UNet2DModel` that reads a picture in [-1, 1] once, at timestep 0.

    output: "levels" for values already in about [0, 1], "logits" for per-pixel logits of one level,
        "classes" for logits (B, classes, H, W).
    """

    net: UNet2DModel
    output: str

    @classmethod
    def load(cls, folder: Path, device: torch.device, output: str) -> UNetAnnotator:
        return cls(UNet2DModel.from_pretrained(folder, torch_dtype=torch.float32).to(device).eval(), output)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        result = self.net(images.to(self.net.device) * 2 - 1, 0, return_dict=False)[0]
        return result.sigmoid() if self.output == "logits" else result
