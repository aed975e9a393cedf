"""What was measured in pictures -> tidy tables: a row per sample, per method, per paired difference.

Everything is computed from the per-sample values of one run; no picture and no model is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from maxbench.conditions.base import Condition
from maxbench.experiments.method import NONE, SINGLE, Experiment
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
from maxbench.store.artefacts import Artefact

KD_FACTOR = 1000  # tables print kernel distances x 1000, as the field does
CLIP_PROTOCOL = "100 x cosine"
BY_ANNOTATOR = "_by_annotator"  # of a metric measured by the network that drew the given maps
JOINT_PROTOCOL = "q: 0 no control, 1 own single control"
NO_JOINT = "not computed: it needs the methods `none` and `single/<condition>` of every condition"


@dataclass(frozen=True)
class Row:
    """One row of a table: a method's pictures, or the real ones, in the order of the experiment's images.

    role, branches, parameter, setting: see :class:`maxbench.experiments.method.Method`; of what no method made the role
    is "reference".
    files: by condition, since the real picture of one condition need not be that of another. Of the row "shuffled",
    which is made of another's, there are none.
    same: whether they are the same pictures for every condition.
    """

    name: str
    role: str
    branches: tuple[str, ...] = ()
    parameter: str | None = None
    setting: float | None = None
    files: dict[str, tuple[Artefact, ...]] = field(default_factory=dict)
    same: bool = False
    is_unit: bool = False  # whether it may be the floor or the unit of a joint score

    @property
    def details(self) -> list[Mapping[str, Any]]:
        """How each of its pictures came to be."""
        return [artefact.details for artefact in next(iter(self.files.values()), ())]

    @property
    def columns(self) -> dict[str, Any]:
        """What every table says of a row, so that nobody takes its name apart."""
        return {
            "method": self.name,
            "role": self.role,
            "branches": "+".join(self.branches),
            "parameter": self.parameter,
            "setting": self.setting,
        }


@dataclass(frozen=True)
class Features:
    """What is measured in one row of pictures; the first axis of everything is the image.

    Without features and CLIP scores (length 0) a row is asked for nothing but fidelity.
    """

    features: np.ndarray  # (N, D)
    clip: np.ndarray  # (N,)
    statistics: dict[str, np.ndarray]  # condition -> (N, ...), by the scorer
    by_annotator: dict[str, np.ndarray]  # likewise, by the network that drew the given maps, where it is another


@dataclass(frozen=True)
class Entry:
    """One number of the methods' table. condition: whose fidelity it is; empty for all else."""

    row: str
    metric: str
    protocol: str
    scorer: str
    interval: Interval
    condition: str = ""


@dataclass(frozen=True)
class Values:
    """One value for each image of a row."""

    row: str
    metric: str
    protocol: str
    scorer: str
    values: np.ndarray
    condition: str = ""


@dataclass(frozen=True)
class Tables:
    """The tables of one run.

    rows: in the order of the tables. measured: row -> what its pictures show, in the order of the experiment's images.
    reference: (M, D) features of the reference images.
    scorers: what the scorers are called in tables: "clip", and each condition that has a network.
    annotators: likewise of the networks that drew the given maps, where they are others than the scorers.
    resamples, level: of every interval; halvings: random halves behind an interval of a distance.
    """

    experiment: Experiment
    suite: str
    rows: Sequence[Row]
    measured: dict[str, Features]
    reference: np.ndarray
    scorers: dict[str, str]
    annotators: dict[str, str]
    resamples: int
    halvings: int
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
        columns = {row.name: row.columns for row in self.rows}
        parts = [
            base.assign(
                **columns[each.row], condition=each.condition, metric=each.metric, protocol=each.protocol,
                scorer=each.scorer, value=each.values,
            )
            for each in self._sample_values()
        ]  # fmt: skip
        table = pd.concat(parts, ignore_index=True)
        return table.astype({"parameter": "string", "setting": "float64"})

    def metrics(self) -> pd.DataFrame:
        """One row per row of pictures and metric, with its interval, protocol and scorer."""
        columns = {row.name: row.columns for row in self.rows}
        entries = [*self._quality(), *self._fidelity(), *self._joint_entries(), *self._cost()]
        return pd.DataFrame(
            [
                {
                    **self._stamp, **columns[entry.row], "condition": entry.condition, "metric": entry.metric,
                    "protocol": entry.protocol, "scorer": entry.scorer, "value": entry.interval.value,
                    "low": entry.interval.low, "high": entry.interval.high, "n": entry.interval.n,
                }
                for entry in entries
            ]
        )  # fmt: skip

    def differences(self) -> pd.DataFrame:
        """Every method minus the baseline on the same samples and noise, in the metric's own direction."""
        baseline = self.experiment.baseline
        methods = [method.name for method in self.experiment.methods if method.name != baseline]
        columns = [
            (each.name, each.sample_metric, self._protocol(each), self._per_sample(each)) for each in self._conditions
        ]
        clip = {name: self._clusters(what.clip) for name, what in self.measured.items() if len(what.clip)}
        columns.append(("", "clip_score", CLIP_PROTOCOL, clip))
        comparisons = len(methods) * len(columns)
        out = []
        for condition, metric, protocol, values in columns:
            for method in methods:
                difference = paired_difference(
                    values[method], values[baseline], comparisons=comparisons, **self._settings
                )
                out.append(
                    {
                        **self._stamp, "condition": condition, "metric": metric, "protocol": protocol,
                        "method": method, "baseline": baseline, "value": difference.value, "low": difference.low,
                        "high": difference.high, "n": difference.n, "correction": "Bonferroni",
                        "comparisons": comparisons,
                    }
                )  # fmt: skip
        return pd.DataFrame(out)

    @cached_property
    def joint(self) -> dict[str, JointScore]:
        """The joint score of every row of pictures; empty without `none` and every single control."""
        none = next((row.name for row in self.rows if row.role == NONE), None)
        singles = {
            row.branches[0]: row.name for row in reversed(self.rows) if row.role == SINGLE and row.is_unit
        }  # the first of each
        if none is None or set(self.experiment.conditions) - set(singles):
            return {}  # without its floor and its singles a joint score has no unit
        oriented = {
            condition.name: {
                row: values if condition.higher_is_better else -values
                for row, values in self._per_sample(condition).items()
            }
            for condition in self._conditions
        }
        return joint_scores(oriented, none=none, singles=singles, **self._settings)

    # --- parts ------------------------------------------------------------------------------------------------

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
        return f"{condition.protocol}, inside its evaluation mask" if regional else condition.protocol

    def _by_annotator(self, condition: Condition, metric: str) -> tuple[str, str, str]:
        """Metric, protocol and scorer of what the annotator itself measures."""
        protocol = f"{self._protocol(condition)}, by its annotator"
        return f"{metric}{BY_ANNOTATOR}", protocol, self.annotators[condition.name]

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
            row: self._clusters(condition.score(what.statistics[condition.name])) for row, what in self.measured.items()
        }

    def _sample_values(self) -> Iterator[Values]:
        for name, what in self.measured.items():
            for each in self._conditions:
                said = each.sample_metric, self._protocol(each), self._scorer(each)
                yield Values(name, *said, each.score(what.statistics[each.name]), each.name)
                if each.name in what.by_annotator:
                    said = self._by_annotator(each, each.sample_metric)
                    yield Values(name, *said, each.score(what.by_annotator[each.name]), each.name)
            if len(what.clip):
                yield Values(name, "clip_score", CLIP_PROTOCOL, self.scorers["clip"], what.clip)
        for row in self._generated:
            defects = np.array([float(each.get("defect") is not None) for each in row.details])
            yield Values(row.name, "defect", "NaN or black", "arithmetic", defects)
            if row.details[0].get("seconds") is not None:
                seconds = np.array([each["seconds"] for each in row.details], float)
                yield Values(row.name, "seconds", "per image, wall clock", "clock", seconds)

    def _quality(self) -> Iterator[Entry]:
        """Distances to the reference, on the CLIP scorer's features, and the CLIP score of every row that has them."""
        protocol, scorer = f"{len(self.reference)} reference images", self.scorers["clip"]
        settings = {**self._settings, "resamples": self.halvings}
        for name, what in self.measured.items():
            if not len(what.features):
                continue
            for metric, distance, factor in (
                ("fd_clip", frechet_distance, 1), ("kd_clip", kernel_distance, KD_FACTOR)
            ):  # fmt: skip
                interval = half_sampling(
                    lambda index, what=what, distance=distance, factor=factor: (
                        factor * distance(what.features[index], self.reference)
                    ),
                    len(what.features),
                    **settings,
                )
                yield Entry(name, metric, protocol, scorer, interval)
            clip = bootstrap_mean(self._clusters(what.clip), **self._settings)
            yield Entry(name, "clip_score", CLIP_PROTOCOL, scorer, clip)

    def _fidelity(self) -> Iterator[Entry]:
        """The data set's score of every condition, bootstrapped over samples."""
        for condition in self._conditions:
            protocol, scorer = self._protocol(condition), self._scorer(condition)
            for name, what in self.measured.items():
                interval = self._over_samples(condition, what.statistics[condition.name])
                yield Entry(name, condition.metric, protocol, scorer, interval, condition.name)
                if condition.name in what.by_annotator:
                    interval = self._over_samples(condition, what.by_annotator[condition.name])
                    yield Entry(name, *self._by_annotator(condition, condition.metric), interval, condition.name)

    def _over_samples(self, condition: Condition, statistics: np.ndarray) -> Interval:
        values = self._clusters(statistics)
        return bootstrap(
            lambda index: condition.score(resampled_sums(values, index) / len(values)),
            len(values),
            vectorized=True,
            **self._settings,
        )

    def _joint_entries(self) -> Iterator[Entry]:
        for row, score in self.joint.items():
            for condition, interval in score.quality.items():
                yield Entry(row, f"q_{condition}", JOINT_PROTOCOL, "fidelity", interval, condition)
            whole = {"joint_mean": score.mean, "joint_min": score.minimum, "share_both": score.share_both}
            for metric, interval in whole.items():
                yield Entry(row, metric, JOINT_PROTOCOL, "fidelity", interval)

    def _cost(self) -> Iterator[Entry]:
        """Defects of every row; time, evaluations and memory of what was generated."""
        for row in self._generated:
            details = row.details
            n, first = len(details), details[0]

            def count(metric: str, protocol: str, value: float, row: Row = row, n: int = n) -> Entry:
                return Entry(row.name, metric, protocol, "count", Interval(float(value), np.nan, np.nan, n))

            yield count("defects", "images NaN or black", sum(each.get("defect") is not None for each in details))
            if first.get("seconds") is None:
                continue
            seconds = np.array([each["seconds"] for each in details], float)
            interval = bootstrap_mean(seconds, **self._settings)
            yield Entry(row.name, "seconds", "per image, wall clock", "clock", interval)
            yield count("unet_evaluations", "per image", first["unet_evaluations"])
            yield count("control_evaluations", "per image", first["control_evaluations"])
            if first["control_scale"] is not None:
                yield count("control_scale", "as used", first["control_scale"])
            peaks = [each["peak_memory"] for each in details if each["peak_memory"] is not None]
            if peaks:
                yield count("peak_memory", "MiB on the accelerator", max(peaks) / 2**20)
