"""Distances between two sets of features, as torchmetrics computes them, without its image networks.

Frechet distance: Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017.
    |mu - mu_r|^2 + tr(Sigma + Sigma_r - 2 (Sigma Sigma_r)^(1/2)), unbiased covariances.
Kernel distance: Binkowski et al., Demystifying MMD GANs, ICLR 2018.
    Unbiased squared maximum mean discrepancy under k(x, y) = (x . y / D + 1)^3.

The features decide what the numbers mean (Inception: FID and KID); resizing and the network belong to whoever
made them. Both distances are computed in float64 on the CPU and do not depend on the order of the rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_kernel


class GivenFeatures(nn.Module):
    """The feature network of a metric whose images are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float[Tensor, "samples features"]) -> Float[Tensor, "samples features"]:
        return features


def frechet_distance(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> float:
    """Frechet distance of `features` (N, D) to `reference` (M, D); 0 for equal moments, no upper bound.

    Biased upwards in small sets, so comparable only at equal N. Fewer than two rows, unequal D or a value
    that is not finite is a ValueError.
    """
    features, reference = _paired_sets(features, reference)
    # Left to itself the metric would add up the features of all workers of a process group.
    metric = FrechetInceptionDistance(GivenFeatures(features.shape[1]), sync_on_compute=False)
    metric.update(reference, real=True)
    metric.update(features, real=False)
    return metric.compute().item()


def kernel_distance(features: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> float:
    """Unbiased squared MMD of `features` (N, D) to `reference` (M, D); below 0 by chance where they agree.

    torchmetrics' KernelInceptionDistance compares random subsets of equal size, drawn from the global
    generator. Here its kernel is averaged over all pairs of the two whole sets, whatever their sizes
    (Gretton et al., A kernel two-sample test, JMLR 2012, eq. 3): nothing is drawn. For N = M it is that class
    with one subset of N. Fewer than two rows, unequal D or a value that is not finite is a ValueError.
    """
    features, reference = _paired_sets(features, reference)
    within = _mean_off_diagonal(poly_kernel(features, features))
    within_reference = _mean_off_diagonal(poly_kernel(reference, reference))
    return (within + within_reference - 2 * poly_kernel(features, reference).mean()).item()


def _mean_off_diagonal(kernel: Float[Tensor, "samples samples"]) -> Float[Tensor, ""]:
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))


def _paired_sets(
    features: ArrayLike | Tensor, reference: ArrayLike | Tensor
) -> tuple[Float[Tensor, "samples features"], Float[Tensor, "references features"]]:
    sets = []
    for name, rows in (("features", features), ("reference", reference)):
        rows = torch.as_tensor(rows, dtype=torch.float64, device="cpu")
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
