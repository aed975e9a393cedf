"""Text to picture: encode the prompt, denoise under control, decode. The loop in plain sight.

Tensors in, tensors out; no files. Networks are diffusers' and transformers' own, in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from maxbench.fusion import Rule
from maxbench.lockstep import SITES, Residuals, embed_hint, lockstep_controlnets


@dataclass(frozen=True)
class Sampler:
    """How noise becomes a picture.

    scheduler: makes a diffusers scheduler from the base model's scheduler config.
    guidance_scale: classifier-free guidance (Ho & Salimans 2022); 1 runs the conditional half alone.
    """

    scheduler: Callable[[dict], Any]
    steps: int
    guidance_scale: float
    negative_prompt: str = ""


@dataclass(frozen=True)
class Control:
    """N control branches on the maps of one batch: gives the residuals for any latents, timestep and text.

    embeddings: per branch (B, C, h, w), computed once per image since they do not depend on the timestep.
    """

    nets: Sequence[ControlNetModel]
    embeddings: Sequence[Tensor]
    rule: Rule
    sites: Sequence[str] = SITES
    scale: float = 1.0

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Residuals:
        copies = len(sample) // len(self.embeddings[0])  # both guidance halves see the same map
        hints = [embedding.repeat(copies, 1, 1, 1) for embedding in self.embeddings]
        return lockstep_controlnets(
            self.nets, self.rule, sample, timestep, text, hints, scale=self.scale, sites=self.sites
        )


@dataclass(frozen=True)
class Pipeline:
    """The parts of one latent diffusion model and its ControlNets by condition."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: dict
    controls: dict[str, ControlNetModel]

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.latent_channels, side, side

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        """Text states; a prompt longer than the model's context is cut, as everywhere with CLIP."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(tokens.to(self.device)).last_hidden_state

    @torch.inference_mode()
    def control(
        self,
        hints: dict[str, Float[Tensor, "batch 3 height width"]],
        rule: Rule,
        sites: Sequence[str] = SITES,
        scale: float = 1.0,
    ) -> Control | None:
        """The branches of `hints` (condition -> map in [0, 1]) under a rule; None without any branch."""
        if not hints:
            return None
        nets = [self.controls[condition] for condition in hints]
        embeddings = [
            embed_hint(net, hint.to(self.device, self.dtype)) for net, hint in zip(nets, hints.values(), strict=True)
        ]
        return Control(nets, embeddings, rule, sites, scale)

    @torch.inference_mode()
    def denoise(
        self,
        noise: Float[Tensor, "batch channel height width"],
        text: Float[Tensor, "batch tokens width"],
        negative: Float[Tensor, "batch tokens width"],
        control: Control | None,
        sampler: Sampler,
    ) -> Float[Tensor, "batch channel height width"]:
        """Latents of the pictures: `sampler.steps` of denoising from `noise`."""
        scheduler = sampler.scheduler(self.scheduler_config)
        scheduler.set_timesteps(sampler.steps, device=self.device)
        guided = sampler.guidance_scale != 1
        text = torch.cat([negative, text]) if guided else text
        latents = noise.to(self.device, self.dtype) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            sample = torch.cat([latents, latents]) if guided else latents  # (2B, C, h, w)
            sample = scheduler.scale_model_input(sample, timestep)
            residuals = control(sample, timestep, text) if control else Residuals(None, None)
            prediction = self.unet(
                sample,
                timestep,
                encoder_hidden_states=text,
                down_block_additional_residuals=residuals.down,
                mid_block_additional_residual=residuals.mid,
                return_dict=False,
            )[0]
            if guided:
                without, prompted = prediction.chunk(2)
                prediction = without + sampler.guidance_scale * (prompted - without)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return latents

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures, float32, about [0, 1], not clipped: a NaN is there to be found."""
        decoded = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded.float() / 2 + 0.5

    @torch.inference_mode()
    def round_trip(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures encoded and decoded: the best that any latent of this autoencoder can look."""
        images = images.to(self.device, self.dtype) * 2 - 1
        return self.decode(self.vae.encode(images).latent_dist.mode() * self.vae.config.scaling_factor)
