"""What was measured in pictures -> tidy tables: a row per image, per method, per paired difference.

Everything is computed from one state (:mod:`maxbench.evaluation.state`); no picture and no model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from maxbench.conditions.base import Condition
from maxbench.conditions.ruler import Ruler
from maxbench.errors import UserError
from maxbench.evaluation.state import CLIP_SCORE, RETRIED, Row, State, features_label, fidelity_label
from maxbench.experiments.method import EXCHANGED, NONE, REFERENCE, SINGLE, VAE_RECONSTRUCTION
from maxbench.metrics.distribution import Distance, Reference, cmmd, fd_infinity, frechet, kernel
from maxbench.metrics.joint import Joint, joint_of
from maxbench.metrics.statistics import (
    Interval,
    enough_flips,
    holm,
    intervals,
    needed,
    sign_flip,
    t_test,
    win_rate,
)

SMALLEST_FOR_INFINITY = 256  # images; of fewer the extrapolation says nothing
FURTHER = ("fid_infinity", "fd_clip_infinity")  # distances that stand beside the table and are not tested
SPLITS, LARGE, SMALLEST_TO_SPLIT = 40, 1024, 4
"""Random halves by which the error of a distance is sharpened, the images from which on it needs none, and the clusters
below which there are no halves."""
KD_FACTOR = 1000  # tables print kernel distances x 1000, as the field does
CLIP_PROTOCOL = "100 x cosine"
JOINT_PROTOCOL = "q of each image: 0 no control, 1 own single control; clipped to [-1, 2]"
BY_ANNOTATOR = "_by_annotator"  # of a metric measured by the network that drew the given maps
NO_JOINT = "not computed: it needs the methods `none` and `single/<condition>` of every condition"
SPARSE = 0.25
"""Share of non-zero counts up to which only those are kept for the bootstrap."""
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"

Weights = NDArray[np.float64]
"""(draws, N) how often each image counts in each bootstrap draw."""


def _kernel(features: np.ndarray, reference: Reference, **splitting: Any) -> Distance:
    distance = kernel(features, reference, **splitting)
    return Distance(*(KD_FACTOR * each for each in (distance.value, distance.influence, distance.halves)))


def _infinity(features: np.ndarray, reference: Reference, **splitting: Any) -> Distance:
    """Extrapolated from subsets, where there are images enough."""
    if len(features) < SMALLEST_FOR_INFINITY:
        return Distance(np.nan, np.zeros(len(features)))
    return fd_infinity(features, reference, seed=0)


DISTANCES: dict[str, dict[str, Callable[..., Distance]]] = {
    "inception": {"fid": frechet, "kid": _kernel, "fid_infinity": _infinity},
    "clip": {"fd_clip": frechet, "kd_clip": _kernel, "fd_clip_infinity": _infinity},
    "dinov2": {"fd_dinov2": frechet},
    "cmmd": {"cmmd": cmmd},
}
"""network of features -> the distances that are made of them. Only Inception's are called FID and KID."""


@dataclass(frozen=True)
class Column:
    """A number that every row of pictures has.

    metric: of the data set. sample_metric: of one image; differences are of its mean. values: row -> (N,).
    statistic: row -> its number under weights of images, (draws, N) => (draws,); None where it is the mean of `values`.
    headline: whether it stands in the methods' table, and is tested.
    """

    metric: str
    sample_metric: str
    condition: str
    protocol: str
    scorer: str
    higher_is_better: bool
    values: Mapping[str, np.ndarray]
    statistic: Callable[[str, Weights], NDArray[np.float64]] | None = None
    headline: bool = True
    sample_protocol: str = ""

    def __post_init__(self):
        if not self.sample_protocol:
            object.__setattr__(self, "sample_protocol", self.protocol)

    def of(self, row: str, weights: Weights) -> NDArray[np.float64]:
        if self.statistic is not None:
            return self.statistic(row, weights)
        return _mean(self.values[row], weights)


@dataclass(frozen=True)
class DistanceColumn:
    """A distance of the pictures of every row to the reference."""

    metric: str
    protocol: str
    scorer: str
    distances: Mapping[str, Distance]


@dataclass(frozen=True)
class Tables:
    """The tables of one state.

    conditions: of the experiment, for their rulers. baselines: the methods that differences are to; None for the
    state's own. resamples, level: of every interval. family: how many comparisons the differences are corrected for
    elsewhere, if those are more than the differences themselves.
    """

    state: State
    conditions: Mapping[str, Condition]
    resamples: int
    level: float
    baselines: Sequence[str] | None = None
    family: int = 0

    # --- the three tables -------------------------------------------------------------------------------------

    def samples(self) -> pd.DataFrame:
        """One row per image, row of pictures and metric."""
        base = pd.DataFrame(
            [
                {
                    "experiment": self.state.experiment, "suite": self.state.suite, "seed": image.seed,
                    "sample": image.sample, "group": image.group, "replicate": image.replicate,
                }
                for image in self.state.images
            ]
        )  # fmt: skip
        columns = {row.name: row.columns for row in self.state.rows}
        everything = [*self._columns, *self._costs, *self._conflicts()]
        said = pd.DataFrame(
            [
                {
                    **columns[row], "condition": each.condition, "metric": each.sample_metric,
                    "protocol": each.sample_protocol, "scorer": each.scorer,
                }
                for each in everything for row in each.values
            ]
        )  # fmt: skip
        values = [np.asarray(own, float) for each in everything for own in each.values.values()]
        count = len(base)
        table = pd.concat(
            [
                base.iloc[np.tile(np.arange(count), len(values))].reset_index(drop=True),
                said.iloc[np.repeat(np.arange(len(values)), count)].reset_index(drop=True),
            ],
            axis=1,
        )
        table = table.assign(value=np.concatenate(values))
        return table.astype({"parameter": "string", "setting": "float64", "delta": "float64"})

    def metrics(self) -> pd.DataFrame:
        """One row per row of pictures and metric, with its interval, protocol and scorer."""
        columns = {row.name: row.columns for row in self.state.rows}
        return pd.DataFrame(
            [
                {
                    **self._stamp, **columns[row], "condition": condition, "metric": metric, "protocol": protocol,
                    "scorer": scorer, "value": interval.value, "low": interval.low, "high": interval.high,
                    "n": interval.n,
                }
                for row, metric, condition, protocol, scorer, interval in self._entries()
            ]
        )  # fmt: skip

    def differences(self) -> pd.DataFrame:
        """Every method minus every baseline on the same samples and noise, in the metric's own direction.

        `p` is two-sided, of a paired sign-flip test over clusters (of distances, of a z-test of their influence
        values), `p_holm` corrected for all comparisons of this table; low and high are of the difference by itself.
        """
        out = [row for baseline in self._baselines for row in self._against(baseline)]
        if not out:
            return pd.DataFrame()
        signed = [row for row in out if row["p"] is None]
        if signed:  # all at once, under the same signs
            flips = enough_flips(max(len(out), self.family), self.level)
            found = sign_flip([row["change"] for row in signed], self._groups, seed=self.state.seeds[0], flips=flips)
            for row, p in zip(signed, found, strict=True):
                row["p"] = float(p)
        adjusted = holm(np.array([row["p"] for row in out]))
        comparisons = int(np.isfinite(adjusted).sum())
        for row, p in zip(out, adjusted, strict=True):
            shown = p < 1 - self.level
            better = (row["value"] > 0) == row.pop("higher_is_better")
            row |= {
                "p_holm": p,
                "correction": "Holm",
                "comparisons": comparisons,
                "needed": needed(
                    row.pop("change"),
                    self._groups,
                    level=self.level,
                    comparisons=comparisons,
                    by_signs=bool(np.isfinite(row["win_rate"])),  # as no distance is tested
                ),
                "verdict": (BETTER if better else WORSE) if shown else NOT_SHOWN,
            }
        return pd.DataFrame(out)

    # --- the joint score --------------------------------------------------------------------------------------

    @cached_property
    def joint(self) -> Joint | None:
        """What q is made of; None without `none` and every single control."""
        rows = self.state.rows
        none = next((row.name for row in rows if row.role == NONE), None)
        singles = {row.branches[0]: row.name for row in reversed(rows) if row.role == SINGLE and row.is_unit}
        if none is None or set(self.conditions) - set(singles):
            return None  # without its floor and its singles a joint score has no unit
        return joint_of(
            none=self._oriented(none),
            singles={name: self._oriented(singles[name])[name] for name in self.conditions},
            ceiling=self._oriented(VAE_RECONSTRUCTION),
            groups=self._groups,
            **self._settings,
        )

    @property
    def joint_note(self) -> str:
        return NO_JOINT if self.joint is None else self.joint.note

    def dominant(self) -> dict[str, tuple[str, float]]:
        """Row -> the condition with the larger q, and the share of images in which it is larger."""
        found = {row: self.joint.leader(self._oriented(row)) for row in self._whole()} if self.joint else {}
        return {row: leader for row, leader in found.items() if leader is not None}

    def per_image(self, metric: str, condition: str = "") -> dict[str, np.ndarray]:
        """Row -> (N,) of one metric of single images."""
        return next(
            dict(each.values) for each in self._columns if (each.sample_metric, each.condition) == (metric, condition)
        )

    def conflict(self) -> NDArray[np.float64] | None:
        """(N,) how far each image's conditions contradict each other; None where all come from one picture.

        The picture that one condition was taken from obeys it perfectly; the other condition's fidelity in that picture
        says how far it obeys that one as well. On the scale of q, but with the *mean* fidelity of no control as floor:
        q's own floor, the image's picture without control, is in the joint score as well, and what both share would
        look like a relation of the two. conflict = mean over conditions of 1 - that, clipped to [0, 1]: 0 where each
        one's picture satisfies the other as well as its own control would, 1 where it is no better than text.
        """
        if self.joint is None or EXCHANGED not in self.state.measured or not self.joint.conditions:
            return None
        found = self._oriented(EXCHANGED)
        gained = [
            (found[name] - self.joint.floor[name].mean()) / self.joint.gain[name].mean()
            for name in self.joint.conditions
        ]
        return (1 - np.clip(gained, 0, 1)).mean(0)

    def conflict_curve(self, bins: int = 5) -> pd.DataFrame | None:
        """The joint score by degree of conflict: a row for each method and each of `bins` equal shares of the clusters.

        None where conditions come from one picture, or where there are too few clusters for bins.
        """
        conflict = self.conflict()
        if conflict is None or len(np.unique(self._groups)) < 4 * bins:
            return None
        edges = np.quantile(conflict, np.linspace(0, 1, bins + 1))
        place = np.clip(np.searchsorted(edges, conflict, side="right") - 1, 0, bins - 1)
        out = []
        for row in self.state.rows:
            if row.name not in self._whole() or row.role == REFERENCE:
                continue
            joint = self.joint.per_image(self._oriented(row.name))["joint", ""]
            for number in range(bins):
                own = place == number
                if not own.any():
                    continue
                (interval,) = intervals(
                    lambda weights, values=joint[own]: (weights @ values / weights.sum(-1))[None],
                    self._groups[own], int(own.sum()), **self._settings,
                )  # fmt: skip
                out.append(
                    {
                        **self._stamp, **row.columns, "metric": "joint", "bin": number,
                        "conflict": float(conflict[own].mean()), "conflict_low": float(conflict[own].min()),
                        "conflict_high": float(conflict[own].max()), "value": interval.value, "low": interval.low,
                        "high": interval.high, "n": interval.n,
                    }
                )  # fmt: skip
        return pd.DataFrame(out)

    def defects(self) -> dict[str, list[str]]:
        """Row -> its pictures that are NaN or black, each as sample-replicate."""
        return {
            row: [
                f"{image.sample}-{image.replicate}"
                for image, bad in zip(self.state.images, own["defect"], strict=True) if bad
            ]
            for row, own in self.state.measured.items() if "defect" in own
        }  # fmt: skip

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the numbers, in sentences."""
        counts = {row: int(own[RETRIED].sum()) for row, own in self.state.measured.items() if RETRIED in own}
        again = [f"{row} {count}" for row, count in counts.items() if count]
        if not again:
            return list(self.state.notes)
        said = f"Images of {len(self.state.images)} that were NaN or black and were made again in float32"
        return [*self.state.notes, f"{said}: {', '.join(again)}."]

    # --- columns ----------------------------------------------------------------------------------------------

    @cached_property
    def _columns(self) -> list[Column]:
        """Fidelity by every ruler, q and what is made of it, and the CLIP score."""
        return [*self._fidelities(), *self._joints(), *self._texts()]

    def _fidelities(self) -> Iterator[Column]:
        for name in self.conditions:
            for place, ruler in enumerate(self._rulers(name)):
                yield self._fidelity(name, ruler, headline=place == 0)
        for name in self.state.annotators:
            yield self._fidelity(name, self._rulers(name)[0], headline=False, by_annotator=True)

    def _fidelity(self, name: str, ruler: Ruler, headline: bool, by_annotator: bool = False) -> Column:
        label = fidelity_label(name, ruler.metric, by_annotator)
        statistics = {row: own[label] for row, own in self.state.measured.items() if label in own}
        flat = {row: _flat(each) for row, each in statistics.items()}

        def of(row: str, weights: Weights) -> NDArray[np.float64]:
            means = weights @ flat[row] / weights.sum(-1, keepdims=True)
            return ruler.score(means.reshape(len(weights), *statistics[row].shape[1:]))

        suffix = BY_ANNOTATOR if by_annotator else ""
        inside = ", inside its evaluation mask" if name in self.state.regional else ""
        inside += ", by its annotator" if by_annotator else ""
        return Column(
            metric=f"{ruler.metric}{suffix}",
            sample_metric=f"{ruler.sample_metric}{suffix}",
            condition=name,
            protocol=ruler.protocol + inside,
            sample_protocol=ruler.sample_protocol + inside,
            scorer=(self.state.annotators if by_annotator else self.state.scorers).get(name, "arithmetic"),
            higher_is_better=ruler.higher_is_better,
            values={row: ruler.score(each) for row, each in statistics.items()},
            statistic=of,
            headline=headline,
        )

    def _joints(self) -> Iterator[Column]:
        if self.joint is None or not self.joint.conditions:
            return
        per_image = {row: self.joint.per_image(self._oriented(row)) for row in self.state.measured}
        whole = self._whole()
        for place, (metric, condition) in enumerate(self.joint.names):
            rows = [row for row in per_image if condition or row in whole]

            def of(row: str, weights: Weights, place: int = place) -> NDArray[np.float64]:
                return self._joint_under(row, weights)[place]

            values = {row: per_image[row][metric, condition] for row in rows}
            yield Column(metric, metric, condition, JOINT_PROTOCOL, "fidelity", True, values, of)

    def _joint_under(self, row: str, weights: Weights) -> NDArray[np.float64]:
        """All numbers of the joint score under the same weights: computed once, asked for one by one."""
        known = self._under
        if known.get("weights") is not weights:
            known.clear()
            known["weights"] = weights
        if (found := known.get(("row", row))) is None:
            found = known["row", row] = self.joint.statistic(self._oriented(row), weights)
        return found

    @cached_property
    def _under(self) -> dict[Any, Any]:
        return {}

    def _texts(self) -> Iterator[Column]:
        values = {row: own[CLIP_SCORE] for row, own in self.state.measured.items() if CLIP_SCORE in own}
        if values:
            scorer = self.state.scorers["clip"]
            yield Column(CLIP_SCORE, CLIP_SCORE, "", CLIP_PROTOCOL, scorer, True, values)

    @cached_property
    def _costs(self) -> list[Column]:
        """Of single images: whether they are defective, and how long they took."""
        said = {"defect": ("NaN or black", "arithmetic"), "seconds": ("per image, wall clock", "clock")}
        return [
            Column(
                name, name, "", protocol, scorer, False,
                {row: own[name] for row, own in self.state.measured.items() if name in own}, headline=False,
            )
            for name, (protocol, scorer) in said.items()
        ]  # fmt: skip

    def _conflicts(self) -> Iterator[Column]:
        if (conflict := self.conflict()) is not None:
            protocol = "mean over conditions of 1 - q in the other's picture, with a mean floor, in [0, 1]"
            yield Column("conflict", "conflict", "", protocol, "fidelity", False, {EXCHANGED: conflict}, headline=False)

    @cached_property
    def _distances(self) -> list[DistanceColumn]:
        columns = []
        for network, features in self.state.reference.items():
            label, scorer, reference = features_label(network), self.state.scorers[network], Reference.of(features)
            rows = [row for row, own in self.state.measured.items() if label in own]
            small = len(self.state.images) < LARGE and len(np.unique(self._groups)) >= SMALLEST_TO_SPLIT
            splitting = {
                "splits": SPLITS if small else 0, "seed": self.state.seeds[0], "clusters": self._groups
            }  # fmt: skip
            for metric, distance in DISTANCES.get(network, {f"fd_{network}": frechet}).items():
                columns.append(
                    DistanceColumn(
                        metric, f"{len(features)} reference images", scorer,
                        {row: distance(self.state.measured[row][label], reference, **splitting) for row in rows},
                    )
                )  # fmt: skip
        return columns

    # --- entries ----------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[str, str, str, str, str, Interval]]:
        """(row, metric, condition, protocol, scorer, interval)"""
        for column in self._distances:
            for row, distance in column.distances.items():
                yield row, column.metric, "", column.protocol, column.scorer, self._of_distance(distance)
        numbers = [each for row in self.state.measured for each in self._numbers(row)]
        found = self._intervals(lambda weights: np.stack([of(weights) for *_, of in numbers])) if numbers else []
        for (*said, _), interval in zip(numbers, found, strict=True):
            yield *said, interval
        yield from self._cost_entries()

    def _of_distance(self, distance: Distance) -> Interval:
        margin = ndtri((1 + self.level) / 2) * distance.error(self._groups)
        return Interval(distance.value, distance.value - margin, distance.value + margin, len(self.state.images))

    def _numbers(self, row: str) -> Iterator[tuple[str, str, str, str, str, Callable[[Weights], NDArray[np.float64]]]]:
        """(row, metric, condition, protocol, scorer, the number under weights) of a row's columns.

        Also the mean of an image's own score, where the data set's is another number: it is what q is made of.
        """
        for column in self._columns:
            if row not in column.values:
                continue
            yield row, column.metric, column.condition, column.protocol, column.scorer, partial(column.of, row)
            if column.sample_metric != column.metric and column.headline:
                mean = partial(_mean, column.values[row])
                yield row, column.sample_metric, column.condition, column.sample_protocol, column.scorer, mean

    def _intervals(self, statistic: Callable[[Weights], NDArray[np.float64]], method: str = "auto") -> list[Interval]:
        return intervals(statistic, self._groups, len(self.state.images), method=method, **self._settings)

    def _cost_entries(self) -> Iterator[tuple[str, str, str, str, str, Interval]]:
        """Defects of every row; time, evaluations and memory of what was generated."""
        for row, own in self.state.measured.items():
            count = len(self.state.images)

            def number(metric: str, protocol: str, value: float, row: str = row, n: int = count):
                return row, metric, "", protocol, "count", Interval(float(value), np.nan, np.nan, n)

            if "defect" in own:
                yield number("defects", "images NaN or black", own["defect"].sum())
            if RETRIED in own and own[RETRIED].any():
                yield number("retried", "images NaN or black at first, made again in float32", own[RETRIED].sum())
            if "seconds" in own:
                yield row, "seconds", "", "per image, wall clock, over batches", "clock", self._seconds(own)
            for metric, protocol in (
                ("unet_evaluations", "per image"), ("control_evaluations", "per image"), ("control_scale", "as used")
            ):  # fmt: skip
                if metric in own and np.isfinite(own[metric][0]):
                    yield number(metric, protocol, own[metric][0])
            if "peak_memory" in own and np.isfinite(own["peak_memory"]).any():
                yield number("peak_memory", "MiB on the accelerator", np.nanmax(own["peak_memory"]) / 2**20)

    def _seconds(self, own: Mapping[str, np.ndarray]) -> Interval:
        """Of the time of a picture: batches are its unit, and the first of a process, which warms up, is left out."""
        seconds = own["seconds"]
        warm = seconds[own["warm_up"] == 0] if (own["warm_up"] == 0).any() else seconds
        batches = np.unique(warm)  # pictures of one batch have its very time
        (interval,) = intervals(
            lambda weights: (weights @ batches / weights.sum(-1))[None], None, len(batches), **self._settings
        )
        return replace(interval, n=len(seconds))

    # --- differences ------------------------------------------------------------------------------------------

    @property
    def _baselines(self) -> Sequence[str]:
        asked = self.state.baselines if self.baselines is None else self.baselines
        for name in asked:
            if name not in self._methods:
                raise UserError(
                    f"The baseline '{name}' is no method of this run; take one of {', '.join(self._methods)}."
                )
        return asked

    @property
    def _methods(self) -> list[str]:
        return [row.name for row in self.state.rows if row.role != REFERENCE]

    def _against(self, baseline: str) -> Iterator[dict[str, Any]]:
        methods = [name for name in self._methods if name != baseline]
        columns = [each for each in self._columns if each.headline and baseline in each.values]
        pairs = [(method, column) for method in methods for column in columns if method in column.values]

        def differences(weights: Weights) -> NDArray[np.float64]:
            theirs = {id(column): self._mean(column, baseline, weights) for column in columns}
            return np.stack([self._mean(column, method, weights) - theirs[id(column)] for method, column in pairs])

        # Of paired differences, which are nearly symmetric, BCa covers less.
        found = self._intervals(differences, method="percentile") if pairs else []
        for (method, column), interval in zip(pairs, found, strict=True):
            change = column.values[method] - column.values[baseline]
            yield {
                **self._said(
                    method, baseline, column.condition, column.sample_metric, column.sample_protocol, interval
                ),
                "p": None,  # of all differences at once
                "win_rate": win_rate(change if column.higher_is_better else -change, self._groups).value,
                "change": change,
                "higher_is_better": column.higher_is_better,
            }
        clusters = len(np.unique(self._groups))
        for column in (each for each in self._distances if each.metric not in FURTHER):
            for method in methods:
                if not {method, baseline} <= set(column.distances):
                    continue
                change = column.distances[method].minus(column.distances[baseline])
                change = replace(change, halves=np.empty(0))  # what splits take away, pairing has taken already
                interval = self._of_distance(change)
                yield {
                    **self._said(method, baseline, "", column.metric, column.protocol, interval),
                    "p": t_test(change.value, change.error(self._groups), clusters),
                    "win_rate": np.nan,
                    "change": change.value + change.influence - change.influence.mean(),
                    "higher_is_better": False,
                }

    def _mean(self, column: Column, row: str, weights: Weights) -> NDArray[np.float64]:
        """The mean of what an image has; of q with the denominators of the draw."""
        if column.scorer == "fidelity":
            return column.of(row, weights)
        return _mean(column.values[row], weights)

    def _said(
        self, method: str, baseline: str, condition: str, metric: str, protocol: str, interval: Interval
    ) -> dict[str, Any]:
        return {
            **self._stamp, "condition": condition, "metric": metric, "protocol": protocol, "method": method,
            "role": self._rows[method].role, "delta": self._rows[method].delta, "baseline": baseline,
            "value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n,
        }  # fmt: skip

    # --- parts ------------------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> dict[str, Row]:
        return {row.name: row for row in self.state.rows}

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        return self.state.groups

    @property
    def _stamp(self) -> dict[str, Any]:
        seeds = "+".join(map(str, self.state.seeds))
        return {"experiment": self.state.experiment, "suite": self.state.suite, "seed": seeds}

    @property
    def _settings(self) -> dict[str, Any]:
        return {"seed": self.state.seeds[0], "resamples": self.resamples, "level": self.level}

    def _rulers(self, condition: str) -> Sequence[Ruler]:
        own = self.conditions[condition]
        return own.object_rulers if condition in self.state.objects else own.rulers

    def _oriented(self, row: str) -> dict[str, np.ndarray]:
        """Condition -> (N,) what q is made of: an image's own score by the headline ruler, more is better."""
        found = {}
        for name in self.conditions:
            ruler = self._rulers(name)[0]
            found[name] = ruler.oriented(ruler.score(self.state.measured[row][fidelity_label(name, ruler.metric)]))
        return found

    def _whole(self) -> list[str]:
        """Rows that have one picture for all conditions."""
        return [row.name for row in self.state.rows if row.same]


def _mean(values: np.ndarray, weights: Weights) -> NDArray[np.float64]:
    """(draws,) of values of images (N,)."""
    return weights @ values / weights.sum(-1)


def _flat(statistics: np.ndarray) -> np.ndarray | csr_array:
    """Statistics (N, ...) as a matrix (N, numbers) of float64; counts of many classes, of which a picture has few, are
    kept as those few."""
    flat = statistics.reshape(len(statistics), -1)
    sparse = flat.dtype.kind in "iu" and np.count_nonzero(flat) <= SPARSE * flat.size
    return (csr_array(flat) if sparse else flat).astype(float)
