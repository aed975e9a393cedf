"""Denoising steps as compiled graphs: the ControlNets, the rule between them and the U-Net in one.

torch.compile makes one graph for each combination of what is constant in a step: the branches that act, their rule and
its sites, an image prompt's strength, and shapes. A method whose branches all act in every step is one graph, since a
batch is filled up to one shape; methods that differ in strengths alone share one, for weights and scales are tensors.
Methods of equal rules share it too.

In the graph: ControlNets in lockstep and pooled ones, rules, the U-Net. Outside, once per batch and not compiled: the
embedding of maps, pyramids of adapters, an image prompt's encoder. An image prompt's strength is an attribute of the
U-Net's attention, which a graph takes for a constant; so each strength has its own. Not compiled at all: a rule that
keeps a record by branch (`for_branches`), since a graph would record nothing but its tracing.

On CUDA the mode is "reduce-overhead": kernels as in the default mode, replayed as CUDA graphs, which helps where the
processor cannot launch kernels as fast as they run (small pictures and batches), and not elsewhere. What it needs is
so here: static shapes, weights that stay where they are, inputs that may be copied to where the graph expects them, no
wait for the device. What a graph returns is overwritten by its next replay, and a scheduler may keep it: it is copied.
All graphs take turns in one pool of memory. "max-autotune" would measure every product anew for minutes per method.

A graph rounds otherwise than the same step alone, and TF32 counts as at the time of its first call. As on an
accelerator, infinities are not looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maxbench.errors import UserError
from maxbench.models.control import Acting, Control, Given, Nets
from maxbench.models.libraries import diffusers


class NotCompiled(UserError):
    """A step cannot be compiled, for want of a compiler or because a rule cannot be traced."""


class Constants(NamedTuple):
    """What a graph is made for."""

    acting: Acting
    prompt_scale: float
    shapes: tuple[tuple[torch.Size, torch.dtype], ...]


@dataclass(frozen=True, eq=False)
class Graphs:
    """The compiled steps of one pipeline, made when they are first asked for. backend: torch.compile's."""

    backend: str = "inductor"
    made: list[tuple[Constants, Callable[..., Tensor]]] = field(default_factory=list, repr=False)

    def can_hold(self, acting: Acting) -> bool:
        """Whether a step with these branches may be compiled."""
        return acting.rule.for_branches(acting.spatial) is acting.rule

    def __call__(
        self,
        unet: diffusers.UNet2DConditionModel,
        control: Control,
        acting: Acting,
        sample: Tensor,
        timestep: Tensor,
        text: Tensor,
    ) -> Tensor:
        """The U-Net's prediction under control; NotCompiled where there is no graph to be had."""
        given = control.in_tensors(acting, control.given(acting, sample), sample.device)
        moment = (sample, torch.as_tensor(timestep, device=sample.device), text)
        shapes = tuple((each.shape, each.dtype) for each in (*moment, *given.tensors))
        scale = control.fusion.weight(acting.prompts[0]) if acting.prompts else 0.0
        graph = self._of(Constants(acting, scale, shapes), unet, control.nets(acting))
        if not self._are_replayed(sample.device):
            return _run(graph, *moment, given)
        torch.compiler.cudagraph_mark_step_begin()
        return _run(graph, *moment, given).clone()

    def _are_replayed(self, device: torch.device) -> bool:
        """Whether graphs run as CUDA graphs, whose results the next replay overwrites."""
        return device.type == "cuda" and self.backend == "inductor"

    def _of(self, constants: Constants, unet: diffusers.UNet2DConditionModel, nets: Nets) -> Callable[..., Tensor]:
        for known, graph in self.made:
            if known == constants:
                return graph
        mode = "reduce-overhead" if self._are_replayed(unet.device) else None
        graph = torch.compile(_step(unet, nets), fullgraph=True, dynamic=False, backend=self.backend, mode=mode)
        self.made.append((constants, graph))
        return graph


def _step(unet: diffusers.UNet2DConditionModel, nets: Nets) -> Callable[[Tensor, Tensor, Tensor, Given], Tensor]:
    """A step as a function of tensors, with code of its own: graphs are kept by code, a few of them for each."""

    def step(sample: Tensor, timestep: Tensor, text: Tensor, given: Given) -> Tensor:
        added = nets(sample, timestep, text, given)
        return unet(sample, timestep, encoder_hidden_states=text, return_dict=False, **added)[0]

    return FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)


def _run(graph: Callable[..., Tensor], *arguments: Any) -> Tensor:
    try:
        return graph(*arguments)
    except torch._dynamo.exc.TorchDynamoException as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise NotCompiled(
            f"A denoising step cannot be compiled ({said.rstrip('.')}); set runtime.compile=false."
        ) from error
