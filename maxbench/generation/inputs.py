"""What methods are given: source pictures, the maps drawn from them, and the regions in which those speak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.data.pairing import ImageSet, Sample
from maxbench.experiments.method import Experiment
from maxbench.progress import track
from maxbench.store.runfolder import RunFolder

MASKS = ("control_masks", "evaluation_masks")


@dataclass(frozen=True)
class Batch:
    """Files of one product that are made together: `keys` are what the files are of, one each."""

    product: str
    number: int
    keys: tuple
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


def cut(product: str, keys: Sequence, files: Sequence[str], size: int) -> list[Batch]:
    """Cut a product's files into batches of `size`; the last may be smaller."""
    starts = range(0, len(keys), size)
    return [
        Batch(product, number, tuple(keys[start : start + size]), tuple(files[start : start + size]))
        for number, start in enumerate(starts)
    ]


def unfinished(folder: RunFolder, batches: Sequence[Batch]) -> list[Batch]:
    """Those that the folder does not have as they were written."""
    return [batch for batch in batches if folder.finished(batch.product, batch.number, list(batch.files)) is None]


def commit(folder: RunFolder, batch: Batch, arrays: Sequence, details: list[dict] | None = None) -> None:
    """Write a batch of pictures or maps, uint8."""
    contents = [im.encode_png(array) for array in arrays]
    folder.commit(batch.product, batch.number, dict(zip(batch.files, contents, strict=True)), details)


def source_file(product: str, image: int) -> str:
    """Where what was made of a source image lies: `real`, `vae_reconstruction`, or `conditions/<name>`."""
    return f"{product}/{image:012d}.png"


def region_file(kind: str, condition: str, sample: str) -> str:
    """Where the mask of a sample's region lies; kind is one of MASKS."""
    return f"{kind}/{condition}/{sample}.png"


@dataclass(frozen=True)
class ControlInputs:
    """The pictures and maps of an experiment in a run folder.

    load_annotator: condition -> the network that draws its maps, or None.
    """

    experiment: Experiment
    folder: RunFolder
    image_set: ImageSet
    resolution: int
    batch_size: int
    load_annotator: Callable[[str], Callable | None]

    def make(self) -> None:
        """Make whatever the folder lacks."""
        sources = self.experiment.sources
        self.make_of_sources("real", sources, self._read, "source images")
        for name in self.experiment.conditions:
            self.make_of_sources(f"conditions/{name}", sources, self._draw, f"{name} maps")
        for kind in MASKS:
            for name in self.experiment.conditions:
                self._mark(kind, name)

    def make_of_sources(self, product: str, sources: Sequence[int], make: Callable[[Batch], None], what: str) -> None:
        """One file for every source image."""
        files = [source_file(product, image) for image in sources]
        missing = unfinished(self.folder, cut(product, sources, files, self.batch_size))
        for batch in track(missing, what, sum(map(len, missing)), "images", len):
            make(batch)

    def real(self, sources: Sequence[int]) -> torch.Tensor:
        """Source pictures as squares, (B, 3, S, S)."""
        return im.read_images([self.folder.path / source_file("real", image) for image in sources], self.resolution)

    def _read(self, batch: Batch) -> None:
        paths = [self.image_set.picture(image).path for image in batch.keys]
        commit(self.folder, batch, im.to_bytes(im.read_images(paths, self.resolution)))

    def _draw(self, batch: Batch) -> None:
        name = batch.product.removeprefix("conditions/")
        maps = self.experiment.conditions[name].draw(self.real(batch.keys), self.load_annotator(name))
        commit(self.folder, batch, maps.numpy())

    def _mark(self, kind: str, condition: str) -> None:
        """Masks of the parts of pictures in which a condition is shown or scored."""
        regions = [(sample.id, getattr(sample, kind).get(condition)) for sample in self.experiment.samples]
        regions = [(sample, region) for sample, region in regions if region is not None]
        files = [region_file(kind, condition, sample) for sample, _ in regions]
        for batch in unfinished(self.folder, cut(f"{kind}/{condition}", regions, files, self.batch_size)):
            masks = (region.mask(self.image_set, self.resolution) for _, region in batch.keys)
            commit(self.folder, batch, [mask.astype("uint8") * 255 for mask in masks])


def condition_maps(folder: RunFolder, condition: Condition, samples: Sequence[Sample]) -> torch.Tensor:
    """The maps that samples are generated from, (B, H, W) uint8: where nothing is shown they say nothing."""
    files = [source_file(f"conditions/{condition.name}", sample.sources[condition.name]) for sample in samples]
    maps = im.read_maps([folder.path / file for file in files])
    shown = region(folder, "control_masks", condition.name, samples)
    return maps if shown is None else maps.masked_fill(~shown, condition.null_value)


def region(folder: RunFolder, kind: str, condition: str, samples: Sequence[Sample]) -> torch.Tensor | None:
    """The masks (B, H, W) bool of the samples' regions of a kind; None where it is the whole picture."""
    if not any(condition in getattr(sample, kind) for sample in samples):
        return None
    return im.read_maps([folder.path / region_file(kind, condition, sample.id) for sample in samples]) > 0
