"""Intervals cover what they claim, depend on samples and seed only, and refuse what they cannot tell."""

import numpy as np
import pytest
import scipy.stats

from maxbench.metrics.statistics import (
    BLOCK,
    SMALL,
    Interval,
    bootstrap,
    bootstrap_mean,
    enough_flips,
    holm,
    influence_interval,
    intervals,
    means,
    needed,
    resample_weights,
    resampled_sums,
    sign_flip,
    standard_error,
    t_test,
    win_rate,
)

GROUPS = np.array([7, 7, 0, 3, 3, 3, 0, 12, 5, 5])  # five clusters of one to three images
LABELS = np.array([3, 3, 0, 1, 1, 1, 0, 4, 2, 2])  # the same, counted from 0


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
        lambda seed: intervals(means(skewed(0, 30)[None]), None, 30, seed=seed, resamples=200)[0],
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


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="2 of 4 rows: 1, 3"):
        bootstrap_mean([0.0, np.nan, 1.0, np.inf], seed=0)
    with pytest.raises(ValueError, match="one number per sample"):
        bootstrap_mean([], seed=0)
    with pytest.raises(ValueError, match="one number per sample"):
        bootstrap_mean(np.zeros((2, 2)), seed=0)
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap(lambda index: 0.0, 0, seed=0)


# --- intervals of clusters --------------------------------------------------------------------------------------------


def ends(found: list[Interval]) -> np.ndarray:
    """(intervals, 2)."""
    return np.array([(interval.low, interval.high) for interval in found])


@pytest.mark.parametrize("method", ["percentile", "BCa"])
@pytest.mark.parametrize("clusters", [5, 30])
def test_intervals_are_scipys_on_the_same_draws(method, clusters):
    labels = np.tile(LABELS, clusters // 5) + 5 * np.arange(clusters // 5).repeat(10)
    # Whole numbers: scipy takes ties that round apart for draws below or above the value.
    values = np.rint(100 * np.stack([skewed(seed, len(labels)) for seed in range(3)]))
    size, totals = np.bincount(labels), np.stack([np.bincount(labels, weights=row) for row in values])

    def means_of(index, axis):  # of clusters drawn, not of weights: (..., clusters) => (3, ...)
        return totals[:, index].sum(axis=axis) / size[index].sum(axis=axis)

    theirs = scipy.stats.bootstrap(
        (np.arange(clusters),),
        means_of,
        n_resamples=999,
        method=method,
        vectorized=True,
        confidence_level=0.9,
        rng=np.random.default_rng(3),
    ).confidence_interval
    settings = {"seed": 3, "resamples": 999, "level": 0.9, "method": method.lower()}
    ours = intervals(means(values), labels, len(labels), **settings)
    np.testing.assert_allclose(ends(ours), np.stack([theirs.low, theirs.high], axis=1), rtol=1e-12)
    assert [interval.value for interval in ours] == pytest.approx(values.mean(axis=1), rel=1e-14)
    assert {interval.n for interval in ours} == {clusters}
    # A tie that rounds apart is a tie here.
    np.testing.assert_allclose(ends(intervals(means(values / 100), labels, len(labels), **settings)), ends(ours) / 100)


def test_without_groups_the_percentile_interval_of_a_mean_is_the_bootstraps():
    values = skewed(0, 700)
    (ours,) = intervals(means([values]), None, 700, seed=4, resamples=900)
    theirs = bootstrap_mean(values, seed=4, resamples=900)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_a_cluster_is_drawn_as_a_whole_and_blocks_do_not_change_the_draws():
    blocks = list(resample_weights(GROUPS, 10, seed=0, resamples=4000))
    weights = np.concatenate(blocks)
    assert weights.shape == (4000, 10)
    first = [np.flatnonzero(label == LABELS)[0] for label in range(5)]
    assert (weights == weights[:, first][:, LABELS]).all()
    assert (weights[:, first].sum(axis=1) == 5).all()  # as many clusters as there are
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.06)
    n = BLOCK // 3  # three draws a block
    large = list(resample_weights(np.arange(n) % 5, n, seed=0, resamples=7))
    assert [len(block) for block in large] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(large)[:, :5], weights[:7, first])


def test_labels_name_clusters_and_mean_nothing_else():
    values = np.stack([skewed(0, 10), skewed(1, 10)])
    for function in (
        lambda groups: ends(intervals(means(values), groups, 10, seed=0, resamples=100)).tolist(),
        lambda groups: sign_flip(values - 1, groups, seed=0).tolist(),
        lambda groups: win_rate(values[0] - 1, groups),
        lambda groups: needed(values[0] - 0.5, groups),
        lambda groups: influence_interval(0.0, values[0], groups),
    ):
        assert function(GROUPS) == function(LABELS) != function(None)


def test_repeating_every_image_does_not_make_it_surer():
    values = np.stack([skewed(0, 40), skewed(1, 40)])
    double, groups = values.repeat(3, axis=1), np.arange(40).repeat(3)
    once = intervals(means(values), None, 40, seed=0, resamples=300)
    thrice = intervals(means(double), groups, 120, seed=0, resamples=300)
    np.testing.assert_allclose(ends(thrice), ends(once), rtol=1e-12)
    assert thrice[0].n == 40
    np.testing.assert_array_equal(sign_flip(double - 1, groups, seed=0), sign_flip(values - 1, seed=0))
    assert win_rate(double[0] - 1, groups) == win_rate(values[0] - 1)
    assert needed(double[0] - 0.7, groups) == needed(values[0] - 0.7)
    assert standard_error(double[0], groups) == pytest.approx(standard_error(values[0], None), rel=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_cover_the_mean_of_clusters_of_different_sizes(method):
    covered = []
    for trial in range(8):  # of 50 columns
        generator = np.random.default_rng(trial)
        groups = np.arange(60).repeat(generator.integers(1, 5, size=60))
        shared = generator.normal(size=(50, 60))[:, groups]
        values = shared + 0.5 * generator.normal(size=shared.shape)
        found = ends(intervals(means(values), groups, len(groups), seed=trial, resamples=400, method=method))
        covered.append((found[:, 0] <= 0) & (found[:, 1] >= 0))
        alone = ends(intervals(means(values), None, len(groups), seed=trial, resamples=400, method=method))
        assert (np.diff(alone) < 0.85 * np.diff(found)).mean() > 0.9  # what forgetting the clusters would claim
    assert np.mean(covered) == pytest.approx(0.94, abs=0.03)


def test_bca_leans_to_the_long_tail():
    values = np.stack([skewed(seed, 30) for seed in range(20)])
    percentile, bca = (ends(intervals(means(values), None, 30, seed=0, method=name)) for name in ("percentile", "bca"))
    assert (bca > percentile).mean() > 0.9
    mirrored = ends(intervals(means(-values), None, 30, seed=0, method="bca"))
    np.testing.assert_allclose(mirrored, -bca[:, ::-1], atol=0.02)


def test_auto_is_bca_for_few_clusters_and_percentile_for_many():
    for n, method in ((SMALL, "bca"), (SMALL + 1, "percentile")):
        statistic = means([skewed(0, n)])
        named = intervals(statistic, None, n, seed=0, resamples=50, method=method)
        assert intervals(statistic, None, n, seed=0, resamples=50) == named


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.filterwarnings("error")
def test_what_does_not_vary_has_no_width_and_what_is_undefined_no_bounds(method):
    def found(statistic, groups=None):
        return intervals(statistic, groups, 10, seed=0, resamples=200, method=method)

    constant = np.stack([np.zeros(10), np.full(10, 0.1), np.full(10, -1 / 3)])
    for interval, value in zip(found(means(constant), GROUPS), (0, 0.1, -1 / 3), strict=True):
        assert interval.low == interval.value == interval.high == pytest.approx(value, rel=1e-14)

    (undefined,) = found(lambda weights: np.full((1, len(weights)), np.nan))
    assert np.isnan([undefined.value, undefined.low, undefined.high]).all()
    (only_here,) = found(lambda weights: np.where((weights == 1).all(axis=1), 2.0, np.nan)[None])
    assert (only_here.value, np.isnan(only_here.low)) == (2.0, True)
    (single,) = found(means([skewed(0, 10)]), np.zeros(10, int))
    assert (single.n, np.isnan(single.low), np.isnan(single.high)) == (1, True, True)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.filterwarnings("error")
def test_draws_without_a_denominator_are_left_aside(method):
    rare = np.array([1.0, 0, 0, 0, 0, 0])

    def ratio(weights):
        total = weights @ rare
        noisy = weights @ np.arange(6.0) / weights.sum(axis=1)
        return np.stack([np.where(total > 0, 1.0, np.nan), np.where(total > 0, noisy, np.nan)])

    constant, varying = intervals(ratio, None, 6, seed=0, method=method)
    assert constant == Interval(1.0, 1.0, 1.0, 6)
    assert varying.low < varying.value < varying.high


@pytest.mark.filterwarnings("error")
def test_bca_gives_no_bounds_where_every_draw_is_on_one_side():
    features = np.random.default_rng(0).normal(size=(12, 2))

    def distinct(weights):
        return ((weights > 0) @ np.ones(12))[None] + 1e-3 * (weights @ features[:, :1]).T

    (interval,) = intervals(distinct, None, 12, seed=0, method="bca")
    assert np.isnan([interval.low, interval.high]).all() and interval.value > 11


def test_the_standard_error_of_a_mean_is_scipys_and_of_clusters_the_jackknifes():
    values = skewed(0, 10)
    assert standard_error(values, None) == pytest.approx(scipy.stats.sem(values), rel=1e-12)
    assert standard_error(values + 5, GROUPS) == pytest.approx(standard_error(values, GROUPS), rel=1e-9)
    many = np.random.default_rng(0).integers(300, size=900)
    values = skewed(1, 900) + skewed(2, 300)[many]
    labels = np.unique(many)
    left = np.array([values[many != label].mean() for label in labels])
    jackknife = np.sqrt((len(labels) - 1) * left.var())
    assert standard_error(values, many) == pytest.approx(jackknife, rel=0.02)
    assert np.isnan(standard_error([1.0, 2.0], [0, 0]))


def test_an_influence_interval_is_normal_about_its_value():
    values = skewed(0, 50)
    interval = influence_interval(3.0, values, None, level=0.9)
    margin = 1.6448536 * scipy.stats.sem(values)
    assert (interval.low, interval.high) == pytest.approx((3 - margin, 3 + margin), rel=1e-7)
    assert (interval.value, interval.n) == (3.0, 50)
    assert np.isnan(influence_interval(3.0, [1.0, 2.0], [4, 4]).low)


def test_influence_values_give_a_variance_its_standard_error():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        values = generator.exponential(size=400)
        variance = values.var()
        interval = influence_interval(variance, (values - values.mean()) ** 2 - variance, None)
        covered.append(interval.low <= 1 <= interval.high)
    assert np.mean(covered) == pytest.approx(0.92, abs=0.04)


# --- tests of differences ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_a_t_test_is_students_two_tails():
    values = np.random.default_rng(0).normal(0.3, 1, 12)
    error = values.std(ddof=1) / 12**0.5
    assert t_test(values.mean(), error, 12) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-12)
    assert t_test(-3.0, 1.5, 9) == t_test(2.0, 1.0, 9) > t_test(2.0, 1.0, 99)
    assert t_test(1.96, 1.0, 10**6) == pytest.approx(2 * scipy.stats.norm.sf(1.96), rel=1e-4)
    assert (t_test(0.0, 0.0, 5), t_test(0.1, 0.0, 5), t_test(0.0, 2.0, 5)) == (1.0, 0.0, 1.0)
    assert np.isnan([t_test(1.0, np.nan, 5), t_test(np.nan, 1.0, 5), t_test(np.nan, 0.0, 5), t_test(1.0, 1.0, 1)]).all()


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_few_clusters_are_flipped_in_every_way_as_scipy_does(groups):
    generator = np.random.default_rng(0)
    differences = np.stack(
        [generator.normal(0.5, size=10), generator.integers(-1, 3, size=10), skewed(0, 10), np.zeros(10)]
    )
    labels = np.arange(10) if groups is None else LABELS
    for row, p in zip(differences, sign_flip(differences, groups, seed=0), strict=True):
        sums = np.bincount(labels, weights=row)
        expected = scipy.stats.permutation_test(
            (sums, np.zeros_like(sums)),
            lambda one, other, axis: (one - other).sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
        ).pvalue
        assert p == pytest.approx(expected, rel=1e-12)
    assert sign_flip(differences, groups, seed=1)[3] == 1


def test_many_clusters_are_flipped_at_random_as_scipy_does():
    differences = np.stack([skewed(0, 40) - 0.8, skewed(1, 40) - 0.6, np.zeros(40)])
    ours = sign_flip(differences, seed=0)
    for row, p in zip(differences[:2], ours[:2], strict=True):
        theirs = scipy.stats.permutation_test(
            (row, np.zeros(40)),
            lambda one, other, axis: (one - other).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=20_000,
            rng=np.random.default_rng(1),
        ).pvalue
        assert 0.001 < p < 0.6
        assert p == pytest.approx(theirs, abs=5 * np.sqrt(2 * p * (1 - p) / 20_000))
    assert ours[2] == 1
    assert sign_flip([np.ones(40)], seed=0)[0] == 1 / 20_001  # never 0
    few = sign_flip(differences, seed=0, flips=99)
    assert (few * 100 == np.rint(few * 100)).all()


def test_a_column_is_tested_alike_alone_and_beside_others():
    differences = np.stack([skewed(seed, 30) - 0.7 for seed in range(5)])
    together = sign_flip(differences, seed=3)
    alone = [sign_flip(row[None], seed=3)[0] for row in differences]
    assert together.tolist() == alone
    assert sign_flip(-1e6 * differences, seed=3).tolist() == alone
    assert sign_flip(differences, seed=4).tolist() != alone


def test_ties_count_though_they_round_apart():
    differences = np.array([[0.1, 0.2, -0.3, 0.7, 0.0, 0.4]])  # 1.1 = .4 + .7 = .1 + .2 - .3 + .4 + .7
    exact = np.rint(10 * differences)
    assert sign_flip(differences, seed=0) == sign_flip(exact, seed=0)


def test_sign_flips_hold_their_level_where_images_of_a_cluster_agree():
    generator = np.random.default_rng(0)
    groups = np.arange(30).repeat(generator.integers(1, 6, size=30))
    differences = generator.standard_t(3, size=(800, 30))[:, groups]
    held = (sign_flip(differences, groups, seed=0, flips=999) <= 0.05).mean()
    assert held == pytest.approx(0.05, abs=0.025)
    assert (sign_flip(differences, None, seed=0, flips=999) <= 0.05).mean() > 0.15


def test_holm_multiplies_step_by_step():
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04 -> .06 (no smaller than the one before)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(
        holm([0.01, np.nan, 0.04, 0.03, np.nan, 0.005]), [0.03, np.nan, 0.06, 0.06, np.nan, 0.02]
    )
    assert holm([0.7, 0.6]).tolist() == [1.0, 1.0]
    assert holm([0.02]).tolist() == [0.02]
    assert holm([]).tolist() == []
    assert np.isnan(holm([np.nan, np.nan])).all()


def test_holm_rejects_what_its_own_steps_reject():
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.random(12) ** 4
        kept, rejected = sorted(p), set()
        while kept and kept[0] <= 0.05 / len(kept):
            rejected.add(kept.pop(0))
        assert {each for each, adjusted in zip(p, holm(p), strict=True) if adjusted <= 0.05} == rejected


def test_the_win_rate_has_wilsons_interval():
    for wins, n in ((17, 25), (25, 25), (0, 4), (1, 1)):
        differences = np.where(np.arange(n) < wins, 0.3, -5.0)
        interval = win_rate(differences, level=0.9)
        expected = scipy.stats.binomtest(wins, n).proportion_ci(0.9, method="wilson")
        assert (interval.value, interval.n) == (wins / n, n)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_cluster_wins_by_its_mean_and_a_tie_is_half_a_win():
    assert win_rate([1.0, -3.0, 2.0, 0.5, -0.5], [0, 0, 1, 2, 2]).value == 0.5  # lost, won, tied
    assert win_rate(np.zeros(6)).value == 0.5
    assert win_rate([0.0, 1.0, 1.0, 1.0]).value == 0.875


@pytest.mark.parametrize("comparisons", [1, 20])
def test_so_many_clusters_as_needed_tell_the_difference_that_often(comparisons):
    generator = np.random.default_rng(0)
    pilot = generator.normal(0.5, 1, size=20_000)
    n = needed(pilot, level=0.95, power=0.8, comparisons=comparisons)
    assert n == pytest.approx({1: 31.4, 20: 59.6}[comparisons], rel=0.05)  # ((1.960, 3.023) + .842)^2 * 4
    trials = generator.normal(0.5, 1, size=(2000, n))
    z = trials.mean(axis=1) * np.sqrt(n)
    alpha = 0.05 / comparisons
    assert (2 * scipy.stats.norm.sf(abs(z)) < alpha).mean() == pytest.approx(0.8, abs=0.04)


def test_needed_counts_clusters_and_says_where_there_is_no_number():
    assert needed([1.0, -1.0, 2.0, -2.0]) is None
    assert needed([0.1, 0.2, -0.3]) is None  # sums to 3e-17
    assert needed([1.0, 2.0], [0, 0]) is None
    assert needed([1.0, 1.0, 1.0]) == 2
    assert needed(np.array([1.0, 2.0, 9.0])) == needed(np.array([-100.0, -200.0, -900.0]))


@pytest.mark.parametrize("comparisons", [1, 80])
def test_no_fewer_clusters_are_needed_than_signs_can_show(comparisons):
    alpha = 0.05 / comparisons
    n = needed([1.0, 1.0, 1.1], level=0.95, comparisons=comparisons, by_signs=True)
    assert sign_flip(np.ones((1, n)), seed=0)[0] < alpha <= sign_flip(np.ones((1, n - 1)), seed=0)[0]


def test_mistakes_of_clusters_and_tests_are_named():
    with pytest.raises(ValueError, match="one integer for each of 3 images"):
        intervals(means(np.ones((1, 3))), [0, 1], 3, seed=0)
    with pytest.raises(ValueError, match="one integer for each of 2 images"):
        sign_flip(np.ones((1, 2)), [0.0, 1.0], seed=0)
    with pytest.raises(ValueError, match="at least one image, got 0"):
        list(resample_weights(None, 0, 0, 10))
    with pytest.raises(ValueError, match="auto, percentile or bca, got BCa"):
        intervals(means(np.ones((1, 3))), None, 3, seed=0, method="BCa")
    with pytest.raises(ValueError, match=r"\(columns, N\), got \(3,\)"):
        sign_flip(np.ones(3), seed=0)
    with pytest.raises(ValueError, match="1 of 2 columns: first 1"):
        means([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        needed([1.0, 2.0], comparisons=0)
    with pytest.raises(ValueError, match="influence has no finite number in 1 of 2 rows: 1"):
        standard_error([1.0, np.inf], None)


@pytest.mark.parametrize("comparisons", [1, 400, 1080, 20_000])
def test_a_large_family_can_show_something(comparisons):
    level = 0.95
    flips = enough_flips(comparisons, level)
    p = sign_flip(np.full((1, 60), 1.0), seed=0, flips=flips)
    assert holm(np.r_[p, np.ones(comparisons - 1)])[0] < 1 - level
    assert enough_flips(400, level) == 20_000  # as ever, where that is enough
