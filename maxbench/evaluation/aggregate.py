"""What was measured in pictures -> tidy tables: a row per image, per method, per paired difference.

Everything is computed from one state (:mod:`maxbench.evaluation.state`); no picture and no model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from maxbench.conditions.base import Condition
from maxbench.errors import UserError
from maxbench.evaluation.columns import FURTHER, Column, Columns, Weights, mean_of
from maxbench.evaluation.state import RETRIED, Row, State
from maxbench.experiments.method import REFERENCE
from maxbench.metrics.distribution import Distance
from maxbench.metrics.joint import Joint
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

NO_JOINT = "not computed: it needs the methods `none` and `single/<condition>` of every condition"
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"


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

    @cached_property
    def columns(self) -> Columns:
        """What every row of pictures has a number of."""
        return Columns(self.state, self.conditions, self.resamples, self.level)

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
        everything = [*self.columns.all, *self.columns.costs, *self.columns.conflicts()]
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
            found = sign_flip(
                [row["change"] for row in signed], self.columns.groups, seed=self.state.seeds[0], flips=flips
            )
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
                    self.columns.groups,
                    level=self.level,
                    comparisons=comparisons,
                    by_signs=bool(np.isfinite(row["win_rate"])),  # as no distance is tested
                ),
                "verdict": (BETTER if better else WORSE) if shown else NOT_SHOWN,
            }
        return pd.DataFrame(out)

    def further_differences(self) -> pd.DataFrame:
        """The same of all other columns, which stand in no table of methods: with intervals, and not tested.

        So no number of them lessens what Holm's correction can show of the others.
        """
        out = [row for baseline in self._baselines for row in self._against(baseline, further=True)]
        return pd.DataFrame(out).drop(columns=["p", "change", "higher_is_better"], errors="ignore")

    # --- the joint score --------------------------------------------------------------------------------------

    @property
    def joint(self) -> Joint | None:
        """What q is made of; None without `none` and every single control."""
        return self.columns.joint

    @property
    def joint_note(self) -> str:
        return NO_JOINT if self.joint is None else self.joint.note

    def dominant(self) -> dict[str, tuple[str, float]]:
        """Row -> the condition with the larger q, and the share of images in which it is larger."""
        if self.joint is None:
            return {}
        found = {row: self.joint.leader(self.columns.oriented(row)) for row in self.columns.whole()}
        return {row: leader for row, leader in found.items() if leader is not None}

    def per_image(self, metric: str, condition: str = "") -> dict[str, np.ndarray]:
        """Row -> (N,) of one metric of single images."""
        return self.columns.per_image(metric, condition)

    def conflict_curve(self, bins: int = 5) -> pd.DataFrame | None:
        """The joint score by degree of conflict: a row for each method and each of `bins` equal shares of the clusters.

        None where conditions come from one picture, or where there are too few clusters for bins.
        """
        joint = self._joint_of_methods()
        rows = ((self._stamp | self._rows[name].columns, values) for name, values in joint.items())
        return self._by_conflict(rows, bins)

    def conflict_differences(self, bins: int = 5) -> pd.DataFrame | None:
        """The same of every method minus every baseline, paired by image; intervals by themselves, and no tests."""
        joint = self._joint_of_methods()
        rows = (
            (self._stamp | self._rows[name].columns | {"baseline": baseline}, values - joint[baseline])
            for baseline in self._baselines if baseline in joint
            for name, values in joint.items() if name != baseline
        )  # fmt: skip
        return self._by_conflict(rows, bins)

    def _joint_of_methods(self) -> dict[str, NDArray[np.float64]]:
        """Method -> (N,), of those that have one picture for all conditions; empty without a degree of conflict."""
        if self.columns.conflict() is None:
            return {}
        whole = [name for name in self._methods if name in self.columns.whole()]
        return {name: self.joint.per_image(self.columns.oriented(name))["joint", ""] for name in whole}

    def _by_conflict(
        self, rows: Iterable[tuple[dict[str, Any], NDArray[np.float64]]], bins: int
    ) -> pd.DataFrame | None:
        """Means of numbers of single images in equal shares of the clusters, from the least to the most conflict."""
        conflict = self.columns.conflict()
        if conflict is None or len(np.unique(self.columns.groups)) < 4 * bins:
            return None
        edges = np.quantile(conflict, np.linspace(0, 1, bins + 1))
        place = np.clip(np.searchsorted(edges, conflict, side="right") - 1, 0, bins - 1)
        shares = [(number, own) for number in range(bins) if (own := place == number).any()]
        out = []
        for said, values in rows:
            for number, own in shares:
                (interval,) = intervals(
                    lambda weights, values=values[own]: (weights @ values / weights.sum(-1))[None],
                    self.columns.groups[own], int(own.sum()), **self.columns.settings,
                )  # fmt: skip
                out.append(
                    {
                        **said, "metric": "joint", "bin": number,
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

    # --- entries ----------------------------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[str, str, str, str, str, Interval]]:
        """(row, metric, condition, protocol, scorer, interval)"""
        for column in self.columns.distances:
            for row, distance in column.distances.items():
                yield row, column.metric, "", column.protocol, column.scorer, self._of_distance(distance)
        numbers = [each for row in self.state.measured for each in self._numbers(row)]
        found = self._intervals(lambda weights: np.stack([of(weights) for *_, of in numbers])) if numbers else []
        for (*said, _), interval in zip(numbers, found, strict=True):
            yield *said, interval
        yield from self._cost_entries()

    def _of_distance(self, distance: Distance) -> Interval:
        margin = ndtri((1 + self.level) / 2) * distance.error(self.columns.groups)
        return Interval(distance.value, distance.value - margin, distance.value + margin, len(self.state.images))

    def _numbers(self, row: str) -> Iterator[tuple[str, str, str, str, str, Callable[[Weights], NDArray[np.float64]]]]:
        """(row, metric, condition, protocol, scorer, the number under weights) of a row's columns.

        Also the mean of an image's own score, where the data set's is another number: it is what q is made of.
        """
        for column in self.columns.all:
            if row not in column.values:
                continue
            yield row, column.metric, column.condition, column.protocol, column.scorer, partial(column.of, row)
            if column.sample_metric != column.metric and column.headline:
                mean = partial(mean_of, column.values[row])
                yield row, column.sample_metric, column.condition, column.sample_protocol, column.scorer, mean

    def _intervals(self, statistic: Callable[[Weights], NDArray[np.float64]], method: str = "auto") -> list[Interval]:
        return intervals(statistic, self.columns.groups, len(self.state.images), method=method, **self.columns.settings)

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
            lambda weights: (weights @ batches / weights.sum(-1))[None], None, len(batches), **self.columns.settings
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

    def _against(self, baseline: str, further: bool = False) -> Iterator[dict[str, Any]]:
        """Of the columns that stand in the table of methods, or of all others; with what tests are made of."""
        methods = [name for name in self._methods if name != baseline]
        columns = [each for each in self.columns.all if each.headline != further and baseline in each.values]
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
                "win_rate": win_rate(change if column.higher_is_better else -change, self.columns.groups).value,
                "change": change,
                "higher_is_better": column.higher_is_better,
            }
        clusters = len(np.unique(self.columns.groups))
        for column in (each for each in self.columns.distances if (each.metric in FURTHER) == further):
            for method in methods:
                if not {method, baseline} <= set(column.distances):
                    continue
                change = column.distances[method].minus(column.distances[baseline])
                change = replace(change, halves=np.empty(0))  # what splits take away, pairing has taken already
                interval = self._of_distance(change)
                yield {
                    **self._said(method, baseline, "", column.metric, column.protocol, interval),
                    "p": t_test(change.value, change.error(self.columns.groups), clusters),
                    "win_rate": np.nan,
                    "change": change.value + change.influence - change.influence.mean(),
                    "higher_is_better": False,
                }

    def _mean(self, column: Column, row: str, weights: Weights) -> NDArray[np.float64]:
        """The mean of what an image has; of q with the denominators of the draw."""
        if column.scorer == "fidelity":
            return column.of(row, weights)
        return mean_of(column.values[row], weights)

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

    @property
    def _stamp(self) -> dict[str, Any]:
        seeds = "+".join(map(str, self.state.seeds))
        return {"experiment": self.state.experiment, "suite": self.state.suite, "seed": seeds}
