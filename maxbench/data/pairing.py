"""Which picture gives which condition: pairings are views over any image set.

They know nothing of COCO or of the models. A pairing is deterministic in (seed, image set).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from maxbench.data.coco import Instance, Picture
from maxbench.data.phrases import clause
from maxbench.data.regions import Half, Object, Region
from maxbench.errors import UserError
from maxbench.seeds import derive


class ImageSet(Protocol):
    """Pictures by id.

    about: what numbers that are measured on them are about, as the end of a sentence. has_objects: whether any picture
    can have annotated objects, which have masks.
    """

    name: str
    about: str
    has_objects: bool
    ids: list[int]

    def picture(self, image: int) -> Picture: ...

    def mask(self, instance: Instance) -> np.ndarray: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Sample:
    """One thing to generate: a prompt and, for every condition, the image that gives its map.

    id: text that is part of file names.
    control_masks: condition -> the part of its map that is a control, the rest is its null value; all of it where none
        is named. evaluation_masks: condition -> the part of the picture in which its fidelity is measured, likewise.
    group: samples of one group share their noise and are one cluster in statistics; a sample is its own if none is
        given.
    category: condition -> what the object is whose map it gives, as the data set names its class; none for a condition
        that gives a scene.
    """

    id: str
    prompt: str
    sources: dict[str, int]  # condition -> image id
    control_masks: dict[str, Region] = field(default_factory=dict)
    evaluation_masks: dict[str, Region] = field(default_factory=dict)
    group: str = ""
    category: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not self.group:
            object.__setattr__(self, "group", self.id)


@dataclass(frozen=True)
class Plan:
    """The samples of an experiment, and the images that quality is measured against."""

    samples: tuple[Sample, ...]
    reference: tuple[int, ...]  # image ids; none of them gives a sample its conditions


@dataclass(frozen=True)
class Complementary:
    """Every condition of a sample comes from one image, and the prompt is that image's first caption.

    reference: how many other images stand for "real pictures" in FID and KID. They are disjoint from the
        samples' own images, so that the real images' row is a floor and not zero by construction.
    """

    reference: int = 512

    def plan(self, images: ImageSet, conditions: Sequence[str], samples: int, seed: int) -> Plan:
        chosen, reference = _chosen(images, samples, self.reference, seed)
        return Plan(
            samples=tuple(
                Sample(_named(picture.id), _caption(picture), dict.fromkeys(conditions, picture.id))
                for picture in map(images.picture, chosen)
            ),
            reference=reference,
        )


@dataclass(frozen=True)
class HalfSplit:
    """A diagnostic: one condition is given only in one half of the picture, the other only in the other half.

    Both maps come from one image, whose first caption is the prompt, and each condition is scored in its own half.
    Every image gives two samples of one group, so `samples` counts images: first with the first condition on the left,
    then with the second; a sample's id names the one on the left. What differs between the two is due to the side.
    """

    reference: int = 512

    def plan(self, images: ImageSet, conditions: Sequence[str], samples: int, seed: int) -> Plan:
        first, second = _two(conditions, "half_split")
        chosen, reference = _chosen(images, samples, self.reference, seed)
        plan = []
        for picture in map(images.picture, chosen):
            group, sources = _named(picture.id), dict.fromkeys(conditions, picture.id)
            for left, right in ((first, second), (second, first)):
                halves: dict[str, Region] = {left: Half("left"), right: Half("right")}
                plan.append(Sample(f"{group}-{left}", _caption(picture), sources, halves, halves, group))
        return Plan(tuple(plan), reference)


@dataclass(frozen=True)
class ObjectOnScene:
    """Contradictory, tier 1: an object of one image, by one condition, on the scene of another, by the other.

    The object's map is given inside the object's mask alone; the scene's map is given whole, also where the object
    is to stand. The object is scored inside the mask, the scene outside of it. An object's samples are one group.

    object: the condition that gives the object; None for the experiment's first.
    template: of the prompt, from the {object} with its article and its looks, where the data set knows them, its
        {category}, and the scene's first {caption}. The object comes first: a text encoder cuts long prompts.
    low, high: share that an object covers of the square that its picture is cut to. An object of which less than half
        is in the square is not drawn.
    categories: of the objects to draw from, all where none is named, with the class that the suite's segmentation has
        for each. An object of no class could not be scored by it; it is left out whatever the conditions are, so that
        every pair of them is about the same objects.
    """

    reference: int = 512
    object: str | None = None
    template: str = "{object}, and {caption}"
    low: float = 0.1
    high: float = 0.4
    categories: Mapping[str, str] = field(default_factory=dict)

    def plan(self, images: ImageSet, conditions: Sequence[str], samples: int, seed: int) -> Plan:
        first, second = _two(conditions, "object_on_scene")
        front = first if self.object is None else self.object
        if front not in conditions:
            raise UserError(f"pairing.object is '{front}'; it must be one of {first}, {second}.")
        back = second if front == first else first
        if not images.has_objects:
            raise UserError(
                f"pairing=object_on_scene needs outlined objects and '{images.name}' has none; take "
                "pairing=cross_image, or a data set in COCO's layout."
            )
        order = sorted(images.ids, key=lambda image: derive("pairing", seed, image))
        objects, scenes = self._objects_and_scenes(images, order[: max(len(order) - self.reference, 0)], samples)
        if min(len(objects), len(scenes)) < samples or self.reference > len(order):
            raise UserError(
                f"'{images.name}' has {len(order)} images, {self.reference} of them for pairing.reference; among the "
                f"others are {len(objects)} objects{self._kinds} that cover {self.low:.0%} to {self.high:.0%} of their "
                f"picture and "
                f"{len(scenes)} scenes for them, and samples={samples} needs {samples} of both: lower samples or "
                "pairing.reference, or take a larger data set."
            )
        plan = []
        for front_object, scene in zip(objects, scenes, strict=False):
            instance = images.picture(front_object.image).instances[front_object.number]
            caption = clause(_caption(images.picture(scene)))
            inside: dict[str, Region] = {front: front_object}
            outside = Object(front_object.image, front_object.number, outside=True)
            plan.append(
                Sample(
                    f"{_named(front_object.image)}-{front_object.number}-{_named(scene)}",
                    self.template.format(object=str(instance), category=instance.category, caption=caption),
                    {front: front_object.image, back: scene},
                    control_masks=inside,
                    evaluation_masks={**inside, back: outside},
                    group=_named(front_object.image),
                    category={front: instance.category},
                )
            )
        return Plan(tuple(plan), tuple(order[len(order) - self.reference :]))

    def _objects_and_scenes(
        self, images: ImageSet, order: Sequence[int], samples: int
    ) -> tuple[list[Object], list[int]]:
        """`samples` of both, if there are as many. An image gives one of them, by the images before it alone, so that
        more samples keep the first ones."""
        objects: list[Object] = []
        scenes: list[int] = []
        for image in order:
            if min(len(objects), len(scenes)) == samples:
                break
            found = self._object(images, image) if len(objects) <= len(scenes) else None
            if found is None:
                scenes.append(image)
            else:
                objects.append(found)
        return objects, scenes

    @property
    def _kinds(self) -> str:
        return f" of the {len(self.categories)} categories in pairing.categories" if self.categories else ""

    def _object(self, images: ImageSet, image: int) -> Object | None:
        """The first object of an image that is of these categories, neither too small nor too large in the square that
        the picture is cut to, and lies in it for the most part."""
        for number, instance in enumerate(images.picture(image).instances):
            if self.categories and instance.category not in self.categories:
                continue
            found = Object(image, number)
            covered = found.mask(images, COVER_GRID).mean()
            if self.low <= covered <= self.high and found.inside(images) >= INSIDE:
                return found
        return None


@dataclass(frozen=True)
class CrossImage:
    """Contradictory, tier 2: one condition from one image, the other from another, both of the whole picture.

    Nothing says which of the two gives way where; each is scored in the whole picture. Every image serves once. The
    samples of the first image are one group.

    template: of the prompt, from the captions of the {first} condition's image and of the {second}'s: of each image
        the shortest, so that both are likely to be read whole.
    """

    reference: int = 512
    template: str = "{first}, and {second}"

    def plan(self, images: ImageSet, conditions: Sequence[str], samples: int, seed: int) -> Plan:
        _two(conditions, "cross_image")
        chosen, reference = _chosen(images, samples, self.reference, seed, each=2)
        plan = []
        for pair in zip(chosen[::2], chosen[1::2], strict=True):
            first, second = (clause(_caption(images.picture(image), shortest=True)) for image in pair)
            prompt = self.template.format(first=first, second=second)
            sources = dict(zip(conditions, pair, strict=True))
            plan.append(Sample("-".join(map(_named, pair)), prompt, sources, group=_named(pair[0])))
        return Plan(tuple(plan), reference)


@dataclass(frozen=True)
class Styled:
    """Spatial conditions from one image, the style from another (MaxFusion, Fig. 7).

    The prompt names what is in the picture and not how it looks, so that text and style do not contradict each other.

    style: the condition that is taken from the other image.
    template: of the prompt, from {things}, the categories in the spatial image, and its first {caption}.
    """

    reference: int = 512
    style: str = "style"
    template: str = "{things}"

    def plan(self, images: ImageSet, conditions: Sequence[str], samples: int, seed: int) -> Plan:
        if self.style not in conditions:
            raise UserError(f"pairing.style is '{self.style}'; it must be one of {', '.join(conditions)}.")
        chosen, reference = _chosen(images, samples, self.reference, seed, each=2)
        plan = []
        for place, style in zip(chosen[::2], chosen[1::2], strict=True):
            picture = images.picture(place)
            things = " and ".join(dict.fromkeys(each.category for each in picture.instances)) or _caption(picture)
            sources = {name: style if name == self.style else place for name in conditions}
            prompt = self.template.format(things=things, caption=_caption(picture))
            plan.append(Sample(f"{_named(place)}-{_named(style)}", prompt, sources))
        return Plan(tuple(plan), reference)


COVER_GRID = 64
"""Pixels a side on which an object's share of the picture is measured, whatever the suite's resolution."""

INSIDE = 0.5
"""Share of an object's pixels that lie in the square at least: of less, what is left is not what its name says."""


def _chosen(
    images: ImageSet, samples: int, reference: int, seed: int, each: int = 1
) -> tuple[list[int], tuple[int, ...]]:
    """Images that give conditions, `each` for a sample, and others that stand for real pictures.

    Samples are taken from the front and the reference from the end, so that neither depends on the number of samples.
    """
    order = sorted(images.ids, key=lambda image: derive("pairing", seed, image))
    given = each * samples
    if given + reference > len(order):
        most = max(len(order) - reference, 0) // each
        smaller = f"lower samples to at most {most} or " if most >= 2 else ""
        raise UserError(
            f"samples={samples} and pairing.reference={reference} need {given + reference} images, "
            f"but '{images.name}' has {len(order)}; {smaller}take a larger data set (data.count= of the miniature) or "
            "a smaller pairing.reference."
        )
    return order[:given], tuple(order[len(order) - reference :])


def _two(conditions: Sequence[str], pairing: str) -> tuple[str, str]:
    if len(conditions) != 2:
        raise UserError(f"pairing={pairing} is for two conditions, not {len(conditions)} ({', '.join(conditions)}).")
    return conditions[0], conditions[1]


def _named(image: int) -> str:
    """An image in ids and file names, as COCO numbers its files."""
    return f"{image:012d}"


def _caption(picture: Picture, shortest: bool = False) -> str:
    """The first of an image's captions, or the first of its shortest."""
    if not picture.captions:
        raise UserError(f"Image {picture.id} has no caption to prompt with; remove it from the data set.")
    return min(picture.captions, key=len) if shortest else picture.captions[0]
