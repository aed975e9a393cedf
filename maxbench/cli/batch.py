"""`runtime.batch_size: auto`: the largest batch that fits the device, found once and kept in the store."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from maxbench.cli.assemble import make_executor
from maxbench.cli.build import Run, build
from maxbench.generation.fitting import FITTING, MOST, FitBatch, described
from maxbench.progress import say
from maxbench.store.artefacts import Store
from maxbench.store.identity import identity

AUTO = "auto"
USUAL = 8
"""On a processor, whose memory is large and which gains nothing from larger batches; and until one has been found."""


def settled(cfg: DictConfig, measure: bool = True) -> DictConfig:
    """The configuration with a number for the batch size: the same for all methods, and part of every picture's key.

    measure: whether it may be found now, which loads the networks; without it the usual one stands in, with a note.
    """
    if OmegaConf.select(cfg, "runtime.batch_size") != AUTO:
        return cfg
    job = build(_with(cfg, USUAL))
    if job.device.type != "cuda":
        return _with(cfg, USUAL)
    store, parts = Store(job.store_dir), _parts(job)
    found = store.known_value("batch", parts)
    if found is None and not measure:
        say(f"note: runtime.batch_size=auto is not known here yet; this is said of {USUAL}")
        return _with(cfg, USUAL)
    if found is None:
        say("looking for the largest batch that fits")
        found = Store.open(job.store_dir).value("batch", parts, lambda: _measure(job))
    say(f"runtime.batch_size=auto is {found} on {parts['device']['name']}")
    return _with(cfg, found)


def _with(cfg: DictConfig, count: int) -> DictConfig:
    return OmegaConf.merge(cfg, {"runtime": {"batch_size": count}})


def _parts(job: Run) -> dict[str, Any]:
    """What it depends on."""
    return {
        "version": FITTING,
        "device": described(job.device),
        "weights": dict(job.weights),
        "dtype": job.precision.name,
        "precision": job.precision.unusual,
        "resolution": job.suite.resolution,
        "guided": job.sampler.halves,
        "methods": [identity(method.rule) for method in _largest(job)],
        "branches": [list(method.branches) for method in _largest(job)],
    }


def _largest(job: Run) -> list:
    """The method with the most branches, the first of those with a rule that unmerges: what takes the most memory."""
    methods = sorted(job.experiment.methods, key=lambda each: (-len(each.branches), -len(each.sites)))
    return methods[:1]


def _measure(job: Run) -> int:
    side = job.suite.resolution
    method = replace(_largest(job)[0], match=None)
    maps = {
        name: np.full((side, side), condition.null_value, np.uint8)
        if condition.is_spatial
        else np.zeros((side, side, 3), np.uint8)
        for name, condition in job.experiment.conditions.items()
        if name in method.branches
    }
    plain = replace(job.precision, compiled=False)  # a graph for every size would take minutes, and memory
    with contextlib.closing(make_executor(replace(job, batch_size=MOST, precision=plain))) as executor:
        return executor.do(FitBatch(method, job.sampler, maps, side))
