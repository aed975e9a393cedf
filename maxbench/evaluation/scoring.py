"""Pictures -> what every scorer measures in each of them: from the store, else measured now.

Measured of a picture: the CLIP scorer's features and its score with the prompt, and for each condition the statistics
of its control fidelity, by the scorer and once more by the annotator that drew the map. Tables are made of these
values alone (:mod:`maxbench.evaluation.aggregate`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from maxbench import images as im
from maxbench.conditions.base import Annotator, Condition
from maxbench.data.pairing import Sample
from maxbench.evaluation.aggregate import Features, Row
from maxbench.metrics.text import clip_score
from maxbench.progress import track
from maxbench.store.artefacts import Count, batches, padded
from maxbench.store.files import fingerprint
from maxbench.store.identity import identity
from maxbench.store.scores import Scores

BY_ANNOTATOR = ", annotator"  # in the label of what the network that drew the given map measures

SCORING = 1
"""Version of how pictures are read, given to scorers and compared, apart from the conditions' own versions."""


@dataclass(frozen=True)
class Scorers:
    """The networks that measure, and what they are; each is loaded when something is there to be measured.

    clip: the text-image scorer. maps: condition -> the network that measures its map in pictures, or None. annotators:
    condition -> the network that drew the given maps, where that is another one. identity: of "clip", and of a
    condition's in `maps` and `annotators` by ("scorer" or "annotator", condition). device: the kind that they run on.
    """

    load_clip: Callable[[], Any]
    load_map: Callable[[str], Annotator | None]
    load_annotator: Callable[[str], Annotator | None]
    identity: Callable[[str, str], Any]
    device: str

    @cached_property
    def clip(self) -> Any:
        return self.load_clip()


@dataclass(frozen=True)
class Target:
    """What a picture is held against for one condition.

    given: reads the map of the sample, (H, W) uint8 (a style's is a picture). mask: reads where it is scored, (H, W)
    bool; None for everywhere. identity: of both, as plain data.
    """

    given: Callable[[], torch.Tensor]
    mask: Callable[[], torch.Tensor] | None
    identity: Any


@dataclass(frozen=True)
class Subject:
    """A picture to be scored.

    digest: by which its scores are known. read: gives it as (1, 3, S, S). targets: condition -> what it is held
        against.
    prompt: what it is compared with; None for no CLIP score. features: whether they are wanted.
    """

    digest: str
    read: Callable[[], torch.Tensor]
    targets: Mapping[str, Target] = field(default_factory=dict)
    prompt: str | None = None
    features: bool = False


@dataclass(frozen=True)
class Measuring:
    """Measures subjects with all scorers, in batches of one shape.

    with_annotators: the conditions whose fidelity is also measured by their annotator.
    """

    conditions: Mapping[str, Condition]
    scorers: Scorers
    with_annotators: frozenset[str]
    book: Scores
    batch_size: int
    count: Count = field(default_factory=Count)

    def keys(self, subject: Subject) -> dict[str, str]:
        """Label -> key, of everything that is measured in a subject."""
        keys = {}
        if subject.features:
            keys["features"] = fingerprint(self._clip)
        if subject.prompt is not None:
            keys["clip_score"] = fingerprint({**self._clip, "prompt": subject.prompt})
        for name, target in subject.targets.items():
            parts = {**self._common, "condition": self._identities[name], "target": target.identity}
            keys[name] = fingerprint({**parts, "network": self.scorers.identity("scorer", name)})
            if name in self.with_annotators:
                network = self.scorers.identity("annotator", name)
                keys[f"{name}{BY_ANNOTATOR}"] = fingerprint({**parts, "network": network})
        return keys

    @cached_property
    def _common(self) -> dict[str, Any]:
        return {"version": SCORING, "device": self.scorers.device, "batch": self.batch_size}

    @cached_property
    def _clip(self) -> dict[str, Any]:
        return {**self._common, "clip": self.scorers.identity("clip", "")}

    @cached_property
    def _identities(self) -> dict[str, Any]:
        return {name: identity(condition) for name, condition in self.conditions.items()}

    def measure(self, subjects: Sequence[Subject], what: str) -> list[dict[str, np.ndarray]]:
        """Label -> measurement of every subject."""
        keys = [self.keys(subject) for subject in subjects]
        known = [self.book.of(subject.digest) for subject in subjects]
        missing = [place for place, own in enumerate(keys) if not set(own.values()) <= set(known[place])]
        self.count.found += sum(map(len, keys)) - sum(len(keys[place]) for place in missing)
        for batch in track(batches(missing, self.batch_size), what, len(missing), "images", len, brief=True):
            wanted = [{label: key for label, key in keys[place].items() if key not in known[place]} for place in batch]
            labels = {label for wants in wanted for label in wants}
            measured = self._measure([subjects[place] for place in batch], labels)
            for place, wants, values in zip(batch, wanted, measured, strict=True):
                new = {key: values[label] for label, key in wants.items()}
                self.book.add(subjects[place].digest, new)
                known[place] |= new
                self.count.made += len(new)
                self.count.found += len(keys[place]) - len(new)
        return [{label: known[place][key] for label, key in own.items()} for place, own in enumerate(keys)]

    def _measure(self, subjects: Sequence[Subject], labels: Collection[str]) -> list[dict[str, np.ndarray]]:
        """The measurements `labels` of one batch, which is filled up to its shape."""
        pictures = torch.cat([each.read() for each in padded(subjects, self.batch_size)])
        values: list[dict[str, np.ndarray]] = [{} for _ in subjects]
        if {"features", "clip_score"} & set(labels):
            features = self.scorers.clip.images(pictures)[: len(subjects)]
            for own, feature in zip(values, features, strict=True):
                own["features"] = feature.numpy()
        if "clip_score" in labels:
            prompts = [each.prompt for each in padded(subjects, self.batch_size)]
            scores = clip_score(features, self.scorers.clip.texts(prompts)[: len(subjects)])
            for own, score in zip(values, scores, strict=True):
                own["clip_score"] = np.asarray(float(score))
        for name in subjects[0].targets:
            condition, targets = self.conditions[name], [each.targets[name] for each in subjects]
            networks = {"": self.scorers.load_map, BY_ANNOTATOR: self.scorers.load_annotator}
            for suffix, load in networks.items():
                if f"{name}{suffix}" not in labels:
                    continue
                measured = condition.draw(pictures, load(name))[: len(subjects)]
                for own, each in zip(
                    values, self._compare(condition, targets, measured, self.scorers.load_map(name)), strict=True
                ):
                    own[f"{name}{suffix}"] = np.asarray(each)
        return values

    def _compare(
        self, condition: Condition, targets: Sequence[Target], measured: torch.Tensor, scorer: Annotator | None
    ) -> np.ndarray:
        filled = padded(targets, self.batch_size)  # what a network sees in given pictures has one shape, too
        given = condition.as_measured(torch.stack([each.given() for each in filled]), scorer)[: len(targets)]
        valid = None if targets[0].mask is None else torch.stack([each.mask() for each in targets])
        return condition.compare(given, measured, valid)


@dataclass(frozen=True)
class Scoring:
    """Scores the rows of a run.

    targets: condition -> the target of every image of the experiment. images: (sample, replicate), in order.
    replicates: so many neighbours in `images` share a sample.
    """

    measuring: Measuring
    images: Sequence[tuple[Sample, int]]
    targets: Mapping[str, Sequence[Target]]
    replicates: int
    resolution: int

    def row(self, row: Row) -> Features:
        """What the pictures of a row show."""
        if row.same:
            names = list(self.targets)
            return _features(self.measuring.measure(self._subjects(row, names), f"scoring {row.name}"), names)
        parts = [self._by_condition(row, name) for name in self.targets]  # each condition has a picture of its own
        return Features(
            np.empty((0, 0)),
            np.empty(0),
            {name: each for part in parts for name, each in part.statistics.items()},
            {name: each for part in parts for name, each in part.by_annotator.items()},
        )

    def _by_condition(self, row: Row, name: str) -> Features:
        subjects = self._subjects(row, [name], whole=False)
        return _features(self.measuring.measure(subjects, f"scoring {row.name}, {name}"), [name])

    def shuffled(self, row: Row) -> Features:
        """A row held against the maps of the next sample: what a score is worth that sees no condition."""
        measuring, statistics = replace(self.measuring, with_annotators=frozenset()), {}
        for name in self.targets:
            subjects = self._subjects(row, [name], whole=False, step=self.replicates)
            values = measuring.measure(subjects, f"scoring {row.name} against other maps, {name}")
            statistics[name] = np.stack([each[name] for each in values])
        return Features(np.empty((0, 0)), np.empty(0), statistics, {})

    def subjects(self, row: Row) -> list[Subject]:
        """Everything that will be measured of a row's own pictures; of "shuffled", which has none, nothing."""
        if not row.files:
            return []
        groups = [list(self.targets)] if row.same else [[name] for name in self.targets]
        return [each for names in groups for each in self._subjects(row, names, whole=row.same)]

    def reference(self, subjects: Sequence[Subject]) -> np.ndarray:
        """(M, D) features of the reference pictures."""
        return np.stack([each["features"] for each in self.measuring.measure(subjects, "scoring the reference")])

    def _subjects(self, row: Row, names: Sequence[str], whole: bool = True, step: int = 0) -> list[Subject]:
        """The row's pictures, held against the maps of the sample `step` places on; whole: also as pictures."""
        subjects = []
        for place, (sample, _) in enumerate(self.images):
            file = row.files[names[0]][place]
            other = (place + step) % len(self.images)
            subjects.append(
                Subject(
                    digest=file.sha256,
                    read=lambda file=file: im.read_images([file.path], self.resolution),
                    targets={name: self.targets[name][other] for name in names},
                    prompt=sample.prompt if whole else None,
                    features=whole,
                )
            )
        return subjects


def _features(values: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> Features:
    def stacked(label: str) -> np.ndarray:
        return np.stack([each[label] for each in values])

    whole = "features" in values[0]
    return Features(
        features=stacked("features") if whole else np.empty((0, 0)),
        clip=stacked("clip_score") if whole else np.empty(0),
        statistics={name: stacked(name) for name in names},
        by_annotator={name: stacked(f"{name}{BY_ANNOTATOR}") for name in names if f"{name}{BY_ANNOTATOR}" in values[0]},
    )
