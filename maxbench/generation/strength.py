"""How strongly a method acts, so that a win of strength is not taken for a win of the rule.

A sum of two controls is also twice as strong as their average. What is compared here is what a method adds to the
U-Net: the mean norm of its residuals, on noised training pictures, which are the same for every method. Residuals are
proportional to a method's scale, hence the scale at which two methods are equally strong is a ratio of two norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maxbench import images as im
from maxbench.data.pairing import ImageSet, Sample
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.generation.executors.base import Task
from maxbench.generation.networks import Networks
from maxbench.generation.sampling import Batch, Sampling
from maxbench.models.control import Control
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.models.precision import tf32
from maxbench.progress import say
from maxbench.store.artefacts import batches
from maxbench.store.files import seal
from maxbench.store.runfolder import RunFolder

MEASURING = 1
"""Version of how a residual norm is measured."""

FILE = "strength.json"
"""Where a run leaves the norms that it used, by method."""


@dataclass(frozen=True)
class Calibration:
    """Scenes that no result is measured on: strengths are measured on them, and methods tuned.

    seed: of their noise, which no picture of a result begins with either.
    """

    image_set: ImageSet
    samples: tuple[Sample, ...]
    seed: int


@dataclass(frozen=True)
class ResidualNorms:
    """The mean residual norms of a run's methods, measured once each and kept in the store.

    methods: of the run. training: the run's sampling on the calibration's scenes; None where no method is matched.
    """

    methods: Sequence[Method]
    folder: RunFolder
    training: Sampling | None
    used: dict[str, float] = field(default_factory=dict, repr=False)

    def matched(self, method: Method) -> Method:
        """The method at the scale that makes it as strong as the one it is matched with."""
        if method.match is None:
            return method
        matched = replace(method, scale=method.scale * self.of(self.target(method)) / self.of(method))
        self.folder.write(FILE, seal(self.used))
        return matched

    def target(self, method: Method) -> Method:
        """What a method is matched with."""
        return next(each for each in self.methods if each.name == method.match)

    @property
    def artefacts(self) -> list[tuple[str, str]]:
        """(kind, key) of the training scenes that were measured on."""
        return [] if self.training is None else self.training.inputs.artefacts

    def of(self, method: Method) -> float:
        """A method's mean residual norm at scale 1 on the training scenes."""
        unit, training = replace(method, scale=1.0, match=None), self.training
        if not training.inputs.sources:
            training.inputs.make()
        self.used[method.name] = self.folder.store.value("norm", self._parts(unit), lambda: self._measure(unit))
        return self.used[method.name]

    def known(self, method: Method) -> float | None:
        """The same if it has been measured before and the training inputs are there, else None."""
        unit, inputs = replace(method, scale=1.0, match=None), self.training.inputs
        if not all(
            _shown(sample) in inputs.sources and all(inputs.is_known(name, sample) for name in method.branches)
            for sample in inputs.samples
        ):
            return None
        return self.folder.store.known_value("norm", self._parts(unit))

    def _parts(self, unit: Method) -> dict[str, Any]:
        """What a norm depends on."""
        training = self.training
        samples = training.inputs.samples
        return {
            "version": MEASURING,
            "images": training.keys(unit, [(sample, 0) for sample in samples]),
            "pictures": [training.inputs.sources[_shown(sample)].sha256 for sample in samples],
        }

    def _measure(self, unit: Method) -> float:
        training, total = self.training, 0.0
        samples = training.inputs.samples
        say(f"measuring the residual norm of {unit.name} on {len(samples)} training scenes")
        norms: dict[int, float] = {}
        tasks = (
            MeasureNorm(
                unit,
                training.sampler,
                training.batch(part, [0] * len(part), unit.branches),
                im.to_bytes(training.inputs.real([_shown(sample) for sample in part])),
                number,
            )
            for number, part in enumerate(batches(samples, training.batch_size))
        )
        training.executor.run(tasks, lambda task, norm: norms.update({task.number: norm * len(task.batch)}))
        for number in sorted(norms):  # one order of adding up, in whichever they came
            total += norms[number]
        return total / len(samples)


@dataclass(frozen=True)
class MeasureNorm(Task):
    """The mean residual norm of a method on a batch. pictures: those that are noised. number: of the batch."""

    method: Method
    sampler: Sampler
    batch: Batch
    pictures: UInt8[np.ndarray, "batch height width 3"]
    number: int

    @property
    def size(self) -> int:
        return len(self.batch)

    @property
    def label(self) -> str:
        return f"the residual norm of {self.method.name} on batch {self.number}"

    def run(self, networks: Networks) -> float:
        pipeline, batch = networks.pipeline, self.batch
        try:
            return residual_norm(
                pipeline,
                batch.control(pipeline, networks.conditions, self.method),
                im.from_bytes(self.pictures),
                batch.start(pipeline.latent_shape(batch.resolution)),
                batch.prompts,
                self.sampler,
            )
        except UserError as error:
            raise UserError(f"the residual norm of '{self.method.name}' cannot be measured: {error}") from error


def _shown(sample: Sample) -> int:
    """The picture that is noised: of the last condition, which gives the scene."""
    return list(sample.sources.values())[-1]


@torch.inference_mode()
def residual_norm(
    pipeline: Pipeline,
    control: Control,
    pictures: Float[Tensor, "batch 3 H W"],
    noise: Float[Tensor, "batch channel height width"],
    prompts: Sequence[str],
    sampler: Sampler,
) -> float:
    """Mean over samples, guidance halves, the sampler's steps and residuals of the Euclidean norm of a residual.

    pictures: in [0, 1]; noised to each of the sampler's timesteps they are the latents that branches are run on.
    Steps in which no branch acts do not count. UserError where nothing is added to the U-Net.
    """
    latents = pipeline.encode(pictures)
    scheduler = pipeline.schedule(sampler)
    text = pipeline.encode_text(prompts)
    if sampler.halves == 2:
        text = torch.cat([pipeline.encode_text([sampler.negative_prompt]).expand(len(prompts), -1, -1), text])
    norms = []
    for step, timestep in enumerate(scheduler.timesteps):
        noisy = scheduler.add_noise(latents, noise.to(latents), timestep[None])
        sample = torch.cat([noisy] * sampler.halves)
        sample = scheduler.scale_model_input(sample, timestep).to(pipeline.dtype)
        with tf32(pipeline.allow_tf32):
            added = control(sample, timestep, text, step, len(scheduler.timesteps))
        norms += [each.float().flatten(1).norm(dim=1).mean() for each in _residuals(added)]
    norm = float(torch.stack(norms).mean()) if norms else 0.0
    if norm == 0:
        raise UserError("it adds nothing to the U-Net that a strength could be measured by")
    return norm


def _residuals(added: dict) -> list[Tensor]:
    mid = added.get("mid_block_additional_residual")
    return [
        *added.get("down_block_additional_residuals", ()),
        *(() if mid is None else (mid,)),
        *added.get("down_intrablock_additional_residuals", ()),
    ]
