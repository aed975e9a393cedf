"""Images in COCO's own layout: real COCO, own pictures with outlined objects, and the rendered miniature alike."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from maxbench.data.annotations import Annotations, read_bytes, read_captions, read_instances, shown
from maxbench.data.parts import EVALUATION, Part
from maxbench.data.phrases import noun_phrase
from maxbench.data.segmentation import decode, is_given
from maxbench.errors import UserError
from maxbench.images import read_size
from maxbench.names import leaves_folder


@dataclass(frozen=True)
class Instance:
    """One object in a picture: its category, what people call it, and, on demand, its mask.

    phrase: the object with its article and its looks, "a striped red sphere", where the data set knows them: the key
        `phrase` of an annotation, which COCO's own files do not have.
    """

    category: str
    area: float  # pixels
    annotation: dict  # COCO's own, from which the mask is decoded
    phrase: str | None = None

    def __str__(self) -> str:
        """The object as a prompt names it: a noun phrase with its article."""
        return self.phrase or noun_phrase(self.category)


@dataclass(frozen=True)
class Picture:
    """One image of a set with what people said about it."""

    id: int
    path: Path
    captions: tuple[str, ...]
    instances: tuple[Instance, ...]


class CocoImages:
    """A split of a COCO-format data set: `annotations/{instances,captions}_<split>.json`, `<split>/*`.

    Sequence of :class:`Picture`, ordered by id. Objects are what is outlined one by one: a crowd, and an annotation
    without a segmentation, is none. A missing or damaged file is a UserError that names it; a segmentation that
    cannot be decoded is one when its mask is asked for.

    about: what numbers that are measured on it are about; None for what the annotation files say of themselves.
    part: of the split's pictures; None for all of them.
    """

    has_objects = True

    def __init__(
        self, root: str | Path, split: str, name: str = "coco", about: str | None = None, part: Part | None = None
    ):
        if leaves_folder(split):
            raise UserError(f"The split '{split}' leads out of the data set's folder {root}; give its plain name.")
        self.root, self.split, self.name, self.part = Path(root), split, name, part
        self._about = about
        self._known: dict[int, Picture] = {}

    @property
    def about(self) -> str:
        """What numbers that are measured on it are about, as the end of a sentence."""
        if self._about is not None:
            return self._about
        described = self._captions.description or self.root.resolve().name
        return f"the pictures of {described}, split {self.split}"

    def _annotations(self, kind: str) -> Path:
        return self.root / "annotations" / f"{kind}_{self.split}.json"

    @cached_property
    def _instances(self) -> Annotations:
        return read_instances(self._annotations("instances"))

    @cached_property
    def _captions(self) -> Annotations:
        return read_captions(self._annotations("captions"))

    @cached_property
    def _folder(self) -> Path:
        """Where the pictures are in truth; the folder itself may be a link, as large data sets are often kept."""
        return (self.root / self.split).resolve()

    @cached_property
    def ids(self) -> list[int]:
        images = self._captions.images
        return sorted(images) if self.part is None else self.part.of(images)

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, image: int) -> Picture:
        """The picture with a COCO image id; its file is there, and of the size that the annotations say."""
        if image not in self._known:
            self._known[image] = self._picture(image)
        return self._known[image]

    def _picture(self, image: int) -> Picture:
        if image not in self._captions.images:
            raise UserError(f"The data set '{self.name}' has no image {shown(image)}; it has {len(self)} others.")
        path = self._path(image)
        self._check_size(image, path)
        return Picture(
            id=image,
            path=path,
            captions=tuple(each["caption"].strip() for each in self._captions.by_image.get(image, ())),
            instances=tuple(
                Instance(
                    category=self._instances.categories[each["category_id"]],
                    area=self._area(each),
                    annotation=each,
                    phrase=" ".join((each.get("phrase") or "").split()) or None,
                )
                for each in self._instances.by_image.get(image, ())
                if not each.get("iscrowd") and is_given(each.get("segmentation"))
            ),
        )

    def _path(self, image: int) -> Path:
        """The file of a picture, in the split's folder also where it is a link."""
        name = self._captions.images[image]["file_name"]
        listed = self._instances.images.get(image)
        if listed is None or listed["file_name"] != name:
            said = "does not list it" if listed is None else f"names the file {shown(listed['file_name'])}"
            raise UserError(
                f"Image {image} is {shown(name)} in {self._annotations('captions')}, but "
                f"{self._annotations('instances')} {said}; take both files from one data set."
            )
        path = self.root / self.split / name
        try:
            inside = path.resolve().is_relative_to(self._folder)
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise UserError(
                f"The picture {path} of image {image} lies outside of {self._folder}; put the file itself there."
            )
        return path

    def _check_size(self, image: int, path: Path) -> None:
        height, width = self.size(image)
        found = read_size(path)
        if found != (width, height):
            raise UserError(
                f"The picture {path} has {found[0]} x {found[1]} pixels, but {self._annotations('instances')} says "
                f"{width} x {height} of image {image}; restore the picture, or correct that entry."
            )

    def _area(self, annotation: dict) -> float:
        area = annotation.get("area")
        return float(self._mask(annotation).sum() if area is None else area)

    def size(self, image: int) -> list[int]:
        """Height and width in pixels, as the annotations have them."""
        entry = self._instances.images[image]
        return [entry["height"], entry["width"]]

    def mask(self, instance: Instance) -> np.ndarray:
        """The mask of an object, (H, W) bool."""
        return self._mask(instance.annotation)

    def _mask(self, annotation: dict) -> np.ndarray:
        image = annotation["image_id"]
        try:
            return decode(annotation.get("segmentation"), *self.size(image))
        except ValueError as error:
            number = self._instances.by_image[image].index(annotation)
            named = f"annotation {shown(annotation['id'])}" if "id" in annotation else f"annotation number {number}"
            raise UserError(
                f"The segmentation of {named} of image {image} in {self._annotations('instances')} {error}; "
                "correct that entry or take it out."
            ) from error

    def fingerprint(self) -> str:
        """Changes with anything the annotation files say, hence with the set of images."""
        digest = hashlib.sha256(self.split.encode())
        for kind in ("instances", "captions"):
            digest.update(read_bytes(self._annotations(kind)))
        if self.part is not None:
            digest.update(repr(self.part).encode())
        return digest.hexdigest()


def coco_images(
    root: str | Path, split: str = "val2017", part: str = EVALUATION, calibration_share: float = 1 / 16
) -> CocoImages:
    """COCO, or pictures of one's own in its layout, as it lies in a folder; nothing is downloaded.

    part: `evaluation`, or `calibration` for the share of the pictures that no result is measured on. Which they are is
    decided by their ids.
    """
    images = CocoImages(root, split, part=Part(part, calibration_share))
    for place in (*map(images._annotations, ("instances", "captions")), images.root / split):
        if not place.exists():
            raise UserError(
                f"There is no COCO in {images.root}: it lacks {place.relative_to(images.root)}; "
                f"`python -m maxbench data coco data.root={images.root}` fetches val2017, or set data.root= to a copy."
            )
    images.name = images.part.named(f"COCO {split} in {images.root}")
    return images
