"""Doors through which a picture becomes a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from maxbench.conditions.base import Images


@dataclass(frozen=True)
class ImageEncoder:
    """The picture encoder of an IP-Adapter. mean, std: of the pixel normalisation it was trained with."""

    model: CLIPVisionModelWithProjection
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def load(cls, folder: Path, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> ImageEncoder:
        model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32)
        return cls(model.to(device).eval().requires_grad_(False), mean, std)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch width"]:
        """Projected embeddings of pictures in [0, 1], float32."""
        size = self.model.config.image_size
        images = images.float().to(self.model.device)
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(list(each), device=images.device).view(1, 3, 1, 1) for each in (self.mean, self.std))
        return self.model((images - mean) / std).image_embeds


def install_image_prompt(unet: UNet2DConditionModel, file: Path) -> None:
    """Give a U-Net the attention of an IP-Adapter's file, through diffusers' own loader."""
    from diffusers import StableDiffusionPipeline  # heavy, and it hints at packages that are not missing

    carrier = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDPMScheduler(clip_sample=False, steps_offset=1),  # never run; else the pipeline warns of it
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    carrier.load_ip_adapter(
        str(file.parent),
        subfolder="",
        weight_name=file.name,
        image_encoder_folder=None,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    unet.requires_grad_(False).eval()
