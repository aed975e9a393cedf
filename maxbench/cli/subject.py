"""What the verb `bench` measures: a suite's networks on an experiment's pictures, or random ones on noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from maxbench.bench.cases import SUM, Batch, Subject, draw_maps, require_comparable, write_maps
from maxbench.bench.shapes import Shapes, pipeline
from maxbench.cli.batch import AUTO, settled
from maxbench.cli.batch import USUAL as USUAL_BATCH
from maxbench.cli.build import build
from maxbench.configuration.component import SAMPLER, component
from maxbench.configuration.objects import make_method, pick_device
from maxbench.configuration.schema import check, nearest
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.models.control import SPATIAL
from maxbench.models.pipeline import Pipeline
from maxbench.models.precision import DTYPES, Precision

USUAL = (SUM, "maxfusion", "maxfusion_published", "average", "none")
"""Methods that are timed where none are named, of those that the experiment has."""

BATCHES = 3
"""Batches that are made from files to files: some work of one may be done while the next denoises."""


def subject_of(cfg: DictConfig, names: Sequence[str] | None, compiled: bool, folder: Path) -> Subject:
    """A suite's own networks, on the first pictures of the experiment; masks are left out."""
    job = build(settled(cfg))
    suite, conditions = job.suite, job.experiment.conditions
    methods = chosen(job.experiment.methods, names)
    require_comparable(methods, suite.branch_kind)
    ways = _loaded(
        lambda dtype: suite.pipeline(list(conditions), job.device, dtype),
        job.precision, compiled, job.batch_size, suite.resolution,
    )  # fmt: skip
    annotators = {name: suite.annotator(name, job.device) for name in conditions}

    def batch(number: int) -> Batch:
        places = range(number * job.batch_size, (number + 1) * job.batch_size)
        samples = [job.experiment.samples[place % len(job.experiment.samples)] for place in places]
        maps = {}
        for name, condition in conditions.items():
            sources = [job.image_set.picture(sample.sources[name]).path for sample in samples]
            place = folder / "maps" / f"{number}-{name}"
            maps[name] = draw_maps(condition, annotators[name], sources, suite.resolution, place)
        show = {name: condition.hint for name, condition in conditions.items()}
        shape = ways[0].latent_shape(suite.resolution)
        return Batch([sample.prompt for sample in samples], shape, maps, show, number)

    return Subject(ways[0], methods, job.sampler, [batch(number) for number in range(BATCHES)], *ways[1:])


def random_subject(
    config: Mapping[str, Any], names: Sequence[str] | None, compiled: bool, folder: Path, shapes: Shapes
) -> Subject:
    """Random weights on random maps: what takes as long, and needs neither weights nor pictures."""
    conditions, runtime = list(config["conditions"]), check(dict(config)).runtime
    entries = [make_method(entry, f"methods.{name}").expand(name, conditions)
               for name, entry in config["methods"].items()]  # fmt: skip
    methods = chosen([method for entry in entries for method in entry], names)
    require_comparable(methods, lambda name: SPATIAL)
    size, resolution = USUAL_BATCH if runtime.batch_size == AUTO else runtime.batch_size, config["suite"]["resolution"]
    device = pick_device(runtime.device)
    precision = Precision(
        DTYPES[runtime.dtype], runtime.tf32, runtime.channels_last, runtime.vae_slices, runtime.vae_tiling
    )
    ways = _loaded(
        lambda dtype: pipeline(shapes, dict.fromkeys(conditions, "controlnet"), device, dtype),
        precision, compiled, size, resolution,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def batch(number: int) -> Batch:
        drawn = {name: torch.randint(256, (size, resolution, resolution), generator=generator) for name in conditions}
        maps = {
            name: write_maps(each.to(torch.uint8), folder / "maps" / f"{number}-{name}") for name, each in drawn.items()
        }
        shape = ways[0].latent_shape(resolution)
        return Batch(["a red sphere on grass"] * size, shape, maps, dict.fromkeys(conditions, _grey), number)

    sampler = component(config["sampler"], "sampler", SAMPLER)
    return Subject(ways[0], methods, sampler, [batch(number) for number in range(BATCHES)], *ways[1:])


def chosen(methods: Sequence[Method], names: Sequence[str] | None) -> dict[str, Method]:
    """The methods to time, SUM always among them; those of USUAL where none are named."""
    known = {method.name: method for method in methods}
    wanted = [name for name in USUAL if name in known] if names is None else list(dict.fromkeys([SUM, *names]))
    for name in wanted:
        if name not in known:
            raise UserError(f"The experiment has no method '{name}'; {nearest(name, known)}")
        if known[name].tune or known[name].match is not None:
            raise UserError(
                f"'{name}' has no settings before a run has found them; time '{SUM}' or what it is like in its place."
            )
    return {name: known[name] for name in wanted}


def _loaded(
    load: Callable[[torch.dtype], Pipeline], precision: Precision, compiled: bool, batch: int, resolution: int
) -> list[Pipeline]:
    """The networks computing eagerly and, if asked for, once more compiled: each has weights of its own."""
    ways = [replace(precision, compiled=False), *([replace(precision, compiled=True)] if compiled else [])]
    return [load(each.dtype).computing(each, batch, resolution) for each in ways]


def _grey(maps: Tensor) -> Tensor:
    """Levels as most controls are shown them."""
    return (maps[:, None].float() / 255).expand(-1, 3, -1, -1)
