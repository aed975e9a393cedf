"""Whether the metrics of a run hold: the order of known pictures, coverage, false discoveries, two observers.

Everything is a function of the tables of one run (:class:`maxbench.evaluation.aggregate.Tables`), whose images are
taken as a population: draws are of clusters, the images of a cluster stay together, and every draw serves all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.columns import BY_ANNOTATOR, DISTANCES, FURTHER, Column, Weights
from maxbench.evaluation.state import COSTS, RETRIED, Row, State, features_label
from maxbench.experiments.method import FUSION, NONE, REAL, REFERENCE, SHUFFLED, SINGLE, VAE_RECONSTRUCTION
from maxbench.metrics.distribution import Distance, frechet
from maxbench.metrics.statistics import Interval, holm, influence_interval, intervals, sign_flip

ALTERNATING = "alternating singles"
GREY = "grey picture"
OTHER = "another sample's picture"
BLENDED = "pixel average of the singles"
"""Rows of pictures that were made to deceive: each obeys no condition, or obeys them in half of its pictures."""


def map_of(condition: str) -> str:
    """The row whose pictures are a condition's own map, as its control is shown it."""
    return f"map of {condition} as a picture"


class Pair(NamedTuple):
    """Two rows of which the first must be better, or with `ties` at least as good."""

    better: str
    worse: str
    ties: bool = False

    def __str__(self) -> str:
        return f"{self.better} {'>=' if self.ties else '>'} {self.worse}"


@dataclass(frozen=True)
class Order:
    """How often a metric orders rows as it must.

    n: clusters of a draw. replaced: whether they were drawn with replacement. shares: of the draws, for every pair.
    whole: the share in which all pairs are so.
    """

    metric: str
    condition: str
    scorer: str
    pairs: tuple[Pair, ...]
    n: int
    replaced: bool
    shares: tuple[float, ...]
    whole: float


@dataclass(frozen=True)
class Coverage:
    """How often an interval of `n` clusters holds the population's number.

    what: a row, or one minus another. covered: share of simulations; one without an interval does not cover. undefined:
    share of simulations without an interval. width: of the mean interval, over that of the central part of the values
    themselves at the same level: 1 is as wide as it should be. NaN where the values do not vary.
    """

    metric: str
    condition: str
    what: str
    n: int
    covered: float
    undefined: float
    width: float


@dataclass(frozen=True)
class FalseDiscoveries:
    """Of families of tests without any true difference, at one level.

    tests: of a family. any_raw: share of families with a p below the level. any_holm: the same after Holm's correction.
    each: share of single tests with a p below the level.
    """

    n: int
    tests: int
    any_raw: float
    any_holm: float
    each: float


@dataclass(frozen=True)
class Agreement:
    """How far two networks that measure one condition agree over images, as correlations (Pearson, Spearman).

    minus: the row that is subtracted from the other's numbers, image by image; None where none is. same_sign: whether
    both give the mean the same sign.
    """

    condition: str
    row: str
    minus: str | None
    pearson: float
    spearman: float
    same_sign: bool


# --- rows -------------------------------------------------------------------------------------------------------------


def unit_singles(state: State) -> dict[str, str]:
    """Condition -> the row of its own single control, of which q's denominator is made."""
    found: dict[str, str] = {}
    for row in state.rows:
        if row.role == SINGLE and row.is_unit:
            found.setdefault(row.branches[0], row.name)
    return found


def alternating(state: State) -> dict[str, np.ndarray]:
    """What is measured of pictures that are each cluster's single control of one condition, in turn."""
    rows = list(unit_singles(state).values())
    turn = state.groups % len(rows)
    labels = [label for label in state.measured[rows[0]] if all(label in state.measured[row] for row in rows)]
    out = {}
    for label in labels:
        if label not in (*COSTS, RETRIED, "defect"):
            choices = np.stack([state.measured[row][label] for row in rows])
            out[label] = choices[turn, np.arange(len(turn))]
    return out


def with_rows(state: State, measured: Mapping[str, Mapping[str, np.ndarray]]) -> State:
    """The state with further rows of whole pictures that no method made."""
    rows = tuple(Row(name, REFERENCE, same=True) for name in measured)
    return replace(state, rows=(*state.rows, *rows), measured={**state.measured, **measured})


def former_joint(tables: Tables, row: str) -> float:
    """The joint score of marginal means, which the joint score per image has replaced: min_i mean q_i, unclipped."""
    joint = tables.joint
    if joint is None or not joint.conditions:
        return float("nan")
    fidelity = tables.columns.oriented(row)
    return min(
        float((fidelity[name] - joint.floor[name]).mean() / joint.gain[name].mean()) for name in joint.conditions
    )


# --- draws ------------------------------------------------------------------------------------------------------------


def drawn(clusters: int, n: int, draws: int, seed: int) -> tuple[NDArray[np.int64], bool]:
    """(draws, n) numbers of clusters, and whether with replacement: only where there are not more than n of them."""
    generator = np.random.default_rng(seed)
    if clusters > n:
        return np.stack([generator.choice(clusters, n, replace=False) for _ in range(draws)]), False
    return generator.integers(clusters, size=(draws, n)), True


def weights_of(groups: NDArray[np.int64], index: NDArray[np.int64]) -> Weights:
    """(draws, N) how often each image's cluster is in a row of `index` (draws, n)."""
    clusters = int(groups.max()) + 1
    return np.stack([np.bincount(row, minlength=clusters) for row in index])[:, groups].astype(float)


def members(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Of every cluster, its images."""
    return [np.flatnonzero(groups == number) for number in range(int(groups.max()) + 1)]


def images_of(own: Sequence[NDArray[np.int64]], clusters: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """The images of some clusters, one after the other, and the place of the cluster that each is of."""
    images = np.concatenate([own[number] for number in clusters])
    return images, np.repeat(np.arange(len(clusters)), [len(own[number]) for number in clusters])


# --- order ------------------------------------------------------------------------------------------------------------


def chain(tables: Tables, column: Column) -> tuple[Pair, ...]:
    """The order that a column must show: real >= reconstruction > single control > no control > shuffled.

    A condition's numbers are of its own single control. A number of all conditions together has the baseline there, for
    no single control follows them all; no control has 0 of it by definition, so that ties count. A text score says
    nothing of controls: it must tell pictures of the prompt from another sample's and from grey ones. Pairs of which a
    row is missing are left out: where each condition has a real picture of its own, none of them has all of them.
    """
    state = tables.state
    none = next((row.name for row in state.rows if row.role == NONE), None)
    baseline = state.baselines[0] if state.baselines else None
    if column.condition:
        single = unit_singles(state).get(column.condition)
        pairs = [
            Pair(REAL, VAE_RECONSTRUCTION, True), Pair(VAE_RECONSTRUCTION, single), Pair(single, none),
            Pair(none, SHUFFLED),
        ]  # fmt: skip
    elif column.scorer == "fidelity":
        pairs = [
            Pair(REAL, VAE_RECONSTRUCTION, True), Pair(VAE_RECONSTRUCTION, baseline), Pair(baseline, none),
            Pair(none, SHUFFLED, True),
        ]  # fmt: skip
    else:
        pairs = [Pair(REAL, OTHER), Pair(baseline, OTHER), Pair(none, OTHER), Pair(baseline, GREY)]
    return tuple(pair for pair in pairs if {pair.better, pair.worse} <= set(column.values))


def distance_pairs(tables: Tables, rows: Sequence[str]) -> tuple[Pair, ...]:
    """What a distance to real pictures must show. Of controlled and uncontrolled pictures it says nothing."""
    baseline = tables.state.baselines[0] if tables.state.baselines else None
    pairs = [
        Pair(REAL, VAE_RECONSTRUCTION), Pair(REAL, baseline), Pair(VAE_RECONSTRUCTION, baseline),
        Pair(baseline, BLENDED), Pair(baseline, GREY),
    ]  # fmt: skip
    return tuple(pair for pair in pairs if {pair.better, pair.worse} <= set(rows))


def headline(tables: Tables) -> list[Column]:
    """Columns of the methods' table, and the same measured by annotators."""
    names = {(each.metric, each.condition) for each in tables.columns.all if each.headline}
    return [
        each
        for each in tables.columns.all
        if each.headline or (each.metric.removesuffix(BY_ANNOTATOR), each.condition) in names
    ]


def orders(tables: Tables, n: int, *, draws: int, seed: int) -> list[Order]:
    """Of every column, in the same draws of `n` clusters."""
    groups = tables.state.groups
    index, replaced = drawn(int(groups.max()) + 1, n, draws, seed)
    weights = weights_of(groups, index)
    out = []
    for column in tables.columns.all:
        pairs = chain(tables, column)
        sign = 1 if column.higher_is_better else -1
        rows = list(dict.fromkeys(row for pair in pairs for row in pair[:2]))
        values = {row: sign * column.of(row, weights) for row in rows}
        if pairs:
            out.append(_order(column.metric, column.condition, column.scorer, pairs, n, replaced, values))
    return out


def distance_orders(tables: Tables, n: int, *, draws: int, seed: int) -> Iterator[Order]:
    """Of every distance, of the features of the images that :func:`orders` draws with the same seed.

    Distances that are not defined for `n` images are left out.
    """
    state = tables.state
    own = members(state.groups)
    index, replaced = drawn(len(own), n, draws, seed)
    for network, metric, distance in distances(state, further=True):
        label = features_label(network)
        pairs = distance_pairs(tables, [row for row, labels in state.measured.items() if label in labels])
        values = {
            row: np.array(
                [
                    -distance(state.measured[row][label][images_of(own, each)[0]], state.reference[network]).value
                    for each in index
                ]
            )
            for row in dict.fromkeys(row for pair in pairs for row in pair[:2])
        }
        if pairs and all(np.isfinite(each).all() for each in values.values()):
            yield _order(metric, "", state.scorers[network], pairs, n, replaced, values)


def distances(
    state: State, further: bool = False
) -> Iterator[tuple[str, str, Callable[[np.ndarray, np.ndarray], Distance]]]:
    """(network, metric, function) of all that tables test, or with `further` of all that they have."""
    for network in state.reference:
        for metric, distance in DISTANCES.get(network, {f"fd_{network}": frechet}).items():
            if further or metric not in FURTHER:
                yield network, metric, distance


def _order(
    metric: str,
    condition: str,
    scorer: str,
    pairs: tuple[Pair, ...],
    n: int,
    replaced: bool,
    values: Mapping[str, NDArray[np.float64]],
) -> Order:
    """values: row -> (draws,), more is better; where one is not defined no order is shown."""
    held = np.stack(
        [
            values[pair.better] >= values[pair.worse] if pair.ties else values[pair.better] > values[pair.worse]
            for pair in pairs
        ]
    )
    return Order(
        metric, condition, scorer, pairs, n, replaced, tuple(map(float, held.mean(1))), float(held.all(0).mean())
    )


# --- coverage ---------------------------------------------------------------------------------------------------------

Key = tuple[str, str, str]
"""(metric, condition, what): what is a row, or one minus another."""


def numbers(tables: Tables, method: str, baseline: str) -> Callable[[Weights], dict[Key, NDArray[np.float64]]]:
    """Weights of images (draws, N) => (draws,) of every number of both rows and of their difference, as tables have it.

    A data set's score is also there as the mean over images, of which differences are.
    """
    columns = [each for each in headline(tables) if {method, baseline} <= set(each.values)]

    def under(weights: Weights) -> dict[Key, NDArray[np.float64]]:
        found: dict[Key, NDArray[np.float64]] = {}
        for row in (baseline, method):
            for column in columns:
                found[column.metric, column.condition, row] = column.of(row, weights)
                if column.sample_metric != column.metric:
                    mean = weights @ column.values[row] / weights.sum(-1)
                    found[column.sample_metric, column.condition, row] = mean
        for column in columns:
            key = (column.sample_metric, column.condition)
            found[*key, f"{method} - {baseline}"] = found[*key, method] - found[*key, baseline]
        return found

    return under


def coverage(
    tables: Tables,
    method: str,
    baseline: str,
    n: int,
    *,
    simulations: int,
    resamples: int,
    seed: int,
    watch: Callable = lambda items: items,
) -> list[Coverage]:
    """Of the bootstrap intervals of all :func:`numbers`: `n` clusters are drawn with replacement, again and again.

    Each simulation's interval is that of the tables (`intervals`, method "auto"), of a run that had drawn these
    clusters. Which conditions can be scored is decided once, in the whole run.
    """
    under = numbers(tables, method, baseline)
    groups = tables.state.groups
    own = members(groups)
    truth = under(np.ones((1, len(groups))))
    generator = np.random.default_rng(seed)
    found: list[list[Interval]] = []
    for simulation in watch(range(simulations)):
        place = np.zeros((n, len(groups)))  # which images are those of every cluster that was drawn
        for row, number in zip(place, generator.integers(len(own), size=n), strict=True):
            row[own[number]] = 1
        found.append(
            intervals(
                lambda weights, place=place: np.stack(list(under(weights @ place).values())), None, n,
                seed=seed + simulation, resamples=resamples, level=tables.level,
            )
        )  # fmt: skip
    return [
        _covered(*key, n, float(value[0]), [each[number] for each in found], tables.level)
        for number, (key, value) in enumerate(truth.items())
    ]


def distance_coverage(
    tables: Tables,
    method: str,
    baseline: str,
    n: int,
    *,
    simulations: int,
    seed: int,
    watch: Callable = lambda items: items,
) -> list[Coverage]:
    """Of the influence intervals of distances, and of their difference.

    The number that should be covered is the mean over the draws: a distance is biased at `n`, and its interval is of
    its spread.
    """
    state = tables.state
    own = members(state.groups)
    found: dict[tuple[str, str], list[Interval]] = {}
    generator = np.random.default_rng(seed)
    both = [
        (network, metric, distance)
        for network, metric, distance in distances(state)
        if all(features_label(network) in state.measured[row] for row in (method, baseline))
    ]
    for _ in watch(range(simulations)):
        images, clusters = images_of(own, generator.integers(len(own), size=n))
        for network, metric, distance in both:
            first, second = (
                distance(state.measured[row][features_label(network)][images], state.reference[network])
                for row in (method, baseline)
            )
            for what, each in ((method, first), (baseline, second), (f"{method} - {baseline}", first.minus(second))):
                interval = influence_interval(each.value, each.influence, clusters, level=tables.level)
                found.setdefault((metric, what), []).append(interval)
    return [
        _covered(metric, "", what, n, float(np.mean([each.value for each in own])), own, tables.level)
        for (metric, what), own in found.items()
    ]


def _covered(
    metric: str, condition: str, what: str, n: int, truth: float, found: Sequence[Interval], level: float
) -> Coverage:
    values, low, high = (np.array([getattr(each, name) for each in found]) for name in ("value", "low", "high"))
    slack = 1e-12 * abs(truth)  # an interval without width about a number that is computed in two orders
    spread = float(np.diff(np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2]))[0])
    missing = np.isnan(low) | np.isnan(high)
    width = float(np.mean((high - low)[~missing])) if not missing.all() else np.nan
    return Coverage(
        metric, condition, what, n,
        covered=float(((low - slack <= truth) & (truth <= high + slack)).mean()),
        undefined=float(missing.mean()),
        width=width / spread if spread > 1e-12 * max(1.0, abs(truth)) else np.nan,
    )  # fmt: skip


# --- false discoveries ------------------------------------------------------------------------------------------------


def false_discoveries(
    tables: Tables,
    baseline: str,
    n: int,
    *,
    simulations: int,
    flips: int,
    seed: int,
    watch: Callable = lambda items: items,
) -> FalseDiscoveries:
    """Of sign-flip tests of every fusion against a baseline in all headline columns, corrected by Holm.

    The null is made: in every cluster that is drawn, the methods and the baseline are exchanged at random, for all
    columns and methods at once, so that the tests depend on each other as they do in the run.
    """
    state = tables.state
    own = members(state.groups)
    columns = [each for each in tables.columns.all if each.headline and baseline in each.values]
    methods = [row.name for row in state.rows if row.role == FUSION and row.name != baseline]
    changes = np.stack(
        [
            np.asarray(column.values[method], float) - column.values[baseline]
            for method in methods
            for column in columns
            if method in column.values
        ]
    )
    generator = np.random.default_rng(seed)
    alpha, hits = 1 - tables.level, []
    for simulation in watch(range(simulations)):
        images, clusters = images_of(own, generator.integers(len(own), size=n))
        signs = generator.choice([-1.0, 1.0], size=n)[clusters]
        p = sign_flip(changes[:, images] * signs, clusters, seed=seed + simulation, flips=flips)
        hits.append(((p < alpha).any(), (holm(p) < alpha).any(), (p < alpha).mean()))
    any_raw, any_holm, each = np.mean(hits, axis=0)
    return FalseDiscoveries(n, len(changes), float(any_raw), float(any_holm), float(each))


# --- two observers ----------------------------------------------------------------------------------------------------


def agreement(tables: Tables, baseline: str) -> list[Agreement]:
    """Of the scorer and the annotator of every condition, over images: of every method, and of it minus a baseline."""
    columns = {(each.metric, each.condition): each for each in headline(tables)}
    methods = [row.name for row in tables.state.rows if row.role != REFERENCE]
    out = []
    for (metric, condition), theirs in columns.items():
        if not metric.endswith(BY_ANNOTATOR):
            continue
        ours = columns[metric.removesuffix(BY_ANNOTATOR), condition]
        both = [row for row in methods if row in ours.values and row in theirs.values]
        for row in both:
            out.append(_agreement(condition, row, None, ours.values[row], theirs.values[row]))
            if baseline in both and row != baseline:
                one, other = (np.subtract(each.values[row], each.values[baseline]) for each in (ours, theirs))
                out.append(_agreement(condition, row, baseline, one, other))
    return out


def _agreement(condition: str, row: str, minus: str | None, one: np.ndarray, other: np.ndarray) -> Agreement:
    """Correlations are NaN where one of the two does not vary."""
    pearson = spearman = float("nan")
    if np.ptp(one) > 0 and np.ptp(other) > 0:
        pearson = float(np.corrcoef(one, other)[0, 1])
        spearman = float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
    return Agreement(condition, row, minus, pearson, spearman, bool(np.sign(one.mean()) == np.sign(other.mean())))
