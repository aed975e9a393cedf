"""Text to picture: encode the prompt, denoise under control, decode. The loop in plain sight.

Tensors in, tensors out; no files. Networks are diffusers' and transformers' own, in evaluation mode.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from maxbench.errors import UserError
from maxbench.fusion import NotFinite, RuleError
from maxbench.models.compiled import Graphs, NotCompiled
from maxbench.models.control import Branch, Control, Fusion, ImagePrompt, evaluations, kind_of
from maxbench.models.libraries import diffusers, transformers
from maxbench.models.precision import Precision, tf32
from maxbench.models.prefix import Prefixes, plan_of


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

    @property
    def halves(self) -> int:
        """Evaluations of the U-Net per step."""
        return 1 if self.guidance_scale == 1 else 2


class Evaluations(NamedTuple):
    """Of networks, for one picture."""

    unet: int
    control: int


def scheduled(sampler: Sampler, config: dict) -> Any:
    """The scheduler of a sampler, at its steps; config: the base model's.

    Its tables stay on the processor: a scheduler that looks up a step of an accelerator waits for all that was asked
    of it before. UniPC still waits in every step, for it copies small tensors there and solves a system of them.
    """
    scheduler = sampler.scheduler(config)
    scheduler.set_timesteps(sampler.steps, device="cpu")
    return scheduler


def cost_of(kinds: Mapping[str, str], fusion: Fusion, sampler: Sampler, config: dict) -> Evaluations:
    """How often networks run for one picture; kinds: of its branches. No network is needed to know it."""
    steps = len(scheduled(sampler, config).timesteps)  # some samplers evaluate a step twice
    return Evaluations(steps * sampler.halves, evaluations(kinds, fusion, steps, sampler.halves))


@dataclass(frozen=True)
class Pipeline:
    """The parts of one latent diffusion model and its controls by condition.

    allow_tf32: see :class:`maxbench.models.precision.Precision`; the autoencoder computes without.
    graphs: compiled steps; None where steps are not compiled.
    """

    vae: diffusers.AutoencoderKL
    unet: diffusers.UNet2DConditionModel
    text_encoder: transformers.CLIPTextModel
    tokenizer: transformers.CLIPTokenizer
    scheduler_config: dict
    controls: dict[str, Branch]
    allow_tf32: bool = False
    graphs: Graphs | None = None

    def __post_init__(self):
        prompts = [name for name, net in self.controls.items() if isinstance(net, ImagePrompt)]
        if len(prompts) > 1:  # the second one's attention has taken the place of the first's
            raise UserError(f"{' and '.join(prompts)} are image prompts; a U-Net takes one of them at a time.")

    def computing(self, precision: Precision, batch: int, resolution: int) -> Pipeline:
        """The same networks, changed in place to compute as `precision` says; its dtype is what they were loaded in.

        batch, resolution: of the pictures, for how the autoencoder takes them.
        """
        if precision.channels_last:
            for net in (self.unet, *self.controls.values()):
                if not isinstance(net, ImagePrompt):  # which is part of the U-Net
                    net.to(memory_format=torch.channels_last)
        self.slice_autoencoder(precision, batch, resolution)
        (self.vae.enable_tiling if precision.tiled else self.vae.disable_tiling)()
        return replace(self, allow_tf32=precision.tf32, graphs=Graphs() if precision.compiled else None)

    def slice_autoencoder(self, precision: Precision, batch: int, resolution: int) -> None:
        """Let the autoencoder take the pictures of a batch one at a time, or together, as `precision` says."""
        (self.vae.enable_slicing if precision.slices(batch, resolution) else self.vae.disable_slicing)()

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def bytes(self) -> int:
        """Of the weights, each network's once."""
        nets = [net for net in self.controls.values() if not isinstance(net, ImagePrompt)]  # which is in the U-Net
        weights = [each for net in (self.vae, self.unet, self.text_encoder, *nets) for each in net.parameters()]
        return sum(each.nbytes for each in weights)

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
        with tf32(self.allow_tf32):
            return self.text_encoder(tokens.to(self.device)).last_hidden_state

    @torch.inference_mode()
    def control(
        self,
        hints: dict[str, Float[Tensor, "batch 3 height width"]],
        fusion: Fusion,
        embedded: dict[str, Tensor] | None = None,
    ) -> Control:
        """The branches of `hints` (condition -> map in [0, 1]), acting together as `fusion` says.

        embedded: of the same maps, where another fusion has embedded them; what is missing is added to it.
        """
        branches = {name: self.controls[name] for name in hints}
        prompts = {name: net for name, net in self.controls.items() if isinstance(net, ImagePrompt)}
        shown = {
            name: hint.to(self.device, torch.float32 if name in prompts else self.dtype) for name, hint in hints.items()
        }
        known = {} if embedded is None else embedded
        return Control(fusion, branches, shown, next(iter(prompts.values()), None), known)

    def cost(self, branches: Sequence[str], fusion: Fusion, sampler: Sampler) -> Evaluations:
        """How often networks run for one picture."""
        kinds = {name: kind_of(self.controls[name]) for name in branches}
        return cost_of(kinds, fusion, sampler, self.scheduler_config)

    def schedule(self, sampler: Sampler) -> Any:
        """The sampler's scheduler, at its steps."""
        return scheduled(sampler, self.scheduler_config)

    @torch.inference_mode()
    def denoise(
        self,
        noise: Float[Tensor, "batch channel height width"],
        text: Float[Tensor, "batch tokens width"],
        negative: Float[Tensor, "batch tokens width"],
        control: Control,
        sampler: Sampler,
        generators: list[torch.Generator] | None = None,
        prefixes: Prefixes | None = None,
        stops: Sequence[int] = (),
    ) -> Float[Tensor, "batch channel height width"]:
        """Latents of the pictures, float32: `sampler.steps` of denoising from `noise`.

        Networks compute in their own dtype; what is added up from step to step does not lose its low bits.
        generators: one for every picture, from which a stochastic sampler draws, so that a picture does not depend on
        its company.
        prefixes: of the same batch, where other methods leave the steps that they share with this one; stops: the steps
        before which this one leaves its state.
        """
        scheduler, guided = self.schedule(sampler), sampler.halves == 2
        drawing = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
        if control.branches and not guided and control.fusion.needs_guidance:
            raise UserError(
                f"{type(control.fusion.needs_guidance).__name__} runs only under classifier-free guidance; "
                "set sampler.guidance_scale to another value than 1."
            )
        text = torch.cat([negative, text]) if guided else text
        latents = noise.to(self.device, torch.float32) * scheduler.init_noise_sigma
        plan, first = plan_of(control.fusion, list(control.branches), len(scheduler.timesteps)), 0
        if prefixes is not None:
            first, known = prefixes.find(plan)
            prefixes.spared = 0.0
            if known is not None:
                latents, scheduler, prefixes.spared = known.latents, copy.deepcopy(known.scheduler), known.seconds
                for generator, state in zip(generators or (), known.generators, strict=True):
                    generator.set_state(state)
        begun, moments = time.perf_counter(), scheduler.timesteps.to(self.device)  # of networks, which look nothing up
        for step, timestep in enumerate(scheduler.timesteps):
            if step < first:
                continue
            if prefixes is not None and step in stops and step > first:
                prefixes.save(plan[:step], latents, scheduler, generators or (), begun)
            sample = torch.cat([latents, latents]) if guided else latents  # (2B, C, h, w)
            sample = scheduler.scale_model_input(sample, timestep).to(self.dtype)
            with tf32(self.allow_tf32):
                prediction = self._predicted(control, sample, moments[step], text, step, len(scheduler.timesteps))
            prediction = prediction.float()
            if guided:
                without, prompted = prediction.chunk(2)
                prediction = without + sampler.guidance_scale * (prompted - without)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **drawing)[0]
        return latents

    def _predicted(
        self, control: Control, sample: Tensor, timestep: Tensor, text: Tensor, step: int, steps: int
    ) -> Tensor:
        """What the U-Net predicts under control."""
        acting = control.acting(step, steps)
        if self.graphs is not None and self.graphs.can_hold(acting):
            try:
                return self.graphs(self.unet, control, acting, sample, timestep, text)
            except NotCompiled:
                self._added(control, sample, timestep, text, step, steps)  # what a rule refuses it says itself
                raise
        added = self._added(control, sample, timestep, text, step, steps)
        return self.unet(sample, timestep, encoder_hidden_states=text, return_dict=False, **added)[0]

    def _added(self, control: Control, *moment: Any) -> dict[str, Any]:
        try:
            return control(*moment)
        except RuleError as error:
            said = f"{type(control.fusion.rule).__name__} on {', '.join(control.branches)}: {error}"
            half = isinstance(error, NotFinite) and self.dtype != torch.float32
            raise UserError(f"{said}; set runtime.dtype=float32." if half else f"{said}.") from error

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures, float32, about [0, 1], not clipped: a NaN is there to be found.

        In float16 the decoder of Stable Diffusion overflows on some latents, so it computes in float32 always.
        """
        latents = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
        decoded = self.vae.decode(latents, return_dict=False)[0]
        return decoded.float() / 2 + 0.5

    @torch.inference_mode()
    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch channel height width"]:
        """Scaled latent means of pictures in [0, 1], float32."""
        images = images.to(self.device, self.vae.dtype) * 2 - 1
        return self.vae.encode(images).latent_dist.mode().float() * self.vae.config.scaling_factor

    def reconstruct(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
        """Pictures encoded and decoded: the best that any latent of this autoencoder can look."""
        return self.decode(self.encode(images))
