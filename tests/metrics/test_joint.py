"""The joint score: by hand, under weights, where it is left out, and what the alternating fake gets."""

from functools import partial

import numpy as np
import pytest

from maxbench.metrics.joint import HIGHEST, LEAST_GAIN, LOWEST, joint_of
from maxbench.metrics.statistics import intervals, resample_weights

CONDITIONS = ("depth", "hed")
SETTINGS = {"seed": 0, "resamples": 200}


def simulated(n=40, seed=0, gains=(10.0, 0.2), noise=0.3):
    """Fidelity of no control, of the singles and of the ceiling, in different units: gains are about `gains`."""
    generator = np.random.default_rng(seed)
    none, singles, ceiling = {}, {}, {}
    for name, gain in zip(CONDITIONS, gains, strict=True):
        none[name] = gain * generator.normal(size=n) - 3
        singles[name] = none[name] + gain * (1 + noise * generator.normal(size=n))
        ceiling[name] = none[name] + 2 * gain
    return none, singles, ceiling


def joint(*parts, **settings):
    return joint_of(*parts, **{**SETTINGS, **settings})


def fused(none, singles, seed=1):
    """A method that follows depth well and hed in part."""
    generator = np.random.default_rng(seed)
    return {
        name: none[name] + strength * (singles[name] - none[name]).mean() + generator.normal(size=len(none[name])) / 5
        for name, strength in zip(CONDITIONS, (0.9, 0.6), strict=True)
    }


def by_hand(fidelity, none, singles, index=None):
    """Every number of the joint score, of the images `index`."""
    index = np.arange(len(none["depth"])) if index is None else index
    q = []
    for name in CONDITIONS:
        gain = np.mean(np.asarray(singles[name])[index] - np.asarray(none[name])[index])
        q.append(np.clip((np.asarray(fidelity[name])[index] - np.asarray(none[name])[index]) / gain, -1, 2))
    q = np.array(q)
    mean = q.mean(0).mean()
    return np.array([*q.mean(1), mean, q.min(0).mean(), ((q[0] > 0.5) & (q[1] > 0.5)).mean()])


# --- what it is ----------------------------------------------------------------------------------------------


def test_by_hand():
    none = {"depth": np.array([0.0, 1, 2, 3]), "hed": np.zeros(4)}
    singles = {"depth": np.array([2.0, 3, 4, 5]), "hed": np.array([3.0, 4, 5, 4])}  # gains 2 and 4 on average
    found = joint(none, singles, {"depth": none["depth"] + 2, "hed": np.full(4, 4.0)})
    assert (found.conditions, found.note, found.left_out) == (["depth", "hed"], "", {})
    values = found.per_image({"depth": np.array([2.0, 3, 2, 4]), "hed": np.array([4.0, 2, 1, 3])})
    np.testing.assert_allclose(values["q", "depth"], [1, 1, 0, 0.5])
    np.testing.assert_allclose(values["q", "hed"], [1, 0.5, 0.25, 0.75])
    np.testing.assert_allclose(values["q_mean", ""], [1, 0.75, 0.125, 0.625])
    np.testing.assert_allclose(values["joint", ""], [1, 0.5, 0, 0.5])
    np.testing.assert_array_equal(values["share_both", ""], [1, 0, 0, 0])  # one half is not above one half


def test_the_numbers_are_those_of_numpy():
    none, singles, ceiling = simulated()
    found, method = joint(none, singles, ceiling), fused(none, singles)
    assert found.names == [("q", "depth"), ("q", "hed"), ("q_mean", ""), ("joint", ""), ("share_both", "")]
    expected = by_hand(method, none, singles)
    values = found.per_image(method)
    assert list(values) == found.names
    np.testing.assert_allclose([values[name].mean() for name in found.names], expected, rtol=1e-12)
    np.testing.assert_allclose(found.statistic(method, np.ones((1, 40)))[:, 0], expected, rtol=1e-12)
    assert expected[3] < min(expected[0], expected[1])  # the minimum within an image is below the smaller mean


def test_no_control_is_zero_and_the_own_single_is_one():
    none, singles, ceiling = simulated()
    found = joint(none, singles, ceiling)
    assert all(not values.any() for values in found.per_image(none).values())
    quiet = {name: none[name] + (singles[name] - none[name]).mean() for name in CONDITIONS}
    np.testing.assert_allclose(found.per_image(quiet)["joint", ""], 1, rtol=1e-12)


def test_q_is_clipped():
    none = {"depth": np.zeros(5), "hed": np.zeros(5)}
    ones = {"depth": np.ones(5), "hed": np.ones(5)}
    values = joint(none, ones, ones).per_image({"depth": np.array([-9.0, -1, 0.3, 2, 50]), "hed": np.full(5, 7.0)})
    np.testing.assert_array_equal(values["q", "depth"], [LOWEST, -1, 0.3, 2, HIGHEST])
    np.testing.assert_array_equal(values["q", "hed"], np.full(5, HIGHEST))
    np.testing.assert_array_equal(values["joint", ""], [-1, -1, 0.3, 2, 2])
    assert (LOWEST, HIGHEST) == (-1, 2)


def test_one_picture_must_satisfy_both():
    """The fake obeys depth in even images and hed in odd ones: each mean q is one half, and no picture is good."""
    none, singles, ceiling = simulated(n=200, noise=0.05)
    even = np.arange(200) % 2 == 0
    fake = {
        "depth": np.where(even, singles["depth"], none["depth"]), "hed": np.where(even, none["hed"], singles["hed"])
    }  # fmt: skip
    values = {name: own.mean() for name, own in joint(none, singles, ceiling).per_image(fake).items()}
    assert values["q", "depth"] == pytest.approx(0.5, abs=0.02) == values["q", "hed"]
    assert values["q_mean", ""] == pytest.approx(0.5, abs=0.02)
    assert values["joint", ""] == 0 == values["share_both", ""]
    both = {name: (none[name] + singles[name]) / 2 for name in CONDITIONS}  # half of each, in every picture
    assert joint(none, singles, ceiling).per_image(both)["joint", ""].mean() > 0.45


def test_a_grey_picture_gains_what_it_gains_and_no_more():
    """The same fidelity in every image, worse than no control: q is negative and clipped at -1."""
    none, singles, ceiling = simulated()
    grey = {name: np.full(40, none[name].min() - 50 * abs(none[name]).max()) for name in CONDITIONS}
    values = joint(none, singles, ceiling).per_image(grey)
    np.testing.assert_array_equal(values["joint", ""], np.full(40, LOWEST))
    assert not values["share_both", ""].any()


def test_units_and_offsets_do_not_matter_and_neither_does_the_order_of_images():
    none, singles, ceiling = simulated()
    method = fused(none, singles)
    values = joint(none, singles, ceiling).per_image(method)
    moved = [{name: 7 * own + 100 for name, own in each.items()} for each in (none, singles, ceiling, method)]
    order = np.random.default_rng(0).permutation(40)
    mixed = [{name: own[order] for name, own in each.items()} for each in (none, singles, ceiling, method)]
    for name, own in values.items():
        np.testing.assert_allclose(joint(*moved[:3]).per_image(moved[3])[name], own, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(joint(*mixed[:3]).per_image(mixed[3])[name], own[order], rtol=1e-9)


# --- under weights -------------------------------------------------------------------------------------------


def test_weights_are_a_resampled_data_set_with_denominators_of_its_own():
    none, singles, ceiling = simulated(n=15, noise=1.0)
    method, found = fused(none, singles), joint(none, singles, ceiling)
    draws = np.random.default_rng(3).integers(15, size=(50, 15))
    weights = np.stack([np.bincount(draw, minlength=15) for draw in draws]).astype(float)
    expected = np.stack([by_hand(method, none, singles, draw) for draw in draws], axis=1)
    np.testing.assert_allclose(found.statistic(method, weights), expected, rtol=1e-9)
    fixed = np.stack([found.per_image(method)["q", "depth"][draw].mean() for draw in draws])
    assert np.abs(fixed - expected[0]).max() > 0.05  # the unit of the whole set would be another number


def test_a_draw_without_a_gain_has_no_score():
    gain = np.array([1.0, 1, 1, 0, 0, -0.2])
    none, zero = {name: np.zeros(6) for name in CONDITIONS}, np.zeros(6)
    found = joint(none, dict.fromkeys(CONDITIONS, gain), dict.fromkeys(CONDITIONS, gain))
    assert not found.left_out
    method = dict.fromkeys(CONDITIONS, 0.75 * gain)
    weights = np.array([[1.0] * 6, [0, 0, 0, 1, 1, 4], [0, 0, 0, 3, 3, 0], [6, 0, 0, 0, 0, 0]])
    values = found.statistic(method, weights)
    assert np.isfinite(values[:, [0, 3]]).all() and np.isnan(values[:, [1, 2]]).all()
    np.testing.assert_allclose(values[:, 3], [0.75, 0.75, 0.75, 0.75, 1])
    whole = intervals(lambda weights: found.statistic(method, weights), None, 6, **SETTINGS)
    assert all(np.isfinite([each.value, each.low, each.high]).all() for each in whole)
    one = joint({"depth": zero, "hed": zero}, {"depth": gain, "hed": np.ones(6)}, {"depth": gain, "hed": np.ones(6)})
    values = one.statistic({"depth": zero, "hed": np.ones(6)}, weights[1:2])
    assert np.isnan(values[0]) and values[1] == 1 and np.isnan(values[2:]).all()  # of the other condition there is one


def test_intervals_cover_the_true_score():
    hits, trials, truth = 0, 60, 0.6
    for trial in range(trials):
        none, singles, ceiling = simulated(n=40, seed=trial)
        method = {
            name: none[name] + gain * (truth + 0.3 * np.random.default_rng(99 + trial + place).normal(size=40))
            for place, (name, gain) in enumerate(zip(CONDITIONS, (10.0, 0.2), strict=True))
        }
        found = joint(none, singles, ceiling, resamples=50)
        statistic = partial(found.statistic, method)
        interval = intervals(statistic, None, 40, seed=trial, resamples=200)[0]
        hits += interval.low <= truth <= interval.high
    assert hits / trials >= 0.85


# --- what is left out ----------------------------------------------------------------------------------------


def test_a_condition_whose_gain_may_be_none_is_left_out_and_named():
    none, singles, ceiling = simulated()
    generator = np.random.default_rng(0)
    method = fused(none, singles)
    for change in (0.01 * generator.normal(size=40) - 0.001, np.full(40, -1.0), np.zeros(40)):
        found = joint(none, {**singles, "hed": none["hed"] + change}, ceiling)
        assert found.conditions == ["depth"] and list(found.left_out) == ["hed"]
        assert found.note.startswith("left out: hed (its single control gains ") and "undefined" not in found.note
        values = found.per_image(method)
        assert list(values) == [("q", "depth"), ("q_mean", ""), ("joint", ""), ("share_both", "")]
        np.testing.assert_array_equal(values["joint", ""], values["q", "depth"])


def test_the_limit_is_the_lower_bound_of_the_gain():
    none, singles, _ = simulated()
    spread = np.random.default_rng(1).normal(size=40)
    spread = (spread - spread.mean()) / spread.std()

    def left_out(gain):
        own = {**singles, "hed": none["hed"] + gain + spread}
        return list(joint(none, own, {name: none[name] + 1 for name in CONDITIONS}).left_out)

    # The mean's standard error is 1 / sqrt(40) = 0.158: the bound crosses zero near 0.31.
    assert left_out(0.2) == ["hed"] and left_out(0.45) == []


def test_a_gain_below_a_tenth_of_what_can_be_gained_is_no_following():
    none, singles, ceiling = simulated()
    for share, out in ((0.09, ["hed"]), (0.11, [])):
        own = {**singles, "hed": none["hed"] + share * (ceiling["hed"] - none["hed"])}
        found = joint(none, own, ceiling)
        assert list(found.left_out) == out
    assert LEAST_GAIN == 0.1
    weak = {**singles, "hed": none["hed"] + 0.05 * (ceiling["hed"] - none["hed"])}
    note = joint(none, weak, ceiling).note
    assert "5% of what the VAE reconstruction gains" in note


def test_with_nothing_left_there_is_no_score_and_it_says_so():
    none, _, ceiling = simulated()
    found = joint(none, none, ceiling)
    assert found.conditions == [] and list(found.left_out) == ["depth", "hed"]
    assert "no condition is left, the joint score is undefined" in found.note
    assert found.names == [] and found.per_image(none) == {} and found.leader(none) is None


def test_replicates_of_a_sample_are_one_cluster():
    """Eight times the same three samples are no evidence of a gain."""
    gain = np.tile([3.0, -1.0, 0.5], 8)
    none, single = {"depth": np.zeros(24)}, {"depth": gain}
    groups = np.tile([0, 1, 2], 8)
    assert joint(none, single, {"depth": gain + 1}).conditions == ["depth"]
    assert joint(none, single, {"depth": gain + 1}, groups).conditions == []


# --- which condition leads -----------------------------------------------------------------------------------


def test_the_condition_with_the_larger_q_leads():
    none, singles, ceiling = simulated()
    found = joint(none, singles, ceiling)
    method = fused(none, singles)
    q = found.per_image(method)
    name, share = found.leader(method)
    assert (name, share) == ("depth", (q["q", "depth"] > q["q", "hed"]).mean()) and 0 < share < 1
    assert found.leader(none) is None  # both are 0
    assert joint(none, {**singles, "hed": none["hed"]}, ceiling).leader(method) is None  # of one there is no leader


# --- mistakes ------------------------------------------------------------------------------------------------


def test_mistakes_are_named():
    none, singles, ceiling = simulated(n=12)
    with pytest.raises(ValueError, match="hed of its single control has no finite number in 1 of 12 rows: 4"):
        singles_with_nan = {**singles, "hed": np.where(np.arange(12) == 4, np.nan, singles["hed"])}
        joint(none, singles_with_nan, ceiling)
    with pytest.raises(ValueError, match="same images everywhere, got 12, 11, 12"):
        joint(none, {**singles, "hed": singles["hed"][1:]}, ceiling)
    with pytest.raises(ValueError, match="depth of the ceiling has no finite number"):
        joint(none, singles, {**ceiling, "depth": np.full(12, np.inf)})


def test_draws_are_those_of_every_other_statistic():
    """The same seed and clusters give the same draws, so that q can be compared with what it is made of."""
    none, singles, ceiling = simulated(n=20)
    found, method = joint(none, singles, ceiling), fused(none, singles)
    (weights,) = resample_weights(None, 20, 0, 100)
    draws = found.statistic(method, weights)
    assert draws.shape == (5, 100) and (draws[3] <= np.minimum(draws[0], draws[1]) + 1e-12).all()
