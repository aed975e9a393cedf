"""Methods on samples, as tensors: the noise, the controls, the pictures; and what a picture is determined by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from maxbench.conditions.base import Images
from maxbench.data.pairing import Sample
from maxbench.experiments.method import Method
from maxbench.generation.inputs import ControlInputs
from maxbench.models.control import Control
from maxbench.models.pipeline import Evaluations, Pipeline, Sampler, cost_of
from maxbench.models.precision import Precision
from maxbench.seeds import derive, noise_for
from maxbench.store.files import fingerprint
from maxbench.store.identity import identity

ENGINE = 1
"""Version of everything between a key and its picture: pipeline, lockstep, control, noise, PNG.

Raise it when a change of the engine changes pictures; tests/generation/test_recorded.py holds recorded pictures of
every kind of method, so that such a change does not pass unnoticed.
"""


@dataclass(frozen=True)
class Networks:
    """The networks that make pictures, and what they are.

    load: all of them, computing in a precision. base: part -> digest, of all that every picture depends on. control:
    condition -> what its control is, as plain data. precision, device: of the computation.
    kind: condition -> when its control runs, see :func:`maxbench.models.control.kind_of`. scheduler: the base model's
    configuration of one. Neither loads a network.
    """

    load: Callable[[Precision], Pipeline]
    base: Mapping[str, str]
    control: Callable[[str], Any]
    kind: Callable[[str], str]
    scheduler: Callable[[], dict]
    precision: Precision
    device: torch.device


@dataclass(frozen=True)
class Sampling:
    """Generates pictures from control inputs. Models are loaded when the first picture is asked for.

    seed: of the run. batch_size: pictures computed together; smaller batches are filled up by the caller.
    """

    inputs: ControlInputs
    sampler: Sampler
    networks: Networks
    seed: int
    batch_size: int

    @cached_property
    def pipeline(self) -> Pipeline:
        return self.networks.load(self.networks.precision)

    @cached_property
    def exact(self) -> Sampling:
        """The same with networks in float32, cast up from the same files; loaded when it is first asked for a picture.

        Overflow in a smaller dtype leaves pictures that are NaN or black; these are what they should have been.
        """
        return replace(self, networks=replace(self.networks, precision=self.networks.precision.exact))

    @property
    def exact_bytes(self) -> int:
        """How much the weights in float32 take beside the others; 0 until they are loaded."""
        exact = vars(self).get("exact")
        return vars(exact)["pipeline"].bytes if exact is not None and "pipeline" in vars(exact) else 0

    def cost(self, method: Method) -> Evaluations:
        """How often networks run for one picture of a method."""
        networks = self.networks
        kinds = {name: networks.kind(name) for name in method.branches}
        return cost_of(kinds, method, self.sampler, networks.scheduler())

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

    # --- pictures ---------------------------------------------------------------------------------------------

    def noise(self, samples: Sequence[Sample], replicates: Sequence[int]) -> Float[Tensor, "batch channel h w"]:
        """What pictures start from, the same for every method and for the samples of a group."""
        shape = self.pipeline.latent_shape(self.inputs.resolution)
        pairs = zip(samples, replicates, strict=True)
        return torch.stack([noise_for(self.seed, sample.group, replicate, shape) for sample, replicate in pairs])

    def generators(self, samples: Sequence[Sample], replicates: Sequence[int]) -> list[torch.Generator]:
        """One for every picture, on the processor, from which a stochastic sampler draws."""
        return [
            torch.Generator().manual_seed(derive("sampler", self.seed, sample.group, replicate))
            for sample, replicate in zip(samples, replicates, strict=True)
        ]

    def hints(self, method: Method, samples: Sequence[Sample]) -> dict[str, Images]:
        """What a method's branches are shown, (B, 3, H, W) in [0, 1] by condition; read from files."""
        conditions = self.inputs.conditions
        return {name: conditions[name].hint(self.inputs.condition_maps(name, samples)) for name in method.branches}

    def control(self, method: Method, samples: Sequence[Sample], hints: Mapping[str, Images] | None = None) -> Control:
        """A method's branches on the maps of samples."""
        return self.pipeline.control(dict(self.hints(method, samples) if hints is None else hints), method)

    def latents(
        self,
        method: Method,
        samples: Sequence[Sample],
        replicates: Sequence[int],
        hints: Mapping[str, Images] | None = None,
    ) -> Tensor:
        """One method's pictures for a list of samples, before they are decoded; hints: if they are read already."""
        pipeline = self.pipeline
        text = pipeline.encode_text([sample.prompt for sample in samples])
        negative = pipeline.encode_text([self.sampler.negative_prompt]).expand(len(samples), -1, -1)
        noise, control = self.noise(samples, replicates), self.control(method, samples, hints)
        return pipeline.denoise(noise, text, negative, control, self.sampler, self.generators(samples, replicates))

    def pictures(
        self,
        method: Method,
        samples: Sequence[Sample],
        replicates: Sequence[int],
        hints: Mapping[str, Images] | None = None,
    ) -> Float[Tensor, "batch 3 H W"]:
        """The same as pictures, float32."""
        return self.pipeline.decode(self.latents(method, samples, replicates, hints))
