"""One resumable training loop for every part of the miniature family."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maxbench.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How one part is trained: AdamW, linear warm-up, cosine decay to a tenth, an average of the weights."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    weight_decay: float = 1e-4
    ema: float = 0.0  # decay of the averaged weights that are shipped; 0 ships the last ones


CHECKPOINT_SECONDS = 60
History = dict[str, list[float]]
"""`loss`: the mean of every hundred steps; `ends`: the last step of each; `seconds`: one number, of wall clock."""


class Averaged:
    """Exponential moving average of parameters, with the usual warm-up of the decay."""

    def __init__(self, parameters: list[Tensor], decay: float):
        self.decay = decay
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: list[Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in parameters], 1 - decay)


def pick(generator: torch.Generator, count: int, total: int) -> Tensor:
    """`count` of the numbers below `total`, with replacement."""
    return torch.randint(total, (count,), generator=generator)


def step_generator(seed: int, part: str, step: int) -> torch.Generator:
    """The randomness of one training step: resumed or not, step k of a part draws the same numbers."""
    digest = hashlib.sha256(f"{seed}/{part}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def fit(
    part: str,
    groups: Iterable[dict],
    loss_of: Callable[[torch.Generator, int], Tensor],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
) -> History:
    """Minimise `loss_of(generator, batch)` over parameter groups in place; resume from `folder` if begun.

    `groups` are AdamW groups; a group's `lr` overrides the recipe's. Returns the mean loss of every
    hundred steps, and the seconds spent. On return the parameters hold the weights to ship. A checkpoint of a shorter
    recipe is prolonged, and one that has more steps than the recipe is a UserError.
    """
    groups = [dict(group, params=list(group["params"])) for group in groups]
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.99), fused=True)
    peaks = [group["lr"] for group in optimiser.param_groups]
    average = Averaged(parameters, recipe.ema) if recipe.ema else None
    history: History = {"loss": [], "ends": [], "seconds": [0.0]}
    begun = 0
    checkpoint = folder / f"{part}.checkpoint.pt"
    if checkpoint.exists():  # our own file, tensors and plain values only
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        begun, history = state["step"], state["history"]
        if begun > recipe.steps:
            raise UserError(
                f"{checkpoint} is of {begun} steps, and '{part}' is to have {recipe.steps}; delete it, or name another "
                "folder=."
            )
        print(f"{part}: goes on at step {begun} of {recipe.steps}", file=sys.stderr, flush=True)
        optimiser.load_state_dict(state["optimiser"])
        for parameter, own in optimiser.state.items():  # a fused step walks through memory: all must lie alike
            own |= {
                name: torch.empty_like(parameter).copy_(value)
                for name, value in own.items() if value.shape == parameter.shape and value.ndim == 4
            }  # fmt: skip
        with torch.no_grad():
            torch._foreach_copy_(parameters, state["parameters"])
            if average:
                torch._foreach_copy_(average.shadow, state["average"])

    def save(step: int) -> None:
        state = {
            "step": step,
            "history": history,
            "optimiser": optimiser.state_dict(),
            "parameters": [parameter.detach() for parameter in parameters],
            "average": average.shadow if average else [],
        }
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    folder.mkdir(parents=True, exist_ok=True)
    before, start, saved, window = history["seconds"][0], time.monotonic(), time.monotonic(), []
    for step in range(begun, recipe.steps):
        warm = min(1.0, (step + 1) / recipe.warmup)
        decay = 0.1 + 0.45 * (1 + math.cos(math.pi * step / recipe.steps))
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * warm * decay
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(step_generator(seed, part, step), recipe.batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if average:
            average.update(parameters, step)
        window.append(loss.detach())
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            history["loss"].append(float(torch.stack(window).mean()))
            history["ends"].append(step + 1)
            window = []
            elapsed = time.monotonic() - start
            history["seconds"][0] = before + elapsed
            rate = (step + 1 - begun) / elapsed
            left = (recipe.steps - step - 1) / rate
            print(
                f"{part}: step {step + 1}/{recipe.steps}, loss {history['loss'][-1]:.4f}, "
                f"{rate * recipe.batch:.0f} images/s, {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
            if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == recipe.steps:
                save(step + 1)
                saved = time.monotonic()
    if average:
        with torch.no_grad():
            torch._foreach_copy_(parameters, average.shadow)
    return history
