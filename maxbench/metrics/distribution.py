"""Distances between two sets of features, each with the influence of every row on it.

Frechet distance: Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017.
    |mu - mu_r|^2 + tr(S + S_r - 2 (S_r^(1/2) S S_r^(1/2))^(1/2)), unbiased covariances.
Kernel distance: Binkowski et al., Demystifying MMD GANs, ICLR 2018.
    Unbiased squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3.
CMMD: Jayasumana et al., Rethinking FID, CVPR 2024.
    Squared maximum mean discrepancy under a Gaussian kernel of sigma 10 on unit vectors, times 1000.

The features decide what the numbers mean (Inception: FID and KID); resizing and the network belong to whoever
made them. Everything is computed in float64 on the CPU and does not depend on the order of the rows. What the sets of
many methods need of one reference is computed once, if they are given the same :class:`Reference`.

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
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

KERNEL_BLOCK = 2**24  # kernel values held at a time: 128 MiB
CMMD_SIGMA, CMMD_SCALE = 10, 1000
RESOLVED = 1e-8
"""Share of the largest eigenvalue of Y^T Y above which its own vectors are good enough; see :func:`_root_diagonal`."""

Halves = list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]
"""Splits of N rows: of each, which rows are in its first and in its second half, (N,)."""


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


@dataclass(frozen=True)
class Reference:
    """A reference set (M, D) in float64, and what distances need of it alone."""

    rows: Tensor

    @classmethod
    def of(cls, rows: ArrayLike | Tensor) -> Reference:
        """ValueError for fewer than two rows or a value that is not finite."""
        return cls(_set(rows, "reference"))

    @cached_property
    def mean(self) -> Tensor:
        return self.rows.mean(dim=0)

    @cached_property
    def factor(self) -> Tensor:
        """(K, D) of the unbiased covariance, factor^T factor, with K = min(M, D)."""
        return torch.linalg.qr(self.rows - self.mean, mode="r")[1] / (len(self.rows) - 1) ** 0.5

    @cached_property
    def cubic(self) -> float:
        """Mean kernel of :func:`kernel` over the pairs of two different rows."""
        m = len(self.rows)
        return ((_row_sums(_cubic, self.rows, self.rows)[:, 0] - _cubic(self.rows, None)).sum() / (m * (m - 1))).item()

    @cached_property
    def unit(self) -> Tensor:
        """The rows, scaled to length 1."""
        return _unit_rows(self.rows, "reference")

    @cached_property
    def gaussian(self) -> float:
        """Mean kernel of :func:`cmmd` over all pairs, those of a row with itself too."""
        return (_row_sums(_gaussian, self.unit, self.unit).sum() / len(self.rows) ** 2).item()


AnyReference = ArrayLike | Tensor | Reference


def frechet(
    features: ArrayLike | Tensor,
    reference: AnyReference,
    *,
    splits: int = 0,
    seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Distance:
    """Frechet distance of `features` (N, D) to `reference` (M, D); 0 for equal moments, no upper bound.

    Biased upwards in small sets, so comparable only at equal N. Fewer than two rows, unequal D or a value
    that is not finite is a ValueError.

    With centred rows X and S_r = F^T F, tr (S_r^(1/2) S S_r^(1/2))^(1/2) is the sum of the singular values of
    Y / (N - 1)^(1/2), Y = X F^T: no matrix is squared or inverted to an answer of half the digits, so that sets of
    fewer rows than dimensions are as exact as large ones. The derivative by S is I - A with
    A = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2), inverted on its range; x^T A x of all rows x of X is
    (N - 1)^(1/2) times the diagonal of (Y Y^T)^(1/2), and its sum the trace.

    With `splits`, that many random splits into halves, drawn from `seed`, sharpen the error (40 are enough); rows
    of one of the `clusters` stay together. What it takes: results/scale/evaluation.md.
    """
    features, reference = _paired_sets(features, reference)
    projected = _projected(features, reference)
    found = _frechet(features, projected, reference.mean, reference.factor)
    halves = _halves(len(features), splits, seed, clusters)
    values = [
        np.mean([_frechet(features[own], projected[own], reference.mean, reference.factor).value for own in both])
        for both in halves
    ]
    return Distance(found.value, found.influence, np.array(values))


def kernel(
    features: ArrayLike | Tensor,
    reference: AnyReference,
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
    halves = _halves(len(features), splits, seed, clusters)
    return _discrepancy(_cubic, features, reference.rows, reference.cubic, _cubic(features, None), halves)


def cmmd(
    features: ArrayLike | Tensor,
    reference: AnyReference,
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
    features, reference = _paired_sets(features, reference)
    halves = _halves(len(features), splits, seed, clusters)
    rows = _unit_rows(features, "features")
    found = _discrepancy(_gaussian, rows, reference.unit, reference.gaussian, None, halves)
    return Distance(CMMD_SCALE * found.value, CMMD_SCALE * found.influence, CMMD_SCALE * found.halves)


def fd_infinity(
    features: ArrayLike | Tensor,
    reference: AnyReference,
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
    projected = _projected(features, reference)
    generator = np.random.default_rng(seed)
    value, influence = 0.0, np.zeros(n)
    for size, weight in zip(sizes, weights, strict=True):
        subset = generator.permutation(n)[:size]
        found = _frechet(features[subset], projected[subset], reference.mean, reference.factor)
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
    reference = reference.rows
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


def frechet_distance(features: ArrayLike | Tensor, reference: AnyReference) -> float:
    """The value of :func:`frechet`."""
    return frechet(features, reference).value


def kernel_distance(features: ArrayLike | Tensor, reference: AnyReference) -> float:
    """The value of :func:`kernel`."""
    return kernel(features, reference).value


def _projected(features: Tensor, reference: Reference) -> Tensor:
    """Y (N, K) of :func:`frechet`, up to a row that is added to all: the rows of a part need only be centred."""
    return (features - features.mean(dim=0)) @ reference.factor.T


def _frechet(features: Tensor, projected: Tensor, mean_r: Tensor, factor: Tensor) -> Distance:
    n = len(features)
    mean = features.mean(dim=0)
    shift, centred = mean - mean_r, features - mean
    squares = centred.square().sum(dim=1)  # x^T x
    rooted = (n - 1) ** 0.5 * torch.from_numpy(_root_diagonal((projected - projected.mean(dim=0)).numpy()))  # x^T A x
    value = shift.square().sum() + factor.square().sum() + (squares.sum() - 2 * rooted.sum()) / (n - 1)
    by_covariance = (squares - rooted) * (n / (n - 1))
    influence = 2 * centred @ shift + by_covariance - by_covariance.mean()
    return Distance(value.item(), influence.numpy())


def _root_diagonal(rows: NDArray[np.float64], smallest: float | None = None) -> NDArray[np.float64]:
    """The diagonal (N,) of (Y Y^T)^(1/2), of `rows` Y (N, K).

    With the eigenvectors V of Y^T Y the columns of Y V are orthogonal, and the diagonal is the sum of their squares
    over their lengths. V is three times cheaper than the singular vectors of Y, but knows singular values below
    1e-8 of the largest only as noise: for the vectors with eigenvalues below RESOLVED of the largest the same is done
    once more with the columns of Y V alone, which have no others to hide behind, until they are rounding (`smallest`).
    """
    if rows.shape[0] < rows.shape[1]:
        (triangle,) = scipy.linalg.qr(rows.T, mode="r", check_finite=False)
        rows = triangle[: rows.shape[0]].T  # Y Y^T is the same
    eigenvalues, vectors = scipy.linalg.eigh(rows.T @ rows, driver="evd", overwrite_a=True, check_finite=False)
    largest = eigenvalues[-1] if len(eigenvalues) else 0.0
    smallest = np.finfo(np.float64).eps ** 2 * largest if smallest is None else smallest
    if not largest > smallest:
        return np.zeros(len(rows))
    columns = rows @ vectors
    first = int(np.searchsorted(eigenvalues, RESOLVED * largest))
    unresolved, columns = columns[:, :first], columns[:, first:]
    columns = np.square(columns, out=columns)
    diagonal = columns @ (1 / np.sqrt(columns.sum(axis=0)))
    return diagonal + _root_diagonal(unresolved, smallest) if first else diagonal


def _halves(n: int, splits: int, seed: int, clusters: ArrayLike | None) -> Halves:
    numbers = np.arange(n) if clusters is None else _cluster_numbers(clusters, n)
    groups = numbers.max() + 1
    if splits < 0 or (splits and groups < 4):
        raise ValueError(f"halves need four rows or clusters and a number of splits, got {groups} and {splits}")
    generator = np.random.default_rng(seed)
    places = [generator.permutation(groups)[numbers] for _ in range(splits)]
    return [(place < groups // 2, place >= groups - groups // 2) for place in places]  # an odd one is left out


def _cluster_numbers(clusters: ArrayLike, n: int) -> NDArray[np.int64]:
    """Labels (n,) as numbers from 0."""
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters must hold one label for each of {n} rows, got {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]


def _discrepancy(
    similarity: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    reference: Tensor,
    within_reference: float,
    with_itself: Tensor | None,
    halves: Halves,
) -> Distance:
    """From the kernel of all pairs, which is computed once, also for the halves.

    with_itself: (N,) of every row with itself, in the unbiased estimator, which leaves these pairs out; else None.
    """
    n, m, left_out = len(rows), len(reference), 0 if with_itself is None else 1
    parts = np.array([own for both in halves for own in both], np.float64).reshape(2 * len(halves), n)
    members = torch.from_numpy(parts).T  # (N, 2 splits)
    sums = _row_sums(similarity, rows, rows, members)
    if with_itself is not None:
        sums = sums - with_itself[:, None]
    within, between = sums[:, 0] / (n - left_out), _row_sums(similarity, rows, reference)[:, 0] / m
    value = within.mean() + within_reference - 2 * between.mean()
    influence = 2 * (within - between)
    sizes = members.sum(dim=0)
    of_halves = (members * sums[:, 1:]).sum(dim=0) / (sizes * (sizes - left_out)) - 2 * (between @ members) / sizes
    values = (of_halves + within_reference).reshape(len(halves), 2).mean(dim=1)
    return Distance(value.item(), (influence - influence.mean()).numpy(), values.numpy())


def _cubic(rows: Tensor, others: Tensor | None) -> Tensor:
    """(x . y / D + 1)^3 of all pairs; without `others`, of every row with itself."""
    products = rows.square().sum(dim=1) if others is None else rows @ others.T
    return (products / rows.shape[1] + 1) ** 3


def _gaussian(rows: Tensor, others: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 sigma^2)) of unit vectors: |x - y|^2 = 2 - 2 x . y."""
    return ((rows @ others.T - 1) / CMMD_SIGMA**2).exp()


def _row_sums(
    similarity: Callable[[Tensor, Tensor], Tensor], rows: Tensor, others: Tensor, members: Tensor | None = None
) -> Tensor:
    """The kernel of every row with all others, summed, (N, 1); the whole matrix is never held.

    members: (others, parts) 0 or 1; a column more for every part of the others, summed over that, (N, 1 + parts).
    """
    sums = []
    for block in rows.split(max(1, KERNEL_BLOCK // len(others))):
        kernels = similarity(block, others)
        whole = kernels.sum(dim=1, keepdim=True)
        sums.append(whole if members is None else torch.cat([whole, kernels @ members], dim=1))
    return torch.cat(sums)


def _unit_rows(rows: Tensor, name: str) -> Float[Tensor, "samples features"]:
    lengths = rows.norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError(f"{name} has a row of length 0, first row {(lengths == 0).flatten().int().argmax()}")
    return rows / lengths


def _paired_sets(
    features: ArrayLike | Tensor, reference: AnyReference
) -> tuple[Float[Tensor, "samples features"], Reference]:
    rows = _set(features, "features")
    reference = reference if isinstance(reference, Reference) else Reference.of(reference)
    if rows.shape[1] != reference.rows.shape[1]:
        raise ValueError(
            f"features have {rows.shape[1]} dimensions, the reference {reference.rows.shape[1]}: "
            "both must come from the same network"
        )
    return rows, reference


def _set(rows: ArrayLike | Tensor, name: str) -> Float[Tensor, "samples features"]:
    rows = torch.as_tensor(rows, dtype=torch.float64, device="cpu").detach()
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"{name} must be (samples, features) with two samples or more, got {tuple(rows.shape)}")
    # Not left to the decomposition: on a NaN it can end the process.
    finite = rows.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(f"{name} has values that are not finite, first in row {finite.int().argmin()}")
    return rows
