"""Drinks a finished run folder once and feeds every metric.

First what each picture shows (features, CLIP score, fidelity to every condition), one row of pictures after
another; then tables, computed from those per-sample values alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maxbench import images as im
from maxbench.conditions.base import Annotator
from maxbench.errors import UserError
from maxbench.experiment import REFERENCE_ROWS, Experiment
from maxbench.generate import given_maps, image_file, source_file
from maxbench.metrics.text import clip_score
from maxbench.progress import track
from maxbench.runfolder import RunFolder, digest, fingerprint, write_atomically
from maxbench.scores import NO_JOINT, Row, Scores, Seen

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

    load_annotator: condition -> its network or None. judge: loads the text-image scorer.
    scorers: what the scorers are called in tables, see :class:`maxbench.scores.Scores`.
    """

    experiment: Experiment
    folder: RunFolder
    resolution: int
    batch_size: int
    load_annotator: Callable[[str], Annotator | None]
    load_judge: Callable[[], object]
    read_reference: Callable[[Sequence[int]], torch.Tensor]
    scorers: dict[str, str]
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
        one_source = all(len(set(sample.sources.values())) == 1 for sample in self.experiment.samples)
        if one_source:  # else no single real picture satisfies all conditions
            for product in REFERENCE_ROWS:
                files = [source_file(product, next(iter(sample.sources.values()))) for sample, _ in images]
                rows.append(self._row(product, product, files))
        for method in self.experiment.methods:
            files = [image_file(method.name, sample.id, replicate) for sample, replicate in images]
            rows.append(self._row(method.name, f"images/{method.name}", files, exactly=True))
        return rows

    def _row(self, name: str, product: str, files: list[str], exactly: bool = False) -> Row:
        records = self.folder.records(product)
        known = {record.file: record for record in records}
        missing = [file for file in files if file not in known]
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
        return Row(name, tuple(files), tuple(known[file] for file in files))

    # --- looking --------------------------------------------------------------------------------------------

    def _look(self, rows: Sequence[Row]) -> dict[str, Seen]:
        judge = self.load_judge()
        annotators = {name: self.load_annotator(name) for name in self.experiment.conditions}
        samples = [sample for sample, _ in self.experiment.images]
        given = {name: given_maps(self.folder, name, samples) for name in self.experiment.conditions}
        texts = judge.texts([sample.prompt for sample in samples])
        starts = range(0, len(samples), self.batch_size)
        parts: dict[str, list[Seen]] = {row.name: [] for row in rows}
        work = [(row, start) for row in rows for start in starts]
        for row, start in track(work, "scoring", len(work), "batches"):
            cut = slice(start, start + self.batch_size)
            pictures = im.read_images([self.folder.path / file for file in row.files[cut]], self.resolution)
            features = judge.images(pictures)
            statistics = {
                name: condition.compare(given[name][cut], condition.draw(pictures, annotators[name]))
                for name, condition in self.experiment.conditions.items()
            }
            parts[row.name].append(Seen(features.numpy(), clip_score(features, texts[cut]).numpy(), statistics))
        seen = {name: _joined(batches) for name, batches in parts.items()}
        for name, what in seen.items():
            path = self.folder.path / "features" / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, what.features)
        if "real" in seen:  # the ends of the scale stand together, above the methods
            ends = {name: seen.pop(name) for name in REFERENCE_ROWS}
            seen = {**ends, SHUFFLED: self._shuffled(given), **seen}
        return seen

    def _shuffled(self, given: dict[str, torch.Tensor]) -> Seen:
        """Real images against the next sample's maps; nothing but fidelity is asked of this row."""
        statistics = {}
        step = self.experiment.replicates
        for name, condition in self.experiment.conditions.items():
            others = given[name].roll(-step, 0)
            chunks = zip(others.split(self.batch_size), given[name].split(self.batch_size), strict=True)
            # the real image's map *is* the given one: the annotator drew it from that image
            statistics[name] = np.concatenate([condition.compare(other, own) for other, own in chunks])
        return Seen(np.empty((0, 0)), np.empty(0), statistics)

    def _look_at_reference(self) -> np.ndarray:
        path = self.folder.path / "features" / "reference.npy"
        judge = self.load_judge()
        ids = self.experiment.reference
        parts = []
        for start in range(0, len(ids), self.batch_size):
            parts.append(judge.images(self.read_reference(ids[start : start + self.batch_size])).numpy())
        features = np.concatenate(parts)
        np.save(path, features)
        return features


def _joined(batches: Sequence[Seen]) -> Seen:
    return Seen(
        features=np.concatenate([batch.features for batch in batches]),
        clip=np.concatenate([batch.clip for batch in batches]),
        statistics={
            name: np.concatenate([batch.statistics[name] for batch in batches]) for name in batches[0].statistics
        },
    )
