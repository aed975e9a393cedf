"""The largest batch that fits a device, for `runtime.batch_size: auto`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from maxbench.experiments.method import Method
from maxbench.generation.executors.base import Task
from maxbench.generation.networks import Networks
from maxbench.generation.sampling import Batch
from maxbench.models.pipeline import Sampler
from maxbench.seeds import RunNoise

FITTING = 2
"""Version of how it is found."""

MOST = 128
SHARE = 0.8
"""Of the device's memory that a batch may take: annotators and scorers are loaded beside the generator, and a batch of
exact pictures may be, and what is cut into pieces of other sizes cannot be used up."""


@dataclass(frozen=True)
class FitBatch(Task):
    """Tries one step of a method on batches of 1, 2, 4, ... pictures, as long as they fit.

    maps: condition -> one map (H, W[, 3]) uint8, of which every picture of the batch gets a copy.
    """

    method: Method
    sampler: Sampler
    maps: Mapping[str, UInt8[np.ndarray, "height width *colours"]]
    resolution: int

    label = "the largest batch that fits"

    def run(self, networks: Networks) -> int:
        device, pipeline = networks.device, networks.pipeline
        total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
        sampler = replace(self.sampler, steps=min(self.sampler.steps, 2))

        def fits(count: int) -> bool:
            try:
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats(device)
                pipeline.slice_autoencoder(networks.precision, count, self.resolution)  # as a run of such batches
                self._batch(count).pictures(pipeline, networks.conditions, self.method, sampler).cpu()
                return device.type != "cuda" or torch.cuda.max_memory_reserved(device) <= SHARE * total
            except torch.OutOfMemoryError:
                return False
            finally:
                gc.collect()

        try:
            return largest(fits)
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _batch(self, count: int) -> Batch:
        return Batch(
            prompts=("",) * count,
            noise=tuple(RunNoise(0, f"fitting-{place}") for place in range(count)),
            maps={name: np.stack([each] * count) for name, each in self.maps.items()},
            resolution=self.resolution,
        )


def largest(fits: Callable[[int], bool]) -> int:
    """The largest power of two up to MOST that fits, as do all smaller ones; 1 is not tried."""
    found = 1
    while found < MOST and fits(2 * found):
        found *= 2
    return found


def described(device: torch.device) -> dict[str, Any]:
    """The device that a batch was found for, as plain data."""
    said = torch.cuda.get_device_properties(device)
    return {"name": said.name, "memory": said.total_memory}
