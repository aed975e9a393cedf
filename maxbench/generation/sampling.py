"""Methods on samples, as tensors: the noise, the controls, the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from maxbench.models.control import Control
from maxbench.data.pairing import Sample
from maxbench.experiments.method import Method
from maxbench.generation.inputs import ControlInputs, condition_maps
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.seeds import noise_for


@dataclass(frozen=True)
class Sampling:
    """Generates from what is given. Models are loaded by `load_pipeline` when the first one is asked for."""

    given: ControlInputs
    sampler: Sampler
    load_pipeline: Callable[[], Pipeline]

    @cached_property
    def pipeline(self) -> Pipeline:
        return self.load_pipeline()

    def noise(self, samples: Sequence[Sample], replicates: Sequence[int]) -> Float[Tensor, "batch channel h w"]:
        """What pictures start from, the same for every method."""
        shape, seed = self.pipeline.latent_shape(self.given.resolution), self.given.experiment.seed
        pairs = zip(samples, replicates, strict=True)
        return torch.stack([noise_for(seed, sample.id, replicate, shape) for sample, replicate in pairs])

    def control(self, method: Method, samples: Sequence[Sample]) -> Control:
        """A method's branches on the maps of samples."""
        conditions = [self.given.experiment.conditions[name] for name in method.branches]
        hints = {each.name: each.hint(condition_maps(self.given.folder, each, samples)) for each in conditions}
        return self.pipeline.control(hints, method)

    def latents(self, method: Method, samples: Sequence[Sample], replicates: Sequence[int]) -> Tensor:
        """One method's pictures for a list of samples, before they are decoded."""
        pipeline = self.pipeline
        text = pipeline.encode_text([sample.prompt for sample in samples])
        negative = pipeline.encode_text([self.sampler.negative_prompt]).expand(len(samples), -1, -1)
        noise, control = self.noise(samples, replicates), self.control(method, samples)
        return pipeline.denoise(noise, text, negative, control, self.sampler)

    def pictures(
        self, method: Method, samples: Sequence[Sample], replicates: Sequence[int]
    ) -> Float[Tensor, "batch 3 H W"]:
        """The same as pictures, float32."""
        return self.pipeline.decode(self.latents(method, samples, replicates))
