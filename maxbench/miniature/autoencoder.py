"""The autoencoder, and what other parts need of it for every scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from maxbench.miniature.context import TrainingContext
from maxbench.miniature.training import History, Recipe, pick


def picture_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """How far pictures (B, 3, S, S) in [-1, 1] are from what they should be."""
    error = decoded - images
    detail = sum(torch.diff(error, dim=axis).abs().mean() for axis in (2, 3))
    colour = F.avg_pool2d(error, 4).abs().mean()  # else small solids fade to the colour of their ground
    return error.abs().mean() + error.square().mean() + detail + 2 * colour


@dataclass(frozen=True)
class Autoencoder:
    """Stable Diffusion's KL autoencoder, narrow; each step between `channels` halves the picture."""

    recipe: Recipe
    seed: int
    subfolder: str
    channels: Sequence[int]
    latent_channels: int = 4

    needs = ()

    def train(self, shop: TrainingContext) -> tuple[AutoencoderKL, History]:
        vae = AutoencoderKL(
            block_out_channels=tuple(self.channels),
            down_block_types=("DownEncoderBlock2D",) * len(self.channels),
            up_block_types=("UpDecoderBlock2D",) * len(self.channels),
            layers_per_block=1,
            latent_channels=self.latent_channels,
            norm_num_groups=8,
            sample_size=shop.corpus.size,
            mid_block_add_attention=False,
        ).to(shop.device)
        shop.quick(vae.encoder)
        shop.quick(vae.decoder)

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            images = shop.images(pick(generator, batch, len(shop.corpus)))
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(shop.device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
            return picture_loss(decoded, images) + 1e-6 * posterior.kl().mean()

        history = shop.fit(self, [{"params": vae.parameters()}], loss_of)
        with torch.no_grad():
            latents = vae.encode(shop.images(torch.arange(min(512, len(shop.corpus))))).latent_dist.mean
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
        return vae, history


@dataclass(frozen=True)
class Decoder:
    """The decoder once more, on the finished encoder's latents: sharper pictures, and no other part is touched.

    As for Stable Diffusion's fine-tuned autoencoders: what a U-Net has learned stays true, since latents keep their
    meaning. noise: standard deviation added to latents of about unit variance, since the U-Net's are never perfect.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    noise: float

    needs = ("vae",)

    def train(self, shop: TrainingContext) -> tuple[AutoencoderKL, History]:
        vae, latents = shop.load(AutoencoderKL, "vae"), torch.from_numpy(latents_of(shop))
        learning = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
        for parameter in learning:
            parameter.requires_grad_(True)
        shop.quick(vae.decoder)

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            index = pick(generator, batch, len(latents))
            clean = latents[index].float()
            noisy = clean + self.noise * torch.randn(clean.shape, generator=generator)
            decoded = vae.decode(noisy.to(shop.device) / vae.config.scaling_factor).sample.float()
            return picture_loss(decoded, shop.images(index))

        return vae, shop.fit(self, [{"params": learning}], loss_of)


def latents_of(shop: TrainingContext) -> np.ndarray:
    """Scaled latent means of every training scene, (N, C, h, w) float16; encoded once."""

    def encode() -> np.ndarray:
        vae = shop.load(AutoencoderKL, "vae")
        with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
            parts = [
                (vae.encode(shop.images(index)).latent_dist.mean * vae.config.scaling_factor).half().cpu()
                for index in torch.arange(len(shop.corpus)).split(128)
            ]
        return torch.cat(parts).numpy()

    return shop.once("latents", "vae", encode)


def reconstructions_of(shop: TrainingContext, count: int) -> np.ndarray:
    """The first `count` scenes after encoding and decoding, (M, 3, S, S) uint8."""

    def decode() -> np.ndarray:
        vae = shop.load(AutoencoderKL, "vae")
        latents = torch.from_numpy(latents_of(shop)[:count]).float()
        with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
            parts = [
                vae.decode(batch.to(shop.device) / vae.config.scaling_factor).sample.float().cpu()
                for batch in latents.split(64)
            ]
        return ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()

    return shop.once(f"reconstructions-{count}", "decoder", decode)
