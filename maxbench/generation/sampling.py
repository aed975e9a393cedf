"""Methods on samples: what a picture is determined by, and a batch of samples as data that a worker can be sent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maxbench.conditions.base import Condition, Images
from maxbench.data.pairing import Sample
from maxbench.experiments.method import Method
from maxbench.fusion import Fusion, Sum
from maxbench.generation.executors.base import Executor
from maxbench.generation.inputs import ControlInputs
from maxbench.models.control import Control
from maxbench.models.pipeline import Evaluations, Pipeline, Sampler, cost_of, scheduled
from maxbench.models.precision import Precision, tf32
from maxbench.models.prefix import Prefixes
from maxbench.seeds import Noise, RunNoise
from maxbench.store.files import digest, fingerprint
from maxbench.store.identity import identity

ENGINE = 1
"""Version of everything between a key and its picture: pipeline, lockstep, control, noise, PNG.

Raise it when a change of the engine changes pictures; tests/generation/test_recorded.py holds recorded pictures of
every kind of method, so that such a change does not pass unnoticed.
"""


TEXT = " text"
"""Among names of conditions, of which none begins with a space."""


@dataclass(frozen=True)
class NetworkIdentity:
    """What the networks that make pictures are; none of them is loaded.

    base: part -> digest, of all that every picture depends on. control: condition -> what its control is, as plain
    data. kind: condition -> when its control runs, see :func:`maxbench.models.control.kind_of`. scheduler: the base
    model's configuration of one. latents: the shape of one picture's. precision, device: of the computation.
    """

    base: Mapping[str, str]
    control: Callable[[str], Any]
    kind: Callable[[str], str]
    scheduler: Callable[[], dict]
    latents: Callable[[], tuple[int, int, int]]
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Batch:
    """Samples whose pictures are made together, as data.

    noise: of every picture; in a run by the run's seed, the sample's group and the replicate. maps: condition -> what
    its control sees, (B, H, W[, 3]) uint8. resolution: of the pictures, pixels a side.
    """

    prompts: tuple[str, ...]
    noise: tuple[Noise, ...]
    maps: Mapping[str, UInt8[np.ndarray, "batch height width *colours"]]
    resolution: int

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def key(self) -> str:
        """Digest of all that it says."""
        maps = {name: digest(np.ascontiguousarray(each).tobytes()) for name, each in self.maps.items()}
        return fingerprint([self.prompts, self.noise, maps, self.resolution])

    def take(self, places: Sequence[int]) -> Batch:
        """The batch of some of its samples."""
        return replace(
            self,
            prompts=tuple(self.prompts[place] for place in places),
            noise=tuple(self.noise[place] for place in places),
            maps={name: each[list(places)] for name, each in self.maps.items()},
        )

    def start(self, shape: tuple[int, int, int]) -> Float[Tensor, "batch channel height width"]:
        """What its pictures start from, the same for every method and for the samples of a group."""
        return torch.stack([each.draw(shape) for each in self.noise])

    @property
    def generators(self) -> list[torch.Generator]:
        """One for every picture, on the processor, from which a stochastic sampler draws."""
        return [each.generator() for each in self.noise]

    def hints(self, conditions: Mapping[str, Condition], branches: Sequence[str]) -> dict[str, Images]:
        """What branches are shown, (B, 3, H, W) in [0, 1] by condition."""
        return {name: conditions[name].hint(torch.from_numpy(self.maps[name])) for name in branches}

    def control(self, pipeline: Pipeline, conditions: Mapping[str, Condition], method: Method) -> Control:
        """A method's branches on its maps."""
        return pipeline.control(self.hints(conditions, method.branches), method)

    @torch.inference_mode()
    def prepared(
        self,
        pipeline: Pipeline,
        conditions: Mapping[str, Condition],
        sampler: Sampler,
        branches: Sequence[str],
        in_warm_up: bool = False,
    ) -> Prepared:
        """What every method that sees some of these branches needs of it."""
        seconds: dict[str, float] = {}
        embedded: dict[str, Tensor] = {}
        with _timed(seconds, TEXT, pipeline.device):
            text = pipeline.encode_text(self.prompts)
            negative = pipeline.encode_text([sampler.negative_prompt]).expand(len(self), -1, -1)
        hints = self.hints(conditions, branches)
        for name, hint in hints.items():
            with _timed(seconds, name, pipeline.device), tf32(pipeline.allow_tf32):
                pipeline.control({name: hint}, Fusion(Sum()), embedded).embedding(name)
        return Prepared(text, negative, hints, embedded, seconds, in_warm_up)

    def latents(
        self,
        pipeline: Pipeline,
        conditions: Mapping[str, Condition],
        method: Method,
        sampler: Sampler,
        prepared: Prepared | None = None,
        stops: Sequence[int] = (),
    ) -> Float[Tensor, "batch channel height width"]:
        """One method's pictures before they are decoded, float32.

        prepared: what is done already. stops: where other methods go on from, see :mod:`maxbench.models.prefix`.
        """
        own = prepared or self.prepared(pipeline, conditions, sampler, method.branches)
        control = pipeline.control({name: own.hints[name] for name in method.branches}, method, own.embedded)
        noise = self.start(pipeline.latent_shape(self.resolution))
        return pipeline.denoise(
            noise, own.text, own.negative, control, sampler, self.generators, own.prefixes, tuple(stops)
        )

    def pictures(
        self,
        pipeline: Pipeline,
        conditions: Mapping[str, Condition],
        method: Method,
        sampler: Sampler,
        prepared: Prepared | None = None,
        stops: Sequence[int] = (),
    ) -> Float[Tensor, "batch 3 H W"]:
        """One method's pictures, float32."""
        return pipeline.decode(self.latents(pipeline, conditions, method, sampler, prepared, stops))


@dataclass(frozen=True)
class Prepared:
    """What methods share of a batch: text states, what controls are shown, that embedded, and steps.

    seconds: what the text and each condition took, so that a method costs what it would alone. in_warm_up: whether this
    was while the process warmed up, so that no method's cost on this batch is what it would be later.
    """

    text: Tensor
    negative: Tensor
    hints: Mapping[str, Images]
    embedded: dict[str, Tensor]
    seconds: Mapping[str, float]
    in_warm_up: bool = False
    prefixes: Prefixes = field(default_factory=Prefixes)

    def cost(self, branches: Sequence[str]) -> float:
        """Seconds of all that the last method used, which has these branches, and did not compute."""
        return sum(self.seconds[name] for name in (TEXT, *branches)) + self.prefixes.spared


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[name] = time.perf_counter() - begun


@dataclass(frozen=True)
class Sampling:
    """What pictures are asked for: keys, costs and batches of samples.

    seed: of the run. batch_size: pictures computed together; smaller batches are filled up by the caller.
    """

    inputs: ControlInputs
    sampler: Sampler
    networks: NetworkIdentity
    seed: int
    batch_size: int

    @property
    def executor(self) -> Executor:
        return self.inputs.executor

    @property
    def steps(self) -> int:
        """Steps of the sampler as it counts them."""
        return len(scheduled(self.sampler, self.networks.scheduler()).timesteps)

    def cost(self, method: Method) -> Evaluations:
        """How often networks run for one picture of a method."""
        kinds = {name: self.networks.kind(name) for name in method.branches}
        return cost_of(kinds, method, self.sampler, self.networks.scheduler())

    def batch(self, samples: Sequence[Sample], replicates: Sequence[int], branches: Sequence[str]) -> Batch:
        """Samples with the maps of some conditions, read from files."""
        return Batch(
            prompts=tuple(sample.prompt for sample in samples),
            noise=tuple(
                RunNoise(self.seed, sample.group, replicate)
                for sample, replicate in zip(samples, replicates, strict=True)
            ),
            maps={name: self.inputs.condition_maps(name, samples).numpy() for name in branches},
            resolution=self.inputs.resolution,
        )

    # --- what a picture depends on ----------------------------------------------------------------------------

    def keys(self, method: Method, images: Sequence[tuple[Sample, int]]) -> list[str]:
        """The keys of a method's pictures, each of a sample and a replicate; `method` at the scale at which it runs."""
        shared = {
            **self._identity,
            "controls": {name: self.networks.control(name) for name in method.branches},
            "fusion": method.identity(),
        }
        return [
            fingerprint(
                {
                    **shared,
                    "inputs": [self.inputs.identity(name, sample) for name in method.branches],
                    "prompt": sample.prompt,
                    "noise": [self.seed, sample.group, replicate],
                }
            )
            for sample, replicate in images
        ]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What all pictures of a run share."""
        return {
            "engine": ENGINE,
            "networks": dict(self.networks.base),
            "sampler": identity(self.sampler),
            "resolution": self.inputs.resolution,
            "dtype": str(self.networks.precision.dtype),
            "device": self.networks.device.type,
            "batch": self.batch_size,
            **self.networks.precision.unusual,
        }
