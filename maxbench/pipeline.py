"""Text to picture: encode the prompt, denoise under control, decode. The loop in plain sight.

Tensors in, tensors out; no files. Networks are diffusers' and transformers' own, in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from maxbench.errors import UserError
from maxbench.fusion import Rule
from maxbench.lockstep import SITES, embed_hint, lockstep_adapters, lockstep_controlnets


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
    """N control branches on the maps of one batch: what the U-Net is to add, for any latents, timestep and text.

    nets, embeddings: ControlNets, and per branch (B, C, h, w), computed once per image since it does not depend on
        the timestep.
    pyramid: the fused features of the T2I-Adapters among the branches, one per level, likewise; [] without any.
    Branches are fused with those of their own kind; the U-Net adds both kinds up.
    """

    nets: Sequence[ControlNetModel]
    embeddings: Sequence[Tensor]
    pyramid: Sequence[Tensor]
    rule: Rule
    sites: Sequence[str] = SITES
    scale: float = 1.0

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor) -> dict[str, Any]:
        """Arguments of the U-Net for one step."""
        arguments: dict[str, Any] = {}
        if self.nets:
            hints = [_for_both_halves(embedding, sample) for embedding in self.embeddings]
            down, mid = lockstep_controlnets(
                self.nets, self.rule, sample, timestep, text, hints, scale=self.scale, sites=self.sites
            )
            arguments |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        if self.pyramid:  # a list of its own for every step: the U-Net empties it
            features = [_for_both_halves(feature, sample) for feature in self.pyramid]
            arguments["down_intrablock_additional_residuals"] = features
        return arguments


def _for_both_halves(feature: Tensor, sample: Tensor) -> Tensor:
    """Both guidance halves of a batch see the same map."""
    return feature.repeat(len(sample) // len(feature), 1, 1, 1)


@dataclass(frozen=True)
class Pipeline:
    """The parts of one latent diffusion model and its controls by condition."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: dict
    controls: dict[str, ControlNetModel | T2IAdapter]

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
        branches = [(self.controls[name], hint.to(self.device, self.dtype)) for name, hint in hints.items()]
        nets = [(net, hint) for net, hint in branches if isinstance(net, ControlNetModel)]
        adapters = [(net, hint) for net, hint in branches if isinstance(net, T2IAdapter)]
        pyramid: list[Tensor] = []
        if adapters:
            own, maps = zip(*adapters, strict=True)
            pyramid = lockstep_adapters(own, rule, maps, scale=scale, sites=sites)
        embeddings = [embed_hint(net, hint) for net, hint in nets]
        return Control([net for net, _ in nets], embeddings, pyramid, rule, sites, scale)

    def evaluations(self, branches: Sequence[str], steps: int) -> int:
        """How often control networks run for one picture, if the U-Net runs `steps` times: an adapter runs once."""
        return sum(steps if isinstance(self.controls[name], ControlNetModel) else 1 for name in branches)

    @torch.inference_mode()
    def denoise(
        self,
        noise: Float[Tensor, "batch channel height width"],
        text: Float[Tensor, "batch tokens width"],
        negative: Float[Tensor, "batch tokens width"],
        control: Control | None,
        sampler: Sampler,
    ) -> Float[Tensor, "batch channel height width"]:
        """Latents of the pictures, float32: `sampler.steps` of denoising from `noise`.

        Networks compute in their own dtype; what is added up from step to step does not lose its low bits.
        """
        scheduler = sampler.scheduler(self.scheduler_config)
        scheduler.set_timesteps(sampler.steps, device=self.device)
        guided = sampler.guidance_scale != 1
        if control and not guided and getattr(control.rule, "guided", False):
            raise UserError(
                f"{type(control.rule).__name__} runs only under classifier-free guidance; "
                "set sampler.guidance_scale to another value than 1."
            )
        text = torch.cat([negative, text]) if guided else text
        latents = noise.to(self.device, torch.float32) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            sample = torch.cat([latents, latents]) if guided else latents  # (2B, C, h, w)
            sample = scheduler.scale_model_input(sample, timestep).to(self.dtype)
            added = control(sample, timestep, text) if control else {}
            prediction = self.unet(sample, timestep, encoder_hidden_states=text, return_dict=False, **added)[0].float()
            if guided:
                without, prompted = prediction.chunk(2)
                prediction = without + sampler.guidance_scale * (prompted - without)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return latents

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures, float32, about [0, 1], not clipped: a NaN is there to be found."""
        latents = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
        decoded = self.vae.decode(latents, return_dict=False)[0]
        return decoded.float() / 2 + 0.5

    @torch.inference_mode()
    def round_trip(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures encoded and decoded: the best that any latent of this autoencoder can look."""
        images = images.to(self.device, self.vae.dtype) * 2 - 1
        return self.decode(self.vae.encode(images).latent_dist.mode() * self.vae.config.scaling_factor)
