"""An experiment as data: methods x samples, on the same noise, prompts and conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from maxbench.conditions.base import Condition
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.fusion import Rule
from maxbench.lockstep import ALL_SITES, SITES

EACH, PAIRS = "each", "pairs"
REFERENCE_ROWS = ("real", "vae_round_trip")
"""Rows of pictures that no method made: the samples' own images, as they are and through the autoencoder."""


@dataclass(frozen=True)
class Method:
    """A fusion rule, the sites where it acts, the branches it sees and their scale; nothing else.

    branches: condition names; None for all of the experiment's; "each" makes one method per condition, each
        with that branch alone, and "pairs" one per pair of conditions; [] for no control.
    scale: control strength, a factor on the merged residuals.
    """

    rule: Rule
    name: str = ""
    sites: Sequence[str] = SITES
    branches: Sequence[str] | str | None = None
    scale: float = 1.0

    def expand(self, name: str, conditions: Sequence[str]) -> list[Method]:
        """The methods that an entry `name` of an experiment stands for."""
        if isinstance(self.sites, str) or (isinstance(self.branches, str) and self.branches not in (EACH, PAIRS)):
            raise UserError(f"methods.{name}: sites and branches are lists; write [{self.branches or self.sites}].")
        for site in self.sites:
            if site not in ALL_SITES:
                raise UserError(f"methods.{name}.sites has '{site}'; sites are {', '.join(ALL_SITES)}, or [] for none.")
        if not isinstance(self.scale, int | float) or not 0 <= self.scale < math.inf:
            raise UserError(f"methods.{name}.scale is {self.scale}; a control strength is a number, 0 or more.")
        if self.branches == EACH:
            return [replace(self, name=f"{name}/{each}", branches=(each,)) for each in conditions]
        if self.branches == PAIRS:
            pairs = combinations(conditions, 2)
            return [replace(self, name=f"{name}/{'+'.join(pair)}", branches=pair) for pair in pairs]
        branches = tuple(conditions if self.branches is None else self.branches)
        for branch in branches:
            if branch not in conditions:
                raise UserError(f"methods.{name}.branches has '{branch}'; this experiment has {', '.join(conditions)}.")
        return [replace(self, name=name, sites=tuple(self.sites), branches=branches)]


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
    baseline: str = "average"  # paired differences are to this method

    def __post_init__(self):
        if self.baseline not in {method.name for method in self.methods}:
            names = ", ".join(method.name for method in self.methods)
            raise UserError(f"baseline is '{self.baseline}', which is no method here; take one of {names}.")

    @property
    def sources(self) -> list[int]:
        """Ids of the images that any condition is taken from, each once."""
        return sorted({image for sample in self.samples for image in sample.sources.values()})

    @property
    def images(self) -> list[tuple[Sample, int]]:
        """Every image of a method: (sample, replicate), samples in order, replicates within."""
        return [(sample, replicate) for sample in self.samples for replicate in range(self.replicates)]
