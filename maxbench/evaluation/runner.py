"""A finished generation -> metrics.csv, samples.parquet, differences.csv: score what is new, then make the tables."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import maxbench
from maxbench import images as im
from maxbench.data.pairing import ImageSet
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import NO_JOINT, Features, Row, Tables
from maxbench.evaluation.scoring import Measuring, Scorers, Scoring, Subject, Target
from maxbench.experiments.method import REAL, REFERENCE, SHUFFLED, VAE_RECONSTRUCTION, Experiment
from maxbench.generation.inputs import EVALUATION, ControlInputs, source_key
from maxbench.progress import track
from maxbench.store.artefacts import Artefact
from maxbench.store.files import digest, fingerprint, read_sealed, seal
from maxbench.store.identity import code_fingerprint
from maxbench.store.runfolder import RunFolder, image_file, source_file
from maxbench.store.scores import Scores

METRICS, SAMPLES, DIFFERENCES = "metrics.csv", "samples.parquet", "differences.csv"
SUMMARY = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """Scores a run whose pictures are there.

    inputs: of the run, for the maps that pictures are held against. with_annotators: conditions whose map was drawn by
    another network than the scorer. scorer_names, annotator_names: what they are called in tables.
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
    resamples: int
    halvings: int
    level: float

    def references(self) -> list[str]:
        """By what the scores of the reference pictures are known, for :meth:`RunFolder.refer`."""
        return [each.digest for each in self._reference()]

    def run(self) -> bool:
        """Write the tables; False if they were there already."""
        rows, count = self._rows(), self.folder.count("score")
        scoring = Scoring(
            self.measuring(), self.experiment.images, self.targets(), self.experiment.replicates, self.inputs.resolution
        )
        asked = self._asked_for(rows, scoring)
        if self._already(asked["tables"]):
            count.found += asked["measurements"]
            return False
        measured = self._measure(rows, scoring)
        reference = scoring.reference(self._reference())
        tables = Tables(
            experiment=self.experiment,
            suite=self.suite,
            rows=rows,
            measured=measured,
            reference=reference,
            scorers=self.scorer_names,
            annotators=self.annotator_names,
            resamples=self.resamples,
            halvings=self.halvings,
            level=self.level,
        )
        self._write(tables, measured, reference, asked["tables"])
        return True

    def measuring(self) -> Measuring:
        """The scorers, and what they have measured before."""
        return Measuring(
            self.experiment.conditions, self.scorers, self.with_annotators, Scores(self.folder.store.path),
            self.batch_size, self.folder.count("score"),
        )  # fmt: skip

    # --- what is asked for ------------------------------------------------------------------------------------

    def _asked_for(self, rows: Sequence[Row], scoring: Scoring) -> dict[str, Any]:
        """What the tables depend on, digested, and how many measurements they are made of."""
        subjects = {row.name: scoring.subjects(row) for row in rows}
        keys = {
            name: [[each.digest, sorted(scoring.measuring.keys(each).values())] for each in own]
            for name, own in subjects.items()
        }
        keys["reference"] = [[each.digest, sorted(scoring.measuring.keys(each).values())] for each in self._reference()]
        package = Path(maxbench.__file__).parent
        settings = {
            "rows": [{**row.columns, "details": fingerprint([dict(each) for each in row.details])} for row in rows],
            "scorers": [self.scorer_names, self.annotator_names],
            "experiment": [self.experiment.name, self.suite, self.experiment.seed, self.experiment.baseline],
            "resamples": self.resamples,
            "halvings": self.halvings,
            "level": self.level,
            "code": code_fingerprint(*(package / room for room in ("conditions", "evaluation", "metrics"))),
        }
        return {
            "tables": fingerprint({"settings": settings, "measurements": keys}),
            "measurements": sum(len(own) for group in keys.values() for _, own in group),
        }

    def _already(self, asked: str) -> bool:
        """Whether the tables of this very question are there, as they were written."""
        known = read_sealed(self.folder.path / SUMMARY)
        try:
            return known["asked"] == asked and all(
                digest((self.folder.path / name).read_bytes()) == value for name, value in known["files"].items()
            )
        except (OSError, KeyError, TypeError, AttributeError):
            return False

    def _rows(self) -> list[Row]:
        """Every row of pictures, after checking that each image is there exactly once."""
        images, conditions = self.experiment.images, list(self.experiment.conditions)
        rows = []
        for product in (REAL, VAE_RECONSTRUCTION):
            files = {name: [source_file(product, sample.sources[name]) for sample, _ in images] for name in conditions}
            same = all(each == files[conditions[0]] for each in files.values())
            rows.append(Row(product, REFERENCE, files=self._artefacts(product, product, files), same=same))
        rows.append(Row(SHUFFLED, REFERENCE))
        for method in self.experiment.methods:
            files = [image_file(method.name, sample.id, replicate) for sample, replicate in images]
            found = self._artefacts(method.name, f"images/{method.name}", dict.fromkeys(conditions, files), True)
            rows.append(
                Row(
                    method.name, method.role, tuple(method.branches), method.parameter, method.setting, found,
                    same=True, is_unit=method.is_unit,
                )
            )  # fmt: skip
        return rows

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
        targets: dict[str, list[Target]] = {}
        for name in self.experiment.conditions:
            targets[name] = []
            for sample, _ in self.experiment.images:
                mask = self.inputs.masks.get((EVALUATION, name, sample.id))
                targets[name].append(
                    Target(
                        given=lambda name=name, sample=sample: self.inputs.condition_maps(name, [sample])[0],
                        mask=None if mask is None else lambda path=mask.path: im.read_maps([path])[0] > 0,
                        identity=[self.inputs.identity(name, sample), None if mask is None else mask.sha256],
                    )
                )
        return targets

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

    def _measure(self, rows: Sequence[Row], scoring: Scoring) -> dict[str, Features]:
        real = next(row for row in rows if row.name == REAL)
        return {
            row.name: scoring.shuffled(real) if row.name == SHUFFLED else scoring.row(row)
            for row in track(rows, "scoring", len(rows), "rows")
        }

    def _write(self, tables: Tables, measured: Mapping[str, Features], reference: np.ndarray, asked: str) -> None:
        files = {
            SAMPLES: tables.samples().to_parquet(index=False),
            METRICS: tables.metrics().to_csv(index=False).encode(),
            DIFFERENCES: tables.differences().to_csv(index=False).encode(),
            "features/reference.npy": _npy(reference),
            **{f"features/{row}.npy": _npy(each.features) for row, each in measured.items() if len(each.features)},
        }
        for name, content in files.items():
            self.folder.write(name, content)
        summary = {
            "asked": asked,
            "files": {name: digest(content) for name, content in files.items()},
            "defects": {
                row.name: [image.path.name for image in row.files[next(iter(row.files))] if image.details.get("defect")]
                for row in tables.rows
                if row.same
            },
            "joint": {
                "note": next((score.note for score in tables.joint.values()), NO_JOINT),
                "dominant": {
                    name: [score.dominant, score.dominant_share.value]
                    for name, score in tables.joint.items()
                    if score.dominant
                },
            },
        }
        self.folder.write(SUMMARY, seal(json.loads(json.dumps(summary))))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
