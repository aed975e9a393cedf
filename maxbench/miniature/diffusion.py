"""The U-Net, and what it shares with every control in training: latents, frozen text, the weighted loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from maxbench.errors import UserError
from maxbench.miniature import world
from maxbench.miniature.autoencoder import latents_of
from maxbench.miniature.context import TrainingContext
from maxbench.miniature.language import tokenise, tokens_of
from maxbench.miniature.training import History, Recipe, pick

UNPROMPTED = 0.1  # share of empty prompts, for classifier-free guidance (Ho & Salimans 2022)
MIN_SNR = 5.0


PREDICTIONS = ("epsilon", "v_prediction")


def make_scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    """Stable Diffusion 1.5's noise schedule. prediction: one of PREDICTIONS, what the U-Net is asked for."""
    return DDPMScheduler(
        prediction_type=prediction,
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


def prediction_of(history: Mapping[str, Any]) -> str:
    """What a U-Net with this history predicts, one of PREDICTIONS; noise before there was a choice."""
    return history.get("part", {}).get("prediction", PREDICTIONS[0])


def plain_attention(net):
    """On a CPU the backward pass of fused attention is the slower one: a fifth of all training time."""
    if net.device.type == "cpu":
        net.set_attn_processor(AttnProcessor())
    return net


@dataclass(frozen=True)
class Denoising:
    """The task of removing noise, from scenes that are already latents and prompts that are already tokens.

    What is predicted is the scheduler's `prediction_type`. The error of the clean latents is weighted by
    min(SNR, MIN_SNR) + weight_floor (Hang et al., ICCV 2023, for a floor of 0), and by `emphasis` in every cell.
    """

    latents: Tensor  # (N, C, h, w) float16
    tokens: Tensor  # (N, captions, L)
    nothing: Tensor  # (1, L): the empty prompt
    text_encoder: CLIPTextModel
    scheduler: DDPMScheduler
    device: torch.device
    weight_floor: float = 0.0
    emphasis: Tensor | None = None  # (N, 1, h, w) of the loss in every cell of every scene; None for 1 everywhere

    @classmethod
    def of(cls, shop: TrainingContext, scheduler: DDPMScheduler | None = None, **weights: Any) -> Denoising:
        """scheduler: None for the one that the family's U-Net was trained with. weights: weight_floor, emphasis."""
        tokenizer = CLIPTokenizer.from_pretrained(shop.weights / "tokenizer")
        return cls(
            latents=torch.from_numpy(latents_of(shop)),
            tokens=tokens_of(shop),
            nothing=tokenise(tokenizer, [""]),
            text_encoder=shop.load(CLIPTextModel, "text_encoder"),
            scheduler=scheduler or DDPMScheduler.from_pretrained(shop.weights / "scheduler"),
            device=shop.device,
            **weights,
        )

    def draw(
        self, generator: torch.Generator, batch: int, early: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Scene numbers, noisy latents, timesteps, text states and what the U-Net is to predict.

        early: draw more of the noisy timesteps, where a picture is laid out: t = (1 - u^3) T for uniform u
            (Mou et al., AAAI 2024, Sec. 3.4).
        """
        index = pick(generator, batch, len(self.latents))
        clean = self.latents[index].float()
        noise = torch.randn(clean.shape, generator=generator)
        uniform = torch.rand(batch, generator=generator)
        steps = self.scheduler.config.num_train_timesteps
        timestep = ((1 - uniform**3 if early else uniform) * steps).long().clamp(max=steps - 1)
        tokens = self.tokens[index, pick(generator, batch, self.tokens.shape[1])]
        drop = torch.rand(batch, generator=generator) < UNPROMPTED
        tokens = torch.where(drop[:, None], self.nothing, tokens)
        noisy = self.scheduler.add_noise(clean, noise, timestep)
        with torch.no_grad():
            text = self.text_encoder(tokens.to(self.device)).last_hidden_state
        target = self.target(clean, noise, timestep)
        return index, noisy.to(self.device), timestep.to(self.device), text, target.to(self.device)

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the U-Net is to predict, (B, C, h, w)."""
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(clean, noise, timestep)
        return noise

    def losses(self, predicted: Tensor, target: Tensor, timestep: Tensor, index: Tensor) -> Tensor:
        """The weighted error of the clean latents, (B,), whichever of PREDICTIONS was predicted (B, C, h, w)."""
        alpha = self.scheduler.alphas_cumprod.to(timestep.device)[timestep]
        snr = alpha / (1 - alpha)
        # an error of the noise is that of the clean latents times sqrt(SNR); of the velocity, times sqrt(SNR + 1)
        scale = snr + 1 if self.scheduler.config.prediction_type == "v_prediction" else snr
        errors = (predicted.float() - target).square()
        if self.emphasis is not None:
            errors = errors * self.emphasis[index].to(errors)
        return (snr.clamp(max=MIN_SNR) + self.weight_floor) / scale * errors.mean((1, 2, 3))

    def loss(self, predicted: Tensor, target: Tensor, timestep: Tensor, index: Tensor) -> Tensor:
        """The mean of `losses`."""
        return self.losses(predicted, target, timestep, index).mean()


def near_solids(shop: TrainingContext, size: int) -> Tensor:
    """Whether a cell of the latents, or one beside it, has a pixel of a solid; (N, 1, size, size) bool."""

    def look() -> np.ndarray:
        found = []
        for index in torch.arange(len(shop.corpus)).split(1000):
            classes = torch.from_numpy(shop.corpus.segmentation[index.numpy()])
            cells = F.adaptive_max_pool2d((classes >= world.SOLIDS.start).float()[:, None], size)
            found.append(F.max_pool2d(cells, 3, 1, 1).bool())
        return torch.cat(found).numpy()

    return torch.from_numpy(shop.once(f"near-solids-{size}", "", look))


@dataclass(frozen=True)
class UNet:
    """Stable Diffusion's U-Net, narrow, one layer a block, with text at every size but the largest and smallest.

    The largest goes without attention because there it would cost more than all the rest; the smallest, as in
    Stable Diffusion 1.5, has it in the middle block alone.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    channels: Sequence[int]
    prediction: str = "epsilon"  # one of PREDICTIONS
    heads: int = 4
    weight_floor: float = 0.0  # added to the weight of every noise level; of velocity prediction alone
    solids: float = 1.0  # how many times as much the loss counts near a solid

    needs = ("vae", "text_encoder")

    def build(self, latent_size: int, text_width: int, latent_channels: int) -> UNet2DConditionModel:
        """The network before any training."""
        inner = len(self.channels) - 2
        return UNet2DConditionModel(
            sample_size=latent_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            layers_per_block=1,
            block_out_channels=tuple(self.channels),
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * inner, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * inner, "UpBlock2D"),
            cross_attention_dim=text_width,
            attention_head_dim=self.heads,
            norm_num_groups=16,
        )

    def train(self, shop: TrainingContext) -> tuple[UNet2DConditionModel, History]:
        if self.prediction not in PREDICTIONS:
            raise UserError(f"prediction is {self.prediction!r}; it is one of {', '.join(PREDICTIONS)}.")
        if self.weight_floor < 0:
            raise UserError(f"weight_floor is {self.weight_floor}; give 0 or more.")
        if self.solids <= 0:
            raise UserError(f"solids is {self.solids}; give more than 0.")
        if self.weight_floor and self.prediction == "epsilon":  # an error of the noise would count by floor / SNR
            raise UserError("weight_floor is for prediction=v_prediction; leave it at 0 with epsilon.")
        task = Denoising.of(shop, make_scheduler(self.prediction), weight_floor=self.weight_floor)
        channels, size = task.latents.shape[1:3]
        if self.solids != 1:
            task = replace(task, emphasis=1 + (self.solids - 1) * near_solids(shop, size))
        unet = plain_attention(self.build(size, task.text_encoder.config.hidden_size, channels).to(shop.device))
        shop.quick(unet)

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            index, noisy, timestep, text, target = task.draw(generator, batch)
            return task.loss(unet(noisy, timestep, text).sample, target, timestep, index)

        history = shop.fit(self, [{"params": unet.parameters()}], loss_of)
        task.scheduler.save_pretrained(shop.weights / "scheduler")
        (shop.weights / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2))
        return unet, history


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
