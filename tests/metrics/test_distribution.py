"""The two set distances against their formulas, written out, and the laws that any such distance obeys."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from maxbench.metrics.distribution import GivenFeatures, frechet_distance, kernel_distance

DISTANCES = [frechet_distance, kernel_distance]


def two_sets(n: int = 40, m: int = 60, dimensions: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(dimensions, dimensions))
    return 0.3 + generator.normal(size=(n, dimensions)) @ mix, generator.normal(size=(m, dimensions))


def frechet_by_formula(features: np.ndarray, reference: np.ndarray) -> float:
    mean, mean_r = features.mean(axis=0), reference.mean(axis=0)
    sigma, sigma_r = np.cov(features, rowvar=False), np.cov(reference, rowvar=False)
    root = scipy.linalg.sqrtm(sigma @ sigma_r).real
    return float(np.sum((mean - mean_r) ** 2) + np.trace(sigma + sigma_r - 2 * root))


def kernel_by_loops(features: np.ndarray, reference: np.ndarray) -> float:
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(rows):
        n = len(rows)
        pairs = [kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
        return sum(pairs) / (n * (n - 1))

    between = [kernel(x, y) for x in features for y in reference]
    return within(features) + within(reference) - 2 * sum(between) / len(between)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (60, 40), (50, 50)])
def test_frechet_is_the_formula(n, m):
    features, reference = two_sets(n, m)
    assert frechet_distance(features, reference) == pytest.approx(frechet_by_formula(features, reference), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(7, 11), (11, 7), (8, 8), (2, 2)])
def test_kernel_is_the_double_loop(n, m):
    features, reference = two_sets(n, m, dimensions=3)
    assert kernel_distance(features, reference) == pytest.approx(kernel_by_loops(features, reference), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_kernel_is_torchmetrics_class_where_the_class_compares_whole_sets():
    features, reference = two_sets(30, 30)
    metric = KernelInceptionDistance(GivenFeatures(6), subsets=1, subset_size=30)
    metric.update(torch.tensor(reference), real=True)
    metric.update(torch.tensor(features), real=False)
    assert kernel_distance(features, reference) == pytest.approx(metric.compute()[0].item(), rel=1e-12)


def test_moving_a_set_by_a_vector_is_its_squared_length():
    features, _ = two_sets()
    shift = np.array([3.0, 0, -4, 0, 0, 0])
    assert frechet_distance(features + shift, features) == pytest.approx(25, rel=1e-9)


def test_scaling_one_dimension_is_the_squared_difference_of_deviations():
    features = np.random.default_rng(0).normal(size=(50, 1))
    features = (features - features.mean()) / features.std(ddof=1)
    assert frechet_distance(3 * features, features) == pytest.approx(4, rel=1e-9)


def test_a_set_has_no_frechet_distance_to_itself_and_the_kernel_does_not_pretend_so():
    features, _ = two_sets()
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    # Unbiased: the pairs of a sample with itself count between the sets and not within them.
    assert kernel_distance(features, features) < 0


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average():
    generator = np.random.default_rng(0)
    distances = [kernel_distance(generator.normal(size=(12, 3)), generator.normal(size=(30, 3))) for _ in range(400)]
    error = np.std(distances) / np.sqrt(len(distances))
    assert abs(np.mean(distances)) < 3 * error
    assert min(distances) < -error


@pytest.mark.parametrize("distance", DISTANCES)
def test_symmetry_rotation_and_order(distance):
    features, reference = two_sets()
    value = distance(features, reference)
    assert value > 0.1
    assert distance(reference, features) == pytest.approx(value, rel=1e-9)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert distance(features @ rotation, reference @ rotation) == pytest.approx(value, rel=1e-9)
    assert distance(features[::-1].copy(), reference[::-1].copy()) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_precision_is_double_whatever_comes_in(distance):
    features, reference = (x.astype(np.float32) for x in two_sets())
    exact = distance(features.astype(np.float64), reference.astype(np.float64))
    assert distance(features, reference) == exact
    assert distance(torch.tensor(features, requires_grad=True), torch.tensor(reference)) == exact
    far = 100.0  # float32 would lose the covariance beside the mean
    moved = frechet_distance(features.astype(np.float64) + far, reference.astype(np.float64) + far)
    assert moved == pytest.approx(frechet_distance(features, reference), rel=1e-7)


@pytest.mark.parametrize("distance", DISTANCES)
def test_nothing_is_drawn_or_written(distance):
    features, reference = two_sets()
    before, copies = torch.get_rng_state(), (features.copy(), reference.copy())
    assert distance(features, reference) == distance(features, reference)
    assert torch.equal(torch.get_rng_state(), before)
    assert (features == copies[0]).all() and (reference == copies[1]).all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_fewer_samples_than_dimensions_give_a_number(distance):
    features, reference = two_sets(10, 30, dimensions=20)
    assert np.isfinite(distance(features, reference))


def test_fewer_samples_than_dimensions_agree_with_the_formula():
    features, reference = two_sets(10, 100, dimensions=20)
    # The trace of the root over the eigenvalues of S_r^(1/2) S S_r^(1/2), which has no trouble with rank.
    root_r = scipy.linalg.sqrtm(np.cov(reference, rowvar=False)).real
    spectrum = np.linalg.eigvalsh(root_r @ np.cov(features, rowvar=False) @ root_r).clip(min=0)
    expected = (
        np.sum((features.mean(axis=0) - reference.mean(axis=0)) ** 2)
        + np.trace(np.cov(features, rowvar=False) + np.cov(reference, rowvar=False))
        - 2 * np.sqrt(spectrum).sum()
    )
    assert frechet_distance(features, reference) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_mistakes_are_named(distance):
    features, reference = two_sets()
    with pytest.raises(ValueError, match="6 dimensions, the reference 5"):
        distance(features, reference[:, :5])
    with pytest.raises(ValueError, match=r"features must be .* got \(1, 6\)"):
        distance(features[:1], reference)
    with pytest.raises(ValueError, match=r"reference must be .* got \(60,\)"):
        distance(features, reference[:, 0])
    reference[17, 2] = np.nan
    with pytest.raises(ValueError, match="reference has values that are not finite, first in row 17"):
        distance(features, reference)
