"""How strongly a method acts, so that a win of strength is not taken for a win of the rule.

A sum of two controls is also twice as strong as their average. What is compared here is what a method adds to the
U-Net: the mean norm of its residuals, on noised training pictures, which are the same for every method. Residuals are
proportional to a method's scale, hence the scale at which two methods are equally strong is a ratio of two norms.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from maxbench.models.control import Control
from maxbench.data.pairing import ImageSet, Sample
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.progress import say
from maxbench.store.runfolder import RunFolder, write_atomically
from maxbench.generation.sampling import Sampling

FILE = "strength.json"
"""Where a run keeps the norms that it has measured, by what was measured."""


@dataclass(frozen=True)
class Calibration:
    """Scenes that no result is measured on."""

    image_set: ImageSet
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Strengths:
    """The strengths of a run's methods, measured once each and kept in its folder.

    sampling: the run's. calibration: training scenes; None where no method is matched with another.
    """

    sampling: Sampling
    calibration: Calibration | None

    def matched(self, method: Method) -> Method:
        """The method at the scale that makes it as strong as the one it is matched with."""
        if method.match is None:
            return method
        target = next(each for each in self.sampling.given.experiment.methods if each.name == method.match)
        return replace(method, scale=method.scale * self.of(target) / self.of(method))

    def of(self, method: Method) -> float:
        """A method's mean residual norm at scale 1 on the training scenes."""
        unit = replace(method, scale=1.0, match=None, vary={}, name="")
        what = repr(unit)  # of the same fusion at several scales one measurement will do
        if what not in self._known:
            self._known[what] = self._measure(unit, method.name)
            write_atomically(self._folder / FILE, json.dumps(self._known, indent=1))
        return self._known[what]

    @cached_property
    def _known(self) -> dict[str, float]:
        """What the run has measured before."""
        try:
            return json.loads((self._folder / FILE).read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    @property
    def _folder(self) -> Path:
        return self.sampling.given.folder.path

    @cached_property
    def _training(self) -> Sampling:
        """The same experiment on training scenes."""
        given = replace(
            self.sampling.given,
            experiment=replace(self.sampling.given.experiment, samples=self.calibration.samples),
            folder=RunFolder(self._folder / "calibration"),
            image_set=self.calibration.image_set,
        )
        given.make()
        return replace(self.sampling, given=given, load_pipeline=lambda: self.sampling.pipeline)

    def _measure(self, unit: Method, name: str) -> float:
        training = self._training
        samples, size = training.given.experiment.samples, training.given.batch_size
        say(f"measuring the strength of {name} on {len(samples)} training scenes")
        total = 0.0
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            shown = [list(sample.sources.values())[-1] for sample in part]
            try:
                norm = residual_norm(
                    training.pipeline,
                    training.control(unit, part),
                    training.given.real(shown),
                    training.noise(part, [0] * len(part)),
                    [sample.prompt for sample in part],
                    training.sampler,
                )
            except UserError as error:
                raise UserError(f"the strength of '{name}' cannot be measured: {error}") from error
            total += norm * len(part)
        return total / len(samples)


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
