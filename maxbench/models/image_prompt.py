"""IP-Adapters: the encoder that turns a picture into a prompt, and the attention that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from maxbench.conditions.base import Images
from maxbench.models.libraries import diffusers, transformers
from maxbench.models.loading import load_network, readable, refuse_misfits


@dataclass(frozen=True)
class ImageEncoder:
    """The picture encoder of an IP-Adapter. mean, std: of the pixel normalisation it was trained with."""

    model: transformers.CLIPVisionModelWithProjection
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def load(cls, folder: Path, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> ImageEncoder:
        return cls(load_network(transformers.CLIPVisionModelWithProjection, folder, device), mean, std)

    @property
    def width(self) -> int:
        """Of an embedding."""
        return self.model.config.projection_dim

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch width"]:
        """Projected embeddings of pictures in [0, 1], float32."""
        size = self.model.config.image_size
        images = images.float().to(self.model.device)
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(list(each), device=images.device).view(1, 3, 1, 1) for each in (self.mean, self.std))
        return self.model((images - mean) / std).image_embeds


TOKENS = 4
"""Tokens that a plain IP-Adapter makes of a picture; diffusers takes the number for granted."""


def install_image_prompt(unet: diffusers.UNet2DConditionModel, file: Path) -> None:
    """Give a U-Net the attention of an IP-Adapter's file, through diffusers' own loader.

    A file of another kind of adapter, or for another U-Net, is a UserError that names the tensors: diffusers reads
    those that it looks for and passes over the rest.
    """
    _check_tensors(unet, file)

    carrier = diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        # never run; else the pipeline warns of it
        scheduler=diffusers.DDPMScheduler(clip_sample=False, steps_offset=1),
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


def embedding_width(unet: diffusers.UNet2DConditionModel) -> int:
    """Of the embeddings that the IP-Adapter in a U-Net reads."""
    return unet.encoder_hid_proj.image_projection_layers[0].image_embeds.in_features


def _check_tensors(unet: diffusers.UNet2DConditionModel, file: Path) -> None:
    """Compare the file's tensors with those of a plain IP-Adapter (Ye et al., arXiv 2308.06721) for this U-Net."""
    with readable(file), safe_open(file, framework="pt") as tensors:
        found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    inner, width = unet.config.cross_attention_dim, (found.get("image_proj.proj.weight") or (0,))[-1]
    wanted = {
        "image_proj.proj.weight": (TOKENS * inner, width),
        "image_proj.proj.bias": (TOKENS * inner,),
        "image_proj.norm.weight": (inner,),
        "image_proj.norm.bias": (inner,),
    }
    crossing = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    for number, name in enumerate(crossing):  # the file counts self-attention too, hence odd numbers
        shape = tuple(unet.get_parameter(f"{name.removesuffix('processor')}to_k.weight").shape)
        wanted |= {f"ip_adapter.{2 * number + 1}.to_{each}_ip.weight": shape for each in ("k", "v")}
    wrong = {name: (found[name], wanted[name]) for name in wanted if name in found and found[name] != wanted[name]}
    refuse_misfits(file, "an IP-Adapter for this U-Net", wanted.keys() - found, found.keys() - wanted, wrong)
