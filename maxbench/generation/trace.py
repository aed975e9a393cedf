"""What the rules decided: the first samples are generated once more under a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from maxbench.data.pairing import Sample
from maxbench.experiments.method import Experiment, Method
from maxbench.generation.executors.base import Task
from maxbench.generation.inputs import EVALUATION
from maxbench.generation.networks import Networks
from maxbench.generation.recording import Trace, Traced, drift
from maxbench.generation.sampling import Batch, Sampling
from maxbench.models.libraries import diffusers
from maxbench.models.pipeline import Sampler
from maxbench.progress import Progress
from maxbench.store.artefacts import Artefact
from maxbench.store.files import fingerprint
from maxbench.store.runfolder import RunFolder

FOLDER = "diagnostics"
DRIFT = f"{FOLDER}/drift.json"
"""How far each ControlNet's copied weights have moved from the U-Net's."""
TRACING = 3
"""Version of what is recorded."""
KINDS = {"trace_table": ".csv", "trace_maps": ".npz"}
"""What is kept of a method: summaries by site and step, and maps."""


@dataclass(frozen=True)
class Tracing:
    """What is recorded of the rules' decisions: nothing unless there are samples.

    samples: the first ones of the run are generated once more under a trace. maps: of how many saliency and winners are
    kept as maps; 0 for none. steps: at how many steps, evenly from the first to the last.
    """

    samples: int = 0
    maps: int = 4
    steps: int = 4

    def record(self, folder: RunFolder, sampling: Sampling, experiment: Experiment, methods: Sequence[Method]) -> None:
        """Leave `diagnostics/<method>.csv` and `.npz` of every method, and `drift.json`."""
        samples = self.samples_of(experiment)
        keys = {method.name: self._key(sampling, method, samples) for method in methods}
        missing = [each for each in methods if not all(_find(folder, keys[each.name]))]
        folder.refer([(kind, key) for key in keys.values() for kind in KINDS])
        if missing or not (folder.path / DRIFT).exists():
            folder.write(DRIFT, json.dumps(sampling.executor.do(MeasureDrift()), indent=1))
        if missing:
            with Progress("tracing", len(missing), "methods", status=lambda: sampling.executor.status) as progress:

                def keep(task: TraceMethod, contents: tuple[bytes, bytes]) -> None:
                    for (kind, suffix), content in zip(KINDS.items(), contents, strict=True):
                        folder.keep(kind, keys[task.method.name], content, suffix=suffix)
                    progress.add()

                sampling.executor.run((self.task(sampling, method, samples) for method in missing), keep)
        for method in methods:
            for suffix, artefact in zip(KINDS.values(), _find(folder, keys[method.name]), strict=True):
                folder.put(f"{FOLDER}/{method.name}{suffix}", artefact)

    def samples_of(self, experiment: Experiment) -> tuple[Sample, ...]:
        """Those that are recorded."""
        return experiment.samples[: self.samples]

    def is_there(self, folder: RunFolder, sampling: Sampling, method: Method, samples: Sequence[Sample]) -> bool:
        """Whether a method has been recorded on samples before."""
        key = self._key(sampling, method, samples)
        return all(folder.store.peek(kind, key, suffix) is not None for kind, suffix in KINDS.items())

    def _key(self, sampling: Sampling, method: Method, samples: Sequence[Sample]) -> str:
        settings = {"version": TRACING, "maps": self.maps, "steps": self.steps}
        return fingerprint({**settings, "images": sampling.keys(method, [(sample, 0) for sample in samples])})

    def task(self, sampling: Sampling, method: Method, samples: Sequence[Sample]) -> TraceMethod:
        """One method's decisions on samples, all in one batch."""
        masks = {name: sampling.inputs.mask(EVALUATION, name, samples) for name in method.branches}
        regional = bool(masks) and all(each is not None for each in masks.values())
        return TraceMethod(
            method=method,
            sampler=sampling.sampler,
            batch=sampling.batch(samples, [0] * len(samples), method.branches),
            maps=self.maps,
            steps=tuple(steps_between(self.steps if self.maps else 0, sampling.sampler.steps)),
            regions={name: each.numpy() for name, each in masks.items()} if regional else None,
        )


@dataclass(frozen=True)
class TraceMethod(Task):
    """A method under a trace, see :class:`maxbench.generation.recording.Trace`; regions: (B, H, W) bool by branch."""

    method: Method
    sampler: Sampler
    batch: Batch
    maps: int
    steps: tuple[int, ...]
    regions: Mapping[str, np.ndarray] | None

    @property
    def label(self) -> str:
        return f"the trace of {self.method.name}"

    def run(self, networks: Networks) -> Trace:
        regions = self.regions
        trace = Trace(
            branches=self.method.branches,
            size=len(self.batch),
            keep=self.maps,
            steps=self.steps,
            regions=regions and {name: torch.from_numpy(each)[:, None] for name, each in regions.items()},
        )
        rules = {name: Traced(getattr(self.method, name), trace) for name in ("rule", "otherwise")}
        with trace.over(networks.pipeline.unet):
            self.batch.latents(networks.pipeline, networks.conditions, replace(self.method, **rules), self.sampler)
        return trace

    def pack(self, trace: Trace) -> tuple[bytes, bytes]:
        return trace.table().to_csv(index=False).encode(), trace.packed()


@dataclass(frozen=True)
class MeasureDrift(Task):
    """How far each ControlNet's copied weights have moved from the U-Net's."""

    label = "the drift of the ControlNets"

    def run(self, networks: Networks) -> dict[str, Any]:
        pipeline = networks.pipeline
        nets = {name: net for name, net in pipeline.controls.items() if isinstance(net, diffusers.ControlNetModel)}
        return {name: drift(net, pipeline.unet) for name, net in nets.items()}


def steps_between(count: int, steps: int) -> list[int]:
    """Which of a sampler's steps maps are kept of: so many, evenly from the first to the last."""
    count = min(count, steps)
    return sorted({round(place * (steps - 1) / max(count - 1, 1)) for place in range(count)})


def _find(folder: RunFolder, key: str) -> list[Artefact | None]:
    return [folder.find(kind, key, suffix) for kind, suffix in KINDS.items()]
