"""One measurement: agree, warm up, take turns, watch the parts, ask the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maxbench.bench.cases import (
    SUM,
    EndToEnd,
    Reference,
    Subject,
    by_executor,
    denoising,
    pictures,
    require_agreement,
)
from maxbench.bench.clock import ratios, take_turns, wait_for
from maxbench.bench.parts import parts_of, parts_of_reference
from maxbench.bench.rates import MatrixRate, denoising_flops, matrix_rate
from maxbench.models.pipeline import Pipeline
from maxbench.progress import track

DIFFUSERS = "diffusers"
"""What its pipeline is called among the methods."""

PICTURES, DENOISING, END_TO_END = "pictures", "denoising", "end to end"
"""What a case does: from prompts and hints to pictures in memory; the denoising of SUM alone; SUM from files to
files."""

WARM_UP, WARM_UP_COMPILED = 1, 3
"""Calls before the first turn; a compiled graph is made in the first and recorded in the next two."""

PART_REPEATS = 3


class Case(NamedTuple):
    method: str
    compiled: bool
    does: str = PICTURES

    @property
    def name(self) -> str:
        return f"{self.method}{', compiled' * self.compiled}{'' if self.does == PICTURES else f', {self.does}'}"


@dataclass(frozen=True)
class Result:
    """Everything that was measured.

    seconds: of every call, in the order of turns. count: what a call of a case makes, in pictures. parts: method ->
    part -> seconds of a batch of `size` pictures, eager. memory: bytes at the most; empty where they cannot be known.
    differences: two that were compared -> root mean square between their pictures. flops: of denoising one picture by
    SUM.
    """

    seconds: Mapping[Case, list[float]]
    count: Mapping[Case, int]
    parts: Mapping[str, Mapping[str, float]]
    memory: Mapping[Case, int]
    differences: Mapping[str, float]
    rate: MatrixRate
    flops: int
    size: int
    resolution: int

    @property
    def modes(self) -> list[bool]:
        """Eager and, where that was asked for, compiled."""
        return sorted({case.compiled for case in self.seconds})

    def per_picture(self, case: Case) -> list[float]:
        """Seconds, turn by turn."""
        return [each / self.count[case] for each in self.seconds[case]]

    def ratios(self, case: Case, to: Case) -> list[float]:
        """Of the time for a picture, turn by turn; below 1 the first is faster."""
        return ratios(self.per_picture(case), self.per_picture(to))

    def shares(self, compiled: bool) -> list[float]:
        """Of the device's matrix rate that denoising reaches, turn by turn."""
        return [self.flops / each / self.rate.most for each in self.per_picture(Case(SUM, compiled, DENOISING))]


def measure(
    subject: Subject,
    turns: int,
    folder: Path,
    end_to_end: EndToEnd = by_executor,
    reference: Callable[..., Reference] = Reference,
) -> Result:
    """Time everything. Pictures that should be the same are compared first; where they are not, a UserError.

    folder: an empty one, for the pictures that are written. end_to_end: the loop of a run that is held against
    denoising alone.
    """
    batch, device = subject.batches[0], subject.pipeline.device
    ways = {compiled: reference(net, subject.methods[SUM], subject.sampler, compiled)
            for compiled, net in _pipelines(subject)}  # fmt: skip
    calls = dict(_calls(subject, ways, end_to_end, folder))
    memory, differences = _warm_up(subject, calls)
    seconds = take_turns(calls, turns, device)
    repeats = min(turns, PART_REPEATS)
    parts = {DIFFUSERS: parts_of_reference(ways[False], batch, repeats)}
    parts |= {name: parts_of(subject, method, repeats, folder) for name, method in subject.methods.items()}
    count = {case: len(batch) * (1 if case.does == PICTURES else len(subject.batches)) for case in calls}
    return Result(
        seconds=seconds,
        count=count,
        parts=parts,
        memory=memory,
        differences=differences,
        rate=matrix_rate(subject.pipeline, subject.sampler, batch),
        flops=denoising_flops(subject.pipeline, subject.methods[SUM], subject.sampler, batch),
        size=len(batch),
        resolution=subject.resolution,
    )


def _pipelines(subject: Subject) -> list[tuple[bool, Pipeline]]:
    return [(False, subject.pipeline), *([(True, subject.compiled)] if subject.compiled is not None else [])]


def _calls(
    subject: Subject, ways: Mapping[bool, Reference], end_to_end: EndToEnd, folder: Path
) -> Iterator[tuple[Case, Callable[[], Any]]]:
    """What is timed; the two that are compared come first."""
    batch, sampler, batches = subject.batches[0], subject.sampler, subject.batches
    names = [SUM, *(name for name in subject.methods if name != SUM)]
    for compiled, net in _pipelines(subject):
        yield Case(DIFFUSERS, compiled), partial(ways[compiled], batch)
        for name in names:
            yield Case(name, compiled), partial(pictures, net, subject.methods[name], sampler, batch)
        added = subject.methods[SUM]
        yield Case(SUM, compiled, DENOISING), denoising(net, added, sampler, batches)
        yield Case(SUM, compiled, END_TO_END), partial(end_to_end, net, added, sampler, batches, folder)


def _warm_up(subject: Subject, calls: Mapping[Case, Callable[[], Any]]) -> tuple[dict[Case, int], dict[str, float]]:
    """Run everything before it is timed: memory at the most by case, and how far pictures are apart."""
    memory: dict[Case, int] = {}
    differences: dict[str, float] = {}
    made: dict[Case, Tensor] = {}
    dtype, truth = subject.pipeline.dtype, Case(DIFFUSERS, False)
    for case in track(list(calls), "warming up", len(calls), "cases"):
        net = subject.compiled if case.compiled else subject.pipeline
        with _Memory(net) as used:
            for _ in range(WARM_UP_COMPILED if case.compiled else WARM_UP):
                got = calls[case]()
        if used.bytes is not None:
            memory[case] = used.bytes
        if case.does == PICTURES and case.method in (DIFFUSERS, SUM):
            made[case] = got
            if case != truth:
                what = f"{case.name} and {truth.name}"
                differences[what] = require_agreement(got, made[truth], dtype, f"'{case.name}' and '{truth.name}'")
    return memory, differences


class _Memory:
    """Bytes that a computation takes at the most with its weights, as if nothing else were there.

    CUDA's alone: of a process's memory nobody knows which part it is for.
    """

    def __init__(self, pipeline: Pipeline):
        self.pipeline, self.bytes = pipeline, None

    def __enter__(self) -> _Memory:
        if self.pipeline.device.type == "cuda":
            wait_for(self.pipeline.device)
            torch.cuda.reset_peak_memory_stats(self.pipeline.device)
            self._before = torch.cuda.memory_allocated(self.pipeline.device)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.pipeline.device.type == "cuda":
            wait_for(self.pipeline.device)
            most = torch.cuda.max_memory_allocated(self.pipeline.device)
            self.bytes = most - self._before + self.pipeline.bytes
