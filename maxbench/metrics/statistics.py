"""How sure a number is: intervals and paired tests over the samples of a run.

The unit is the cluster. Images of one sample (replicates, the two halves of a half split, several noise seeds) are
not independent, so they are drawn, flipped and left out together; `groups` (N,) gives the cluster of every image by
any integer, None makes each image its own. Clusters may differ in size: a mean is over images, its spread over
clusters.

- Intervals: the bootstrap over clusters, percentile or BCa (bias-corrected and accelerated). A draw is a weight of
  every image, and a statistic a function of weights, so that one draw serves every statistic.
- Distances of sets (Frechet, kernel): the bootstrap biases them, because a repeated image is not a new one. Their
  interval is made of influence values (:func:`influence_interval`).
- Differences of two methods on the same images: :func:`sign_flip`, corrected by :func:`holm` for the number of
  tests; :func:`win_rate` says how often, :func:`needed` how many clusters would tell.

The only source of chance considered here is which clusters were drawn; training runs are a further one.

    B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993 (percentile interval: chapter 13; BCa:
    chapter 14, equations 14.9, 14.10, 14.14 and 14.15).
    B. Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982 (infinitesimal jackknife: chapter 6).
    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    B. Phipson and G. K. Smyth, Permutation p-values should never be zero, Statistical Applications in Genetics and
    Molecular Biology 9, 2010.

Everything is deterministic in `seed`, and two calls with the same seed, clusters and number of resamples see the
same draws, so that statistics of the same images can be compared draw by draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtr

BLOCK = 2**18  # numbers drawn at a time: bounds memory, 2 MiB of indices or weights
SMALL = 512  # up to so many clusters "auto" is BCa; beyond, the two cover alike, whatever the values
ROUNDING = 1e-12  # relative: numbers closer than this are one number computed in two orders

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Weights of images (draws, N) => (statistics, draws). A draw weighs an image by how often its cluster was drawn."""


@dataclass(frozen=True)
class Interval:
    """A value and the interval it is reported with; bounds are NaN where `n` clusters cannot carry one."""

    value: float
    low: float
    high: float
    n: int


# --- intervals --------------------------------------------------------------------------------------------------------


def means(values: ArrayLike) -> Statistic:
    """The statistic that is the mean over images of every column of `values` (columns, N)."""
    values = finite_columns(values, "values")
    return lambda weights: (weights @ values.T / weights.sum(axis=-1, keepdims=True)).T


def intervals(
    statistic: Statistic,
    groups: ArrayLike | None,
    n: int,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    method: str = "auto",
) -> list[Interval]:
    """Bootstrap over the clusters of `n` images, one interval for every number that `statistic` returns.

    method: "percentile"; "bca", which corrects for the bias and the skewness of the statistic, at the cost of one
    evaluation for each cluster; "auto" is "bca" up to SMALL clusters. BCa covers better where values are skewed and
    evens out the two sides, percentile where they are symmetric with heavy tails; at levels far above 0.95 BCa is the
    less sure of the two, so that families of tests are for :func:`sign_flip` and :func:`holm`.

    An interval is over the draws in which the statistic is defined: a NaN (a ratio whose denominator vanished in the
    draw) is left aside. A statistic that is the same in every draw has an interval of no width. The bounds are NaN
    with one cluster, with an undefined value, and in BCa if all draws lie on one side of the value.
    """
    labels, clusters = _clusters(groups, n)
    if method not in ("auto", "percentile", "bca"):
        raise ValueError(f"method is auto, percentile or bca, got {method}")
    values = statistic(np.ones((1, n)))[:, 0]
    if clusters == 1:
        return [Interval(float(value), np.nan, np.nan, 1) for value in values]
    drawn = resample_weights(groups, n, seed, resamples)
    draws = np.concatenate([statistic(weights) for weights in drawn], axis=1)
    if method == "percentile" or (method == "auto" and clusters > SMALL):
        return [_percentile(*each, clusters, level) for each in zip(values, draws, strict=True)]
    left_out = np.concatenate([statistic(weights) for weights in _leave_one_out(labels, clusters)], axis=1)
    return [_bca(*each, clusters, level) for each in zip(values, draws, left_out, strict=True)]


def resample_weights(groups: ArrayLike | None, n: int, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """Blocks (draws, n) of the weights of images, `resamples` draws in all: how often the image's cluster was drawn.

    As many clusters are drawn as there are, with replacement. A block holds about BLOCK weights.
    """
    labels, clusters = _clusters(groups, n)
    for index in _draws(clusters, seed, resamples, max(1, BLOCK // n)):
        yield _counts(index, clusters)[:, labels]


def _draws(clusters: int, seed: int, resamples: int, block: int) -> Iterator[NDArray[np.int64]]:
    """Indices (draws, clusters), at most `block` draws at a time; the draws do not depend on `block`."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        yield generator.integers(clusters, size=(min(block, resamples - start), clusters))


def _counts(index: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """How often each of `n` occurs in every row of `index` (draws, any number), (draws, n)."""
    rows = np.arange(len(index))[:, None] * n
    return np.bincount((rows + index).ravel(), minlength=len(index) * n).reshape(-1, n).astype(np.float64)


def _leave_one_out(labels: NDArray[np.int64], clusters: int) -> Iterator[NDArray[np.float64]]:
    """Blocks of weights that are 0 on the images of one cluster and 1 elsewhere, every cluster once."""
    block = max(1, BLOCK // len(labels))
    for start in range(0, clusters, block):
        left = np.arange(start, min(start + block, clusters))
        yield (labels != left[:, None]).astype(np.float64)


def _percentile(value: float, draws: NDArray[np.float64], n: int, level: float) -> Interval:
    return _between(value, draws, n, (1 - level) / 2, (1 + level) / 2)


def _bca(value: float, draws: NDArray[np.float64], left_out: NDArray[np.float64], n: int, level: float) -> Interval:
    """Percentiles moved by the bias z0 and the acceleration a (Efron and Tibshirani 1993, 14.9 to 14.15).

    scipy.stats.bootstrap computes the same, but gives up on NaN draws and constant statistics.
    """
    defined, left_out = draws[~np.isnan(draws)], left_out[~np.isnan(left_out)]
    tie = np.abs(defined - value) <= ROUNDING * np.abs(defined).max(initial=0)
    below = np.where(tie, 0.5, defined < value).mean() if len(defined) else 0.0
    if not 0 < below < 1:  # also where there is no value, or no draw
        return Interval(float(value), np.nan, np.nan, n)
    pull = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = (pull**2).sum() ** 1.5
    acceleration = (pull**3).sum() / (6 * spread) if spread > 0 else 0.0
    z0 = ndtri(below)
    z = z0 + ndtri([(1 - level) / 2, (1 + level) / 2])
    return _between(value, draws, n, *ndtr(z0 + z / (1 - acceleration * z)))


def _between(value: float, draws: NDArray[np.float64], n: int, lower: float, upper: float) -> Interval:
    """The interval between two quantiles of the draws that are defined."""
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or len(defined) == 0:
        return Interval(float(value), np.nan, np.nan, n)
    if np.allclose(defined, value, rtol=ROUNDING, atol=0):
        return Interval(float(value), float(value), float(value), n)
    low, high = np.quantile(defined, [lower, upper])
    return Interval(float(value), float(low), float(high), n)


def standard_error(influence: ArrayLike, groups: ArrayLike | None) -> float:
    """Standard error of a number whose images pull at it by `influence` (N,), from the spread of clusters.

    The influence of an image is the derivative of the number by the image's share of the set: on other images the
    number would differ by about the mean of theirs (infinitesimal jackknife, Efron 1982). The values are centred
    here, so that for a mean they are the values themselves, and the result s / sqrt(n) where each image is its own
    cluster. NaN with one cluster.
    """
    influence = finite_rows(influence, "influence")
    labels, clusters = _clusters(groups, len(influence))
    if clusters == 1:
        return math.nan
    sums = np.bincount(labels, weights=influence - influence.mean())
    return math.sqrt((sums**2).sum() * clusters / (clusters - 1)) / len(influence)


def influence_interval(value: float, influence: ArrayLike, groups: ArrayLike | None, level: float = 0.95) -> Interval:
    """value +- z * :func:`standard_error`: for distances of sets, and for the difference of two of them.

    The influence of a difference is the difference of the influences, image by image, which keeps the pairing. It
    tells the spread of the value and not its bias.
    """
    influence = finite_rows(influence, "influence")
    margin = ndtri((1 + level) / 2) * standard_error(influence, groups)
    return Interval(float(value), float(value - margin), float(value + margin), _clusters(groups, len(influence))[1])


# --- tests of differences ---------------------------------------------------------------------------------------------


def t_test(value: float, standard_error: float, clusters: int) -> float:
    """Two-sided p of `value` if it were 0 in truth, by Student's t with `clusters` - 1 degrees of freedom.

    The error is estimated from that many clusters. 1 for 0 without spread, NaN for a NaN or a single cluster.
    """
    if clusters < 2:
        return math.nan
    if standard_error == 0:
        return math.nan if math.isnan(value) else float(value == 0)
    return float(2 * stdtr(clusters - 1, -abs(value) / standard_error))


FLIPS = 20_000
"""Random sign patterns of a test, for families of some hundred comparisons."""


def enough_flips(comparisons: int, level: float) -> int:
    """Sign patterns with which the smallest p of a random test, times `comparisons`, is half of 1 - `level`."""
    return max(FLIPS, math.ceil(2 * comparisons / (1 - level)))


def sign_flip(
    differences: ArrayLike, groups: ArrayLike | None = None, *, seed: int, flips: int = FLIPS
) -> NDArray[np.float64]:
    """Two-sided p of every column of paired `differences` (columns, N): is its mean 0?

    If a method and its rival are exchangeable in every cluster, the cluster's sum of differences may as well have the
    other sign: p is the share of sign patterns whose total is as far from 0 as the observed one. All patterns are
    taken where there are no more than `flips`, else so many random ones, the same for every column, and the observed
    one is counted with them: p = (1 + hits) / (1 + flips) (Phipson and Smyth 2010). Exact for differences
    symmetric about 0, whatever their distribution otherwise. A column of zeros has p = 1.
    """
    differences = finite_columns(differences, "differences")
    labels, clusters = _clusters(groups, differences.shape[1])
    sums = np.stack([np.bincount(labels, weights=row) for row in differences])  # (columns, clusters)
    far = np.abs(sums.sum(axis=1)) - ROUNDING * np.abs(sums).sum(axis=1)  # a tie counts, rounded up or down
    enumerated = 2**clusters <= flips
    patterns = _all_signs(clusters) if enumerated else _random_signs(clusters, seed, flips)
    hits = sum((np.abs(signs @ sums.T) >= far).sum(axis=0) for signs in patterns)
    return hits / 2**clusters if enumerated else (1 + hits) / (1 + flips)


def _all_signs(clusters: int) -> Iterator[NDArray[np.float64]]:
    bits = np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1
    yield 2.0 * bits - 1


def _random_signs(clusters: int, seed: int, flips: int) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // clusters)
    for start in range(0, flips, block):
        bits = generator.integers(2, size=(min(block, flips - start), clusters), dtype=np.int8)
        yield 2.0 * bits - 1


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p of a family of tests (m,): at most a share `alpha` of families has a false one below `alpha`.

    The smallest p is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one before it or
    larger than 1 (Holm 1979). Valid for any dependence. A NaN is no test: it stays and does not count in m.
    """
    adjusted = np.array(p, dtype=np.float64)
    if adjusted.ndim != 1 or ((adjusted < 0) | (adjusted > 1)).any():
        raise ValueError(f"holm takes p-values (m,) between 0 and 1, got {adjusted}")
    order = np.argsort(adjusted)[: np.count_nonzero(~np.isnan(adjusted))]  # a NaN sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * adjusted[order]), 1)
    return adjusted


def win_rate(differences: ArrayLike, groups: ArrayLike | None = None, *, level: float = 0.95) -> Interval:
    """Share of clusters whose mean difference is above 0, of `differences` (N,); a tie is half a win.

    With Wilson's interval (1927), which has a width also where every cluster wins; with ties it is too wide.
    """
    differences = finite_rows(differences, "differences")
    labels, clusters = _clusters(groups, len(differences))
    sums = np.bincount(labels, weights=differences)
    rate = float(np.where(sums == 0, 0.5, sums > 0).mean())
    z2 = ndtri((1 + level) / 2) ** 2 / clusters
    centre = (rate + z2 / 2) / (1 + z2)
    margin = math.sqrt(z2 * (rate * (1 - rate) + z2 / 4)) / (1 + z2)
    return Interval(rate, max(0.0, centre - margin), min(1.0, centre + margin), clusters)


def needed(
    differences: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    power: float = 0.8,
    comparisons: int = 1,
    by_signs: bool = False,
) -> int | None:
    """How many clusters a test would need to tell the mean of `differences` (N,) from 0 with probability `power`.

    ((z_a + z_b) * sd / mean)^2, rounded up and at least 2, with the mean and the spread of clusters seen here, for a
    two-sided test at `level` after Bonferroni's correction for `comparisons`. For a difference of distances pass its
    influence values, centred, plus the difference. None where the mean is 0 or a single cluster tells no spread.
    by_signs: the test is a sign-flip test, whose p is 2^(1 - n) or more, so that fewer clusters can show nothing.
    """
    differences = finite_rows(differences, "differences")
    if comparisons < 1:
        raise ValueError(f"comparisons counts the tests of a table, at least 1, got {comparisons}")
    _, clusters = _clusters(groups, len(differences))
    mean = abs(differences.mean())
    if clusters == 1 or mean <= ROUNDING * np.abs(differences).max():
        return None
    deviation = standard_error(differences, groups) * math.sqrt(clusters)
    alpha = (1 - level) / comparisons
    least = math.floor(2 - math.log2(alpha)) if by_signs else 2  # the first n with 2^(1 - n) < alpha
    z = ndtri(power) - ndtri(alpha / 2)
    return max(least, math.ceil((z * deviation / mean) ** 2))


# --- statistics of indices --------------------------------------------------------------------------------------------


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], ArrayLike],
    n: int,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    vectorized: bool = False,
) -> Interval:
    """Percentile bootstrap of a statistic of `n` samples, given as a function of the samples' indices.

    `statistic` takes indices (n,), in which samples may repeat, and returns one number; with `vectorized` it
    takes (draws, n) and returns (draws,). A ratio is thus resampled as a whole, numerator and denominator
    together; for a function of sums see :func:`resampled_sums`.

    The interval is over the draws in which the statistic is defined: a NaN (a ratio whose denominator
    vanished in the draw) is left aside. One sample has no spread: its bounds are NaN. No sample is a
    ValueError.
    """

    def rows(index: NDArray[np.int64]) -> NDArray[np.float64]:
        results = statistic(index) if vectorized else [statistic(row) for row in index]
        return np.asarray(results, dtype=np.float64)[None]

    (interval,) = bootstrap_all(rows, n, seed=seed, resamples=resamples, level=level)
    return interval


def bootstrap_all(
    statistics: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    n: int,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> list[Interval]:
    """:func:`bootstrap` of several statistics on the same draws: indices (draws, n) => (statistics, draws)."""
    if n < 1:
        raise ValueError(f"an interval needs at least one sample, got {n}")
    values = statistics(np.arange(n)[None])[:, 0]
    if n == 1:
        return [Interval(float(value), np.nan, np.nan, n) for value in values]
    blocks = [statistics(index) for index in _draws(n, seed, resamples, max(1, BLOCK // n))]
    return [
        _percentile(value, draws, n, level) for value, draws in zip(values, np.concatenate(blocks, axis=1), strict=True)
    ]


def bootstrap_mean(values: ArrayLike, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean of per-sample `values` (n,), in their own unit.

    A NaN is a ValueError that names the rows: a sample without a value has to be counted by the caller, not
    dropped here in silence.
    """
    values = finite_rows(values, "values")
    return bootstrap(
        lambda index: values[index].mean(axis=-1),
        len(values),
        seed=seed,
        resamples=resamples,
        level=level,
        vectorized=True,
    )


def resampled_sums(values: ArrayLike, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of per-sample `values` (n, ...) over every row of `index` (draws, n), as (draws, ...).

    For a vectorised :func:`bootstrap` of a function of sums, such as the mean IoU of summed confusions:
    one product with the number of times each sample was drawn, instead of a gather of draws * n tables.
    """
    values = np.asarray(values, dtype=np.float64)
    return np.tensordot(_counts(index, len(values)), values, axes=1)


# --- checks -----------------------------------------------------------------------------------------------------------


def _clusters(groups: ArrayLike | None, n: int) -> tuple[NDArray[np.int64], int]:
    """The cluster of each of `n` images as 0, 1, ..., in the order of the labels, and how many clusters there are."""
    if n < 1:
        raise ValueError(f"an interval or a test needs at least one image, got {n}")
    if groups is None:
        return np.arange(n), n
    groups = np.asarray(groups)
    if groups.shape != (n,) or groups.dtype.kind not in "iu":
        raise ValueError(f"groups must hold one integer for each of {n} images, got {groups.dtype} {groups.shape}")
    labels, inverse = np.unique(groups, return_inverse=True)
    return inverse, len(labels)


def finite_rows(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values as float64 (n,); another shape, no value, NaN or infinity is a ValueError."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} must hold one number per sample, (n,) with n >= 1, got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        named = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        raise ValueError(f"{name} has no finite number in {len(bad)} of {len(values)} rows: {named}")
    return values


def finite_columns(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values as float64 (columns, N); another shape, no column, no value, NaN or infinity is a ValueError."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name} must hold one number per column and image, (columns, N), got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} has no finite number somewhere in {len(bad)} of {len(values)} columns: first {bad[0]}"
        )
    return values
