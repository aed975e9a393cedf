"""An experiment as data: methods x samples, on the same noise, prompts and conditions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from maxbench.conditions.base import Condition
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.fusion import ALL_SITES, BLOCK_SITES, Fusion, Rule, clash
from maxbench.store.identity import identity

EACH, PAIRS = "each", "pairs"
REAL, VAE_RECONSTRUCTION, SHUFFLED, EXCHANGED = "real", "vae_reconstruction", "shuffled", "exchanged"
"""Rows that no method made: the samples' own pictures, the same through the autoencoder, real pictures held against
another sample's maps, and each condition's own picture held against the other condition's map. No method may have one
of these names."""

NONE, SINGLE, FUSION, CHANCE = "none", "single", "fusion", "chance"
REFERENCE, ENTERED = "reference", "entered"
"""Roles of a row: no control, one control alone, several together, several of which a draw decides; the rows that no
method made; pictures made elsewhere."""


@dataclass(frozen=True)
class Method(Fusion):
    """What one row of a table does: a fusion (rule, sites, strengths, when) of the branches it sees; nothing else.

    branches: condition names; None for all of the experiment's; "each" makes one method per condition, each
        with that branch alone, and "pairs" one per pair of conditions; [] for no control.
    match: the name of another method. `scale` then counts in that method's strength: at equal scale both add residuals
        of the same mean norm to the U-Net, as measured on training scenes (:mod:`maxbench.generation.strength`).
    vary: one number of the method and the values that it takes, {"scale": [1, 2]} or {"rule.delta": [0, 0.7]}: one
        method for each value.
    tune: settings to choose from on training scenes, {"branch_scale": [0.7, 1]}; see
        :mod:`maxbench.experiments.tuning`. then: further ones, chosen at the best of those. tuned: what was chosen;
        None before that.
    trials: how many settings are tried within ranges, {"rule.delta": [-1, 1]}, by what earlier ones were worth; None
        for every combination of lists. See :mod:`maxbench.experiments.search`.
    entry: the name that the method has in the configuration. series: the name of what varies, without its setting.
    parameter, setting: what varies in it and the value that it has here. `name` is made of these, for files and people;
        nobody takes it apart.
    """

    name: str = ""
    branches: Sequence[str] | str | None = None
    match: str | None = None
    vary: Mapping[str, Sequence[float]] = field(default_factory=dict)
    tune: Mapping[str, Sequence[float]] = field(default_factory=dict)
    then: Mapping[str, Sequence[float]] = field(default_factory=dict)
    trials: int | None = None
    tuned: Mapping[str, float] | None = None
    entry: str = ""
    series: str = ""
    parameter: str | None = None
    setting: float | None = None

    @property
    def role(self) -> str:
        """Of its row in tables, see NONE, SINGLE, FUSION and CHANCE."""
        if len(self.branches) < 2:
            return (NONE, SINGLE)[len(self.branches)]
        return CHANCE if self.rule.is_chance else FUSION

    @property
    def delta(self) -> float | None:
        """The threshold by which its rule fuses branches, as it stands or as it was chosen.

        None where nothing is fused, where the rule has no such number, and where one is still to be chosen.
        """
        delta = getattr(self.rule, "delta", None)
        is_chosen = self.tuned is not None or "rule.delta" not in (*self.tune, *self.then)
        return float(delta) if self.role == FUSION and _is_number(delta) and is_chosen else None

    @property
    def is_unit(self) -> bool:
        """Whether it may be what others are measured against: as it is, and not one of a series."""
        return self.parameter is None and self.match is None and not self.tune

    def identity(self) -> dict[str, Any]:
        """What its pictures depend on besides their inputs and networks, as plain data; its name is not part of it."""
        if not self.branches:
            return {"branches": []}
        windows = {
            key: self._of_branches(getattr(self, key), at) for key, at in (("control_start", 0), ("control_end", 1))
        }
        whole = self.fusion_start <= 0 and self.fusion_end >= 1
        return {
            "branches": list(self.branches),
            "rule": identity(self.rule),
            "sites": sorted(set(self.sites)),
            "scale": float(self.scale),
            "layer_scale": identity(self.layer_scale),
            "branch_scale": self._of_branches(self.branch_scale, 1),
            **windows,
            "fusion": None if whole else [self.fusion_start, self.fusion_end, identity(self.otherwise)],
        }

    def _of_branches(self, value: float | Mapping[str, float], default: float) -> list[float]:
        """One number for each branch, of one for all of them or of those by name."""
        return [float(value.get(name, default) if isinstance(value, Mapping) else value) for name in self.branches]

    def expand(self, name: str, conditions: Sequence[str]) -> list[Method]:
        """The methods that an entry `name` of an experiment stands for."""
        if isinstance(self.sites, str) or (isinstance(self.branches, str) and self.branches not in (EACH, PAIRS)):
            raise UserError(f"methods.{name}: sites and branches are lists; write [{self.branches or self.sites}].")
        if isinstance(self.branches, list | tuple) and len(set(self.branches)) < len(self.branches):
            raise UserError(f"methods.{name}.branches names a condition twice: {', '.join(self.branches)}.")
        if not isinstance(self.rule, Rule):
            raise UserError(
                f"methods.{name}.rule is a {type(self.rule).__name__}; a rule extends maxbench.fusion.Rule."
            )
        self._check(name, conditions)
        if self.branches == EACH:
            named = {f"{name}/{each}": (each,) for each in conditions}
        elif self.branches == PAIRS:
            named = {f"{name}/{'+'.join(pair)}": pair for pair in combinations(conditions, 2)}
        else:
            named = {name: tuple(conditions if self.branches is None else self.branches)}
        for branch in named[next(iter(named))]:
            if branch not in conditions:
                raise UserError(f"methods.{name}.branches has '{branch}'; this experiment has {', '.join(conditions)}.")
        methods = []
        for each, branches in named.items():
            methods += replace(
                self, name=each, entry=name, series=each, sites=tuple(self.sites), branches=branches
            )._varied(name)
        for method in methods:
            method._check(name, conditions)
        return methods

    def _varied(self, entry: str) -> list[Method]:
        """One method for each value of what varies."""
        if not self.vary:
            return [self]
        if not isinstance(self.vary, Mapping) or len(self.vary) > 1:
            raise UserError(f"methods.{entry}.vary is {self.vary}; give one number and its values, {{scale: [1, 2]}}.")
        ((number, values),) = self.vary.items()
        owner, _, inner = number.rpartition(".")
        where = {"": self, "rule": self.rule}.get(owner)
        if not isinstance(values, list | tuple) or not values or not all(map(_is_number, values)):
            raise UserError(f"methods.{entry}.vary.{number} is {values!r}; give a list of numbers.")
        if len({f"{value:g}" for value in values}) < len(values):
            raise UserError(f"methods.{entry}.vary.{number} has a value twice, to six digits: {values}.")
        if where is None or not isinstance(getattr(where, inner, None), int | float):
            raise UserError(
                f"methods.{entry}.vary has '{number}', which is no number of it; take scale or, say, rule.delta."
            )
        try:
            changed = [replace(where, **{inner: value}) for value in values]
        except ValueError as error:
            raise UserError(f"methods.{entry}.vary.{number}: {error}.") from error
        return [
            replace(
                each if owner == "" else replace(self, rule=each),
                name=f"{self.name}/{inner}={value:g}",
                vary={},
                parameter=number,
                setting=float(value),
            )
            for value, each in zip(values, changed, strict=True)
        ]

    def _check(self, name: str, conditions: Sequence[str]) -> None:
        """Refuse what no method can be, in a sentence."""
        for site in self.sites:
            if site not in ALL_SITES and not re.fullmatch(rf"({'|'.join(BLOCK_SITES)})\.(0|[1-9]\d*)", site):
                raise UserError(
                    f"methods.{name}.sites has '{site}'; sites are {', '.join(ALL_SITES)}, down.0 for the first down "
                    "block and so on, or [] for none."
                )
        if (both := clash(self.sites)) is not None:
            raise UserError(
                f"methods.{name}.sites has {' and '.join(both)}, which unmerge the same features twice; down is hidden "
                "and residuals together."
            )
        if not isinstance(self.branch_scale, Mapping) or not isinstance(self.layer_scale, list | tuple | None):
            raise UserError(
                f"methods.{name}: branch_scale is condition: number and layer_scale a list, one for each residual."
            )
        strengths = {"scale": self.scale, **{f"branch_scale.{key}": value for key, value in self.branch_scale.items()}}
        strengths |= {f"layer_scale[{place}]": value for place, value in enumerate(self.layer_scale or ())}
        for key, value in strengths.items():
            if not _is_number(value) or not 0 <= value < math.inf:
                raise UserError(f"methods.{name}.{key} is {value}; a control strength is a number, 0 or more.")
        for key in ("control_start", "control_end", "fusion_start", "fusion_end"):
            value = getattr(self, key)
            values = value if isinstance(value, Mapping) else {"": value}
            for branch, share in values.items():
                if not _is_number(share) or not 0 <= share <= 1:
                    raise UserError(f"methods.{name}.{key} is {share}; it must be a share of the steps, from 0 to 1.")
                if branch and branch not in conditions:
                    raise UserError(f"methods.{name}.{key} has '{branch}'; there are {', '.join(conditions)}.")
        for branch in self.branch_scale:
            if branch not in conditions:
                raise UserError(f"methods.{name}.branch_scale has '{branch}'; there are {', '.join(conditions)}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Experiment:
    """What is generated and compared. Order matters only for tables and pictures."""

    name: str
    conditions: dict[str, Condition]
    methods: tuple[Method, ...]
    samples: tuple[Sample, ...]
    reference: tuple[int, ...]
    seed: int = 0
    replicates: int = 1
    baselines: Sequence[str] = ("average",)  # paired differences are to these methods

    def __post_init__(self):
        self._check_names()
        names = [method.name for method in self.methods]
        for baseline in self.baselines:
            if baseline not in names:
                raise UserError(f"baseline is '{baseline}', which is no method here; take one of {', '.join(names)}.")
        for method in self.methods:
            if method.match is not None:
                self._check_match(method)

    def _check_names(self) -> None:
        """Every row has files of its own, also where a file system knows no capitals."""
        taken: dict[str, str] = {row: f"the row '{row}'" for row in (REAL, VAE_RECONSTRUCTION, SHUFFLED, EXCHANGED)}
        for method in self.methods:
            if (other := taken.get(method.name.casefold())) is not None:
                raise UserError(f"The method '{method.name}' would write the files of {other}; rename one of them.")
            taken[method.name.casefold()] = f"the method '{method.name}'"

    def _check_match(self, method: Method) -> None:
        target = next((each for each in self.methods if each.name == method.match), None)
        if target is None or target.match is not None or not target.branches:
            fit = ", ".join(each.name for each in self.methods if each.match is None and each.branches)
            raise UserError(
                f"methods.{method.name}.match is '{method.match}'; take one with a strength of its own: {fit}."
            )

    @property
    def sources(self) -> list[int]:
        """Ids of the images that any condition is taken from, each once."""
        return sorted({image for sample in self.samples for image in sample.sources.values()})

    @cached_property
    def images(self) -> list[tuple[Sample, int]]:
        """Every image of a method: (sample, replicate), samples in order, replicates within."""
        return [(sample, replicate) for sample in self.samples for replicate in range(self.replicates)]
