"""A batch of pictures to be measured, as data that a worker can be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from maxbench import images as im
from maxbench.conditions.ruler import Ruler
from maxbench.evaluation.state import CLIP_SCORE, features_label, fidelity_label
from maxbench.generation.executors.base import Task
from maxbench.generation.networks import CLIP, Networks
from maxbench.metrics.text import clip_score


@dataclass(frozen=True)
class Compared:
    """What pictures are held against for one condition.

    given: maps (B, H, W) uint8, as many as the batch is filled up to (a style's are pictures). mask: where they are
    scored, (n, H, W) of the n pictures that are measured; None for everywhere. by_scorer, by_annotator: rulers.
    """

    given: UInt8[np.ndarray, "batch height width *colours"]
    mask: Bool[np.ndarray, "count height width"] | None
    by_scorer: Sequence[Ruler]
    by_annotator: Sequence[Ruler]


@dataclass(frozen=True)
class MeasurePictures(Task):
    """Measures pictures with all networks that are asked for.

    places: of the subjects, without those that fill the batch up. features: names of networks. prompts: of all, where
    the score with the prompt is wanted, else None. compared: by condition. number: of the group that the places are in.
    """

    places: tuple[int, ...]
    pictures: UInt8[np.ndarray, "batch height width 3"]
    features: tuple[str, ...]
    prompts: tuple[str, ...] | None
    compared: Mapping[str, Compared]
    number: int = 0

    @property
    def size(self) -> int:
        return len(self.places)

    @property
    def label(self) -> str:
        return f"the scores of {self.size} pictures"

    def run(self, networks: Networks) -> tuple[dict[str, np.ndarray], list[tuple[str, Ruler, Any]]]:
        """Values by label, and for every ruler the label and the maps that it is still to compare."""
        pictures, values = im.from_bytes(self.pictures), {}
        seen = {name: networks.features(name).images(pictures)[: self.size] for name in self._networks}
        for name in self.features:
            values[features_label(name)] = seen[name].numpy()
        if self.prompts is not None:
            texts = networks.clip.texts(list(self.prompts))[: self.size]
            values[CLIP_SCORE] = clip_score(seen[CLIP], texts).numpy()
        waiting = []
        for name, compared in self.compared.items():
            condition = networks.conditions[name]
            given = condition.as_measured(torch.from_numpy(compared.given), networks.scorer(name))[: self.size]
            for by, rulers in ((False, compared.by_scorer), (True, compared.by_annotator)):
                if rulers:
                    network = networks.self_consistency(name) if by else networks.scorer(name)
                    maps = within(compared.mask, condition.null_value, given, condition.draw(pictures, network))
                    waiting += [(fidelity_label(name, ruler.metric, by), ruler, maps) for ruler in rulers]
        return values, waiting

    @property
    def _networks(self) -> list[str]:
        return list(dict.fromkeys([*self.features, *([] if self.prompts is None else [CLIP])]))

    def pack(self, found: tuple[dict[str, np.ndarray], list[tuple[str, Ruler, Any]]]) -> list[dict[str, np.ndarray]]:
        """Label -> value, of every picture."""
        values, waiting = found
        values = values | {label: ruler.compare(*maps) for label, ruler, maps in waiting}
        return [{label: np.asarray(each[place]) for label, each in values.items()} for place in range(self.size)]


def within(
    mask: np.ndarray | None, null_value: int, given: torch.Tensor, measured: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Given and measured maps as rulers take them: outside of the mask both hold the null value."""
    measured = measured[: len(given)]
    if mask is None:
        return given, measured, None
    valid = torch.from_numpy(mask)
    return given.masked_fill(~valid, null_value), measured.masked_fill(~valid, null_value), valid
