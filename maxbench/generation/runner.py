"""Work list -> pictures: what a run lacks is found in the store or made, batch by batch, by an executor.

Every picture is kept by itself as soon as its batch is done, so that a killed run loses a few batches. Batches have one
shape: the last is filled up, and a picture does not depend on which others are in its batch. All methods make the
pictures of a batch before the next one begins, so that its maps are read, and shown to the controls, once. A picture
that a smaller dtype than float32 leaves NaN or black is made once more in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from maxbench import images as im
from maxbench.errors import UserError
from maxbench.experiments.method import VAE_RECONSTRUCTION, Experiment, Method
from maxbench.generation.executors.base import Task
from maxbench.generation.networks import Networks
from maxbench.generation.sampling import Batch, Prepared, Sampling
from maxbench.generation.strength import ResidualNorms
from maxbench.generation.trace import Tracing
from maxbench.models.pipeline import Evaluations, Pipeline, Sampler
from maxbench.models.prefix import plan_of, stops_of
from maxbench.progress import Outlook, Progress, Status, Work
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
        size, inputs = self.sampling.batch_size, self.sampling.inputs

        def make(images: list[int], keep: Callable[..., None]) -> None:
            tasks = (
                Reconstruct(im.to_bytes(inputs.real(padded(batch, size))), tuple(batch))
                for batch in batches(images, size)
            )

            def kept(task: Reconstruct, made: list[Made]) -> None:
                for image, (content, details) in zip(task.images, made, strict=True):
                    keep(image, content, details)

            self.sampling.executor.run(tasks, kept)

        found = self.folder.ensure("reconstruction", keys, make, "VAE reconstructions", self._status)
        files = {source_file(VAE_RECONSTRUCTION, image): artefact for image, artefact in found.items()}
        self.folder.place(VAE_RECONSTRUCTION, files, "reconstruction")

    def _status(self) -> Status:
        return self.sampling.executor.status

    # --- pictures of methods ----------------------------------------------------------------------------------

    def _generate(self, methods: Sequence[Method], keys: Mapping[str, Sequence[str]]) -> None:
        """Have every picture of every method; an image is known by its place among the experiment's."""
        had: dict[str, Artefact] = {}  # by key: two methods may ask for the same picture
        lacking: dict[tuple[int, ...], list[Method]] = {}  # places -> the methods that lack just these
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
            if missing:
                lacking.setdefault(tuple(missing), []).append(method)
        total = sum(len(places) * len(own) for places, own in lacking.items())
        costs = {each.name: cost_units(self.sampling.cost(each)) for own in lacking.values() for each in own}
        if self.outlook is not None:
            cost = sum(len(places) * costs[each.name] for places, own in lacking.items() for each in own)
            self.outlook.begin(self.experiment.name, Work(total, cost))
        if total:
            with Progress("generating", total, "images", status=self._status) as progress:
                begun = time.monotonic()

                def keep(task: MakePictures, made: list[Made]) -> None:
                    nonlocal begun
                    for place, (content, details) in zip(task.places, made, strict=True):
                        key = keys[task.method.name][place]
                        had[key] = self.folder.keep("image", key, content, details)
                        self.folder.put(self._file(task.method, place), had[key])
                    progress.add(task.size)
                    now = time.monotonic()
                    if self.outlook is not None:
                        cost = task.size * costs[task.method.name]
                        self.outlook.batch(self.experiment.name, task.size, cost, now - begun)
                    begun = now

                self.sampling.executor.run(self._tasks(lacking), keep)
        for method in methods:
            files = {self._file(method, place): had[key] for place, key in enumerate(keys[method.name])}
            self.folder.place(f"images/{method.name}", files, "image")

    def _tasks(self, lacking: Mapping[tuple[int, ...], Sequence[Method]]) -> Iterator[MakePictures]:
        """All methods on a batch, then on the next; a batch's maps are read once."""
        sampling = self.sampling
        for places, methods in lacking.items():
            branches = dict.fromkeys(name for method in methods for name in method.branches)
            stops = stops_of({each.name: plan_of(each, each.branches, sampling.steps) for each in methods})
            for part in batches(places, sampling.batch_size):
                filled = [self.experiment.images[place] for place in padded(part, sampling.batch_size)]
                batch = sampling.batch(*zip(*filled, strict=True), branches)
                for method in methods:
                    yield MakePictures(method, sampling.sampler, batch, tuple(part), stops[method.name])

    def _file(self, method: Method, place: int) -> str:
        sample, replicate = self.experiment.images[place]
        return image_file(method.name, sample.id, replicate)

    def is_settled(self, picture: Artefact) -> bool:
        """Whether nothing more can be done for a picture that was found: older versions kept defects of any dtype."""
        return not self._can_overflow or picture.details.get("defect") is None or RETRIED in picture.details

    @property
    def _can_overflow(self) -> bool:
        return self.sampling.networks.precision.dtype != torch.float32


Made = tuple[bytes, dict[str, Any]]
"""A picture as PNG, and how it came to be."""


@dataclass(frozen=True)
class Reconstruct(Task):
    """A batch of pictures through the autoencoder and back. images: their numbers, without those that fill it up."""

    pictures: UInt8[np.ndarray, "batch height width 3"]
    images: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.images)

    @property
    def label(self) -> str:
        return f"VAE reconstructions of the pictures {', '.join(map(str, self.images))}"

    def run(self, networks: Networks) -> Tensor:
        return networks.pipeline.reconstruct(im.from_bytes(self.pictures))[: self.size].cpu()

    def pack(self, found: Tensor) -> list[Made]:
        return _encoded(found, {})


@dataclass(frozen=True)
class MakePictures(Task):
    """One method's pictures of a batch.

    places: of its samples among the run's images, without those that fill it up. stops: the steps that other methods on
    the batch go on from.
    """

    method: Method
    sampler: Sampler
    batch: Batch
    places: tuple[int, ...]
    stops: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return len(self.places)

    @property
    def group(self) -> str:
        return self.batch.key

    @property
    def label(self) -> str:
        return f"{self.method.name} on the images {', '.join(map(str, self.places))}"

    def run(self, networks: Networks) -> list[tuple[Tensor, dict[str, Any]]]:
        """Every picture, with what it cost."""
        device, pipeline = networks.device, networks.pipeline
        try:
            evaluations = pipeline.cost(self.method.branches, self.method, self.sampler)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            warm_up = networks.is_first(f"pictures {self.method.name if networks.precision.compiled else ''}")
            prepared = networks.of_batch(
                f"{self.batch.key} {self.sampler.negative_prompt}",
                lambda: self.batch.prepared(
                    pipeline, networks.conditions, self.sampler, list(self.batch.maps), in_warm_up=warm_up
                ),
            )
            begun = time.perf_counter()
            pictures = self._pictures(networks, self.batch, pipeline, prepared).cpu()  # copying waits for the device
            seconds = time.perf_counter() - begun + prepared.cost(self.method.branches)
        except UserError as error:
            raise UserError(f"methods.{self.method.name}: {error}") from error
        cost = {
            "seconds": seconds / len(self.batch),
            "unet_evaluations": evaluations.unet,
            "control_evaluations": evaluations.control,
            "control_scale": self.method.scale if self.method.branches else None,
            "peak_memory": _peak_memory(networks),
            "made_by": dict(networks.made_by),
            "warm_up": warm_up or prepared.in_warm_up,
        }
        pictures = pictures[: self.size]
        defects = [im.defect(each) for each in pictures]
        exact = networks.precision.dtype == torch.float32
        again = {} if exact else self._remade(networks, [place for place, each in enumerate(defects) if each])
        return [
            (again[place], {**cost, RETRIED: "float32", "retried_for": defects[place]})
            if place in again
            else (picture, cost)
            for place, picture in enumerate(pictures)
        ]

    def pack(self, found: list[tuple[Tensor, dict[str, Any]]]) -> list[Made]:
        return [made for picture, details in found for made in _encoded(picture[None], details)]

    def _pictures(
        self, networks: Networks, batch: Batch, pipeline: Pipeline, prepared: Prepared | None = None
    ) -> Tensor:
        return batch.pictures(
            pipeline, networks.conditions, self.method, self.sampler, prepared, self.stops if prepared else ()
        )

    def _remade(self, networks: Networks, places: Sequence[int]) -> dict[int, Tensor]:
        """The defective pictures of the batch made in float32, by their place in it."""
        if not places:
            return {}
        batch = self.batch.take(padded(places, len(self.batch)))
        try:
            pictures = self._pictures(networks, batch, networks.exact).cpu()
        except UserError as error:
            raise UserError(f"methods.{self.method.name}, made again in float32: {error}") from error
        return dict(zip(places, pictures, strict=False))


def _peak_memory(networks: Networks) -> int | None:
    """Of the batch, in bytes, without what waits in float32 for pictures to be made again."""
    if networks.device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(networks.device) - networks.exact_bytes


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
