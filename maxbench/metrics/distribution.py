"""Distances between two sets of features, each with the influence of every row on it.

Frechet distance: Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017.
    |mu - mu_r|^2 + tr(S + S_r - 2 (S_r^(1/2) S S_r^(1/2))^(1/2)), unbiased covariances.
Kernel distance: Binkowski et al., Demystifying MMD GANs, ICLR 2018.
    Unbiased squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3.
CMMD: Jayasumana et al., Rethinking FID, CVPR 2024.
    Squared maximum mean discrepancy under a Gaussian kernel of sigma 10 on unit vectors, times 1000.

The features decide what the numbers mean (Inception: FID and KID); resizing and the network belong to whoever
made them. Everything is computed in float64 on the CPU and does not depend on the order of the rows.

The influence of row i is the derivative of the distance by the row's weight (Efron, The jackknife, the bootstrap and
other resampling plans, 1982, chapter 6: the infinitesimal jackknife). Influences add up to 0 over the rows. The
reference is taken as given: its own sampling noise, which all methods of a table share, is not counted.

How well value +- 1.96 standard errors holds the expected distance at the same N, simulated with pictures of the
miniature (real, blurred, with noise; its CLIP's features, D = 64; 120 to 400 sets a number): the standard error, over
the true one, was
    Frechet, N = 96, 256, 1024:     rows near the reference 1.2 to 1.4, 1.3 to 1.4, 1.2; a far one 1.1, 1.05, 1.0
    kernel, N = 96, 256, 1024:      rows near the reference 1.4, 1.4, 1.3; a far one 1.1, 1.0, 1.1
    paired differences of either:   0.93 to 1.14
with 92 to 100 % of the expected distances inside. With fewer rows than dimensions (Frechet, pixels, D = 768, N = 96) it
was 1.3, in differences 1.1 to 1.3. Half-sampling was 1.5 to 1.7 times too wide at N = 96, in differences 1.1 to 1.3.
The reason is known: of a distance's second-order part, which is all there is where the two sets agree, the
jackknife counts the variance twice and half-sampling three times (Efron and Stein, The jackknife estimate of
variance, Annals of Statistics 9, 1981). With `splits` that part is measured and taken out (see
:meth:`Distance.error`): Frechet at all three N was then 0.91 to 1.08, 88 to 100 % inside for 20 to 80 sets a number.
Differences need no splits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

KERNEL_BLOCK = 2**24  # kernel values held at a time: 128 MiB
CMMD_SIGMA, CMMD_SCALE = 10, 1000


@dataclass(frozen=True)
class Distance:
    """A distance of N rows to a reference, and the influence of every row on it, (N,) in the distance's unit.

    halves: (splits,) the mean of the distances of two disjoint halves of the rows, for random splits; may be empty.
    """

    value: float
    influence: NDArray[np.float64]
    halves: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def error(self, clusters: ArrayLike | None = None) -> float:
        """Standard error from the influences: their standard deviation over the square root of N.

        clusters: (N,) a label for every row; rows of one label (replicates of a sample) are drawn together, so
        that their influences are summed. NaN for a single cluster.

        With two splits or more, the variance of `halves` is subtracted. The mean of two halves does not depend to
        first order on how the rows are split; to second order its variance is that which the influences count
        once too often. At most half of the variance is taken, the share of a distance without a first order.
        """
        sums = self.influence
        if clusters is not None:
            sums = np.bincount(_cluster_numbers(clusters, len(sums)), weights=sums)
        if len(sums) < 2:
            return float("nan")
        variance = np.sum(sums**2) * len(sums) / (len(sums) - 1) / len(self.influence) ** 2
        if len(self.halves) > 1:
            variance = max(variance - np.var(self.halves, ddof=1), variance / 2)
        return float(np.sqrt(variance))

    def minus(self, baseline: Distance) -> Distance:
        """The difference of two methods on the same samples in the same order: its error is the paired one.

        Both must have been split alike: by the same number, seed and clusters.
        """
        if len(self.influence) != len(baseline.influence):
            raise ValueError(
                "a paired difference needs the same samples on both sides, "
                f"got {len(self.influence)} and {len(baseline.influence)}"
            )
        if len(self.halves) != len(baseline.halves):
            raise ValueError(
                f"a paired difference needs the same splits on both sides, got {len(self.halves)} "
                f"and {len(baseline.halves)}"
            )
        return Distance(self.value - baseline.value, self.influence - baseline.influence, self.halves - baseline.halves)


def frechet(
    features: ArrayLike | Tensor,
    reference: ArrayLike | Tensor,
    *,
    splits: int = 0,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Distance:
    """Frechet distance of `features` (N, D) to `reference` (M, D); 0 for equal moments, no upper bound.

    Biased upwards in small sets, so comparable only at equal N. Fewer than two rows, unequal D or a value
    that is not finite is a ValueError.

    With centred rows X and R, tr (S_r^(1/2) S S_r^(1/2))^(1/2) is the sum of the singular values of
    X R^T / ((N - 1) (M - 1))^(1/2): no matrix is squared or inverted, so that sets of fewer rows than
    dimensions are as exact as large ones. The derivative by S is I - A with
    A = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2), inverted on its range; x^T A x of a row x of X needs
    only its coordinates among the left singular vectors.

    With `splits`, that many random splits into halves, drawn from `seed`, sharpen the error (40 are enough); rows
    of one of the `clusters` stay together. On one slow core D = 2048 and N = M = 5000 take 13 s, and about as
    much again for every split.
    """
    features, reference = _paired_sets(features, reference)
    moments = _moments(reference)
    return _with_halves(lambda rows: _frechet(rows, moments), features, splits, seed, clusters)


def kernel(
    features: ArrayLike | Tensor,
    reference: ArrayLike | Tensor,
    *,
    splits: int = 0,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Distance:
    """Unbiased squared MMD of `features` (N, D) to `reference` (M, D); below 0 by chance where they agree.

    The kernel is averaged over all pairs of the two whole sets, whatever their sizes (Gretton et al., A kernel
    two-sample test, JMLR 2012, eq. 3): nothing is drawn. The influence is twice the row's mean kernel with
    the other rows less that with the reference, centred (Hoeffding's projection of the U-statistic). Fewer than
    two rows, unequal D or a value that is not finite is a ValueError. Splits as in :func:`frechet`.
    """
    features, reference = _paired_sets(features, reference)
    m = len(reference)
    within_reference = (_row_sums(_cubic, reference, reference) - _cubic(reference, None)) / (m - 1)

    def distance(rows: Tensor) -> Distance:
        within = (_row_sums(_cubic, rows, rows) - _cubic(rows, None)) / (len(rows) - 1)
        return _discrepancy(within, within_reference, _row_sums(_cubic, rows, reference) / m)

    return _with_halves(distance, features, splits, seed, clusters)


def cmmd(
    features: ArrayLike | Tensor,
    reference: ArrayLike | Tensor,
    *,
    splits: int = 0,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Distance:
    """CMMD x1000 of CLIP image embeddings `features` (N, D) to `reference` (M, D), scaled to length 1 here.

    The biased estimator, as its authors compute it (Gretton et al., JMLR 2012, eq. 5): pairs of a row with
    itself count, so that it is 0 for two equal sets, never negative, and too large by about
    1000 (1 - mean kernel) (1 / N + 1 / M): comparable at equal N only. Fewer than two rows, unequal D, a row of
    length 0 or a value that is not finite is a ValueError.
    """
    features, reference = (
        _unit_rows(rows, name)
        for rows, name in zip(_paired_sets(features, reference), ("features", "reference"), strict=True)
    )
    m = len(reference)
    within_reference = _row_sums(_gaussian, reference, reference) / m

    def distance(rows: Tensor) -> Distance:
        within = _row_sums(_gaussian, rows, rows) / len(rows)
        found = _discrepancy(within, within_reference, _row_sums(_gaussian, rows, reference) / m)
        return Distance(CMMD_SCALE * found.value, CMMD_SCALE * found.influence)

    return _with_halves(distance, features, splits, seed, clusters)


def fd_infinity(
    features: ArrayLike | Tensor,
    reference: ArrayLike | Tensor,
    *,
    seed: int,
    points: int = 15,
    smallest: int | None = None,
) -> Distance:
    """Frechet distance extrapolated to infinitely many rows; may fall below 0 by chance.

    Chong and Forsyth, Effectively unbiased FID and Inception score, CVPR 2020: distances of `points` random
    subsets, from `smallest` to all N rows in equal steps, are fitted by a line in 1 / size, whose value at 0 is the
    result. Theirs is from 5,000 to 50,000; here `smallest` is N / 10, rounded down, unless it is said. A line
    is what large sets follow: below about D rows, distances bend away from it. The reference stays as it
    is, and so does the bias that its own finite size brings.

    The result is a weighted sum of distances, and a row's influence the sum of its influences on them: the
    standard error counts which rows were drawn, into the set and from it into the subsets. Small subsets make it
    too large, 1.3 times for N = 200 normal rows of D = 8 and a `smallest` of 50. Fewer
    than two points, a `smallest` below 2 or sizes that do not differ are a ValueError.
    """
    features, reference = _paired_sets(features, reference)
    n = len(features)
    smallest = n // 10 if smallest is None else smallest
    if not 2 <= smallest < n:
        raise ValueError(f"the smallest subset must hold 2 rows or more and fewer than all {n}, got {smallest}")
    if points < 2:
        raise ValueError(f"a line needs two points or more, got {points}")
    sizes = np.linspace(smallest, n, points).astype(int)
    inverse = 1 / sizes
    # The value at 0 of the least-squares line is this combination of the distances.
    weights = 1 / points - inverse.mean() * (inverse - inverse.mean()) / np.sum((inverse - inverse.mean()) ** 2)
    moments = _moments(reference)
    generator = np.random.default_rng(seed)
    value, influence = 0.0, np.zeros(n)
    for size, weight in zip(sizes, weights, strict=True):
        subset = generator.permutation(n)[:size]
        found = _frechet(features[subset], moments)
        value += weight * found.value
        influence[subset] += weight * found.influence * n / size
    return Distance(float(value), influence)


def kernel_of_subsets(
    features: ArrayLike | Tensor,
    reference: ArrayLike | Tensor,
    *,
    seed: int,
    subsets: int = 100,
    size: int = 1000,
) -> tuple[float, float]:
    """KID as it is usually printed: mean and standard deviation of :func:`kernel` over random subsets of both sets.

    Binkowski et al., ICLR 2018, drawn as torch-fidelity draws: its numbers for the same seed. The deviation is that
    of a subset of `size` rows: neither a standard error of the mean nor of the whole set's distance. Sets
    smaller than `size` are a ValueError.
    """
    features, reference = _paired_sets(features, reference)
    if not 2 <= size <= min(len(features), len(reference)):
        raise ValueError(f"subsets of {size} rows cannot be drawn from {len(features)} and {len(reference)}")
    if subsets < 1:
        raise ValueError(f"at least one subset, got {subsets}")
    generator = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        drawn = [rows[generator.choice(len(rows), size, replace=False)] for rows in (features, reference)]
        values.append(kernel(*drawn).value)
    return float(np.mean(values)), float(np.std(values))


def frechet_distance(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> float:
    """The value of :func:`frechet`."""
    return frechet(features, reference).value


def kernel_distance(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> float:
    """The value of :func:`kernel`."""
    return kernel(features, reference).value


@dataclass(frozen=True)
class _Moments:
    """Of a set: its mean (D,), and a factor (K, D) of its covariance, factor^T factor, with K = min(rows, D)."""

    mean: Tensor
    factor: Tensor


def _moments(rows: Tensor) -> _Moments:
    _, triangle = torch.linalg.qr(rows - rows.mean(dim=0), mode="r")
    return _Moments(rows.mean(dim=0), triangle / (len(rows) - 1) ** 0.5)


def _frechet(features: Tensor, reference: _Moments) -> Distance:
    n = len(features)
    mean = features.mean(dim=0)
    shift, centred = mean - reference.mean, features - mean
    basis, triangle = torch.linalg.qr(centred)
    left, singular, _ = torch.linalg.svd(triangle @ reference.factor.T / (n - 1) ** 0.5, full_matrices=False)
    squares = centred.square().sum(dim=1)  # x^T x
    value = shift.square().sum() + squares.sum() / (n - 1) + reference.factor.square().sum() - 2 * singular.sum()
    rooted = (n - 1) * (basis @ left).square() @ singular  # x^T A x
    by_covariance = (squares - rooted) * (n / (n - 1))
    influence = 2 * centred @ shift + by_covariance - by_covariance.mean()
    return Distance(value.item(), influence.numpy())


def _with_halves(
    distance: Callable[[Tensor], Distance], features: Tensor, splits: int, seed: int, clusters: ArrayLike | None
) -> Distance:
    n = len(features)
    numbers = np.arange(n) if clusters is None else _cluster_numbers(clusters, n)
    groups = numbers.max() + 1
    if splits < 0 or (splits and groups < 4):
        raise ValueError(f"halves need four rows or clusters and a number of splits, got {groups} and {splits}")
    generator = np.random.default_rng(seed)
    halves = []
    for _ in range(splits):
        place = generator.permutation(groups)[numbers]
        first, second = place < groups // 2, place >= groups - groups // 2  # an odd one is left out
        halves.append((distance(features[first]).value + distance(features[second]).value) / 2)
    return replace(distance(features), halves=np.array(halves))


def _cluster_numbers(clusters: ArrayLike, n: int) -> NDArray[np.int64]:
    """Labels (n,) as numbers from 0."""
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters must hold one label for each of {n} rows, got {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]


def _discrepancy(within: Tensor, within_reference: Tensor, between: Tensor) -> Distance:
    """From mean kernels: of every row with the set's rows, of the reference's, of every row with the reference."""
    value = within.mean() + within_reference.mean() - 2 * between.mean()
    influence = 2 * (within - between)
    return Distance(value.item(), (influence - influence.mean()).numpy())


def _cubic(rows: Tensor, others: Tensor | None) -> Tensor:
    """(x . y / D + 1)^3 of all pairs; without `others`, of every row with itself."""
    products = rows.square().sum(dim=1) if others is None else rows @ others.T
    return (products / rows.shape[1] + 1) ** 3


def _gaussian(rows: Tensor, others: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 sigma^2)) of unit vectors: |x - y|^2 = 2 - 2 x . y."""
    return ((rows @ others.T - 1) / CMMD_SIGMA**2).exp()


def _row_sums(similarity: Callable[[Tensor, Tensor], Tensor], rows: Tensor, others: Tensor) -> Tensor:
    """The kernel of every row with all others, summed; the whole matrix is never held."""
    blocks = rows.split(max(1, KERNEL_BLOCK // len(others)))
    return torch.cat([similarity(block, others).sum(dim=1) for block in blocks])


def _unit_rows(rows: Tensor, name: str) -> Float[Tensor, "samples features"]:
    lengths = rows.norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError(f"{name} has a row of length 0, first row {(lengths == 0).flatten().int().argmax()}")
    return rows / lengths


def _paired_sets(
    features: ArrayLike | Tensor, reference: ArrayLike | Tensor
) -> tuple[Float[Tensor, "samples features"], Float[Tensor, "references features"]]:
    sets = []
    for name, rows in (("features", features), ("reference", reference)):
        rows = torch.as_tensor(rows, dtype=torch.float64, device="cpu").detach()
        if rows.ndim != 2 or len(rows) < 2:
            raise ValueError(f"{name} must be (samples, features) with two samples or more, got {tuple(rows.shape)}")
        # Not left to the decomposition: on a NaN it can end the process.
        finite = rows.isfinite().all(dim=1)
        if not finite.all():
            raise ValueError(f"{name} has values that are not finite, first in row {finite.int().argmin()}")
        sets.append(rows)
    if sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(
            f"features have {sets[0].shape[1]} dimensions, the reference {sets[1].shape[1]}: "
            "both must come from the same network"
        )
    return sets[0], sets[1]
