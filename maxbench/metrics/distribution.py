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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

KERNEL_BLOCK = 2**24  # kernel values held at a time: 128 MiB
CMMD_SIGMA, CMMD_SCALE = 10, 1000


@dataclass(frozen=True)
class Distance:
    """A distance of N rows to a reference, and the influence of every row on it, (N,) in the distance's unit."""

    value: float
    influence: NDArray[np.float64]

    def error(self, clusters: ArrayLike | None = None) -> float:
        """Standard error from the influences: their standard deviation over the square root of N.

        clusters: (N,) a label for every row; rows of one label (replicates of a sample) are drawn together, so
        that their influences are summed. NaN for a single cluster.
        """
        sums = self.influence
        if clusters is not None:
            labels = np.unique(np.asarray(clusters), return_inverse=True)[1]
            if labels.shape != sums.shape:
                raise ValueError(f"clusters must hold one label for each of {len(sums)} rows, got {labels.shape}")
            sums = np.bincount(labels, weights=sums)
        if len(sums) < 2:
            return float("nan")
        return float(np.sqrt(np.sum(sums**2) * len(sums) / (len(sums) - 1)) / len(self.influence))

    def minus(self, baseline: Distance) -> Distance:
        """The difference of two methods on the same samples in the same order: its error is the paired one."""
        if len(self.influence) != len(baseline.influence):
            raise ValueError(
                "a paired difference needs the same samples on both sides, "
                f"got {len(self.influence)} and {len(baseline.influence)}"
            )
        return Distance(self.value - baseline.value, self.influence - baseline.influence)


def frechet(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> Distance:
    """Frechet distance of `features` (N, D) to `reference` (M, D); 0 for equal moments, no upper bound.

    Biased upwards in small sets, so comparable only at equal N. Fewer than two rows, unequal D or a value
    that is not finite is a ValueError.

    With centred rows X and R, tr (S_r^(1/2) S S_r^(1/2))^(1/2) is the sum of the singular values of
    X R^T / ((N - 1) (M - 1))^(1/2): no matrix is squared or inverted, so that sets of fewer rows than
    dimensions are as exact as large ones. The derivative by S is I - A with
    A = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2), inverted on its range; x^T A x of a row x of X needs
    only its coordinates among the left singular vectors.
    """
    features, reference = _paired_sets(features, reference)
    return _frechet(features, _moments(reference))


def kernel(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> Distance:
    """Unbiased squared MMD of `features` (N, D) to `reference` (M, D); below 0 by chance where they agree.

    The kernel is averaged over all pairs of the two whole sets, whatever their sizes (Gretton et al., A kernel
    two-sample test, JMLR 2012, eq. 3): nothing is drawn. The influence is twice the row's mean kernel with
    the other rows less that with the reference, centred (Hoeffding's projection of the U-statistic). Fewer than
    two rows, unequal D or a value that is not finite is a ValueError.
    """
    features, reference = _paired_sets(features, reference)
    n, m = len(features), len(reference)
    within = (_row_sums(_cubic, features, features) - _cubic(features, None)) / (n - 1)
    within_reference = (_row_sums(_cubic, reference, reference) - _cubic(reference, None)) / (m - 1)
    return _discrepancy(within, within_reference, _row_sums(_cubic, features, reference) / m)


def cmmd(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> Distance:
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
    n, m = len(features), len(reference)
    within = _row_sums(_gaussian, features, features) / n
    within_reference = _row_sums(_gaussian, reference, reference) / m
    found = _discrepancy(within, within_reference, _row_sums(_gaussian, features, reference) / m)
    return Distance(CMMD_SCALE * found.value, CMMD_SCALE * found.influence)


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
