"""Intervals cover what they claim, depend on samples and seed only, and refuse what they cannot tell."""

import numpy as np
import pytest
import scipy.stats

from maxbench.metrics.distribution import frechet_distance, kernel_distance
from maxbench.metrics.statistics import (
    BLOCK,
    Interval,
    bootstrap,
    bootstrap_mean,
    half_sampling,
    paired_difference,
    resampled_sums,
)


def skewed(seed: int, n: int) -> np.ndarray:
    """Samples with mean 1 and standard deviation 1, far from normal."""
    return np.random.default_rng(seed).exponential(size=n)


def coverage(make_interval, truth: float, trials: int) -> float:
    intervals = [make_interval(trial) for trial in range(trials)]
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


@pytest.mark.parametrize("level", [0.95, 0.6])
def test_the_bootstrap_of_a_mean_covers_the_truth_as_often_as_it_says(level):
    covered = coverage(
        lambda trial: bootstrap_mean(skewed(trial, 60), seed=trial, resamples=400, level=level),
        truth=1.0,
        trials=300,
    )
    assert abs(covered - level) < 0.07  # about 2.5 standard errors of 300 trials


def test_the_bootstrap_of_a_ratio_covers_the_ratio():
    def interval(trial: int) -> Interval:
        denominator = 1 + skewed(trial, 60)
        numerator = 0.5 * denominator + np.random.default_rng(1000 + trial).normal(size=60)
        return bootstrap(
            lambda index: numerator[index].sum(axis=-1) / denominator[index].sum(axis=-1),
            60,
            seed=trial,
            resamples=400,
            vectorized=True,
        )

    assert abs(coverage(interval, truth=0.5, trials=300) - 0.95) < 0.05


def test_the_bootstrap_agrees_with_scipy():
    values = skewed(3, 50)
    ours = bootstrap_mean(values, seed=0, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean(), rel=1e-14)
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.01)
    assert ours.n == 50


def test_a_statistic_of_one_draw_and_of_many_give_the_same_interval():
    values = skewed(4, 40)
    one = bootstrap(lambda index: np.median(values[index]), 40, seed=7, resamples=150)
    many = bootstrap(lambda index: np.median(values[index], axis=-1), 40, seed=7, resamples=150, vectorized=True)
    assert one == many
    assert one.value == np.median(values)


def test_more_draws_than_fit_a_block_are_all_drawn():
    n = BLOCK // 3  # three draws a block
    drawn = []

    def statistic(index):
        drawn.append(index)
        return index.mean(axis=-1)

    interval = bootstrap(statistic, n, seed=0, resamples=7, vectorized=True)
    sizes = [len(index) for index in drawn]
    assert sizes == [1, 3, 3, 1]  # the set itself, then seven draws
    assert len({index.tobytes() for block in drawn for index in block}) == 8
    assert interval.low < interval.value < interval.high


def test_every_sample_is_drawn_equally_often():
    drawn = []
    bootstrap(lambda index: drawn.append(index) or 0.0, 7, seed=0, resamples=5000)
    counts = np.bincount(np.concatenate(drawn[1:]))  # the first is the set itself
    assert counts == pytest.approx(np.full(7, 5000), rel=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: bootstrap_mean(skewed(0, 30), seed=seed, resamples=200),
        lambda seed: paired_difference(skewed(0, 30), skewed(1, 30), seed=seed, resamples=200),
        lambda seed: half_sampling(lambda index: skewed(0, 30)[index].mean(), 30, seed=seed, resamples=20),
    ],
)
def test_the_seed_alone_decides(make):
    np.random.seed(0)
    first = make(5)
    np.random.seed(1)
    assert make(5) == first
    assert make(6).value == first.value
    assert (make(6).low, make(6).high) != (first.low, first.high)


def test_the_order_of_the_samples_hardly_matters():
    values = skewed(0, 80)
    shuffled = np.random.default_rng(0).permutation(values)
    first, second = (bootstrap_mean(v, seed=0, resamples=4000) for v in (values, shuffled))
    assert first.value == pytest.approx(second.value, rel=1e-14)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.02)


def test_shift_and_scale_pass_through():
    values = skewed(0, 25)
    plain = bootstrap_mean(values, seed=0, resamples=100)
    moved = bootstrap_mean(3 * values - 2, seed=0, resamples=100)
    assert (moved.value, moved.low, moved.high) == pytest.approx(
        (3 * plain.value - 2, 3 * plain.low - 2, 3 * plain.high - 2), rel=1e-12
    )


def test_a_paired_difference_does_not_see_what_the_samples_share():
    generator = np.random.default_rng(0)
    shared, noise = 100 * generator.normal(size=50), 0.1 * generator.normal(size=50)
    interval = paired_difference(shared + 1 + noise, shared, seed=0)
    assert interval.low < 1 < interval.high
    assert interval.high - interval.low < 0.1


def test_comparisons_widen_the_interval_to_bonferronis_level():
    values, baseline = skewed(0, 200), skewed(1, 200)
    ten = paired_difference(values, baseline, seed=0, comparisons=10, resamples=1000)
    assert ten == bootstrap_mean(values - baseline, seed=0, resamples=10_000, level=0.995)
    one = paired_difference(values, baseline, seed=0, resamples=1000)
    expected = scipy.stats.norm.ppf(0.9975) / scipy.stats.norm.ppf(0.975)
    assert (ten.high - ten.low) / (one.high - one.low) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("n", [40, 41])
def test_half_sampling_of_a_mean_gives_its_standard_error(n):
    values = skewed(2, n)
    interval = half_sampling(lambda index: values[index].mean(), n, seed=0, resamples=4000, level=0.95)
    error = (interval.high - interval.value) / 1.959964
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(n), rel=0.05)
    assert interval.value - interval.low == pytest.approx(interval.high - interval.value)


def test_half_sampling_corrects_an_uneven_half():
    values = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    interval = half_sampling(lambda index: values[index].mean(), 5, seed=0, resamples=20_000, level=0.6827)
    # Pairs without replacement: variance 0.24 / 2 * 3/4 = 0.09; times 2 / 3 is 0.06, s^2 / n.
    assert interval.high - interval.value == pytest.approx(np.sqrt(0.06), rel=0.02)


def test_half_sampling_gives_distinct_samples_and_all_of_them_in_time():
    seen = []

    def statistic(index):
        seen.append(index)
        return 0.0

    half_sampling(statistic, 11, seed=0, resamples=30)
    whole, *halves = seen
    assert whole.tolist() == list(range(11))
    assert {len(half) for half in halves} == {5}
    assert all(len(set(half.tolist())) == 5 for half in halves)
    assert set(np.concatenate(halves).tolist()) == set(range(11))


def test_half_sampling_tells_the_spread_of_a_kernel_distance():
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(200, 4))

    def interval(features: np.ndarray, seed: int) -> Interval:
        return half_sampling(lambda index: kernel_distance(features[index], reference), 64, seed=seed, resamples=60)

    intervals = [interval(0.5 + generator.normal(size=(64, 4)), seed) for seed in range(40)]
    spread = np.std([i.value for i in intervals], ddof=1)
    claimed = np.mean([(i.high - i.value) / 1.959964 for i in intervals])
    assert claimed == pytest.approx(spread, rel=0.35)


def test_the_bootstrap_of_a_frechet_distance_is_biased_which_is_why_there_are_halves():
    generator = np.random.default_rng(0)
    features, reference = generator.normal(size=(100, 16)), generator.normal(size=(400, 16))

    def distance(index):
        return frechet_distance(features[index], reference)

    drawn = bootstrap(distance, 100, seed=0, resamples=100)
    assert drawn.value < drawn.low  # the interval does not even hold the value
    halves = half_sampling(distance, 100, seed=0, resamples=100)
    assert halves.low < halves.value < halves.high


def test_resampled_sums_add_up_the_drawn_samples():
    values = np.random.default_rng(0).integers(0, 9, size=(6, 2, 3))
    index = np.array([[0, 0, 0, 0, 0, 5], [3, 2, 1, 0, 4, 5]])
    sums = resampled_sums(values, index)
    assert sums.shape == (2, 2, 3)
    assert (sums == values[index].sum(axis=1)).all()


def test_draws_without_a_value_are_left_aside():
    values = np.array([0.0, 0.0, 1.0, 1.0, 1.0])

    def ratio(index):
        total = values[index].sum(axis=-1)
        return np.where(total > 0, 2 * total / np.where(total > 0, total, 1), np.nan)

    assert bootstrap(ratio, 5, seed=0, vectorized=True) == Interval(2.0, 2.0, 2.0, 5)


def test_a_set_without_a_value_has_no_interval_though_some_draws_would():
    values = np.array([1.0, 2.0, np.nan])
    interval = bootstrap(lambda index: values[index].mean(), 3, seed=0, resamples=200)
    assert np.isnan([interval.value, interval.low, interval.high]).all()


def test_one_sample_has_a_value_and_no_interval():
    interval = bootstrap_mean([3.0], seed=0)
    assert (interval.value, interval.n) == (3.0, 1)
    assert np.isnan([interval.low, interval.high]).all()
    assert np.isnan(half_sampling(lambda index: 1.0, 3, seed=0).low)
    assert not np.isnan(half_sampling(lambda index: 1.0, 4, seed=0).low)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="2 of 4 rows: 1, 3"):
        bootstrap_mean([0.0, np.nan, 1.0, np.inf], seed=0)
    with pytest.raises(ValueError, match="one number per sample"):
        bootstrap_mean([], seed=0)
    with pytest.raises(ValueError, match="one number per sample"):
        bootstrap_mean(np.zeros((2, 2)), seed=0)
    with pytest.raises(ValueError, match="got 3 and 2"):
        paired_difference([1, 2, 3], [1, 2], seed=0)
    with pytest.raises(ValueError, match="baseline has no finite number in 1 of 2 rows: 0"):
        paired_difference([1, 2], [np.nan, 2], seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        paired_difference([1, 2], [1, 2], seed=0, comparisons=0)
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap(lambda index: 0.0, 0, seed=0)
    with pytest.raises(ValueError, match="at least one sample"):
        half_sampling(lambda index: 0.0, 0, seed=0)
