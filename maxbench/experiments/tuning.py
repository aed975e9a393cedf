"""Methods with freedom of choice: the settings that a tuned method is chosen from, and how it is chosen.

A rule with a parameter, a sum with weights and a single control with a scale are offered the same: a small grid, and
training scenes on which no result is measured. What is chosen maximises the joint score per image. A method can choose
once more after that, at the best of its grid: as a rule first its strength, of which most depends, and then what is its
own. In the place of a grid a method can have ranges and a number of trials, see :mod:`maxbench.experiments.search`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import sqrt
from typing import Any, NamedTuple

from maxbench.errors import UserError
from maxbench.experiments.method import Method

FACTOR = "scale"
"""What is given as factors of the method's own scale, and not as scales: a suite's usual strength is its own."""

BALANCE = "balance"
"""How many times as strong the first branch is as every other, at the same product of two strengths."""

BY_BRANCH = ("branch_scale", "control_start", "control_end")
"""What every branch chooses for itself."""


class Tried(NamedTuple):
    """A setting and the joint score that it had on the training scenes."""

    said: Mapping[str, float]
    joint: float


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
        return self.candidates[self.joint.index(max(self.joint))]


def candidates(method: Method, tried: Sequence[Tried] = ()) -> list[Candidate]:
    """The settings that a method is to be run with next, after those that were tried; none when it has its choice.

    First every combination of what `tune` names, in the order of its lists, with the first values of `then`; then, at
    the best of these, every combination of what `then` names that is not known yet. Both map "scale" (factors of the
    method's own), "balance" (see BALANCE), "branch_scale", "control_start" and "control_end" (for each branch by
    itself) and "rule.<parameter>" to lists of values. Of a method whose settings are searched for, the first that is
    tried: its own.
    """
    if method.trials is not None:
        return [] if tried else [candidate(method, own_setting(method), 0)]
    best, done = {name: values[0] for name, values in axes(method).items()}, 0
    for asked in (method.tune, method.then):
        settings = [{**best, **each} for each in _combinations(_by_branch(asked, method.branches))]
        known = [dict(each.said) for each in tried[:done]]
        fresh = [each for each in settings if each not in known]
        if len(tried) < done + len(fresh):
            return [candidate(method, said, done + number) for number, said in enumerate(fresh)]
        done += len(fresh)
        best = dict(max(tried[:done], key=lambda each: each.joint).said)  # the first of the best, as `Choice` has it
    return []


def require_settings(method: Method) -> None:
    """UserError where a method cannot be what `tune` and `then` may make of it, in any combination."""
    for said in _combinations(axes(method)):
        candidate(method, said, 0)


def axes(method: Method) -> dict[str, Sequence[float]]:
    """What can be set in a tuned method, a number for each name -> its values, or the ends of its range."""
    return _by_branch({**method.tune, **method.then}, method.branches)


def _combinations(ranges: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    return [dict(zip(ranges, values, strict=True)) for values in product(*ranges.values())]


def _by_branch(asked: Mapping[str, Sequence[float]], branches: Sequence[str]) -> dict[str, Sequence[float]]:
    found: dict[str, Sequence[float]] = {}
    for key, values in asked.items():
        names = [f"{key}.{branch}" for branch in branches] if key in BY_BRANCH else [key]
        found |= dict.fromkeys(names, values)
    return found


def tried_candidates(method: Method, tried: Sequence[Tried]) -> list[Candidate]:
    """What was tried of a method, under the names of its pictures."""
    return [candidate(method, each.said, number) for number, each in enumerate(tried)]


def candidate(method: Method, said: Mapping[str, float], number: int) -> Candidate:
    """A tuned method at one setting; number: of its pictures' folder."""
    return Candidate(
        replace(_with(method, said), name=f"{method.name}/{number}", tune={}, then={}, trials=None), dict(said)
    )


def own_setting(method: Method) -> dict[str, float]:
    """The setting that a tuned method has before it is tuned, within the ends of every range."""
    said = {}
    for name, (low, high) in axes(method).items():
        key, _, inner = name.partition(".")
        if key in (FACTOR, BALANCE):
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
        elif key == BALANCE:
            changes["branch_scale"] = _balanced(method, value)
        elif key in BY_BRANCH:
            changes.setdefault(key, {})[inner] = value
        else:
            where = f"methods.{method.entry}.{'then' if name in method.then else 'tune'}"
            rule = changes.get("rule", method.rule)
            if not isinstance(getattr(rule, inner, None), int | float):
                raise UserError(f"{where} has '{name}', which is no number of its rule.")
            try:
                changes["rule"] = replace(rule, **{inner: value})
            except ValueError as error:
                raise UserError(f"{where}.{name}: {error}.") from error
    return replace(method, **changes)


def _balanced(method: Method, balance: float) -> dict[str, float]:
    """The strengths of a method's branches with the first so many times as strong beside the others."""
    first, *others = method.branches
    strengths = {first: sqrt(balance), **dict.fromkeys(others, 1 / sqrt(balance))}
    return {name: method.branch_scale.get(name, 1.0) * strength for name, strength in strengths.items()}


def chosen(method: Method, choice: Choice) -> Method:
    """The method at the best of its candidates, under its own name."""
    said = dict(choice.best.said)
    return replace(choice.best.method, name=method.name, tune=method.tune, then=method.then, tuned=said)
