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
from maxbench.conditions.base import Condition
from maxbench.conditions.ruler import Ruler
from maxbench.data.pairing import Sample
from maxbench.evaluation.measure import Compared, MeasurePictures
from maxbench.evaluation.state import CLIP_SCORE, FEATURES, features_label, fidelity_label
from maxbench.generation.executors.base import Executor
from maxbench.generation.networks import CLIP
from maxbench.progress import Progress, track
from maxbench.store.artefacts import Artefact, Count, batches, padded
from maxbench.store.files import fingerprint
from maxbench.store.identity import identity
from maxbench.store.scores import Scores

SCORING = 2
"""Version of how pictures are read, given to scorers and compared, apart from the rulers' own versions."""

BATCHES_AT_A_TIME = 4
"""How many batches of samples, for each worker, are scored in all rows before the next: so many maps are held."""


@dataclass(frozen=True)
class Scorers:
    """What the networks are that measure; none of them is loaded.

    features: the names of the networks that distances between sets are made of. identity: of "clip", of
    ("features", name), and of a condition's by ("scorer" or "annotator", condition). device: the kind that they run on.
    """

    features: Sequence[str]
    identity: Callable[[str, str], Any]
    device: str


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

    with_annotators: the conditions whose fidelity is also measured by their annotator. executor: does the work.
    """

    conditions: Mapping[str, Condition]
    scorers: Scorers
    with_annotators: frozenset[str]
    book: Scores
    batch_size: int
    executor: Executor
    count: Count = field(default_factory=Count)

    @property
    def at_a_time(self) -> int:
        """How many samples are measured before the next: enough for every worker, few enough to be held."""
        return BATCHES_AT_A_TIME * self.executor.status.workers * self.batch_size

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
        if what is None:
            return self.measure_all([subjects])[0]
        with Progress(what, len(subjects), "images", brief=True, status=lambda: self.executor.status) as progress:
            return self.measure_all([subjects], progress)[0]

    def measure_all(
        self, groups: Sequence[Sequence[Subject]], progress: Progress | None = None
    ) -> list[list[dict[str, np.ndarray]]]:
        """The same of several groups at once; in a group all subjects are asked the same of."""
        keys = [[self.keys(subject) for subject in group] for group in groups]
        known = {digest: self.book.of(digest) for digest in {each.digest for group in groups for each in group}}
        wanted, missing = self._wanted(groups, keys, known)
        new = sum(len(each) for group in wanted for each in group)
        self.count.found += sum(len(own) for group in keys for own in group) - new
        if progress is not None and (idle := sum(map(len, groups)) - sum(map(len, missing))):
            progress.add(idle)

        def keep(task: MeasurePictures, values: list[dict[str, np.ndarray]]) -> None:
            for place, own in zip(task.places, values, strict=True):
                digest = groups[task.number][place].digest
                measured = {key: own[label] for label, key in wanted[task.number][place].items()}
                self.book.add(digest, measured)
                known[digest] |= measured
                self.count.made += len(measured)
            if progress is not None:
                progress.add(task.size)

        tasks = (
            self._task(number, groups[number], batch, wanted[number])
            for number, places in enumerate(missing)
            for batch in batches(places, self.batch_size)
        )
        if any(missing):
            self.executor.run(tasks, keep)
        return [
            [
                {label: known[subject.digest][key] for label, key in own.items()}
                for subject, own in zip(*each, strict=True)
            ]
            for each in zip(groups, keys, strict=True)
        ]

    def _wanted(
        self,
        groups: Sequence[Sequence[Subject]],
        keys: Sequence[Sequence[Mapping[str, str]]],
        known: Mapping[str, Mapping[str, np.ndarray]],
    ) -> tuple[list[list[dict[str, str]]], list[list[int]]]:
        """Of every subject what is to be measured, each measurement of a picture once; and the places of those."""
        planned: set[tuple[str, str]] = set()
        wanted: list[list[dict[str, str]]] = []
        for group, every in zip(groups, keys, strict=True):
            wanted.append([])
            for subject, own in zip(group, every, strict=True):
                digest = subject.digest
                new = {
                    label: key
                    for label, key in own.items()
                    if key not in known[digest] and (digest, key) not in planned
                }
                planned |= {(digest, key) for key in new.values()}
                wanted[-1].append(new)
        return wanted, [[place for place, each in enumerate(group) if each] for group in wanted]

    def _task(
        self, number: int, group: Sequence[Subject], places: Sequence[int], wanted: Sequence[Mapping[str, str]]
    ) -> MeasurePictures:
        """The batch of the subjects at `places`, filled up to its shape, with all that is wanted of any of them."""
        labels = {label for place in places for label in wanted[place]}
        filled = padded([group[place] for place in places], self.batch_size)
        conditions = filled[0].targets
        return MeasurePictures(
            places=tuple(places),
            pictures=im.to_bytes(torch.cat([each.read() for each in filled])),
            features=tuple(name for name in self.scorers.features if features_label(name) in labels),
            prompts=tuple(each.prompt for each in filled) if CLIP_SCORE in labels else None,
            compared={
                name: compared
                for name in conditions
                if (compared := self._compared(name, [each.targets[name] for each in filled], len(places), labels))
            },
            number=number,
        )

    def _compared(self, name: str, targets: Sequence[Target], count: int, labels: Collection[str]) -> Compared | None:
        """What the first `count` of a batch are held against for a condition; None where nothing is asked."""
        rulers = {
            by: [each for each in _asked(targets[0], by) if fidelity_label(name, each.metric, by) in labels]
            for by, _ in self._networks(name)
        }
        if not any(rulers.values()):
            return None
        masked = targets[0].mask is not None
        return Compared(
            given=torch.stack([each.given() for each in targets]).numpy(),
            mask=torch.stack([each.mask() for each in targets[:count]]).numpy() if masked else None,
            by_scorer=rulers[False],
            by_annotator=rulers.get(True, ()),
        )


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
        count, measuring = len(self.images), self.measuring
        plain = replace(measuring, with_annotators=frozenset())
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in rows}
        total = count * sum(len(every) for every in rows.values())
        with Progress("scoring", total, "images", status=lambda: measuring.executor.status) as progress:
            for places in batches(range(count), measuring.at_a_time):
                held: dict[tuple[str, int], Target] = {}
                for scorer in (measuring, plain):
                    own = [
                        (name, self._subjects(asked, places, held))
                        for name, every in rows.items()
                        for asked in every
                        if asked.by_annotators == (scorer is measuring)
                    ]
                    values = scorer.measure_all([subjects for _, subjects in own], progress)
                    for (name, _), each in zip(own, values, strict=True):
                        _keep(found[name], _stacked(each), places[0], count)
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
        parts = batches(range(len(subjects)), self.measuring.at_a_time)
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
