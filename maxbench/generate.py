"""Missing samples -> batches -> images on disk.

Work is a list of batches, cut before finished ones are skipped, so that a resumed run computes each image
in the same company as an unbroken one. Every batch is committed by itself; workers exchange nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from diffusers import ControlNetModel

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.control import Control
from maxbench.data.pairing import ImageSet, Sample
from maxbench.diagnostics import Watch, Watched, drift
from maxbench.errors import UserError
from maxbench.experiment import Experiment, Method
from maxbench.pipeline import Pipeline, Sampler
from maxbench.progress import say, track
from maxbench.runfolder import RunFolder, write_atomically
from maxbench.seeds import noise_for
from maxbench.strength import residual_norm

STRENGTHS = "strength.json"
"""Where a run keeps the mean residual norms that it has measured."""


@dataclass(frozen=True)
class Batch:
    """Files of one product that are made together: `keys` are what the files are of, one each."""

    product: str
    number: int
    keys: tuple
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


def image_file(method: str, sample: str, replicate: int) -> str:
    """Where an image of a run lies, relative to the run folder."""
    return f"images/{method}/{sample}-{replicate}.png"


def source_file(product: str, image: int) -> str:
    """Where what was made of a source image lies: `real`, `vae_round_trip`, or `conditions/<name>`."""
    return f"{product}/{image:012d}.png"


def region_file(kind: str, condition: str, sample: str) -> str:
    """Where the mask of a sample's region lies; kind is "shown" or "scored"."""
    return f"{kind}/{condition}/{sample}.png"


def cut(product: str, keys: Sequence, files: Sequence[str], size: int) -> list[Batch]:
    """Cut a product's files into batches of `size`; the last may be smaller."""
    starts = range(0, len(keys), size)
    return [
        Batch(product, number, tuple(keys[start : start + size]), tuple(files[start : start + size]))
        for number, start in enumerate(starts)
    ]


@dataclass(frozen=True)
class Calibration:
    """Scenes that no result is measured on."""

    image_set: ImageSet
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Watching:
    """What is recorded of the decisions of every rule: off unless there are samples.

    samples: the first ones of the run are generated once more under watch. maps: of how many saliency and winners are
    kept as maps. steps: at how many steps, evenly from the first to the last.
    """

    samples: int = 0
    maps: int = 4
    steps: int = 4

    def at(self, steps: int) -> list[int]:
        """Which of a sampler's steps maps are kept of."""
        count = min(self.steps, steps)
        return sorted({round(place * (steps - 1) / max(count - 1, 1)) for place in range(count)})


@dataclass
class Generation:
    """Makes what a run folder lacks. Models are loaded by `load_pipeline` when the first file is missing.

    load_annotator: condition -> the network that draws its maps, or None.
    calibration: training scenes on which strengths are measured, where methods are matched in theirs.
    watching: what is recorded of the rules' decisions.
    """

    experiment: Experiment
    folder: RunFolder
    image_set: ImageSet
    sampler: Sampler
    resolution: int
    batch_size: int
    load_pipeline: Callable[[], Pipeline]
    load_annotator: Callable[[str], Callable | None]
    device: torch.device
    calibration: Calibration | None = None
    watching: Watching = Watching()

    def __post_init__(self):
        self._pipeline: Pipeline | None = None

    @property
    def pipeline(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self.load_pipeline()
        return self._pipeline

    def run(self) -> int:
        """Make every missing file; return how many images were generated."""
        self.prepare()
        self._make("vae_round_trip", self.experiment.sources, self._round_trip, "autoencoder round trips")
        made = self._generate()
        if self.watching.samples:
            self._watch()
        return made

    def prepare(self) -> None:
        """Make what methods are given: source pictures, maps and regions."""
        sources = self.experiment.sources
        self._make("real", sources, self._read_sources, "source images")
        for name in self.experiment.conditions:
            self._make(f"conditions/{name}", sources, self._draw_maps, f"{name} maps")
        self._mark_regions()

    def _missing(self, batches: Sequence[Batch]) -> list[Batch]:
        return [
            batch for batch in batches if self.folder.finished(batch.product, batch.number, list(batch.files)) is None
        ]

    def _mark_regions(self) -> None:
        """Masks of every part of a picture in which a condition is given or scored."""
        for kind in REGIONS:
            for name in self.experiment.conditions:
                product, samples = f"{kind}/{name}", self.experiment.samples
                keys = [(sample, getattr(sample, kind)[name]) for sample in samples if name in getattr(sample, kind)]
                files = [region_file(kind, name, sample.id) for sample, _ in keys]
                for batch in self._missing(cut(product, keys, files, self.batch_size)):
                    masks = (region.mask(self.image_set, self.resolution) for _, region in batch.keys)
                    self._commit(batch, [mask.astype("uint8") * 255 for mask in masks])

    def _make(self, product: str, keys: Sequence[int], make: Callable, what: str) -> None:
        files = [source_file(product, key) for key in keys]
        missing = self._missing(cut(product, keys, files, self.batch_size))
        for batch in track(missing, what, sum(map(len, missing)), "images", len):
            make(batch)

    def _read_sources(self, batch: Batch) -> None:
        paths = [self.image_set.picture(image).path for image in batch.keys]
        self._commit(batch, im.to_bytes(im.read_images(paths, self.resolution)))

    def real(self, keys: Sequence[int]) -> torch.Tensor:
        return im.read_images([self.folder.path / source_file("real", key) for key in keys], self.resolution)

    def _draw_maps(self, batch: Batch) -> None:
        name = batch.product.removeprefix("conditions/")
        maps = self.experiment.conditions[name].draw(self.real(batch.keys), self.load_annotator(name))
        self._commit(batch, maps.numpy())

    def _round_trip(self, batch: Batch) -> None:
        pictures = self.pipeline.round_trip(self.real(batch.keys))
        self._commit(batch, im.to_bytes(pictures), [{"defect": im.defect(picture)} for picture in pictures])

    def _commit(self, batch: Batch, arrays, details: list[dict] | None = None) -> None:
        contents = [im.encode_png(array) for array in arrays]
        self.folder.commit(batch.product, batch.number, dict(zip(batch.files, contents, strict=True)), details)

    def _generate(self) -> int:
        missing: list[tuple[Method, Batch]] = []
        for method in self.experiment.methods:
            keys = self.experiment.images
            files = [image_file(method.name, sample.id, replicate) for sample, replicate in keys]
            batches = cut(f"images/{method.name}", keys, files, self.batch_size)
            missing += [(method, batch) for batch in self._missing(batches)]
        total = sum(len(batch) for _, batch in missing)
        for method, batch in track(missing, "generating", total, "images", lambda item: len(item[1])):
            self._generate_batch(method, batch)
        return total

    def _generate_batch(self, method: Method, batch: Batch) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        method = self._at_strength(method)
        begun = time.perf_counter()
        pictures = self._pictures(method, [key[0] for key in batch.keys], [key[1] for key in batch.keys])
        pictures = pictures.cpu()  # waits for the device, so that the clock tells the truth
        seconds = (time.perf_counter() - begun) / len(batch)
        cost = {
            "seconds": seconds,
            "unet_evaluations": self.sampler.steps * self.sampler.halves,
            "control_evaluations": self.pipeline.evaluations(method.branches, method, self.sampler),
            "control_scale": method.scale if method.branches else None,
            "peak_memory": (torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None),
        }
        details = [{"defect": im.defect(picture), **cost} for picture in pictures]
        self._commit(batch, im.to_bytes(pictures), details)

    def _pictures(self, method: Method, samples: Sequence[Sample], replicates: Sequence[int]) -> torch.Tensor:
        """One method's pictures for a list of samples, (B, 3, H, W) float32."""
        pipeline = self.pipeline
        text = pipeline.encode_text([sample.prompt for sample in samples])
        negative = pipeline.encode_text([self.sampler.negative_prompt]).expand(len(samples), -1, -1)
        noise, control = self.noise(samples, replicates), self.control(method, samples)
        return pipeline.decode(pipeline.denoise(noise, text, negative, control, self.sampler))

    def noise(self, samples: Sequence[Sample], replicates: Sequence[int]) -> torch.Tensor:
        """What pictures start from, the same for every method."""
        shape, seed = self.pipeline.latent_shape(self.resolution), self.experiment.seed
        pairs = zip(samples, replicates, strict=True)
        return torch.stack([noise_for(seed, sample.id, replicate, shape) for sample, replicate in pairs])

    def control(self, method: Method, samples: Sequence[Sample]) -> Control:
        """A method's branches on the maps of samples."""
        conditions = [self.experiment.conditions[name] for name in method.branches]
        hints = {each.name: each.hint(given_maps(self.folder, each, samples)) for each in conditions}
        return self.pipeline.control(hints, method)

    # --- watching -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Leave `diagnostics/<method>.csv` and `.npz` of every method."""
        samples = self.experiment.samples[: self.watching.samples]
        key = f"{len(samples)}-{self.watching.maps}-{self.watching.steps}"  # other settings are another recording
        missing = [
            (method, product, files)
            for method in self.experiment.methods
            for product in [f"diagnostics/{method.name}"]
            for files in [[f"{product}-{key}.csv", f"{product}-{key}.npz"]]
            if self.folder.finished(product, 0, files) is None
        ]
        if missing:
            nets = {name: net for name, net in self.pipeline.controls.items() if isinstance(net, ControlNetModel)}
            drifts = {name: drift(net, self.pipeline.unet) for name, net in nets.items()}
            write_atomically(self.folder.path / "diagnostics" / "drift.json", json.dumps(drifts, indent=1))
        for method, product, files in track(missing, "watching", len(missing), "methods", lambda _: 1):
            watch = self._watched(self._at_strength(method), samples)
            contents = [watch.table().to_csv(index=False).encode(), watch.packed()]
            self.folder.commit(product, 0, dict(zip(files, contents, strict=True)))

    def _watched(self, method: Method, samples: Sequence[Sample]) -> Watch:
        """One method's decisions on samples, all in one batch."""
        pipeline = self.pipeline
        scored = [region(self.folder, "scored", name, samples) for name in method.branches]
        watch = Watch(
            branches=method.branches,
            size=len(samples),
            keep=self.watching.maps,
            steps=self.watching.at(self.sampler.steps),
            regions=None if not scored or any(each is None for each in scored) else [each[:, None] for each in scored],
        )
        watched = replace(method, rule=Watched(method.rule, watch), otherwise=Watched(method.otherwise, watch))
        text = pipeline.encode_text([sample.prompt for sample in samples])
        negative = pipeline.encode_text([self.sampler.negative_prompt]).expand(len(samples), -1, -1)
        with watch.over(pipeline.unet):
            noise, control = self.noise(samples, [0] * len(samples)), self.control(watched, samples)
            pipeline.denoise(noise, text, negative, control, self.sampler)
        return watch

    # --- strength -------------------------------------------------------------------------------------------

    def _at_strength(self, method: Method) -> Method:
        """The method at the scale that makes it as strong as the one it is matched with."""
        if method.match is None:
            return method
        target = next(each for each in self.experiment.methods if each.name == method.match)
        return replace(method, scale=method.scale * self._strength(target) / self._strength(method))

    def _strength(self, method: Method) -> float:
        """A method's mean residual norm at scale 1, measured once and kept in the run folder."""
        path = self.folder.path / STRENGTHS
        try:
            known = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            known = {}
        unit = replace(method, scale=1.0, match=None, vary={}, name="")
        name = repr(unit)  # of the same fusion at several scales one measurement will do
        if name not in known:
            known[name] = self._measure(unit, method.name)
            write_atomically(path, json.dumps(known, indent=1))
        return known[name]

    def _measure(self, unit: Method, name: str) -> float:
        scenes = self._training_scenes
        samples = scenes.experiment.samples
        say(f"measuring the strength of {name} on {len(samples)} training scenes")
        shown = [list(sample.sources.values())[-1] for sample in samples]
        norms, size = [], self.batch_size
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            try:
                norm = residual_norm(
                    self.pipeline,
                    scenes.control(unit, part),
                    scenes.real(shown[start : start + size]),
                    scenes.noise(part, [0] * len(part)),
                    [sample.prompt for sample in part],
                    self.sampler,
                )
            except UserError as error:
                raise UserError(f"methods.{name} cannot be matched: {error}") from error
            norms.append(norm * len(part))
        return sum(norms) / len(samples)

    @cached_property
    def _training_scenes(self) -> Generation:
        """The same experiment on training scenes, ready to be generated from; it never is."""
        scenes = replace(
            self,
            experiment=replace(self.experiment, samples=self.calibration.samples),
            folder=RunFolder(self.folder.path / "calibration"),
            image_set=self.calibration.image_set,
        )
        scenes.prepare()
        scenes._pipeline = self.pipeline
        return scenes


REGIONS = ("shown", "scored")


def given_maps(folder: RunFolder, condition: Condition, samples: Sequence[Sample]) -> torch.Tensor:
    """The maps that samples are generated from, (B, H, W) uint8: where nothing is shown they say nothing."""
    files = [source_file(f"conditions/{condition.name}", sample.sources[condition.name]) for sample in samples]
    maps = im.read_maps([folder.path / file for file in files])
    shown = region(folder, "shown", condition.name, samples)
    return maps if shown is None else maps.masked_fill(~shown, condition.nothing)


def region(folder: RunFolder, kind: str, condition: str, samples: Sequence[Sample]) -> torch.Tensor | None:
    """The masks (B, H, W) bool of the samples' regions of a kind; None where it is the whole picture."""
    if not any(condition in getattr(sample, kind) for sample in samples):
        return None
    return im.read_maps([folder.path / region_file(kind, condition, sample.id) for sample in samples]) > 0
