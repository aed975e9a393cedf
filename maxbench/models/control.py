"""Control branches on the maps of one batch: how they are fused, how strongly and when they act.

Branches are fused with those of their own kind, and the U-Net adds the kinds up:

    ControlNets       in lockstep, location by location, at every step
    T2I-Adapters      level by level, once per image
    pooled controls   ControlNets with global pooling (shuffle): no location to choose at, they are added
    an image prompt   an IP-Adapter's keys and values in the U-Net's own attention
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from maxbench.errors import UserError
from maxbench.fusion import Fusion, Rule, require_finite
from maxbench.models.libraries import diffusers
from maxbench.models.lockstep import (
    Factor,
    each_of,
    embed_hint,
    lockstep_adapters,
    lockstep_controlnets,
    scaled,
    scales_of,
)

Images = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class ImagePrompt:
    """An IP-Adapter of the plain kind (Ye et al., arXiv 2308.06721), installed in a U-Net by diffusers.

    unet: the network whose attention reads it; without a prompt it is silent there, and the U-Net is the base model.
    encoder: pictures (B, 3, H, W) in [0, 1] => embeddings (B, D).
    """

    unet: diffusers.UNet2DConditionModel
    encoder: Callable[[Images], Float[Tensor, "batch width"]]

    def arguments(self, seen: Float[Tensor, "batch width"] | None, sample: Tensor, scale: float) -> dict[str, Any]:
        """What the U-Net is to be called with on `sample`: (B, ...), or (2B, ...) under guidance.

        seen: embeddings, or None for no prompt; scale is then 0. The unconditional half of a guided batch is shown
        nothing, as in diffusers.
        """
        for processor in self._processors:
            processor.scale = [scale]
        if seen is None:
            projection = self.unet.encoder_hid_proj.image_projection_layers[0]
            seen = sample.new_zeros(len(sample), projection.image_embeds.in_features)
        shown = torch.cat([torch.zeros_like(seen)] * (len(sample) // len(seen) - 1) + [seen])
        return {"added_cond_kwargs": {"image_embeds": [shown[:, None].to(sample)]}}

    @cached_property
    def _processors(self) -> list[Any]:
        """Those of the U-Net's attention that read it: found once, not at every step."""
        return [each for each in self.unet.attn_processors.values() if hasattr(each, "to_k_ip")]


Branch: TypeAlias = "diffusers.ControlNetModel | diffusers.T2IAdapter | ImagePrompt"


class Acting(NamedTuple):
    """The branches that act in a step, by kind, and how those of a kind meet."""

    spatial: tuple[str, ...]
    pooled: tuple[str, ...]
    adapters: tuple[str, ...]
    prompts: tuple[str, ...]
    rule: Rule
    sites: tuple[str, ...]


class Given(NamedTuple):
    """What a step is given besides latents, timestep and text: tensors, and factors that are numbers or tensors.

    hints: of the spatial ControlNets, embedded (B, C0, h, w), or (2B, ...) under guidance. weights: one for each.
    pooled: maps (B, 3, H, W) of those with global pooling. pooled_weights: one for each. strengths: one factor on all
    residuals, or one for each. pyramid: of the adapters. prompt: further arguments of the U-Net.
    """

    hints: Sequence[Tensor]
    weights: Sequence[float] | Tensor
    pooled: Sequence[Tensor]
    pooled_weights: Sequence[float] | Tensor
    strengths: float | Sequence[float] | Tensor
    pyramid: Sequence[Tensor]
    prompt: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """All but the image prompt's, of factors that are tensors."""
        return [*self.hints, self.weights, *self.pooled, self.pooled_weights, self.strengths, *self.pyramid]

    def factors(self, device: torch.device) -> dict[str, Tensor]:
        """Weights and strengths as float32 tensors, so that others are no other graph."""
        number = isinstance(self.strengths, int | float)

        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        strengths = tensor([self.strengths] if number else list(self.strengths))
        return {
            "weights": tensor(self.weights), "pooled_weights": tensor(self.pooled_weights), "strengths": strengths
        }  # fmt: skip


@dataclass(frozen=True)
class Nets:
    """The ControlNets of one step and how they meet: a function of tensors alone, so that it can be compiled."""

    spatial: tuple[diffusers.ControlNetModel, ...]
    pooled: tuple[diffusers.ControlNetModel, ...]
    rule: Rule
    sites: tuple[str, ...]

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor, given: Given) -> dict[str, Any]:
        """Arguments of the U-Net."""
        arguments: dict[str, Any] = dict(given.prompt)
        residuals = []
        if self.spatial:
            residuals.append(
                lockstep_controlnets(
                    self.spatial, self.rule, sample, timestep, text, given.hints,
                    scale=given.strengths, sites=self.sites, weights=given.weights,
                )
            )  # fmt: skip
        for net, hint, weight in zip(self.pooled, given.pooled, each_of(given.pooled_weights), strict=True):
            residuals.append(_pooled(net, hint, weight, given.strengths, sample, timestep, text))
        if residuals:
            down, mid = zip(*residuals, strict=True)
            arguments["down_block_additional_residuals"] = [_total(each) for each in zip(*down, strict=True)]
            arguments["mid_block_additional_residual"] = _total(mid)
        if given.pyramid:  # a list of its own for every step: the U-Net empties it
            arguments["down_intrablock_additional_residuals"] = list(given.pyramid)
        return arguments


@dataclass(frozen=True)
class Control:
    """N branches on the maps of one batch: what the U-Net is called with, for any latents, timestep and text.

    branches: condition -> network. hints: condition -> what it is shown (B, 3, H, W) in [0, 1].
    prompt: the image prompt of the U-Net, whether or not a branch of this batch uses it; None where there is none.
    """

    fusion: Fusion
    branches: Mapping[str, Branch]
    hints: Mapping[str, Images]
    prompt: ImagePrompt | None = None
    embedded: dict[str, Tensor] = field(default_factory=dict, repr=False)  # maps by condition; fusions may share it
    known: dict[Any, Any] = field(default_factory=dict, repr=False)  # what else is computed only once per image

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor, step: int, steps: int) -> dict[str, Any]:
        """Arguments of the U-Net for step 0, ..., steps - 1; latents are (B, ...), or (2B, ...) under guidance."""
        acting = self.acting(step, steps)
        return self.nets(acting)(sample, timestep, text, self.given(acting, sample))

    def acting(self, step: int, steps: int) -> Acting:
        """What acts in a step."""
        rule, sites = self.fusion.at(step, steps)
        names = [name for name in self.branches if self.fusion.acts(name, step, steps)]
        kinds = {name: kind_of(self.branches[name]) for name in names}
        spatial, pooled, adapters, prompts = (
            tuple(name for name in names if kinds[name] == kind) for kind in (SPATIAL, POOLED, ADAPTER, PROMPT)
        )
        return Acting(spatial, pooled, adapters, prompts, rule, tuple(sites))

    def nets(self, acting: Acting) -> Nets:
        """The ControlNets that act; without anything of this batch of pictures."""
        spatial, pooled = (tuple(self.branches[name] for name in names) for names in (acting.spatial, acting.pooled))
        rule = acting.rule.for_branches(acting.spatial) if spatial else acting.rule
        return Nets(spatial, pooled, rule, acting.sites)

    def given(self, acting: Acting, sample: Tensor) -> Given:
        """What they and the U-Net are given for this batch of pictures, at any timestep."""
        embedded = [self.embedding(name) for name in acting.spatial]
        pyramid = self._pyramid(acting.adapters, acting.rule, acting.sites) if acting.adapters else []
        prompt = {}
        if self.prompt is not None:
            name = acting.prompts[0] if acting.prompts else None
            seen = None if name is None else self.embedding(name)
            prompt = self.prompt.arguments(seen, sample, 0.0 if name is None else self.fusion.weight(name))
        return Given(
            hints=[_for_both_halves(each, sample) for each in embedded],
            weights=[self.fusion.weight(name) for name in acting.spatial],
            pooled=[self.hints[name] for name in acting.pooled],
            pooled_weights=[self.fusion.weight(name) for name in acting.pooled],
            strengths=self.fusion.strengths,
            pyramid=[_for_both_halves(each, sample) for each in pyramid],
            prompt=prompt,
        )

    def in_tensors(self, acting: Acting, given: Given, device: torch.device) -> Given:
        """The same with factors that are tensors; they are brought to the device once, and not in every step."""
        key = ("factors", acting.spatial, acting.pooled)
        return given._replace(**self._once(key, lambda: given.factors(device)))

    def embedding(self, name: str) -> Tensor | None:
        """What does not depend on the timestep, nor on how branches are fused: a map as a ControlNet embeds it, a
        picture as an image prompt's encoder does; None of other kinds."""
        if name not in self.embedded:
            net, hint = self.branches[name], self.hints[name]
            if kind_of(net) == SPATIAL:
                self.embedded[name] = embed_hint(net, hint)
            elif isinstance(net, ImagePrompt):
                self.embedded[name] = net.encoder(hint)
        return self.embedded.get(name)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _pyramid(self, names: Sequence[str], rule: Rule, sites: Sequence[str]) -> list[Tensor]:
        nets = [self.branches[name] for name in names]
        hints = [_in_channels_of(net, name, self.hints[name]) for name, net in zip(names, nets, strict=True)]
        weights = [self.fusion.weight(name) for name in names]

        def run() -> list[Tensor]:
            return lockstep_adapters(
                nets, rule.for_branches(names), hints, self.fusion.strengths, sites=sites, weights=weights
            )

        return self._once(self.fusion.pyramid(names, rule, sites), run)


def is_spatial(branch: Branch) -> bool:
    """A ControlNet with a residual at every location."""
    return isinstance(branch, diffusers.ControlNetModel) and not branch.config.global_pool_conditions


def is_pooled(branch: Branch) -> bool:
    """A ControlNet whose residuals are averaged over space."""
    return isinstance(branch, diffusers.ControlNetModel) and branch.config.global_pool_conditions


SPATIAL, POOLED, ADAPTER, PROMPT = "spatial", "pooled", "adapter", "prompt"
"""Kinds of branches, by when they run."""


def kind_of(branch: Branch) -> str:
    """SPATIAL, POOLED, ADAPTER or PROMPT."""
    if isinstance(branch, diffusers.ControlNetModel):
        return POOLED if is_pooled(branch) else SPATIAL
    return ADAPTER if isinstance(branch, diffusers.T2IAdapter) else PROMPT


def evaluations(kinds: Mapping[str, str], fusion: Fusion, steps: int, halves: int) -> int:
    """How often control networks run for one picture; kinds: of a method's branches, see :func:`kind_of`.

    A ControlNet runs in every step that it acts in, for each guidance half; with global pooling for the prompted half;
    adapters once for each set of them that acts together; the encoder of an image prompt once.
    """
    total, pyramids, prompts = 0, set(), set()
    for step in range(steps):
        acting = {name: kind for name, kind in kinds.items() if fusion.acts(name, step, steps)}
        total += sum({SPATIAL: halves, POOLED: 1}.get(kind, 0) for kind in acting.values())
        adapters = [name for name, kind in acting.items() if kind == ADAPTER]
        pyramids.add((len(adapters), fusion.pyramid(adapters, *fusion.at(step, steps))))
        prompts |= {name for name, kind in acting.items() if kind == PROMPT}
    return total + sum(count for count, _ in pyramids) + len(prompts)


def _pooled(
    net: diffusers.ControlNetModel,
    hint: Images,
    weight: Factor,
    strengths: Any,
    sample: Tensor,
    timestep: Tensor,
    text: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """diffusers' own forward, which pools; on the prompted half alone, as in diffusers' pipeline."""
    batch = len(hint)
    down, mid = net(sample[-batch:], timestep, text[-batch:], hint, return_dict=False)
    require_finite([*down, mid])
    *down_scales, mid_scale = scales_of(strengths, len(down) + 1)
    silent = len(sample) - batch

    def whole(residual: Tensor, factor: Factor) -> Tensor:
        both = torch.cat([residual.new_zeros(silent, *residual.shape[1:]), residual])
        return scaled(factor * weight, both)

    return [whole(*each) for each in zip(down, down_scales, strict=True)], whole(mid, mid_scale)


def _total(residuals: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, residuals)


def _in_channels_of(net: diffusers.T2IAdapter, name: str, hint: Images) -> Float[Tensor, "batch channel height width"]:
    """A map as an adapter reads it: those of canny edges and sketches have one channel, to which a grey map is brought.

    Raises UserError for colours where there is one channel.
    """
    if net.config.in_channels != 1:
        return hint
    if not torch.equal(hint[:, :1].expand_as(hint), hint):
        raise UserError(f"The T2I-Adapter of '{name}' reads maps of one channel, but its condition shows colours.")
    return hint[:, :1]


def _for_both_halves(feature: Tensor, sample: Tensor) -> Tensor:
    """Both guidance halves of a batch see the same map."""
    return feature.repeat(len(sample) // len(feature), 1, 1, 1)
