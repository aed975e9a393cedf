"""Drinks a finished run folder once and feeds every metric.

First what each picture shows (features, CLIP score, fidelity to every condition), one row of pictures after
another; then tables, computed from those per-sample values alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from maxbench import images as im
from maxbench.conditions.base import Annotator, Condition
from maxbench.errors import UserError
from maxbench.experiment import Experiment
from maxbench.generate import given_maps, image_file, source_file
from maxbench.metrics.distribution import frechet_distance, kernel_distance
from maxbench.metrics.joint import JointScore, joint_scores
from maxbench.metrics.statistics import (
    Interval,
    bootstrap,
    bootstrap_mean,
    half_sampling,
    paired_difference,
    resampled_sums,
)
from maxbench.metrics.text import clip_score
from maxbench.progress import track
from maxbench.runfolder import Record, RunFolder, digest, fingerprint, write_atomically

METRICS, SAMPLES, DIFFERENCES, SUMMARY = (
    "metrics.csv",
    "samples.parquet",
    "differences.csv",
    "evaluation.json",
)
SHUFFLED = "shuffled"
"""The row of real images held against another sample's map: what a score is worth that sees no condition."""

KID_FACTOR = 1000  # tables print KID x 1000, as the field does


@dataclass(frozen=True)
class Row:
    """One row of pictures: a method's, or the real images; `files` in the order of the experiment's images."""

    name: str
    files: tuple[str, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Seen:
    """What one row of pictures shows; the first axis of everything is the image."""

    features: np.ndarray  # (N, D)
    clip: np.ndarray  # (N,)
    statistics: dict[str, np.ndarray]  # condition -> (N, ...)


@dataclass
class Evaluation:
    """Scores a run. Scorers are loaded when something is there to score.

    load_annotator: condition -> its network or None. judge: loads the text-image scorer.
    scorers: what the scorers are called in tables: "judge", and each condition.
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
        seen = self._look(rows)
        seen_reference = self._look_at_reference()
        samples = self._per_sample(rows, seen)
        joint = self._joint(seen)
        metrics = self._metrics(rows, seen, seen_reference, joint)
        differences = self._differences(seen)
        write_atomically(self.folder.path / SAMPLES, samples.to_parquet(index=False))
        write_atomically(self.folder.path / METRICS, metrics.to_csv(index=False))
        write_atomically(self.folder.path / DIFFERENCES, differences.to_csv(index=False))
        summary["defects"] = {row.name: [record.file for record in row.records if record.defect] for row in rows}
        summary["joint"] = {
            "note": next((score.note for score in joint.values()), NO_JOINT),
            "dominant": {
                name: [score.dominant, score.dominant_share.value] for name, score in joint.items() if score.dominant
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
            for product in ("real", "vae_round_trip"):
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
        if "real" in seen:
            seen[SHUFFLED] = self._shuffled(given, annotators)
        return seen

    def _shuffled(self, given: dict[str, torch.Tensor], annotators: dict) -> Seen:
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

    # --- tables ---------------------------------------------------------------------------------------------

    def _condition_scorer(self, condition: Condition) -> str:
        return self.scorers.get(condition.name, "arithmetic")

    def _per_sample(self, rows: Sequence[Row], seen: dict[str, Seen]) -> pd.DataFrame:
        """One row per image, method and metric."""
        images = self.experiment.images
        base = pd.DataFrame(
            {
                "experiment": self.experiment.name,
                "suite": self.suite,
                "seed": self.experiment.seed,
                "sample": [sample.id for sample, _ in images],
                "replicate": [replicate for _, replicate in images],
            }
        )
        parts = []

        def add(method: str, metric: str, protocol: str, scorer: str, values: np.ndarray) -> None:
            parts.append(base.assign(method=method, metric=metric, protocol=protocol, scorer=scorer, value=values))

        for name, what in seen.items():
            for condition in self.experiment.conditions.values():
                values = condition.score(what.statistics[condition.name])
                add(
                    name,
                    condition.sample_metric,
                    condition.protocol,
                    self._condition_scorer(condition),
                    values,
                )
            if len(what.clip):
                add(name, "clip_score", CLIP_PROTOCOL, self.scorers["judge"], what.clip)
        for row in rows:
            defects = np.array([float(record.defect is not None) for record in row.records])
            add(row.name, "defect", "NaN or black", "arithmetic", defects)
            if row.records[0].seconds is not None:
                seconds = np.array([record.seconds for record in row.records], float)
                add(row.name, "seconds", "generation, wall clock", "clock", seconds)
        return pd.concat(parts, ignore_index=True)

    def _per_cluster(self, values: np.ndarray) -> np.ndarray:
        """Replicates of a sample are not independent: average them first, (N, ...) => (samples, ...)."""
        return values.reshape(len(self.experiment.samples), self.experiment.replicates, *values.shape[1:]).mean(1)

    def _metrics(
        self, rows: Sequence[Row], seen: dict[str, Seen], reference: np.ndarray, joint: dict[str, JointScore]
    ) -> pd.DataFrame:
        settings = {"seed": self.experiment.seed, "resamples": self.resamples, "level": self.level}
        out: list[dict] = []

        def add(method: str, metric: str, protocol: str, scorer: str, interval: Interval) -> None:
            values = {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
            out.append(
                {
                    "experiment": self.experiment.name, "suite": self.suite, "method": method, "metric": metric,
                    "protocol": protocol, **values, "scorer": scorer, "seed": self.experiment.seed,
                }
            )  # fmt: skip

        for name, what in seen.items():
            if len(what.features):
                for metric, interval in self._distances(what.features, reference).items():
                    protocol = f"{len(reference)} reference images"
                    add(name, metric, protocol, self.scorers["judge"], interval)
                clip = bootstrap_mean(self._per_cluster(what.clip), **settings)
                add(name, "clip_score", CLIP_PROTOCOL, self.scorers["judge"], clip)
            for condition in self.experiment.conditions.values():
                interval = self._pooled(condition, what.statistics[condition.name])
                add(name, condition.metric, condition.protocol, self._condition_scorer(condition), interval)
        for method, score in joint.items():
            for metric, interval in _joint_rows(score).items():
                add(method, metric, JOINT_PROTOCOL, "fidelity", interval)
        for row in rows:
            self._add_cost(row, add)
        return pd.DataFrame(out)

    def _add_cost(self, row: Row, add: Callable) -> None:
        first, n = row.records[0], len(row.records)
        defects = float(sum(record.defect is not None for record in row.records))
        add(row.name, "defects", "images NaN or black", "arithmetic", Interval(defects, np.nan, np.nan, n))
        if first.seconds is None:
            return
        seconds = np.array([record.seconds for record in row.records], float)
        interval = bootstrap_mean(seconds, seed=self.experiment.seed, resamples=self.resamples, level=self.level)
        add(row.name, "seconds", "per image, wall clock", "clock", interval)
        for metric in ("unet_evaluations", "control_evaluations"):
            value = float(getattr(first, metric))
            add(row.name, metric, "per image", "count", Interval(value, np.nan, np.nan, n))
        peaks = [record.peak_memory for record in row.records if record.peak_memory is not None]
        if peaks:
            value = max(peaks) / 2**20
            add(row.name, "peak_memory", "MiB on the accelerator", "count", Interval(value, np.nan, np.nan, n))

    def _distances(self, features: np.ndarray, reference: np.ndarray) -> dict[str, Interval]:
        settings = {"seed": self.experiment.seed, "level": self.level, "resamples": min(self.resamples, 200)}

        def of(distance: Callable, factor: float) -> Interval:
            return half_sampling(lambda index: factor * distance(features[index], reference), len(features), **settings)

        return {"fid": of(frechet_distance, 1.0), "kid": of(kernel_distance, KID_FACTOR)}

    def _pooled(self, condition: Condition, statistics: np.ndarray) -> Interval:
        values = self._per_cluster(statistics.astype(float))
        return bootstrap(
            lambda index: condition.score(resampled_sums(values, index) / len(values)),
            len(values),
            seed=self.experiment.seed,
            resamples=self.resamples,
            level=self.level,
            vectorized=True,
        )

    def _oriented(self, seen: dict[str, Seen]) -> dict[str, dict[str, np.ndarray]]:
        """fidelity[condition][row] -> (samples,), higher is better."""
        return {
            name: {
                row: self._per_cluster(condition.score(what.statistics[name]))
                * (1 if condition.higher_is_better else -1)
                for row, what in seen.items()
            }
            for name, condition in self.experiment.conditions.items()
        }

    def _joint(self, seen: dict[str, Seen]) -> dict[str, JointScore]:
        names = {method.name for method in self.experiment.methods}
        needed = {"none", *(f"single/{condition}" for condition in self.experiment.conditions)}
        if not needed <= names:  # without its floor and its singles a joint score has no unit
            return {}
        return joint_scores(self._oriented(seen), seed=self.experiment.seed, resamples=self.resamples, level=self.level)

    def _differences(self, seen: dict[str, Seen]) -> pd.DataFrame:
        """Every method minus the baseline on the same samples and noise, higher is better where it says so."""
        baseline = self.experiment.baseline
        methods = [method.name for method in self.experiment.methods if method.name != baseline]
        values: dict[str, tuple[str, dict[str, np.ndarray]]] = {}
        for name, condition in self.experiment.conditions.items():
            values[condition.sample_metric] = (
                condition.protocol,
                {row: self._per_cluster(condition.score(seen[row].statistics[name])) for row in [*methods, baseline]},
            )
        values["clip_score"] = (
            CLIP_PROTOCOL,
            {row: self._per_cluster(seen[row].clip) for row in [*methods, baseline]},
        )
        comparisons = len(methods) * len(values)
        out = []
        for metric, (protocol, by_row) in values.items():
            for method in methods:
                interval = paired_difference(
                    by_row[method],
                    by_row[baseline],
                    seed=self.experiment.seed,
                    comparisons=comparisons,
                    resamples=self.resamples,
                    level=self.level,
                )
                out.append(
                    {
                        "experiment": self.experiment.name, "suite": self.suite, "metric": metric,
                        "protocol": protocol, "method": method, "baseline": baseline, "value": interval.value,
                        "low": interval.low, "high": interval.high, "n": interval.n, "comparisons": comparisons,
                    }
                )  # fmt: skip
        return pd.DataFrame(out)


CLIP_PROTOCOL = "100 x cosine"
NO_JOINT = "not computed: it needs the methods `none` and `single/<condition>` of every condition"
JOINT_PROTOCOL = "q: 0 no control, 1 own single control"


def _joined(batches: Sequence[Seen]) -> Seen:
    return Seen(
        features=np.concatenate([batch.features for batch in batches]),
        clip=np.concatenate([batch.clip for batch in batches]),
        statistics={
            name: np.concatenate([batch.statistics[name] for batch in batches]) for name in batches[0].statistics
        },
    )


def _joint_rows(joint: JointScore) -> dict[str, Interval]:
    rows = {f"q_{condition}": interval for condition, interval in joint.quality.items()}
    return {**rows, "joint_mean": joint.mean, "joint_min": joint.minimum, "share_both": joint.share_both}
