"""Control inputs: source pictures, the maps drawn from them, and masks of where those are a control or are scored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.data.pairing import ImageSet, Sample
from maxbench.data.regions import Region
from maxbench.generation.executors.base import Executor, Task
from maxbench.generation.networks import Networks
from maxbench.store.artefacts import Artefact, batches, padded
from maxbench.store.files import file_digest, fingerprint
from maxbench.store.identity import identity
from maxbench.store.runfolder import RunFolder, mask_file, source_file

READING = 1
"""Version of how a source file becomes a square picture, and a region a mask."""

DRAWING = 1
"""Version of how maps are drawn, apart from the conditions' own versions."""

CONTROL, EVALUATION = "control_masks", "evaluation_masks"


@dataclass(frozen=True)
class Annotators:
    """What the networks are that draw maps; none of them is loaded.

    identity: condition -> what its network is, as plain data; None where arithmetic draws. device: the kind of device
    that they run on.
    """

    identity: Callable[[str], Any]
    device: str


@dataclass(frozen=True)
class ControlInputs:
    """The pictures, maps and masks of samples.

    folder: where artefacts are found and kept. resolution: pixels a side. batch_size: of the annotators.
    executor: what does the work of a run, here and in everything that is made of these inputs.
    """

    conditions: Mapping[str, Condition]
    samples: Sequence[Sample]
    folder: RunFolder
    image_set: ImageSet
    resolution: int
    batch_size: int
    annotators: Annotators
    executor: Executor
    sources: dict[int, Artefact] = field(default_factory=dict, repr=False)  # by image id
    maps: dict[tuple[str, int], Artefact] = field(default_factory=dict, repr=False)  # by condition and image id
    masks: dict[tuple[str, str, str], Artefact] = field(default_factory=dict, repr=False)  # by kind, condition, sample

    def make(self, drawn: Collection[str] | None = None) -> None:
        """Have everything: from the store, else made now. drawn: conditions of which maps are had; None for all."""
        keys = self.source_keys()
        self.sources.update(self.folder.ensure("source", keys, self._read, "source images"))
        for name in self.conditions if drawn is None else drawn:
            self._make_maps(name)
        for kind in (CONTROL, EVALUATION):
            self._make_masks(kind)

    def place(self) -> None:
        """Let the run folder hold them."""
        sources = {source_file("real", image): each for image, each in self.sources.items()}
        self.folder.place("real", sources, "source")
        for name in self.conditions:
            maps = {source_file(f"conditions/{name}", at): each for (of, at), each in self.maps.items() if of == name}
            self.folder.place(f"conditions/{name}", maps, "map")
        for kind in (CONTROL, EVALUATION):
            for name in self.conditions:
                masks = {
                    mask_file(kind, name, sample): each
                    for (of, condition, sample), each in self.masks.items()
                    if (of, condition) == (kind, name)
                }
                if masks:
                    self.folder.place(f"{kind}/{name}", masks, "mask")

    @cached_property
    def identities(self) -> dict[str, Any]:
        """What every condition is, as plain data."""
        return {name: identity(condition) for name, condition in self.conditions.items()}

    @property
    def artefacts(self) -> list[tuple[str, str]]:
        """(kind, key) of all of them."""
        groups = {"source": self.sources, "map": self.maps, "mask": self.masks}
        return [(kind, each.key) for kind, group in groups.items() for each in group.values()]

    # --- as tensors -------------------------------------------------------------------------------------------

    def real(self, images: Sequence[int]) -> torch.Tensor:
        """Source pictures as squares, (B, 3, S, S) in [0, 1]."""
        return im.read_images([self.sources[image].path for image in images], self.resolution)

    def condition_maps(self, condition: str, samples: Sequence[Sample]) -> torch.Tensor:
        """The maps of samples, (B, H, W) uint8: where a map is no control it has the condition's null value."""
        maps = im.read_maps([self.maps[condition, sample.sources[condition]].path for sample in samples])
        mask = self.mask(CONTROL, condition, samples)
        return maps if mask is None else maps.masked_fill(~mask, self.conditions[condition].null_value)

    def mask(self, kind: str, condition: str, samples: Sequence[Sample]) -> torch.Tensor | None:
        """The masks (B, H, W) bool of samples; None where they are the whole picture."""
        paths = [self.masks.get((kind, condition, sample.id)) for sample in samples]
        if all(each is None for each in paths):
            return None
        return im.read_maps([each.path for each in paths]) > 0

    def identity(self, condition: str, sample: Sample) -> dict[str, Any]:
        """What a sample's control input is, for the keys of what depends on it."""
        mask = self.masks.get((CONTROL, condition, sample.id))
        return {
            "condition": self.identities[condition],
            "map": self.maps[condition, sample.sources[condition]].sha256,
            "mask": None if mask is None else mask.sha256,
        }

    # --- keys -------------------------------------------------------------------------------------------------

    def source_keys(self) -> dict[int, str]:
        """Image -> the key of its square picture."""
        images = sorted({image for sample in self.samples for image in sample.sources.values()})
        return {image: source_key(self.image_set, image, self.resolution) for image in images}

    def map_keys(self, name: str) -> dict[int, str]:
        """Image -> the key of a condition's map; of the images whose square picture is there."""
        network = self.annotators.identity(name)
        images = sorted({sample.sources[name] for sample in self.samples})
        parts = {"version": DRAWING, "condition": self.identities[name], "annotator": network}
        if network is not None:  # arithmetic knows neither batch nor device
            parts |= {"device": self.annotators.device, "batch": self.batch_size}
        return {
            image: fingerprint({**parts, "source": self.sources[image].sha256})
            for image in images
            if image in self.sources
        }

    def mask_keys(self, kind: str) -> dict[tuple[str, str, str], str]:
        """(kind, condition, sample) -> the key of its mask."""
        return {
            item: fingerprint(
                {"version": READING, "region": region.identity(self.image_set), "resolution": self.resolution}
            )
            for item, region in self._regions(kind).items()
        }

    def is_known(self, condition: str, sample: Sample) -> bool:
        """Whether :meth:`identity` can be told: what it is made of is there."""
        masked = condition in sample.control_masks
        return (condition, sample.sources[condition]) in self.maps and (
            not masked or (CONTROL, condition, sample.id) in self.masks
        )

    # --- making -----------------------------------------------------------------------------------------------

    def _read(self, images: list[int], keep: Callable[..., None]) -> None:
        for image in images:
            picture = im.square(im.read_png(self.image_set.picture(image).path), self.resolution)
            keep(image, im.encode_png(picture))

    def _make_maps(self, name: str) -> None:
        def draw(images: list[int], keep: Callable[..., None]) -> None:
            parts = (
                DrawMaps(name, im.to_bytes(self.real(padded(batch, self.batch_size))), tuple(batch))
                for batch in batches(images, self.batch_size)
            )

            def kept(task: DrawMaps, maps: list[bytes]) -> None:
                for image, content in zip(task.images, maps, strict=True):
                    keep(image, content)

            self.executor.run(parts, kept)

        found = self.folder.ensure("map", self.map_keys(name), draw, f"{name} maps", lambda: self.executor.status)
        self.maps.update({(name, image): artefact for image, artefact in found.items()})

    def _make_masks(self, kind: str) -> None:
        regions = self._regions(kind)

        def mark(items: list[tuple[str, str, str]], keep: Callable[..., None]) -> None:
            for item in items:
                mask = regions[item].mask(self.image_set, self.resolution)
                keep(item, im.encode_png(mask.astype(np.uint8) * 255))

        self.masks.update(self.folder.ensure("mask", self.mask_keys(kind), mark, "masks"))

    def _regions(self, kind: str) -> dict[tuple[str, str, str], Region]:
        return {
            (kind, name, sample.id): self._region(kind, name, sample)
            for sample in self.samples
            for name in getattr(sample, kind)
        }

    def _region(self, kind: str, name: str, sample: Sample) -> Region:
        """Where a condition is a control or is scored; an object that is known exactly is looked at with a margin."""
        region = getattr(sample, kind)[name]
        exact = kind == EVALUATION and name in sample.category and self.conditions[name].knows_objects
        return region.window() if exact else region


@dataclass(frozen=True)
class DrawMaps(Task):
    """The maps of a batch of pictures, as PNG. images: their numbers, without those that fill the batch up."""

    condition: str
    pictures: UInt8[np.ndarray, "batch height width 3"]
    images: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.images)

    @property
    def label(self) -> str:
        return f"{self.condition} maps of the pictures {', '.join(map(str, self.images))}"

    def run(self, networks: Networks) -> np.ndarray:
        condition = networks.conditions[self.condition]
        maps = condition.draw(im.from_bytes(self.pictures), networks.annotator(self.condition))
        return maps[: self.size].numpy()

    def pack(self, maps: np.ndarray) -> list[bytes]:
        return [im.encode_png(each) for each in maps]


def source_key(image_set: ImageSet, image: int, resolution: int) -> str:
    """The key of an image as the square picture that controls and metrics see."""
    path = im.existing(image_set.picture(image).path)
    stat = path.stat()
    content = _content(path, stat.st_mtime_ns, stat.st_size)
    return fingerprint({"version": READING, "file": content, "resolution": resolution})


@cache  # a run asks for the same picture several times
def _content(path: Path, modified: int, size: int) -> str:
    return file_digest(path)
