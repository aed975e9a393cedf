"""What was seen in pictures -> tidy tables: a row per sample, per method, per paired difference.

Everything is computed from the per-sample values of one run; no picture and no model is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from maxbench.conditions.base import Condition
from maxbench.experiments.method import Experiment
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
from maxbench.store.runfolder import Record

KID_FACTOR = 1000  # tables print KID x 1000, as the field does
HALVINGS = 200  # random halves behind an interval of FID and KID
CLIP_PROTOCOL = "100 x cosine"
BY_ANNOTATOR = "by_annotator"  # suffix of a metric measured by the network that drew the given maps
JOINT_PROTOCOL = "q: 0 no control, 1 own single control"
NO_JOINT = "not computed: it needs the methods `none` and `single/<condition>` of every condition"


@dataclass(frozen=True)
class Row:
    """One row of pictures: a method's, or the real images, in the order of the experiment's images.

    files: by condition, since the real picture of one condition need not be that of another.
    same: whether they are the same pictures for every condition. records: of each picture; in order if `same`.
    """

    name: str
    files: dict[str, tuple[str, ...]]
    records: tuple[Record, ...]
    same: bool


@dataclass(frozen=True)
class Seen:
    """What one row of pictures shows; the first axis of everything is the image.

    Without features and CLIP scores (length 0) a row is asked for nothing but fidelity.
    """

    features: np.ndarray  # (N, D)
    clip: np.ndarray  # (N,)
    statistics: dict[str, np.ndarray]  # condition -> (N, ...), by the scorer
    by_annotator: dict[str, np.ndarray]  # likewise, by the network that drew the given maps, where it is another


@dataclass(frozen=True)
class Entry:
    """One number of the methods' table."""

    method: str
    metric: str
    protocol: str
    scorer: str
    interval: Interval


@dataclass(frozen=True)
class Scores:
    """The tables of one run.

    seen: row -> what its pictures show, in the order of the experiment's images.
    reference: (M, D) features of the reference images.
    scorers: what the scorers are called in tables: "clip", and each condition that has a network.
    annotators: likewise of the networks that drew the given maps, where they are others than the scorers.
    resamples, level: of every interval.
    """

    experiment: Experiment
    suite: str
    rows: Sequence[Row]
    seen: dict[str, Seen]
    reference: np.ndarray
    scorers: dict[str, str]
    annotators: dict[str, str]
    resamples: int
    level: float

    def samples(self) -> pd.DataFrame:
        """One row per image, row of pictures and metric."""
        images = self.experiment.images
        base = pd.DataFrame(
            {
                **self._stamp,
                "sample": [sample.id for sample, _ in images],
                "replicate": [replicate for _, replicate in images],
            }
        )
        return pd.concat(
            [
                base.assign(method=row, metric=metric, protocol=protocol, scorer=scorer, value=values)
                for row, metric, protocol, scorer, values in self._sample_values()
            ],
            ignore_index=True,
        )

    def metrics(self) -> pd.DataFrame:
        """One row per row of pictures and metric, with its interval, protocol and scorer."""
        entries = [*self._quality(), *self._fidelity(), *self._joint_entries(), *self._cost()]
        return pd.DataFrame(
            [
                {
                    "experiment": self.experiment.name, "suite": self.suite, "method": entry.method,
                    "metric": entry.metric, "protocol": entry.protocol, "value": entry.interval.value,
                    "low": entry.interval.low, "high": entry.interval.high, "n": entry.interval.n,
                    "scorer": entry.scorer, "seed": self.experiment.seed,
                }
                for entry in entries
            ]
        )  # fmt: skip

    def differences(self) -> pd.DataFrame:
        """Every method minus the baseline on the same samples and noise, in the metric's own direction."""
        baseline = self.experiment.baseline
        methods = [method.name for method in self.experiment.methods if method.name != baseline]
        columns = [(each.sample_metric, self._protocol(each), self._per_sample(each)) for each in self._conditions]
        clip = {name: self._clusters(what.clip) for name, what in self.seen.items() if len(what.clip)}
        columns.append(("clip_score", CLIP_PROTOCOL, clip))
        comparisons = len(methods) * len(columns)
        out = []
        for metric, protocol, values in columns:
            for method in methods:
                difference = paired_difference(
                    values[method], values[baseline], comparisons=comparisons, **self._settings
                )
                out.append(
                    {
                        "experiment": self.experiment.name, "suite": self.suite, "metric": metric,
                        "protocol": protocol, "method": method, "baseline": baseline,
                        "value": difference.value, "low": difference.low, "high": difference.high,
                        "n": difference.n, "comparisons": comparisons, "seed": self.experiment.seed,
                    }
                )  # fmt: skip
        return pd.DataFrame(out)

    @cached_property
    def joint(self) -> dict[str, JointScore]:
        """The joint score of every row of pictures; empty without `none` and every single control."""
        names = {method.name for method in self.experiment.methods}
        if not {"none", *(f"single/{condition}" for condition in self.experiment.conditions)} <= names:
            return {}  # without its floor and its singles a joint score has no unit
        oriented = {
            condition.name: {
                row: values if condition.higher_is_better else -values
                for row, values in self._per_sample(condition).items()
            }
            for condition in self._conditions
        }
        return joint_scores(oriented, **self._settings)

    # --- parts --------------------------------------------------------------------------------------------

    @property
    def _conditions(self) -> list[Condition]:
        return list(self.experiment.conditions.values())

    @property
    def _stamp(self) -> dict:
        return {"experiment": self.experiment.name, "suite": self.suite, "seed": self.experiment.seed}

    @property
    def _settings(self) -> dict:
        return {"seed": self.experiment.seed, "resamples": self.resamples, "level": self.level}

    def _scorer(self, condition: Condition) -> str:
        return self.scorers.get(condition.name, "arithmetic")

    def _protocol(self, condition: Condition) -> str:
        regional = any(condition.name in sample.evaluation_masks for sample in self.experiment.samples)
        return f"{condition.protocol}, in its own region" if regional else condition.protocol

    def _again(self, condition: Condition, metric: str) -> tuple[str, str, str]:
        """Metric, protocol and scorer of what the annotator itself measures."""
        protocol = f"{self._protocol(condition)}, by its annotator"
        return f"{metric}_{BY_ANNOTATOR}", protocol, self.annotators[condition.name]

    @property
    def _generated(self) -> list[Row]:
        """Rows with one picture per image of the experiment."""
        return [row for row in self.rows if row.same]

    def _clusters(self, values: np.ndarray) -> np.ndarray:
        """Replicates of a sample are not independent: average them first, (N, ...) => (samples, ...)."""
        shape = (len(self.experiment.samples), self.experiment.replicates, *values.shape[1:])
        return values.astype(float).reshape(shape).mean(1)

    def _per_sample(self, condition: Condition) -> dict[str, np.ndarray]:
        """Row -> a condition's score of every sample, (samples,)."""
        return {
            row: self._clusters(condition.score(what.statistics[condition.name])) for row, what in self.seen.items()
        }

    def _sample_values(self) -> Iterator[tuple[str, str, str, str, np.ndarray]]:
        for name, what in self.seen.items():
            for condition in self._conditions:
                values = condition.score(what.statistics[condition.name])
                yield name, condition.sample_metric, self._protocol(condition), self._scorer(condition), values
                if condition.name in what.by_annotator:
                    values = condition.score(what.by_annotator[condition.name])
                    yield name, *self._again(condition, condition.sample_metric), values
            if len(what.clip):
                yield name, "clip_score", CLIP_PROTOCOL, self.scorers["clip"], what.clip
        for row in self._generated:
            defects = np.array([float(record.defect is not None) for record in row.records])
            yield row.name, "defect", "NaN or black", "arithmetic", defects
            if row.records[0].seconds is not None:
                seconds = np.array([record.seconds for record in row.records], float)
                yield row.name, "seconds", "per image, wall clock", "clock", seconds

    def _quality(self) -> Iterator[Entry]:
        """FID, KID and CLIP score of every row that has features."""
        protocol, judge = f"{len(self.reference)} reference images", self.scorers["clip"]
        settings = {**self._settings, "resamples": HALVINGS}
        for name, what in self.seen.items():
            if not len(what.features):
                continue
            for metric, distance, factor in (("fid", frechet_distance, 1), ("kid", kernel_distance, KID_FACTOR)):
                interval = half_sampling(
                    lambda index, what=what, distance=distance, factor=factor: (
                        factor * distance(what.features[index], self.reference)
                    ),
                    len(what.features),
                    **settings,
                )
                yield Entry(name, metric, protocol, judge, interval)
            clip = bootstrap_mean(self._clusters(what.clip), **self._settings)
            yield Entry(name, "clip_score", CLIP_PROTOCOL, judge, clip)

    def _fidelity(self) -> Iterator[Entry]:
        """The data set's score of every condition, bootstrapped over samples."""
        for condition in self._conditions:
            protocol, scorer = self._protocol(condition), self._scorer(condition)
            for name, what in self.seen.items():
                interval = self._over_samples(condition, what.statistics[condition.name])
                yield Entry(name, condition.metric, protocol, scorer, interval)
                if condition.name in what.by_annotator:
                    interval = self._over_samples(condition, what.by_annotator[condition.name])
                    yield Entry(name, *self._again(condition, condition.metric), interval)

    def _over_samples(self, condition: Condition, statistics: np.ndarray) -> Interval:
        values = self._clusters(statistics)
        return bootstrap(
            lambda index: condition.score(resampled_sums(values, index) / len(values)),
            len(values),
            vectorized=True,
            **self._settings,
        )

    def _joint_entries(self) -> Iterator[Entry]:
        for method, score in self.joint.items():
            intervals = {f"q_{condition}": interval for condition, interval in score.quality.items()}
            intervals |= {"joint_mean": score.mean, "joint_min": score.minimum, "share_both": score.share_both}
            for metric, interval in intervals.items():
                yield Entry(method, metric, JOINT_PROTOCOL, "fidelity", interval)

    def _cost(self) -> Iterator[Entry]:
        """Defects of every row; time, evaluations and memory of what was generated."""
        for row in self._generated:
            n, first = len(row.records), row.records[0]

            def count(metric: str, protocol: str, value: float, row: Row = row, n: int = n) -> Entry:
                return Entry(row.name, metric, protocol, "count", Interval(float(value), np.nan, np.nan, n))

            defects = sum(record.defect is not None for record in row.records)
            yield count("defects", "images NaN or black", defects)
            if first.seconds is None:
                continue
            seconds = np.array([record.seconds for record in row.records], float)
            interval = bootstrap_mean(seconds, **self._settings)
            yield Entry(row.name, "seconds", "per image, wall clock", "clock", interval)
            yield count("unet_evaluations", "per image", first.unet_evaluations)
            yield count("control_evaluations", "per image", first.control_evaluations)
            if first.control_scale is not None:
                yield count("control_scale", "as used", first.control_scale)
            peaks = [record.peak_memory for record in row.records if record.peak_memory is not None]
            if peaks:
                yield count("peak_memory", "MiB on the accelerator", max(peaks) / 2**20)
