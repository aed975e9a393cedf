"""Pictures -> what every scorer measures in each of them: from the store, else measured now.

Measured of a picture: the features of every network that distances are made of, its score with the prompt, and for
each condition the statistics of its rulers, by the scorer and once more by the annotator that drew the map. Tables are
made of these values alone (:mod:`maxbench.evaluation.aggregate`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from maxbench import images as im
from maxbench.conditions.base import Annotator, Condition
from maxbench.conditions.ruler import Ruler
from maxbench.data.pairing import Sample
from maxbench.evaluation.state import CLIP_SCORE, FEATURES, features_label, fidelity_label
from maxbench.metrics.text import clip_score
from maxbench.progress import track
from maxbench.store.artefacts import Artefact, Count, batches, padded
from maxbench.store.files import fingerprint
from maxbench.store.identity import identity
from maxbench.store.scores import Scores

SCORING = 2
"""Version of how pictures are read, given to scorers and compared, apart from the rulers' own versions."""

BATCHES_AT_A_TIME = 4
"""How many batches of samples are scored in all rows before the next, and so how many maps are held."""

CLIP = "clip"
"""The text-image scorer, among the networks of features."""


@dataclass(frozen=True)
class Scorers:
    """The networks that measure, and what they are; each is loaded when something is there to be measured.

    clip: the text-image scorer. features: the names of the networks that distances between sets are made of. map:
    condition -> the network that measures its map in pictures, or None. annotator: condition -> the network that drew
    the given maps, where that is another one. identity: of "clip", of ("features", name), and of a condition's by
    ("scorer" or "annotator", condition). device: the kind that they run on.
    """

    load_clip: Callable[[], Any]
    load_features: Callable[[str], Any]
    load_map: Callable[[str], Annotator | None]
    load_annotator: Callable[[str], Annotator | None]
    features: Sequence[str]
    identity: Callable[[str, str], Any]
    device: str

    @cached_property
    def clip(self) -> Any:
        return self.load_clip()

    def looking(self, network: str) -> Any:
        """A network of features, loaded."""
        return self.clip if network == CLIP else self.load_features(network)


@dataclass(frozen=True)
class Target:
    """What a picture is held against for one condition.

    given: reads the map of the sample, (H, W) uint8 (a style's is a picture). mask: reads where it is scored, (H, W)
    bool; None for everywhere. rulers: by which. identity: of the map and the mask, as plain data.
    """

    given: Callable[[], torch.Tensor]
    mask: Callable[[], torch.Tensor] | None
    rulers: Sequence[Ruler]
    identity: Any

    def held(self) -> Target:
        """The same, but map and mask are read once and kept as long as it lives."""
        return replace(self, given=cache(self.given), mask=None if self.mask is None else cache(self.mask))


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
            keys |= {features_label(name): self._of_features[name] for name in self.scorers.features}
        if subject.prompt is not None:
            keys[CLIP_SCORE] = fingerprint({**self._clip, "prompt": subject.prompt})
        for name, target in subject.targets.items():
            parts = {**self._common, "condition": self._identities[name], "target": target.identity}
            for by, kind in self._networks(name):
                network = self.scorers.identity(kind, name)
                for ruler in _asked(target, by):
                    keys[fidelity_label(name, ruler.metric, by)] = fingerprint(
                        {**parts, "network": network, "ruler": self._ruler(ruler)}
                    )
        return keys

    def _networks(self, condition: str) -> list[tuple[bool, str]]:
        """By whom a condition is measured: (whether it is the annotator, its kind)."""
        return [(False, "scorer"), *([(True, "annotator")] if condition in self.with_annotators else [])]

    @cached_property
    def _common(self) -> dict[str, Any]:
        return {"version": SCORING, "device": self.scorers.device, "batch": self.batch_size}

    @cached_property
    def _clip(self) -> dict[str, Any]:
        return {**self._common, "clip": self.scorers.identity(CLIP, "")}

    @cached_property
    def _of_features(self) -> dict[str, str]:
        return {
            name: fingerprint({**self._common, "features": self.scorers.identity("features", name)})
            for name in self.scorers.features
        }

    @cached_property
    def _identities(self) -> dict[str, Any]:
        return {name: identity(condition) for name, condition in self.conditions.items()}

    def _ruler(self, ruler: Ruler) -> Any:
        known = self._rulers
        if id(ruler) not in known:
            known[id(ruler)] = identity(ruler)
        return known[id(ruler)]

    @cached_property
    def _rulers(self) -> dict[int, Any]:
        return {}

    def measure(self, subjects: Sequence[Subject], what: str | None = None) -> list[dict[str, np.ndarray]]:
        """Label -> measurement of every subject; all are held at once. what: for the progress line, if there is one."""
        keys = [self.keys(subject) for subject in subjects]
        known = [self.book.of(subject.digest) for subject in subjects]
        missing = [place for place, own in enumerate(keys) if not set(own.values()) <= set(known[place])]
        self.count.found += sum(map(len, keys)) - sum(len(keys[place]) for place in missing)
        parts = batches(missing, self.batch_size)
        for batch in parts if what is None else track(parts, what, len(missing), "images", len, brief=True):
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
        wanted = [name for name in self.scorers.features if features_label(name) in labels]
        if CLIP_SCORE in labels and CLIP not in wanted:
            wanted.append(CLIP)
        seen = {name: self.scorers.looking(name).images(pictures)[: len(subjects)] for name in wanted}
        for name, features in seen.items():
            for own, feature in zip(values, features, strict=True):
                own[features_label(name)] = feature.numpy()
        if CLIP_SCORE in labels:
            prompts = [each.prompt for each in padded(subjects, self.batch_size)]
            scores = clip_score(seen[CLIP], self.scorers.clip.texts(prompts)[: len(subjects)])
            for own, score in zip(values, scores, strict=True):
                own[CLIP_SCORE] = np.asarray(float(score))
        for name in subjects[0].targets:
            self._follow(name, [each.targets[name] for each in subjects], pictures, labels, values)
        return values

    def _follow(
        self,
        name: str,
        targets: Sequence[Target],
        pictures: torch.Tensor,
        labels: Collection[str],
        values: Sequence[dict[str, np.ndarray]],
    ) -> None:
        """How far pictures follow one condition, by every ruler that is asked for."""
        condition = self.conditions[name]
        load = {False: self.scorers.load_map, True: self.scorers.load_annotator}
        for by, _ in self._networks(name):
            rulers = [each for each in _asked(targets[0], by) if fidelity_label(name, each.metric, by) in labels]
            if not rulers:
                continue
            measured = condition.draw(pictures, load[by](name))[: len(targets)]
            filled = padded(targets, self.batch_size)  # what a network sees in given pictures has one shape, too
            given = condition.as_measured(torch.stack([each.given() for each in filled]), self.scorers.load_map(name))
            given, valid = given[: len(targets)], None
            if targets[0].mask is not None:
                valid = torch.stack([each.mask() for each in targets])
                given, measured = (each.masked_fill(~valid, condition.null_value) for each in (given, measured))
            for ruler in rulers:
                for own, each in zip(values, ruler.compare(given, measured, valid), strict=True):
                    own[fidelity_label(name, ruler.metric, by)] = np.asarray(each)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a row, in the order of the experiment's images.

    files: condition -> its pictures, since the real picture of one condition need not be that of another.
    same: whether they are the same pictures for every condition.
    """

    files: Mapping[str, Sequence[Artefact]]
    same: bool


@dataclass(frozen=True)
class Asked:
    """What is asked of one picture for every image of the experiment, in their order.

    conditions: whose maps they are held against. whole: whether features and the score with the prompt are wanted.
    by_annotators: whether the annotators measure as well. step: of which image the maps are, so many places on.
    """

    conditions: Sequence[str]
    files: Sequence[Artefact]
    whole: bool = True
    by_annotators: bool = True
    step: int = 0


@dataclass(frozen=True)
class Scoring:
    """Scores the rows of a run.

    targets: condition -> the target of every image of the experiment. images: (sample, replicate), in order.
    """

    measuring: Measuring
    images: Sequence[tuple[Sample, int]]
    targets: Mapping[str, Sequence[Target]]
    resolution: int

    def row(self, name: str, pictures: Pictures) -> dict[str, np.ndarray]:
        """What the pictures of a row show."""
        return self.measure({name: self.of(pictures)})[name]

    def measure(self, rows: Mapping[str, Sequence[Asked]]) -> dict[str, dict[str, np.ndarray]]:
        """Row -> label -> (N, ...), what is asked of every row.

        A few batches of samples at a time, of all rows: a map is read once for all of them, and no more maps and
        pictures are held than those batches have.
        """
        count, block = len(self.images), BATCHES_AT_A_TIME * self.measuring.batch_size
        plain = replace(self.measuring, with_annotators=frozenset())
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in rows}
        blocks = batches(range(count), block)
        for places in track(blocks, "scoring", count * len(rows), "images", lambda each: len(each) * len(rows)):
            held: dict[tuple[str, int], Target] = {}
            for name, every in rows.items():
                for asked in every:
                    measuring = self.measuring if asked.by_annotators else plain
                    subjects = self._subjects(asked, places, held)
                    _keep(found[name], _stacked(measuring.measure(subjects)), places[0], count)
        return found

    def of(self, pictures: Pictures) -> list[Asked]:
        """A row's own pictures: all that is measured in them, or for each condition that has pictures of its own."""
        if pictures.same:
            return [Asked(list(self.targets), next(iter(pictures.files.values())))]
        return [Asked([name], pictures.files[name], whole=False) for name in self.targets]

    def against_others(self, pictures: Pictures) -> list[Asked]:
        """Pictures held against the maps of the next group: what a score is worth that sees no condition."""
        first = self.images[0][0].group
        step = sum(sample.group == first for sample, _ in self.images)
        return [
            Asked([name], pictures.files[name], whole=False, by_annotators=False, step=step) for name in self.targets
        ]

    def exchanged(self, pictures: Pictures) -> list[Asked]:
        """Every condition's map held against the picture that another condition was taken from.

        How far a picture that obeys the other condition perfectly obeys this one: what is missing is their conflict.
        """
        names = list(pictures.files)
        following = dict(zip(names, [*names[1:], names[0]], strict=True))
        return [
            Asked([name], pictures.files[following[name]], whole=False, by_annotators=False) for name in self.targets
        ]

    def subjects(self, pictures: Pictures) -> list[Subject]:
        """Everything that will be measured of a row's own pictures."""
        return [each for asked in self.of(pictures) for each in self._subjects(asked, range(len(self.images)), {})]

    def reference(self, subjects: Sequence[Subject]) -> dict[str, np.ndarray]:
        """Network -> (M, D) features of the reference pictures."""
        found: dict[str, np.ndarray] = {}
        parts = batches(range(len(subjects)), BATCHES_AT_A_TIME * self.measuring.batch_size)
        for places in track(parts, "scoring the reference", len(subjects), "images", len):
            own = _stacked(self.measuring.measure([subjects[place] for place in places]))
            _keep(found, own, places[0], len(subjects))
        return {label.removeprefix(FEATURES): each for label, each in found.items()}

    def _subjects(self, asked: Asked, places: Sequence[int], held: dict[tuple[str, int], Target]) -> list[Subject]:
        """held: targets that keep their maps, by condition and place; those that it lacks are added."""
        subjects = []
        for place in places:
            file, other = asked.files[place], (place + asked.step) % len(self.images)
            for name in asked.conditions:
                if (name, other) not in held:
                    held[name, other] = self.targets[name][other].held()
            subjects.append(
                Subject(
                    digest=file.sha256,
                    read=lambda file=file: im.read_images([file.path], self.resolution),
                    targets={name: held[name, other] for name in asked.conditions},
                    prompt=self.images[place][0].prompt if asked.whole else None,
                    features=asked.whole,
                )
            )
        return subjects


def _asked(target: Target, by_annotator: bool) -> Sequence[Ruler]:
    """All rulers for the scorer, the headline alone for the annotator."""
    return target.rulers[:1] if by_annotator else target.rulers


def _keep(found: dict[str, np.ndarray], values: Mapping[str, np.ndarray], start: int, count: int) -> None:
    """Put the values of some of `count` images in their place; counts of pixels take 4 bytes where these are enough."""
    for label, own in values.items():
        if own.dtype.kind in "iu" and (np.abs(own) <= np.iinfo(np.int32).max).all():
            own = own.astype(np.int32)
        if label not in found:
            found[label] = np.empty((count, *own.shape[1:]), own.dtype)
        found[label] = found[label].astype(np.promote_types(found[label].dtype, own.dtype), copy=False)
        found[label][start : start + len(own)] = own


def _stacked(values: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {label: np.stack([each[label] for each in values]) for label in values[0]}
