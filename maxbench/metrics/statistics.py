"""How sure a number is: intervals from resampling the samples of one run.

Percentile bootstrap for everything that is a mean, or a function of means, over samples; half-sampling for
statistics of a whole set (Frechet and kernel distance), which the bootstrap biases because a duplicated
sample is not a new one. The only source of chance considered here is which samples were drawn; noise seeds
and training runs are further ones.

    B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993 (percentile interval: chapter 13).
    C. F. J. Wu, Jackknife, bootstrap and other resampling methods in regression analysis,
    Annals of Statistics 14, 1986; J. Shao and C. F. J. Wu, A general theory for jackknife variance
    estimation, Annals of Statistics 17, 1989 (delete-d jackknife).

Everything is deterministic in `seed`, and two calls with the same seed, number of samples and resamples see
the same draws, so that statistics of the same samples can be compared draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

BLOCK = 2**18  # indices drawn at a time: bounds memory, 2 MiB of indices


@dataclass(frozen=True)
class Interval:
    """A value and the interval it is reported with; bounds are NaN where `n` samples cannot carry one."""

    value: float
    low: float
    high: float
    n: int


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
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // n)
    blocks = [
        statistics(generator.integers(n, size=(min(block, resamples - start), n)))
        for start in range(0, resamples, block)
    ]
    return [
        _percentile(value, draws, n, level) for value, draws in zip(values, np.concatenate(blocks, axis=1), strict=True)
    ]


def _percentile(value: float, draws: NDArray[np.float64], n: int, level: float) -> Interval:
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or len(defined) == 0:
        return Interval(float(value), np.nan, np.nan, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), n)


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


def paired_difference(
    values: ArrayLike,
    baseline: ArrayLike,
    *,
    seed: int,
    comparisons: int = 1,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Bootstrap of the mean of `values - baseline`, both (n,) on the same samples in the same order.

    With `comparisons` such intervals in one table the interval is at level 1 - (1 - level) / comparisons
    (Bonferroni): all of them together then hold with probability `level` or more. It is drawn from
    `comparisons * resamples` resamples, so that its tails hold as many draws as those of a single
    comparison. Different lengths or a NaN are a ValueError.
    """
    values, baseline = finite_rows(values, "values"), finite_rows(baseline, "baseline")
    if len(values) != len(baseline):
        raise ValueError(
            f"a paired difference needs the same samples on both sides, got {len(values)} and {len(baseline)}"
        )
    if comparisons < 1:
        raise ValueError(f"comparisons counts the intervals of a table, at least 1, got {comparisons}")
    return bootstrap_mean(
        values - baseline,
        seed=seed,
        resamples=resamples * comparisons,
        level=1 - (1 - level) / comparisons,
    )


def half_sampling(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    *,
    seed: int,
    resamples: int = 200,
    level: float = 0.95,
) -> Interval:
    """Delete-half jackknife interval of a set statistic, given as a function of the samples' indices.

    Resampling with replacement repeats samples, which shrinks a covariance and puts a kernel's diagonal into
    its off-diagonal sum: Frechet and kernel distances of bootstrap sets lie far above the set's own.
    Halves hold every sample once. Deleting d of n samples, the standard error is the standard deviation of
    the statistic over random subsets times sqrt((n - d) / d), which is 1 for d = n / 2 (Wu 1986; Shao and
    Wu 1989); the interval is value +- z * standard error. It tells the spread of the statistic at `n`
    samples and not its bias: the Frechet distance of a finite set is too large, whatever the interval says.

    `statistic` takes distinct indices (k,) and returns one number. Fewer than four samples have no halves
    with a spread of their own: the bounds are NaN. No sample is a ValueError.
    """
    if n < 1:
        raise ValueError(f"an interval needs at least one sample, got {n}")
    value = float(statistic(np.arange(n)))
    if n < 4:
        return Interval(value, np.nan, np.nan, n)
    generator = np.random.default_rng(seed)
    kept = n // 2
    halves = [float(statistic(generator.permutation(n)[:kept])) for _ in range(resamples)]
    error = np.std(halves, ddof=1) * np.sqrt(kept / (n - kept))
    margin = float(scipy.stats.norm.ppf((1 + level) / 2) * error)
    return Interval(value, value - margin, value + margin, n)


def resampled_sums(values: ArrayLike, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of per-sample `values` (n, ...) over every row of `index` (draws, n), as (draws, ...).

    For a vectorised :func:`bootstrap` of a function of sums, such as the mean IoU of summed confusions:
    one product with the number of times each sample was drawn, instead of a gather of draws * n tables.
    """
    values = np.asarray(values)
    draws, n = len(index), len(values)
    rows = np.arange(draws)[:, None] * n
    counts = np.bincount((rows + index).ravel(), minlength=draws * n).reshape(draws, n)
    return np.tensordot(counts.astype(np.float64), values.astype(np.float64), axes=1)


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
