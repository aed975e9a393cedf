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
from typing import Any

import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from maxbench.errors import UserError
from maxbench.fusion import Fusion, Rule, require_finite
from maxbench.models.lockstep import embed_hint, lockstep_adapters, lockstep_controlnets, scales_of

Images = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class ImagePrompt:
    """An IP-Adapter of the plain kind (Ye et al., arXiv 2308.06721), installed in a U-Net by diffusers.

    unet: the network whose attention reads it; without a prompt it is silent there, and the U-Net is the base model.
    encoder: pictures (B, 3, H, W) in [0, 1] => embeddings (B, D).
    """

    unet: UNet2DConditionModel
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


Branch = ControlNetModel | T2IAdapter | ImagePrompt


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
    known: dict[Any, Any] = field(default_factory=dict, repr=False)  # what needs to be computed only once per image

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor, step: int, steps: int) -> dict[str, Any]:
        """Arguments of the U-Net for step 0, ..., steps - 1; latents are (B, ...), or (2B, ...) under guidance."""
        acting = [name for name in self.branches if self.fusion.acts(name, step, steps)]
        rule, sites = self.fusion.at(step, steps)
        arguments: dict[str, Any] = {}
        residuals = []
        if nets := [name for name in acting if is_spatial(self.branches[name])]:
            residuals.append(self._lockstep(nets, rule, sites, sample, timestep, text))
        if pooled := [name for name in acting if is_pooled(self.branches[name])]:
            residuals += [self._pooled(name, sample, timestep, text) for name in pooled]
        if residuals:
            down, mid = zip(*residuals, strict=True)
            arguments["down_block_additional_residuals"] = [_total(each) for each in zip(*down, strict=True)]
            arguments["mid_block_additional_residual"] = _total(mid)
        if adapters := [name for name in acting if isinstance(self.branches[name], T2IAdapter)]:
            # a list of its own for every step: the U-Net empties it
            pyramid = [_for_both_halves(each, sample) for each in self._pyramid(adapters, rule, sites)]
            arguments["down_intrablock_additional_residuals"] = pyramid
        if self.prompt is not None:
            prompts = [name for name in acting if isinstance(self.branches[name], ImagePrompt)]
            seen = self._once("prompt", lambda: self.prompt.encoder(self.hints[prompts[0]])) if prompts else None
            arguments |= self.prompt.arguments(seen, sample, self.fusion.weight(prompts[0]) if prompts else 0.0)
        return arguments

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _lockstep(self, names: Sequence[str], rule: Rule, sites: Sequence[str], sample, timestep, text):
        nets = [self.branches[name] for name in names]
        embedded = (
            self._once(("hint", name), lambda name=name, net=net: embed_hint(net, self.hints[name]))
            for name, net in zip(names, nets, strict=True)
        )
        hints = [_for_both_halves(embedding, sample) for embedding in embedded]
        weights = [self.fusion.weight(name) for name in names]
        return lockstep_controlnets(
            nets,
            rule.for_branches(names),
            sample,
            timestep,
            text,
            hints,
            scale=self.fusion.strengths,
            sites=sites,
            weights=weights,
        )

    def _pooled(self, name: str, sample: Tensor, timestep: Tensor, text: Tensor):
        """diffusers' own forward, which pools; on the prompted half alone, as in diffusers' pipeline."""
        net, hint = self.branches[name], self.hints[name]
        batch, scale = len(hint), self.fusion.weight(name)
        down, mid = net(sample[-batch:], timestep, text[-batch:], hint, return_dict=False)
        require_finite([*down, mid])
        *down_scales, mid_scale = scales_of(self.fusion.strengths, len(down) + 1)
        silent = len(sample) - batch

        def whole(residual: Tensor, factor: float) -> Tensor:
            return torch.cat([residual.new_zeros(silent, *residual.shape[1:]), residual]) * (factor * scale)

        return [whole(*each) for each in zip(down, down_scales, strict=True)], whole(mid, mid_scale)

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
    return isinstance(branch, ControlNetModel) and not branch.config.global_pool_conditions


def is_pooled(branch: Branch) -> bool:
    """A ControlNet whose residuals are averaged over space."""
    return isinstance(branch, ControlNetModel) and branch.config.global_pool_conditions


SPATIAL, POOLED, ADAPTER, PROMPT = "spatial", "pooled", "adapter", "prompt"
"""Kinds of branches, by when they run."""


def kind_of(branch: Branch) -> str:
    """SPATIAL, POOLED, ADAPTER or PROMPT."""
    if isinstance(branch, ControlNetModel):
        return POOLED if is_pooled(branch) else SPATIAL
    return ADAPTER if isinstance(branch, T2IAdapter) else PROMPT


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


def _total(residuals: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, residuals)


def _in_channels_of(net: T2IAdapter, name: str, hint: Images) -> Float[Tensor, "batch channel height width"]:
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
