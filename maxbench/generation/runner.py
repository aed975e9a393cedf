"""Missing samples -> batches -> images on disk.

Work is a list of batches, cut before finished ones are skipped, so that a resumed run computes each image
in the same company as an unbroken one. Every batch is committed by itself; workers exchange nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from maxbench import images as im
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.generation.inputs import Batch, commit, cut, unfinished
from maxbench.progress import track
from maxbench.generation.sampling import Sampling
from maxbench.generation.strength import Strengths
from maxbench.generation.trace import Watching


def image_file(method: str, sample: str, replicate: int) -> str:
    """Where an image of a run lies, relative to the run folder."""
    return f"images/{method}/{sample}-{replicate}.png"


@dataclass(frozen=True)
class Generation:
    """Makes what a run folder lacks: what methods are given, then their images, then what their rules decided."""

    sampling: Sampling
    strengths: Strengths
    watching: Watching
    device: torch.device

    def run(self) -> int:
        """Make every missing file; return how many images were generated."""
        given, methods = self.sampling.given, self.sampling.given.experiment.methods
        given.make()
        given.make_of_sources("vae_reconstruction", given.experiment.sources, self._round_trip, "VAE reconstructions")
        missing = [(method, batch) for method in methods for batch in self._missing(method)]
        total = sum(len(batch) for _, batch in missing)
        for method, batch in track(missing, "generating", total, "images", lambda item: len(item[1])):
            try:
                self._generate(method, batch)
            except UserError as error:
                raise UserError(f"methods.{method.name}: {error}") from error
        if self.watching.samples:
            self.watching.record(self.sampling, [self.strengths.matched(method) for method in methods])
        return total

    def _missing(self, method: Method) -> list[Batch]:
        given = self.sampling.given
        keys = given.experiment.images
        files = [image_file(method.name, sample.id, replicate) for sample, replicate in keys]
        return unfinished(given.folder, cut(f"images/{method.name}", keys, files, given.batch_size))

    def _round_trip(self, batch: Batch) -> None:
        pictures = self.sampling.pipeline.reconstruct(self.sampling.given.real(batch.keys))
        details = [{"defect": im.defect(picture)} for picture in pictures]
        commit(self.sampling.given.folder, batch, im.to_bytes(pictures), details)

    def _generate(self, method: Method, batch: Batch) -> None:
        method = self.strengths.matched(method)
        evaluations = self.sampling.pipeline.cost(method.branches, method, self.sampling.sampler)
        samples, replicates = zip(*batch.keys, strict=True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        pictures = self.sampling.pictures(method, samples, replicates).cpu()  # waits, so that the clock tells the truth
        seconds = (time.perf_counter() - begun) / len(batch)
        cost = {
            "seconds": seconds,
            "unet_evaluations": evaluations.unet,
            "control_evaluations": evaluations.control,
            "control_scale": method.scale if method.branches else None,
            "peak_memory": torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None,
        }
        details = [{"defect": im.defect(picture), **cost} for picture in pictures]
        commit(self.sampling.given.folder, batch, im.to_bytes(pictures), details)
