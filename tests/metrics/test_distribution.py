"""The two set distances against their formulas, written out, and the laws that any such distance obeys."""

import cleanfid.fid
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from maxbench.metrics.distribution import (
    Distance,
    Reference,
    cmmd,
    fd_infinity,
    frechet,
    frechet_distance,
    kernel,
    kernel_distance,
    kernel_of_subsets,
)

DISTANCES = [frechet_distance, kernel_distance]
WITH_INFLUENCE = [frechet, kernel, cmmd]


class GivenFeatures(nn.Module):
    """The feature network of a torchmetrics class whose images are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


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


def others_frechet(features: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    moments = [(rows.mean(axis=0), np.cov(rows, rowvar=False)) for rows in (features, reference)]
    metric = FrechetInceptionDistance(GivenFeatures(features.shape[1]))
    metric.update(torch.tensor(reference), real=True)
    metric.update(torch.tensor(features), real=False)
    statistics = [{"mu": mean, "sigma": sigma} for mean, sigma in moments]
    return {
        "torchmetrics": metric.compute().item(),
        "torch-fidelity": fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"],
        "clean-fid": cleanfid.fid.frechet_distance(*moments[0], *moments[1]),
    }


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize(("n", "m"), [(120, 160), (160, 120)])
def test_frechet_is_what_other_libraries_say(n, m):
    features, reference = two_sets(n, m, dimensions=24)
    value = frechet_distance(features, reference)
    for library, theirs in others_frechet(features, reference).items():
        assert value == pytest.approx(theirs, rel=1e-8), library


@pytest.mark.parametrize("n", [30, 31])
def test_kernel_is_what_clean_fid_says_of_whole_sets(n):
    features, reference = two_sets(n, n)
    theirs = cleanfid.fid.kernel_distance(features, reference, num_subsets=1, max_subset_size=n)
    assert kernel_distance(features, reference) == pytest.approx(theirs, rel=1e-10)


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


# Influence


def jackknife(distance, features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N - 1) times how much the distance falls when a row is left out."""
    without = np.array([distance(np.delete(features, i, 0), reference).value for i in range(len(features))])
    return (len(features) - 1) * (without.mean() - without)


@pytest.mark.parametrize("distance", WITH_INFLUENCE)
@pytest.mark.parametrize(("n", "dimensions"), [(60, 4), (20, 30)])
def test_the_influence_is_the_jackknifes(distance, n, dimensions):
    features, reference = two_sets(n, 70, dimensions)
    found, expected = distance(features, reference), jackknife(distance, features, reference)
    assert np.corrcoef(found.influence, expected)[0, 1] > 0.995
    assert found.error() == pytest.approx(np.std(expected, ddof=1) / np.sqrt(n), rel=0.08)
    assert found.influence.sum() == pytest.approx(0, abs=1e-9 * np.abs(found.influence).sum())


def test_the_influence_on_the_frechet_distance_is_its_derivative():
    """By the weight of a row, against the formula with weighted moments."""
    features, reference = two_sets(25, 60, 4)
    mean_r, sigma_r = reference.mean(axis=0), np.cov(reference, rowvar=False)

    def weighted(weights):
        weights = weights / weights.sum()
        mean = weights @ features
        sigma = (features - mean).T @ ((features - mean) * weights[:, None]) * 25 / 24
        root = scipy.linalg.sqrtm(sigma @ sigma_r).real
        return np.sum((mean - mean_r) ** 2) + np.trace(sigma + sigma_r - 2 * root)

    step = 1e-5 * np.eye(25)
    found = frechet(features, reference)
    slopes = [25 * (weighted(1 + row) - weighted(1 - row)) / 2e-5 for row in step]
    assert found.value == pytest.approx(weighted(np.ones(25)), rel=1e-10)
    assert found.influence == pytest.approx(np.array(slopes), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("distance", WITH_INFLUENCE)
def test_the_error_is_the_spread_over_samples(distance):
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(300, 4))
    found = [distance(0.5 + 1.5 * generator.normal(size=(120, 4)), reference) for _ in range(250)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.error() for each in found]) == pytest.approx(spread, rel=0.12)


@pytest.mark.parametrize("distance", WITH_INFLUENCE)
def test_the_error_of_a_difference_is_the_paired_one(distance):
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(200, 4))
    differences = []
    for _ in range(150):
        shared = generator.normal(size=(100, 4))
        methods = [distance(0.5 + shared + 0.3 * generator.normal(size=shared.shape), reference) for _ in range(2)]
        differences.append(methods[0].minus(methods[1]))
    errors = [each.error() for each in differences]
    assert np.mean(errors) == pytest.approx(np.std([each.value for each in differences]), rel=0.15)
    assert np.mean(errors) < 0.7 * methods[0].error()
    nothing = methods[0].minus(methods[0])
    assert nothing.value == nothing.error() == 0


def test_replicates_of_a_sample_are_one_cluster():
    features, reference = two_sets(40, 60, 4)
    # biased, so that pairs of equal rows change nothing
    once, twice = (cmmd(rows, reference) for rows in (features, np.repeat(features, 2, axis=0)))
    assert once.error(clusters=np.arange(40)[::-1]) == pytest.approx(once.error(), rel=1e-12)
    labels = np.repeat([f"sample {i}" for i in range(40)], 2)
    assert twice.error(labels) == pytest.approx(once.error(), rel=1e-9)
    assert twice.error() < 0.8 * once.error()
    by_hand = twice.influence.reshape(40, 2).sum(axis=1)
    assert twice.error(labels) == pytest.approx(np.std(by_hand, ddof=1) * np.sqrt(40) / 80, rel=1e-12)
    assert np.isnan(twice.error(np.zeros(80)))
    with pytest.raises(ValueError, match=r"one label for each of 80 rows, got \(40,\)"):
        twice.error(labels[:40])
    with pytest.raises(ValueError, match="the same samples on both sides, got 40 and 80"):
        once.minus(twice)


@pytest.mark.parametrize("distance", WITH_INFLUENCE)
def test_the_influence_follows_its_row(distance):
    features, reference = two_sets()
    order = np.random.default_rng(3).permutation(len(features))
    found, moved = distance(features, reference), distance(features[order], reference)
    assert isinstance(found, Distance)
    assert moved.influence == pytest.approx(found.influence[order], rel=1e-9)


def frechet_by_singular_values(features: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    """The distance, and x^T A x of every row less its squared length, with nothing squared on the way."""
    x, r = (rows - rows.mean(axis=0) for rows in (features, reference))
    n, m = len(x), len(r)
    left, singular, _ = np.linalg.svd(x @ np.linalg.qr(r, mode="r").T, full_matrices=False)
    value = np.sum((features.mean(axis=0) - reference.mean(axis=0)) ** 2) + np.sum(x**2) / (n - 1)
    value += np.sum(r**2) / (m - 1) - 2 * singular.sum() / np.sqrt((n - 1) * (m - 1))
    return value, np.sqrt((n - 1) / (m - 1)) * left**2 @ singular - np.sum(x**2, axis=1)


@pytest.mark.parametrize("kind", ["twelve decades", "dead dimensions", "few dimensions"])
@pytest.mark.parametrize(("n", "m"), [(150, 200), (40, 200), (200, 40)])
def test_frechet_loses_no_digits_to_a_spectrum_that_falls(kind, n, m):
    """Eigenvalues alone would know the smaller half of these singular values as noise."""
    generator, dimensions = np.random.default_rng(0), 60
    mix = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0]
    scale = np.logspace(0, -12, dimensions) if kind == "twelve decades" else np.ones(dimensions)
    scale[7 if kind == "few dimensions" else dimensions :] = 0
    features, reference = (generator.normal(size=(count, dimensions)) * scale @ mix for count in (n, m))
    if kind == "dead dimensions":
        features[:, ::2] = reference[:, 1::3] = 0
    value, rooted = frechet_by_singular_values(features, reference)
    found = frechet(features, reference)
    assert found.value == pytest.approx(value, rel=1e-11)
    mean = features.mean(axis=0)
    by_mean = 2 * (features - mean) @ (mean - reference.mean(axis=0))
    by_covariance = -(rooted - rooted.mean()) * n / (n - 1)
    assert found.influence == pytest.approx(by_mean + by_covariance, abs=1e-11 * np.abs(rooted).max())


@pytest.mark.parametrize("distance", WITH_INFLUENCE)
def test_halves_are_the_distances_of_their_rows(distance):
    features, reference = two_sets(24, 40, 30)
    found = distance(features, reference, splits=4, seed=2)
    generator = np.random.default_rng(2)
    for half in found.halves:
        place = generator.permutation(24)
        both = [distance(features[rows], reference).value for rows in (place < 12, place >= 12)]
        assert half == pytest.approx(np.mean(both), rel=1e-9)


@pytest.mark.parametrize("distance", [*WITH_INFLUENCE, lambda rows, others: fd_infinity(rows, others, seed=0)])
def test_methods_share_a_reference_and_nothing_changes(distance, monkeypatch):
    features, reference = two_sets(40, 60, 6)
    shared = Reference.of(reference)
    for rows in (features, features + 1):
        one, other = distance(rows, reference), distance(rows, shared)
        assert one.value == other.value and (one.influence == other.influence).all()
    monkeypatch.setattr(torch.linalg, "qr", None)  # what the reference needs is there already
    assert distance(features, shared).value == distance(features, shared).value
    reference[3, 1] = np.inf
    with pytest.raises(ValueError, match="reference has values that are not finite, first in row 3"):
        Reference.of(reference)


# CMMD


def test_cmmd_is_its_double_loop():
    features, reference = two_sets(7, 9, dimensions=3)
    rows, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, reference))

    def mean(xs, ys):
        return np.mean([np.exp(-np.sum((x - y) ** 2) / (2 * 10**2)) for x in xs for y in ys])

    expected = 1000 * (mean(rows, rows) + mean(others, others) - 2 * mean(rows, others))
    assert cmmd(features, reference).value == pytest.approx(expected, rel=1e-9)
    assert cmmd(17 * features, reference).value == pytest.approx(expected, rel=1e-9)
    assert cmmd(features, features).value == pytest.approx(0, abs=1e-9)
    features[2] = 0
    with pytest.raises(ValueError, match="features has a row of length 0, first row 2"):
        cmmd(features, reference)


# Splits


@pytest.mark.parametrize("distance", [frechet, kernel])
def test_splits_take_out_what_the_influences_count_twice(distance):
    """Where the two sets agree the influences alone are too wide by the root of two."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(700, 6))
    found = [distance(generator.normal(size=(40, 6)), reference, splits=15, seed=i) for i in range(60)]
    spread = np.std([each.value for each in found])
    plain = np.mean([Distance(each.value, each.influence).error() for each in found])
    assert plain > 1.2 * spread
    assert np.mean([each.error() for each in found]) == pytest.approx(spread, rel=0.2)
    assert all(each.error() >= Distance(0, each.influence).error() / np.sqrt(2) - 1e-12 for each in found)


def test_halves_are_disjoint_and_shared_by_methods():
    features, reference = two_sets(9, 30, 3)
    found = kernel(features, reference, splits=5, seed=3)
    assert found.value == kernel(features, reference).value
    assert found.halves.tolist() == kernel(features, reference, splits=5, seed=3).halves.tolist()
    assert len(set(found.halves)) == 5
    place = np.random.default_rng(3).permutation(9)
    expected = [kernel_distance(features[place < 4], reference), kernel_distance(features[place > 4], reference)]
    assert found.halves[0] == pytest.approx(np.mean(expected), rel=1e-12)
    other = kernel(features + 1, reference, splits=5, seed=3)
    assert found.minus(other).halves == pytest.approx(found.halves - other.halves)
    with pytest.raises(ValueError, match="the same splits on both sides, got 5 and 0"):
        found.minus(kernel(features, reference))
    with pytest.raises(ValueError, match="four rows or clusters and a number of splits, got 3 and 5"):
        kernel(features, reference, splits=5, clusters=np.arange(9) // 3)


def test_clusters_are_split_as_a_whole():
    features, reference = two_sets(6, 30, 3)
    twice, labels = np.repeat(features, 2, axis=0), np.repeat(np.arange(6), 2)
    once = cmmd(features, reference, splits=8)
    assert cmmd(twice, reference, splits=8, clusters=labels).halves == pytest.approx(once.halves, rel=1e-9)


# To infinity


def test_the_extrapolation_is_the_line_of_its_subsets():
    features, reference = two_sets(200, 300, 4)
    found = fd_infinity(features, reference, seed=5, points=4, smallest=50)
    generator = np.random.default_rng(5)
    sizes = [50, 100, 150, 200]
    distances = [frechet_distance(features[generator.permutation(200)[:size]], reference) for size in sizes]
    line = np.polyfit(1 / np.array(sizes), distances, 1)
    assert found.value == pytest.approx(line[1], rel=1e-9)
    assert found.value == fd_infinity(features, reference, seed=5, points=4, smallest=50).value
    assert found.value != fd_infinity(features, reference, seed=6, points=4, smallest=50).value


def test_the_extrapolation_leaves_the_bias_behind_and_tells_its_error():
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(20000, 8))
    sets = [1.3 * generator.normal(size=(200, 8)) for _ in range(60)]
    found = [fd_infinity(rows, reference, seed=i, points=6, smallest=50) for i, rows in enumerate(sets)]
    spread = np.std([each.value for each in found])
    mean, of_mean = np.mean([each.value for each in found]), spread / np.sqrt(len(found))
    truth = frechet_distance(1.3 * generator.normal(size=(20000, 8)), reference)
    assert abs(mean - truth) < 3 * of_mean
    assert np.mean([frechet_distance(rows, reference) for rows in sets]) - truth > 3 * of_mean
    assert 0.85 * spread < np.mean([each.error() for each in found]) < 1.5 * spread


def test_an_extrapolation_that_cannot_be_drawn_is_named():
    features, reference = two_sets(15, 30)
    with pytest.raises(ValueError, match="must hold 2 rows or more and fewer than all 15, got 1"):
        fd_infinity(features, reference, seed=0)
    with pytest.raises(ValueError, match="fewer than all 15, got 15"):
        fd_infinity(features, reference, seed=0, smallest=15)
    with pytest.raises(ValueError, match="a line needs two points or more, got 1"):
        fd_infinity(features, reference, seed=0, smallest=5, points=1)


# KID as printed


def test_the_kernel_of_subsets_is_torch_fidelitys():
    features, reference = two_sets(70, 90)
    theirs = kid_features_to_metric(
        torch.tensor(features),
        torch.tensor(reference),
        kid_subsets=7,
        kid_subset_size=40,
        rng_seed=11,
        verbose=False,
    )
    found = kernel_of_subsets(features, reference, seed=11, subsets=7, size=40)
    expected = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert found == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="subsets of 1000 rows cannot be drawn from 70 and 90"):
        kernel_of_subsets(features, reference, seed=0)
    with pytest.raises(ValueError, match="at least one subset, got 0"):
        kernel_of_subsets(features, reference, seed=0, subsets=0, size=40)
