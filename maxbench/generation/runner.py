"""Work list -> pictures: what a run lacks is found in the store or made, one batch at a time.

Every picture is kept by itself as soon as its batch is done, so that a killed run loses one batch. Batches have one
shape: the last is filled up, and a picture does not depend on which others are in its batch. A picture that a smaller
dtype than float32 leaves NaN or black is made once more in float32.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maxbench import images as im
from maxbench.errors import UserError
from maxbench.experiments.method import VAE_RECONSTRUCTION, Experiment, Method
from maxbench.generation.sampling import Sampling
from maxbench.generation.strength import ResidualNorms
from maxbench.generation.trace import Tracing
from maxbench.models.pipeline import Evaluations
from maxbench.progress import Outlook, Work, track
from maxbench.store.artefacts import Artefact, batches, padded
from maxbench.store.files import fingerprint
from maxbench.store.runfolder import RunFolder, image_file, source_file

RECONSTRUCTING = 1
"""Version of how a picture goes through the autoencoder and back."""

RETRIED = "retried"
"""In the record of a picture, the dtype in which it was made once more; `retried_for` is the defect it had before."""


@dataclass(frozen=True)
class Generation:
    """Makes what a run folder lacks: control inputs, then pictures, then what the rules decided.

    outlook: how long it takes, of a run that this may be a part of.
    """

    experiment: Experiment
    folder: RunFolder
    sampling: Sampling
    norms: ResidualNorms
    tracing: Tracing
    made_by: Mapping[str, Any]  # of this invocation, in the record of everything that it makes
    outlook: Outlook | None = None

    def run(self, scored: Sequence[str] = ()) -> None:
        """Have every file. scored: digests of further pictures that the run scores, see :meth:`RunFolder.refer`."""
        self.sampling.inputs.make()
        self.sampling.inputs.place()
        methods = [self.norms.matched(method) for method in self.experiment.methods]
        keys = {method.name: self.sampling.keys(method, self.experiment.images) for method in methods}
        reconstructions = self.reconstruction_keys()
        images = [("image", key) for own in keys.values() for key in own]
        needed = [*images, *(("reconstruction", key) for key in reconstructions.values())]
        self.folder.refer([*self.sampling.inputs.artefacts, *self.norms.artefacts, *needed], scored)
        self._reconstruct(reconstructions)
        self._generate(methods, keys)
        if self.tracing.samples:
            self.tracing.record(self.folder, self.sampling, self.experiment, methods)

    # --- the ends of the scale --------------------------------------------------------------------------------

    def reconstruction_keys(self) -> dict[int, str]:
        """Image -> the key of its reconstruction; of the images whose square picture is there."""
        networks = self.sampling.networks
        parts = {
            "version": RECONSTRUCTING,
            "vae": networks.base["vae"],
            "device": networks.device.type,
            "batch": self.sampling.batch_size,
            **networks.precision.of_autoencoder,
        }
        sources = self.sampling.inputs.sources
        return {image: fingerprint({**parts, "source": each.sha256}) for image, each in sources.items()}

    def _reconstruct(self, keys: Mapping[int, str]) -> None:
        size = self.sampling.batch_size

        def make(batch: list[int]) -> list[tuple[bytes, dict]]:
            pictures = self.sampling.pipeline.reconstruct(self.sampling.inputs.real(padded(batch, size)))
            return _encoded(pictures[: len(batch)], {})

        found = self.folder.ensure("reconstruction", keys, make, size, "VAE reconstructions")
        files = {source_file(VAE_RECONSTRUCTION, image): artefact for image, artefact in found.items()}
        self.folder.place(VAE_RECONSTRUCTION, files, "reconstruction")

    # --- pictures of methods ----------------------------------------------------------------------------------

    def _generate(self, methods: Sequence[Method], keys: Mapping[str, Sequence[str]]) -> None:
        """Have every picture of every method; an image is known by its place among the experiment's."""
        had: dict[str, Artefact] = {}  # by key: two methods may ask for the same picture
        work: list[tuple[Method, list[int]]] = []
        planned: set[str] = set()
        for method in methods:
            missing = []
            for place, key in enumerate(keys[method.name]):
                found = had.get(key) or self.folder.find("image", key)
                if found is not None and self.is_settled(found):
                    had[key] = found
                    self.folder.put(self._file(method, place), found)
                elif key not in planned:
                    missing.append(place)
                    planned.add(key)
            self.folder.count("image").found += len(keys[method.name]) - len(missing)
            work += [(method, batch) for batch in batches(missing, self.sampling.batch_size)]
        total = sum(len(batch) for _, batch in work)
        costs = {method.name: cost_units(self.sampling.cost(method)) for method, _ in work}
        if self.outlook is not None:
            self.outlook.begin(self.experiment.name, Work(total, sum(len(b) * costs[m.name] for m, b in work)))
        for method, batch in track(work, "generating", total, "images", lambda item: len(item[1])):
            first, begun = self.folder.count("image").made == 0, time.monotonic()
            for place, (content, details) in zip(batch, self._pictures(method, batch), strict=True):
                key, details = keys[method.name][place], {**details, "warm_up": first}
                had[key] = self.folder.keep("image", key, content, details)
                self.folder.put(self._file(method, place), had[key])
            if self.outlook is not None:
                cost = len(batch) * costs[method.name]
                self.outlook.batch(self.experiment.name, len(batch), cost, time.monotonic() - begun)
        for method in methods:
            files = {self._file(method, place): had[key] for place, key in enumerate(keys[method.name])}
            self.folder.place(f"images/{method.name}", files, "image")

    def _file(self, method: Method, place: int) -> str:
        sample, replicate = self.experiment.images[place]
        return image_file(method.name, sample.id, replicate)

    def is_settled(self, picture: Artefact) -> bool:
        """Whether nothing more can be done for a picture that was found: older versions kept defects of any dtype."""
        return not self._can_overflow or picture.details.get("defect") is None or RETRIED in picture.details

    @property
    def _can_overflow(self) -> bool:
        return self.sampling.networks.precision.dtype != torch.float32

    def _pictures(self, method: Method, batch: list[int]) -> list[tuple[bytes, dict]]:
        """A batch of pictures as PNG, each with what it cost."""
        device = self.sampling.networks.device
        images = [self.experiment.images[place] for place in padded(batch, self.sampling.batch_size)]
        samples, replicates = zip(*images, strict=True)
        try:
            evaluations = self.sampling.pipeline.cost(method.branches, method, self.sampling.sampler)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            hints = self.sampling.hints(method, samples)  # before the clock: files are no part of a method's cost
            begun = time.perf_counter()
            pictures = self.sampling.pictures(method, samples, replicates, hints).cpu()  # copying waits for the device
            seconds = time.perf_counter() - begun
        except UserError as error:
            raise UserError(f"methods.{method.name}: {error}") from error
        cost = {
            "seconds": seconds / self.sampling.batch_size,
            "unet_evaluations": evaluations.unet,
            "control_evaluations": evaluations.control,
            "control_scale": method.scale if method.branches else None,
            "peak_memory": self._peak_memory(device),
            "made_by": dict(self.made_by),
        }
        pictures = pictures[: len(batch)]
        again = self._remade(method, batch, [im.defect(each) for each in pictures]) if self._can_overflow else {}
        made = _encoded(torch.stack([again.get(place, (each,))[0] for place, each in enumerate(pictures)]), cost)
        for place, (_, seen) in again.items():
            made[place][1].update({RETRIED: "float32", "retried_for": seen})
        return made

    def _peak_memory(self, device: torch.device) -> int | None:
        """Of the batch, in bytes, without what waits in float32 for pictures to be made again."""
        return torch.cuda.max_memory_allocated(device) - self.sampling.exact_bytes if device.type == "cuda" else None

    def _remade(
        self, method: Method, batch: list[int], defects: Sequence[str | None]
    ) -> dict[int, tuple[torch.Tensor, str]]:
        """The defective pictures of a batch made in float32, by their place in it, each with the defect seen first."""
        places = [place for place, defect in enumerate(defects) if defect is not None]
        if not places:
            return {}
        images = [self.experiment.images[batch[place]] for place in padded(places, self.sampling.batch_size)]
        samples, replicates = zip(*images, strict=True)
        try:
            pictures = self.sampling.exact.pictures(method, samples, replicates).cpu()
        except UserError as error:
            raise UserError(f"methods.{method.name}, made again in float32: {error}") from error
        return {place: (picture, defects[place]) for place, picture in zip(places, pictures, strict=False)}


def cost_units(evaluations: Evaluations) -> float:
    """What a picture costs, in evaluations of the U-Net: a control is its encoder, about two fifths of its work."""
    return evaluations.unet + 0.4 * evaluations.control


def _encoded(pictures: torch.Tensor, details: Mapping[str, Any]) -> list[tuple[bytes, dict]]:
    """Pictures as PNG, each with its defect if it has one."""
    arrays = im.to_bytes(pictures)
    return [
        (im.encode_png(array), {"defect": im.defect(picture), **details})
        for array, picture in zip(arrays, pictures, strict=True)
    ]
