"""Steps that methods share are computed once.

Two methods on the same batch whose first steps are the same in every respect, the branches that act, their weights, the
rule, its sites and strengths, have the same latents after them, bit for bit: the second goes on from there. So do a
sum and a sum whose depth control ends early, or any method whose controls begin late and one without controls.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from maxbench.fusion import Fusion

Plan = tuple[tuple, ...]
"""What happens in every step, see :meth:`maxbench.fusion.Fusion.moment`."""


def plan_of(fusion: Fusion, branches: Sequence[str], steps: int) -> Plan:
    """The plan of a method that sees these branches."""
    return tuple(fusion.moment(branches, step, steps) for step in range(steps))


def stops_of(plans: Mapping[str, Plan]) -> dict[str, tuple[int, ...]]:
    """Name -> the steps before which a method's way parts from another's that it went along with until then."""
    return {
        name: tuple(sorted({_common(plan, other) for key, other in plans.items() if key != name} - {0, len(plan)}))
        for name, plan in plans.items()
    }


def _common(one: Plan, other: Plan) -> int:
    """How many steps two plans begin with in common."""
    return next((step for step, pair in enumerate(zip(one, other, strict=True)) if not _same(*pair)), len(one))


def _same(one: tuple, other: tuple) -> bool:
    """A rule of a user's own may not be able to say whether it equals another: then it does not."""
    try:
        return bool(one == other)
    except Exception:
        return False


def _begins(plan: Plan, own: Plan) -> bool:
    return _common(plan[: len(own)], own) == len(own)


@dataclass(frozen=True)
class Checkpoint:
    """Denoising before a step: latents, and what the scheduler and the pictures' generators remember.

    seconds: what it took to come here.
    """

    latents: Tensor
    scheduler: Any
    generators: Sequence[Tensor]
    seconds: float


@dataclass
class Prefixes:
    """The steps that methods on one batch share. saved: plans of first steps, each with the state after
    them.

    spared: of the last method, the seconds that it did not take because another method had.
    """

    saved: list[tuple[Plan, Checkpoint]] = field(default_factory=list)
    spared: float = 0.0

    def find(self, plan: Plan) -> tuple[int, Checkpoint | None]:
        """How many first steps of a plan are known, at most, and the state after them."""
        known = [(len(own), state) for own, state in self.saved if len(own) < len(plan) and _begins(plan, own)]
        return max(known, key=lambda each: each[0], default=(0, None))

    def save(
        self,
        plan: Plan,
        latents: Tensor,
        scheduler: Any,
        generators: Sequence[torch.Generator],
        begun: float,
    ) -> None:
        """Keep the state after the steps of `plan`, which began at `begun` on the clock or, if resumed, before that."""
        if not any(len(own) == len(plan) and _begins(plan, own) for own, _ in self.saved):
            if latents.device.type == "cuda":
                torch.cuda.synchronize(latents.device)
            seconds = time.perf_counter() - begun + self.spared
            states = [each.get_state() for each in generators]
            self.saved.append((plan, Checkpoint(latents, copy.deepcopy(scheduler), states, seconds)))
