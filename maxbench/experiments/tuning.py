"""Methods with freedom of choice: the settings that a tuned method is chosen from, and how it is chosen.

A rule with a parameter, a sum with weights and a single control with a scale are offered the same: a small grid, and
training scenes on which no result is measured. What is chosen maximises the joint score per image. In the place of a
grid a method can have ranges and a number of trials, see :mod:`maxbench.experiments.search`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from maxbench.errors import UserError
from maxbench.experiments.method import Method

FACTOR = "scale"
"""What is given as factors of the method's own scale, and not as scales: a suite's usual strength is its own."""

BY_BRANCH = ("branch_scale", "control_start", "control_end")
"""What every branch chooses for itself."""


@dataclass(frozen=True)
class Candidate:
    """One setting of a tuned method. said: its settings, by name and for people."""

    method: Method
    said: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """What was chosen for a method: the best of its candidates, and the joint score of each on the training scenes."""

    candidates: Sequence[Candidate]
    joint: Sequence[float]

    @property
    def best(self) -> Candidate:
        """The first of the best: grids begin with what changes least, so that a tie changes nothing."""
        return self.candidates[max(range(len(self.joint)), key=lambda place: (self.joint[place], -place))]


def candidates(method: Method) -> list[Candidate]:
    """Every combination of what a method's `tune` names, in the order of its lists.

    `tune` maps "scale" (factors of the method's own), "branch_scale", "control_start" and "control_end" (for each
    branch by itself) and "rule.<parameter>" to lists of values. Of a method whose settings are searched for, the first
    that is tried alone: its own.
    """
    if method.trials is not None:
        return [candidate(method, own_setting(method), 0)]
    ranges = axes(method)
    return [
        candidate(method, dict(zip(ranges, values, strict=True)), number)
        for number, values in enumerate(product(*ranges.values()))
    ]


def axes(method: Method) -> dict[str, Sequence[float]]:
    """What can be set in a tuned method, a number for each name -> its values, or the ends of its range."""
    found: dict[str, Sequence[float]] = {}
    for key, values in method.tune.items():
        names = [f"{key}.{branch}" for branch in method.branches] if key in BY_BRANCH else [key]
        found |= dict.fromkeys(names, values)
    return found


def candidate(method: Method, said: Mapping[str, float], number: int) -> Candidate:
    """A tuned method at one setting; number: of its pictures' folder."""
    return Candidate(replace(_with(method, said), name=f"{method.name}/{number}", tune={}, trials=None), dict(said))


def own_setting(method: Method) -> dict[str, float]:
    """The setting that a tuned method has before it is tuned, within the ends of every range."""
    said = {}
    for name, (low, high) in axes(method).items():
        key, _, inner = name.partition(".")
        if key == FACTOR:
            value = 1.0
        elif key in BY_BRANCH:
            given = getattr(method, key)
            usual = 0.0 if key == "control_start" else 1.0
            value = given.get(inner, usual) if isinstance(given, Mapping) else given
        else:
            value = getattr(method.rule, inner, low)
        said[name] = min(max(float(value), low), high) if isinstance(value, int | float) else low
    return said


def _with(method: Method, said: Mapping[str, float]) -> Method:
    changes: dict[str, Any] = {}
    for name, value in said.items():
        key, _, inner = name.partition(".")
        if key == FACTOR:
            changes["scale"] = method.scale * value
        elif key in BY_BRANCH:
            changes.setdefault(key, {})[inner] = value
        else:
            rule = changes.get("rule", method.rule)
            if not isinstance(getattr(rule, inner, None), int | float):
                raise UserError(f"methods.{method.entry}.tune has '{name}', which is no number of its rule.")
            try:
                changes["rule"] = replace(rule, **{inner: value})
            except ValueError as error:
                raise UserError(f"methods.{method.entry}.tune.{name}: {error}.") from error
    return replace(method, **changes)


def chosen(method: Method, choice: Choice) -> Method:
    """The method at the best of its candidates, under its own name."""
    return replace(choice.best.method, name=method.name, tune=method.tune, tuned=dict(choice.best.said))
