"""Drinks a finished run folder once and feeds every metric.

First what each picture shows (features, CLIP score, fidelity to every condition), one row of pictures after
another; then tables, computed from those per-sample values alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from maxbench import images as im
from maxbench.conditions.base import Annotator, Condition
from maxbench.errors import UserError
from maxbench.experiments.method import REFERENCE_ROWS, Experiment
from maxbench.generation.runner import image_file
from maxbench.generation.inputs import condition_maps, region, source_file
from maxbench.metrics.text import clip_score
from maxbench.progress import track
from maxbench.store.runfolder import RunFolder, digest, fingerprint, write_atomically
from maxbench.evaluation.aggregate import NO_JOINT, Row, Scores, Seen

METRICS, SAMPLES, DIFFERENCES, SUMMARY = (
    "metrics.csv",
    "samples.parquet",
    "differences.csv",
    "evaluation.json",
)
SHUFFLED = "shuffled"
"""The row of real images held against another sample's map: what a score is worth that sees no condition."""


@dataclass
class Evaluation:
    """Scores a run. Scorers are loaded when something is there to score.

    load_scorer: condition -> the network that measures its map in pictures, or None.
    load_annotator: condition -> the network that drew the given maps, where that is another one; else None.
    load_clip_scorer: loads the text-image scorer.
    scorers, annotators: what they are called in tables, see :class:`maxbench.evaluation.aggregate.Scores`.
    """

    experiment: Experiment
    folder: RunFolder
    resolution: int
    batch_size: int
    load_scorer: Callable[[str], Annotator | None]
    load_annotator: Callable[[str], Annotator | None]
    load_clip_scorer: Callable[[], object]
    read_reference: Callable[[Sequence[int]], torch.Tensor]
    scorers: dict[str, str]
    annotators: dict[str, str]
    suite: str
    resamples: int = 2000
    level: float = 0.95

    def run(self) -> bool:
        """Write metrics.csv, samples.parquet and differences.csv; False if they were there already."""
        rows = self._rows()
        summary = {
            "images": fingerprint({row.name: [record.sha256 for record in row.records] for row in rows}),
            "resamples": self.resamples,
            "level": self.level,
        }
        if self._already(summary):
            return False
        scores = Scores(
            experiment=self.experiment,
            suite=self.suite,
            rows=rows,
            seen=self._look(rows),
            reference=self._look_at_reference(),
            scorers=self.scorers,
            annotators=self.annotators,
            resamples=self.resamples,
            level=self.level,
        )
        write_atomically(self.folder.path / SAMPLES, scores.samples().to_parquet(index=False))
        write_atomically(self.folder.path / METRICS, scores.metrics().to_csv(index=False))
        write_atomically(self.folder.path / DIFFERENCES, scores.differences().to_csv(index=False))
        summary["defects"] = {row.name: [record.file for record in row.records if record.defect] for row in rows}
        summary["joint"] = {
            "note": next((score.note for score in scores.joint.values()), NO_JOINT),
            "dominant": {
                name: [score.dominant, score.dominant_share.value]
                for name, score in scores.joint.items()
                if score.dominant
            },
        }
        summary["files"] = {
            name: digest((self.folder.path / name).read_bytes()) for name in (SAMPLES, METRICS, DIFFERENCES)
        }
        write_atomically(self.folder.path / SUMMARY, json.dumps(summary, indent=1))
        return True

    def _already(self, summary: dict) -> bool:
        try:
            known = json.loads((self.folder.path / SUMMARY).read_text())
            files = known["files"].items()
            same = all(digest((self.folder.path / name).read_bytes()) == value for name, value in files)
        except (OSError, json.JSONDecodeError, KeyError):
            return False
        return same and all(known.get(key) == value for key, value in summary.items())

    # --- rows -----------------------------------------------------------------------------------------------

    def _rows(self) -> list[Row]:
        """Every row of pictures, after checking that each image is there exactly once."""
        rows = []
        images = self.experiment.images
        for product in REFERENCE_ROWS:
            files = {
                name: [source_file(product, sample.sources[name]) for sample, _ in images]
                for name in self.experiment.conditions
            }
            rows.append(self._row(product, product, files))
        for method in self.experiment.methods:
            files = [image_file(method.name, sample.id, replicate) for sample, replicate in images]
            by_condition = dict.fromkeys(self.experiment.conditions, files)
            rows.append(self._row(method.name, f"images/{method.name}", by_condition, exactly=True))
        return rows

    def _row(self, name: str, product: str, by_condition: dict[str, list[str]], exactly: bool = False) -> Row:
        """The row's pictures, looked up in the records of a product."""
        files = list(dict.fromkeys(file for files in by_condition.values() for file in files))
        records = self.folder.records(product)
        known = {record.file: record for record in records}
        missing = [file for file in files if file not in known]
        same = all(each == next(iter(by_condition.values())) for each in by_condition.values())
        listed = [record.file for record in records]
        extra = sorted(
            {file for file in listed if listed.count(file) > 1} | (set(listed) - set(files) if exactly else set())
        )
        if missing or extra:
            what = ", ".join([f"missing {file}" for file in missing[:3]] + [f"unexpected {file}" for file in extra[:3]])
            raise UserError(
                f"The run's images of '{name}' are not exactly one per sample ({len(missing)} missing, "
                f"{len(extra)} twice or foreign: {what}); run the same command again to mend it."
            )
        records = tuple(known[file] for file in (next(iter(by_condition.values())) if same else files))
        return Row(name, {key: tuple(value) for key, value in by_condition.items()}, records, same)

    # --- looking --------------------------------------------------------------------------------------------

    def _look(self, rows: Sequence[Row]) -> dict[str, Seen]:
        """Every row through every scorer; the ends of the scale stand together, above the methods."""
        looker = self._looker()
        total = sum(len(looker.starts) * (1 if row.same else len(looker.conditions)) for row in rows)
        batches = iter(track(range(total), "scoring", total, "batches"))
        seen = {row.name: looker.look(row, batches) for row in rows}
        next(batches, None)  # lets the progress bar end
        for name, what in seen.items():
            if len(what.features):
                path = self.folder.path / "features" / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, what.features)
        real, reconstruct = REFERENCE_ROWS
        ends = {name: seen.pop(name) for name in (real, reconstruct)}
        return {**ends, SHUFFLED: looker.shuffled(real, self.experiment.replicates), **seen}

    def _looker(self) -> Looker:
        samples = [sample for sample, _ in self.experiment.images]
        conditions = self.experiment.conditions
        judge = self.load_clip_scorer()
        scorers = {name: self.load_scorer(name) for name in conditions}
        return Looker(
            folder=self.folder,
            resolution=self.resolution,
            batch_size=self.batch_size,
            conditions=conditions,
            judge=judge,
            texts=judge.texts([sample.prompt for sample in samples]),
            scorers=scorers,
            annotators={name: net for name in conditions if (net := self.load_annotator(name)) is not None},
            given={
                name: each.as_measured(condition_maps(self.folder, each, samples), scorers[name])
                for name, each in conditions.items()
            },
            scored={name: region(self.folder, "evaluation_masks", name, samples) for name in conditions},
        )

    def _look_at_reference(self) -> np.ndarray:
        path = self.folder.path / "features" / "reference.npy"
        judge = self.load_clip_scorer()
        ids = self.experiment.reference
        parts = []
        for start in range(0, len(ids), self.batch_size):
            parts.append(judge.images(self.read_reference(ids[start : start + self.batch_size])).numpy())
        features = np.concatenate(parts)
        np.save(path, features)
        return features


@dataclass
class Looker:
    """Looks at rows of pictures with everything that can score them.

    texts: (N, D) of the prompts. given: condition -> (N, ...), as it is compared. scored: condition -> (N, H, W) bool,
    or None for the whole picture.
    """

    folder: RunFolder
    resolution: int
    batch_size: int
    conditions: dict[str, Condition]
    judge: Any
    texts: torch.Tensor
    scorers: dict[str, Annotator | None]
    annotators: dict[str, Annotator]
    given: dict[str, torch.Tensor]
    scored: dict[str, torch.Tensor | None]

    def __post_init__(self):
        self.starts = range(0, len(self.texts), self.batch_size)
        self.measured: dict[tuple[str, str], torch.Tensor] = {}  # (row, condition) -> maps by the scorer

    def look(self, row: Row, batches: Iterator) -> Seen:
        """One row; takes one of `batches` for each batch of pictures that it reads."""
        groups = [list(self.conditions)] if row.same else [[name] for name in self.conditions]
        features, statistics, again = [], {}, {}
        for group in groups:
            parts: dict[str, list] = {name: [] for name in group}
            others: dict[str, list] = {name: [] for name in group if name in self.annotators}
            maps: dict[str, list] = {name: [] for name in group}
            for start in self.starts:
                next(batches)
                cut = slice(start, start + self.batch_size)
                files = row.files[group[0]][cut]
                pictures = im.read_images([self.folder.path / file for file in files], self.resolution)
                if row.same:
                    features.append(self.judge.images(pictures))
                for name in group:
                    maps[name].append(self.conditions[name].draw(pictures, self.scorers[name]))
                    parts[name].append(self._compare(name, cut, maps[name][-1]))
                    if name in others:
                        drawn = self.conditions[name].draw(pictures, self.annotators[name])
                        others[name].append(self._compare(name, cut, drawn))
            statistics |= {name: np.concatenate(each) for name, each in parts.items()}
            again |= {name: np.concatenate(each) for name, each in others.items()}
            if row.name == REFERENCE_ROWS[0]:
                self.measured |= {(row.name, name): torch.cat(each) for name, each in maps.items()}
        if not row.same:  # no single picture: nothing but fidelity can be asked
            return Seen(np.empty((0, 0)), np.empty(0), statistics, again)
        joined = torch.cat(features)
        return Seen(joined.numpy(), clip_score(joined, self.texts).numpy(), statistics, again)

    def _compare(self, condition: str, cut: slice, measured: torch.Tensor) -> np.ndarray:
        valid = self.scored[condition]
        given = self.given[condition][cut]
        return self.conditions[condition].compare(given, measured, None if valid is None else valid[cut])

    def shuffled(self, row: str, step: int) -> Seen:
        """A row that was looked at, held against the maps of the sample `step` places on."""
        statistics = {}
        for name, condition in self.conditions.items():
            given, valid = self.given[name].roll(-step, 0), self.scored[name]
            valid = None if valid is None else valid.roll(-step, 0)
            cuts = [slice(start, start + self.batch_size) for start in self.starts]
            measured = self.measured[row, name]
            statistics[name] = np.concatenate(
                [condition.compare(given[cut], measured[cut], None if valid is None else valid[cut]) for cut in cuts]
            )
        return Seen(np.empty((0, 0)), np.empty(0), statistics, {})
