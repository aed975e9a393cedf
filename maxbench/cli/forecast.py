"""How long several runs will take, before any of them begins: from what is missing and how fast this machine was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from omegaconf import DictConfig

from maxbench.cli.batch import settled
from maxbench.cli.build import Run, build
from maxbench.cli.perform import planned, run_identity
from maxbench.errors import UserError
from maxbench.generation.runner import cost_units
from maxbench.models.pipeline import Evaluations
from maxbench.progress import NO_WORK, Work, duration
from maxbench.report.runs import Results, finished
from maxbench.store.stamp import environment


class Speed(NamedTuple):
    """Seconds for what costs as much as one evaluation of the U-Net, and the run that it was measured in."""

    seconds: float
    run: str


def say_hours(configs: Sequence[DictConfig]) -> None:
    """Print how many images several runs will make and how long that takes; what they share is counted once.

    A run that cannot be planned says why when its turn comes.
    """
    seen: set[tuple[str, str]] = set()
    works, jobs = [], []
    for cfg in configs:
        try:
            job = build(settled(cfg, measure=False))
            works += planned(job, run_identity(job), seen).work.values()
        except UserError:
            continue
        jobs.append(job)
    runs = "1 run" if len(jobs) == 1 else f"{len(jobs)} runs, those that are shared counted once"
    print(f"to make: {summed(works).images:,} images in {runs}", flush=True)
    if jobs and (sentence := hours(works, jobs[0])):
        print(sentence, flush=True)


def summed(works: Iterable[Work]) -> Work:
    total = NO_WORK
    for work in works:
        total = total.plus(*work)
    return total


def hours(works: Iterable[Work], job: Run) -> str:
    """How long work takes, in a sentence; empty where there is no image to make. job: a run of which it is."""
    total = summed(works)
    if not total.images:
        return ""
    speed = measured_speed(job)
    if speed is None:
        return (
            "how long that takes is not known yet, for no finished run of this suite on this machine is in "
            f"{job.output_dir}/; the first run says how long it takes after its first batches"
        )
    return f"{forecast(total, speed)}; stop it when you like, the same command goes on"


def forecast(work: Work, speed: Speed) -> str:
    """How long work takes, in a sentence."""
    return (
        f"about {duration(work.cost * speed.seconds)} of generation, at the speed of {speed.run}; scoring comes on top"
    )


def measured_speed(job: Run) -> Speed | None:
    """Of the newest finished run of the same suite, dtype and device; None where there is none."""
    for folder in sorted(finished(job.output_dir), key=lambda each: each.stat().st_mtime, reverse=True):
        try:
            results = Results(folder)
            alike = results.suite == job.suite.name and _dtype(results.config) == _dtype(job.config)
            if not alike or not _is_here(folder, job):
                continue
            seconds = seconds_each(results.metrics)
        except (UserError, KeyError, TypeError):
            continue
        if seconds is not None:
            return Speed(seconds, folder.name)
    return None


def seconds_each(metrics: pd.DataFrame) -> float | None:
    """Seconds for what costs as much as one evaluation of the U-Net, from what a run's images took."""
    table = metrics.pivot_table(index="method", columns="metric", values="value", aggfunc="first")
    names = ["seconds", "unet_evaluations", "control_evaluations"]
    if not set(names) <= set(table):
        return None
    known = table[names].dropna()
    cost = sum(cost_units(Evaluations(*row)) for row in known[names[1:]].itertuples(index=False))
    return float(known.seconds.sum() / cost) if cost else None


def _dtype(config: dict[str, Any]) -> str:
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(
        config["runtime"]["dtype"], config["runtime"]["dtype"]
    )


def _is_here(folder: Path, job: Run) -> bool:
    """Whether a run was made by a processor and a device like this machine's."""
    stamps = Results(folder).stamps
    now = environment(job.device)
    return bool(stamps) and all(stamps[-1].get(key) == now[key] for key in ("processor", "device"))
