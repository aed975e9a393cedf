"""Which picture gives which condition: pairings are views over any image set.

They know nothing of COCO or of the models. A pairing is deterministic in (seed, image set).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from maxbench.data.coco import Picture
from maxbench.errors import UserError
from maxbench.seeds import derive


class ImageSet(Protocol):
    """Pictures by id."""

    name: str
    ids: list[int]

    def picture(self, image: int) -> Picture: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Sample:
    """One thing to generate: a prompt and, for every condition, the image that gives its map."""

    id: str
    prompt: str
    sources: dict[str, int]  # condition -> image id


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
        order = sorted(images.ids, key=lambda image: derive("pairing", seed, image))
        if samples + self.reference > len(order):
            raise UserError(
                f"samples={samples} and pairing.reference={self.reference} need {samples + self.reference} images, "
                f"but '{images.name}' has {len(order)}; lower samples to at most {len(order) - self.reference} "
                "or take a larger data set."
            )
        chosen = (images.picture(image) for image in order[:samples])
        return Plan(
            samples=tuple(
                Sample(f"{picture.id:012d}", _caption(picture), dict.fromkeys(conditions, picture.id))
                for picture in chosen
            ),
            reference=tuple(order[samples : samples + self.reference]),
        )


def _caption(picture: Picture) -> str:
    if not picture.captions:
        raise UserError(f"Image {picture.id} has no caption to prompt with; remove it from the data set.")
    return picture.captions[0]
