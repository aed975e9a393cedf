"""The maps that scorers see in pictures, and where they differ from those that were given: to be looked at.

Scores are made of the same maps, which an evaluation does not keep. They are drawn here once more, by the same networks
in batches of the same shape, and kept in the store:

    measured_map   what the scorer of a condition sees in a picture, (H, W) uint8, as maps of that condition are stored;
                   where the condition is not scored it has the null value
    error_map      how far it is from the given map at every place, (H, W) uint8, 255 for the largest difference there
                   can be; by the condition's headline ruler, so of depth after the fit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.conditions.ruler import Ruler
from maxbench.data.pairing import Sample
from maxbench.evaluation.measure import within
from maxbench.evaluation.scoring import SCORING, Scorers, Target
from maxbench.generation.executors.base import Executor, Task
from maxbench.generation.networks import Networks
from maxbench.progress import Progress
from maxbench.store.artefacts import Artefact, batches, padded
from maxbench.store.files import fingerprint
from maxbench.store.identity import identity
from maxbench.store.runfolder import RunFolder

REMEASURING = 1
"""Version of how a map becomes a file here, apart from what scores depend on."""

MEASURED, ERROR = "measured_map", "error_map"
"""Kinds of artefacts."""


class Seen(NamedTuple):
    """What the scorer of a condition sees in a picture, and where that is wrong."""

    measured: Artefact
    error: Artefact


class Item(NamedTuple):
    """A picture and a condition: the row and the place of the picture among the images."""

    row: str
    place: int
    condition: str


@dataclass(frozen=True)
class DrawSeen(Task):
    """The maps of a batch of pictures by the scorer of a condition.

    given: of all pictures that the batch is filled up to; mask: (n, H, W) of the n that count, None for everywhere.
    """

    items: tuple[Item, ...]
    pictures: UInt8[np.ndarray, "batch height width 3"]
    given: UInt8[np.ndarray, "batch height width"]
    mask: Bool[np.ndarray, "count height width"] | None
    ruler: Ruler

    @property
    def size(self) -> int:
        return len(self.items)

    @property
    def label(self) -> str:
        return f"the {self.items[0].condition} maps seen in {self.size} pictures"

    def run(self, networks: Networks) -> tuple[np.ndarray, np.ndarray]:
        name = self.items[0].condition
        condition = networks.conditions[name]
        given = torch.from_numpy(self.given)[: self.size]
        drawn = condition.draw(im.from_bytes(self.pictures), networks.scorer(name))
        given, measured, valid = within(self.mask, condition.null_value, given, drawn)
        error = (255 * self.ruler.error(given, measured, valid)).round().to(torch.uint8)
        return measured.numpy(), error.numpy()

    def pack(self, found: tuple[np.ndarray, np.ndarray]) -> list[tuple[bytes, bytes]]:
        return [(im.encode_png(measured), im.encode_png(error)) for measured, error in zip(*found, strict=True)]


@dataclass(frozen=True)
class Remeasuring:
    """Draws what scorers see.

    images: (sample, replicate). targets: condition -> what every image is held against. batch_size: of the evaluation.
    """

    conditions: Mapping[str, Condition]
    scorers: Scorers
    folder: RunFolder
    images: Sequence[tuple[Sample, int]]
    targets: Mapping[str, Sequence[Target]]
    batch_size: int
    resolution: int
    executor: Executor
    _identities: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def drawn(self) -> list[str]:
        """The conditions whose maps can be looked at: a style is no map."""
        return [name for name, condition in self.conditions.items() if condition.is_spatial]

    def maps(self, rows: Mapping[str, Sequence[Artefact | None]]) -> dict[Item, Seen]:
        """What is seen in the pictures of every row, in the order of the images; a picture that is None has nothing.

        Found in the store, else made now.
        """
        pictures = {
            Item(row, place, name): picture
            for name in self.drawn
            for row, own in rows.items()
            for place, picture in enumerate(own)
            if picture is not None
        }
        keys = {item: self.keys(item, picture) for item, picture in pictures.items()}
        self.folder.refer((kind, key) for own in keys.values() for kind, key in own.items())
        found = {item: seen for item, own in keys.items() if (seen := self._found(own)) is not None}
        missing = [item for item in keys if item not in found]
        if not missing:
            return found
        with Progress("re-estimated maps", len(missing), "maps", status=lambda: self.executor.status) as progress:

            def keep(task: DrawSeen, drawn: list[tuple[bytes, bytes]]) -> None:
                for item, contents in zip(task.items, drawn, strict=True):
                    found[item] = Seen(
                        *(
                            self.folder.keep(kind, keys[item][kind], content)
                            for kind, content in zip((MEASURED, ERROR), contents, strict=True)
                        )
                    )
                progress.add(task.size)

            self.executor.run(self._tasks(missing, pictures), keep)
        return found

    def keys(self, item: Item, picture: Artefact) -> dict[str, str]:
        """Kind -> key, of what is seen in a picture."""
        target = self.targets[item.condition][item.place]
        parts = {
            "version": [SCORING, REMEASURING],
            "device": self.scorers.device,
            "batch": self.batch_size,
            "condition": self._identity(item.condition, lambda: identity(self.conditions[item.condition])),
            "network": self._identity(
                f"{item.condition}'s scorer", lambda: self.scorers.identity("scorer", item.condition)
            ),
            "target": target.identity,
            "picture": picture.sha256,
        }
        return {
            MEASURED: fingerprint(parts),
            ERROR: fingerprint({**parts, "ruler": identity(target.rulers[0])}),
        }

    def _identity(self, of: str, make: Callable[[], Any]) -> Any:
        if of not in self._identities:
            self._identities[of] = make()
        return self._identities[of]

    def _found(self, keys: Mapping[str, str]) -> Seen | None:
        both = [self.folder.find(kind, keys[kind]) for kind in (MEASURED, ERROR)]
        return None if None in both else Seen(*both)

    def _tasks(self, missing: Sequence[Item], pictures: Mapping[Item, Artefact]):
        """Batches of one condition each, filled up to their shape."""
        for name in self.drawn:
            for batch in batches([item for item in missing if item.condition == name], self.batch_size):
                filled = padded(batch, self.batch_size)
                targets = [self.targets[name][item.place] for item in filled]
                masks = [each.mask for each in targets[: len(batch)]]
                yield DrawSeen(
                    items=tuple(batch),
                    pictures=im.to_bytes(im.read_images([pictures[each].path for each in filled], self.resolution)),
                    given=torch.stack([each.given() for each in targets]).numpy(),
                    mask=None if masks[0] is None else torch.stack([mask() for mask in masks]).numpy(),
                    ruler=targets[0].rulers[0],
                )
