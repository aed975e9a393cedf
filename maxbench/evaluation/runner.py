"""A finished generation -> metrics.csv, samples.parquet, differences.csv: score what is new, then make the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import torch

import maxbench
from maxbench import images as im
from maxbench.data.pairing import ImageSet, Sample
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.scoring import Measuring, Pictures, Scorers, Scoring, Subject, Target
from maxbench.evaluation.state import COSTS, RETRIED, Image, Row, State
from maxbench.experiments.method import (
    ENTERED,
    EXCHANGED,
    REAL,
    REFERENCE,
    SHUFFLED,
    VAE_RECONSTRUCTION,
    Experiment,
    Method,
)
from maxbench.generation.inputs import CONTROL, EVALUATION, ControlInputs, source_key
from maxbench.store.artefacts import Artefact
from maxbench.store.files import file_digest, fingerprint, read_sealed, seal
from maxbench.store.identity import code_fingerprint
from maxbench.store.runfolder import RunFolder, entered_product, image_file, picture_name, source_file
from maxbench.store.scores import Scores

METRICS, SAMPLES, DIFFERENCES, CONFLICT = "metrics.csv", "samples.parquet", "differences.csv", "conflict.csv"
FURTHER_DIFFERENCES, CONFLICT_DIFFERENCES = "further_differences.csv", "conflict_differences.csv"
STATE = "state.npz"
"""Everything that was measured, from which the tables are made; see :mod:`maxbench.evaluation.state`."""
SUMMARY = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """Scores a run whose pictures are there.

    inputs: of the run, for the maps that pictures are held against. with_annotators: conditions whose map was drawn by
    another network than the scorer. scorer_names, annotator_names: what they are called in tables.
    required: the methods whose pictures must be there, None for all; others are listed where theirs are.
    """

    experiment: Experiment
    folder: RunFolder
    inputs: ControlInputs
    image_set: ImageSet
    batch_size: int
    scorers: Scorers
    with_annotators: frozenset[str]
    scorer_names: dict[str, str]
    annotator_names: dict[str, str]
    suite: str
    notes: tuple[str, ...]
    resamples: int
    level: float
    required: Collection[str] | None = None

    def references(self) -> list[str]:
        """By what the scores of the reference pictures are known, for :meth:`RunFolder.refer`."""
        return [each.digest for each in self._reference()]

    def run(self) -> bool:
        """Write the tables; False if they were there already."""
        rows, count = self._rows(), self.folder.count("score")
        scoring = Scoring(self.measuring(), self.experiment.images, self.targets(), self.inputs.resolution)
        asked = self._asked_for(rows, scoring)
        if self._already(asked["tables"]):
            count.found += asked["measurements"]
            return False
        state = self._state(rows, scoring)
        self.write(Tables(state, self.experiment.conditions, self.resamples, self.level), asked["tables"])
        return True

    def fidelity(self) -> Tables:
        """The tables' numbers without distances to a reference; nothing is written."""
        scoring = Scoring(self.measuring(), self.experiment.images, self.targets(), self.inputs.resolution)
        return Tables(self._state(self._rows(), scoring), self.experiment.conditions, self.resamples, self.level)

    def measuring(self) -> Measuring:
        """The scorers, and what they have measured before."""
        return Measuring(
            self.experiment.conditions, self.scorers, self.with_annotators, Scores(self.folder.store.path),
            self.batch_size, self.inputs.executor, self.folder.count("score"),
        )  # fmt: skip

    # --- what is asked for ------------------------------------------------------------------------------------

    def _asked_for(self, rows: Mapping[Row, Pictures | None], scoring: Scoring) -> dict[str, Any]:
        """What the tables depend on, digested, and how many measurements they are made of."""
        keys, measurements = {}, 0
        pictured = {row.name: pictures for row, pictures in rows.items() if pictures is not None}
        for name, pictures in {**pictured, "reference": None}.items():  # one row at a time: the keys are many
            subjects = self._reference() if pictures is None else scoring.subjects(pictures)
            own = [[each.digest, sorted(scoring.measuring.keys(each).values())] for each in subjects]
            keys[name] = fingerprint(own)
            measurements += sum(len(labels) for _, labels in own)
        package = Path(maxbench.__file__).parent
        settings = {
            "rows": [
                {**row.columns, "details": fingerprint([dict(each.details) for each in _one_of(pictures)])}
                for row, pictures in rows.items()
            ],
            "scorers": [self.scorer_names, self.annotator_names],
            "notes": list(self.notes),
            "experiment": [self.experiment.name, self.suite, self.experiment.seed, list(self.experiment.baselines)],
            "groups": [sample.group for sample in self.experiment.samples],
            "resamples": self.resamples,
            "level": self.level,
            "code": code_fingerprint(*(package / room for room in ("conditions", "evaluation", "metrics"))),
        }
        return {
            "tables": fingerprint({"settings": settings, "measurements": keys}),
            "measurements": measurements,
        }

    def _already(self, asked: str) -> bool:
        """Whether the tables of this very question are there, as they were written."""
        known = read_sealed(self.folder.path / SUMMARY)
        try:
            return known["asked"] == asked and all(
                file_digest(self.folder.path / name) == value for name, value in known["files"].items()
            )
        except (OSError, KeyError, TypeError, AttributeError):
            return False

    def _rows(self) -> dict[Row, Pictures | None]:
        """Every row and its pictures, or None; after checking that each image is there exactly once."""
        images, conditions = self.experiment.images, list(self.experiment.conditions)
        rows: dict[Row, Pictures | None] = {}
        for product in (REAL, VAE_RECONSTRUCTION):
            files = {name: [source_file(product, sample.sources[name]) for sample, _ in images] for name in conditions}
            same = all(each == files[conditions[0]] for each in files.values())
            rows[Row(product, REFERENCE, same=same)] = Pictures(self._artefacts(product, product, files), same)
        if not same:
            rows[Row(EXCHANGED, REFERENCE)] = None
        rows[Row(SHUFFLED, REFERENCE, same=same)] = None
        for method in self._listed():
            files = [image_file(method.name, sample.id, replicate) for sample, replicate in images]
            found = self._artefacts(method.name, f"images/{method.name}", dict.fromkeys(conditions, files), True)
            row = Row(
                method.name, method.role, tuple(method.branches), method.parameter, method.setting, method.delta,
                same=True, is_unit=method.is_unit,
            )  # fmt: skip
            rows[row] = Pictures(found, same=True)
        for name in self.folder.entered():
            rows[Row(name, ENTERED, same=True)] = Pictures(self._entered(name), same=True)
        return rows

    def _listed(self) -> list[Method]:
        """The methods that have rows: all that must be there, and others whose pictures are."""
        return [
            method
            for method in self.experiment.methods
            if self.required is None or method.name in self.required or self._is_complete(method)
        ]

    def _is_complete(self, method: Method) -> bool:
        """Whether the pictures of a method are all there, as they were made."""
        product = f"images/{method.name}"
        files = {image_file(method.name, sample.id, replicate) for sample, replicate in self.experiment.images}
        try:
            return {each.file for each in self.folder.entries(product)} == files and not self.folder.restore(product)
        except UserError:  # no record, or a damaged one
            return False

    def _entered(self, name: str) -> dict[str, tuple[Artefact, ...]]:
        """Pictures made elsewhere; they cannot be made again here."""
        product, conditions = entered_product(name), list(self.experiment.conditions)
        files = [f"{product}/{picture_name(sample.id, replicate)}" for sample, replicate in self.experiment.images]
        try:
            lost = self.folder.restore(product)
            found = self._artefacts(name, product, dict.fromkeys(conditions, files), True)
        except UserError as error:
            raise UserError(f"The record of the entered pictures '{name}' is damaged; {self._again(name)}") from error
        if lost:
            raise UserError(
                f"{len(lost)} of the entered pictures '{name}' are lost or changed ({', '.join(lost[:3])}); "
                f"{self._again(name)}"
            )
        return found

    def _again(self, name: str) -> str:
        record = self.folder.path / "records" / f"{entered_product(name)}.json"
        return f"enter them again with `python -m maxbench evaluate`, or remove {record} to go on without them."

    def _artefacts(
        self, name: str, product: str, files: Mapping[str, Sequence[str]], exactly: bool = False
    ) -> dict[str, tuple[Artefact, ...]]:
        """The pictures of a row, as the record of their product lists them."""
        entries = self.folder.entries(product)
        listed = [entry.file for entry in entries]
        wanted = list(dict.fromkeys(file for own in files.values() for file in own))
        known = {
            entry.file: Artefact(entry.key, entry.sha256, self.folder.path / entry.file, entry.details)
            for entry in entries
        }
        missing = [file for file in wanted if file not in known]
        twice = {file for file in listed if listed.count(file) > 1} if len(set(listed)) < len(listed) else set()
        extra = sorted(twice | (set(listed) - set(wanted) if exactly else set()))
        if missing or extra:
            what = ", ".join([f"missing {file}" for file in missing[:3]] + [f"unexpected {file}" for file in extra[:3]])
            raise UserError(
                f"The run's images of '{name}' are not exactly one per sample ({len(missing)} missing, "
                f"{len(extra)} twice or foreign: {what}); run the same command again to fix it."
            )
        return {condition: tuple(known[file] for file in own) for condition, own in files.items()}

    def targets(self) -> dict[str, list[Target]]:
        """Condition -> what every image of the experiment is held against."""
        return {
            name: [self._target(name, sample) for sample, _ in self.experiment.images]
            for name in self.experiment.conditions
        }

    def _target(self, name: str, sample: Sample) -> Target:
        """An object is held against its class and outline, where the condition knows them; all else against its map."""
        inputs, condition = self.inputs, self.experiment.conditions[name]
        mask, category = inputs.masks.get((EVALUATION, name, sample.id)), sample.category.get(name)
        identity = [inputs.identity(name, sample), None if mask is None else mask.sha256]

        def given() -> torch.Tensor:
            return inputs.condition_maps(name, [sample])[0]

        rulers, read = condition.rulers, given
        if category is not None:
            rulers = condition.object_rulers
            if condition.knows_objects:
                identity.append({"category": category})

                def read() -> torch.Tensor:
                    return condition.object_map(inputs.mask(CONTROL, name, [sample])[0], category)

        return Target(
            given=read,
            mask=None if mask is None else lambda: im.read_maps([mask.path])[0] > 0,
            rulers=rulers,
            identity=identity,
        )

    def _reference(self) -> list[Subject]:
        resolution = self.inputs.resolution
        return [
            Subject(
                digest=source_key(self.image_set, image, resolution),
                read=lambda image=image: im.read_images([self.image_set.picture(image).path], resolution),
                features=True,
            )
            for image in self.experiment.reference
        ]

    # --- measuring and writing --------------------------------------------------------------------------------

    def _state(self, rows: Mapping[Row, Pictures | None], scoring: Scoring) -> State:
        experiment = self.experiment
        real = next(pictures for row, pictures in rows.items() if row.name == REAL)
        made = {SHUFFLED: scoring.against_others, EXCHANGED: scoring.exchanged}
        asked = {
            row.name: made[row.name](real) if row.name in made else scoring.of(pictures)
            for row, pictures in rows.items()
        }
        measured = scoring.measure(asked)
        for row, pictures in rows.items():
            if pictures is not None:
                measured[row.name] |= _costs(row, pictures)
        return State(
            experiment=experiment.name,
            suite=self.suite,
            baselines=tuple(each for each in experiment.baselines if each in {row.name for row in rows}),
            images=tuple(
                Image(experiment.seed, sample.id, sample.group, replicate) for sample, replicate in experiment.images
            ),
            rows=tuple(rows),
            measured=measured,
            reference=scoring.reference(self._reference()) if experiment.reference else {},
            scorers=self.scorer_names,
            annotators=self.annotator_names,
            regional=_named(experiment, lambda sample: sample.evaluation_masks),
            objects=_named(experiment, lambda sample: sample.category),
            notes=(*self.notes, *self._left_out(rows)),
        )

    def _left_out(self, rows: Mapping[Row, Pictures | None]) -> list[str]:
        """What a reader must know of rows that are not there."""
        listed = {row.name for row in rows}
        missing = [each.name for each in self.experiment.methods if each.name not in listed]
        return [f"Without pictures, and so without rows: {', '.join(missing)}; run the experiment."] if missing else []

    def write(self, tables: Tables, asked: str) -> None:
        """The state and all tables that are made of it."""
        write_results(self.folder, tables, asked)


def write_results(folder: RunFolder, tables: Tables, asked: str, run: str | None = None) -> None:
    """Leave a state and all tables that are made of it in a folder.

    asked: what they depend on, digested. run: what the tables call it; None for the folder's name.
    """

    def named(table: pd.DataFrame) -> pd.DataFrame:
        if not table.empty:
            table.insert(0, "run", folder.path.name if run is None else run)
        return table

    files: dict[str, bytes | Callable[[BinaryIO], None]] = {
        STATE: tables.state.write,
        SAMPLES: named(tables.samples()).to_parquet(index=False),
        METRICS: named(tables.metrics()).to_csv(index=False).encode(),
        DIFFERENCES: named(tables.differences()).to_csv(index=False).encode(),
        FURTHER_DIFFERENCES: named(tables.further_differences()).to_csv(index=False).encode(),
    }
    if (curve := tables.conflict_curve()) is not None:
        files[CONFLICT] = named(curve).to_csv(index=False).encode()
        files[CONFLICT_DIFFERENCES] = named(tables.conflict_differences()).to_csv(index=False).encode()
    written = {name: folder.write(name, content) for name, content in files.items()}
    summary = {
        "asked": asked,
        "files": {name: file_digest(path) for name, path in written.items()},
        "defects": tables.defects(),
        "notes": tables.notes,
        "joint": {"note": tables.joint_note, "dominant": tables.dominant()},
    }
    folder.write(SUMMARY, seal(json.loads(json.dumps(summary))))


def _one_of(pictures: Pictures | None) -> Sequence[Artefact]:
    return () if pictures is None else next(iter(pictures.files.values()))


def _costs(row: Row, pictures: Pictures) -> dict[str, np.ndarray]:
    """What is known of how each picture came to be, (N,) each; of real pictures only whether they are defective."""
    if not row.same:
        return {}
    details = [each.details for each in _one_of(pictures)]
    costs = {"defect": np.array([float(each.get("defect") is not None) for each in details])}
    if details[0].get("seconds") is None:
        return costs
    costs[RETRIED] = np.array([float(RETRIED in each) for each in details])
    for name in COSTS:
        costs[name] = np.array([np.nan if each.get(name) is None else float(each[name]) for each in details])
    return costs


def _named(experiment: Experiment, of: Callable[[Sample], Mapping[str, Any]]) -> tuple[str, ...]:
    """Conditions that any sample says something of."""
    return tuple(name for name in experiment.conditions if any(name in of(sample) for sample in experiment.samples))
