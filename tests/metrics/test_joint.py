"""The joint score: its two fixed points, a hand-made example, and what its intervals claim."""

from dataclasses import replace

import numpy as np
import pytest

from maxbench.metrics.joint import joint_scores
from maxbench.metrics.statistics import bootstrap

CONDITIONS = ("depth", "hed")


def simulated(
    n: int,
    seed: int,
    quality: dict[str, tuple[float, float]],
    gains: tuple[float, float] = (10.0, 0.2),
    noise: float = 0.5,
) -> dict[str, dict[str, np.ndarray]]:
    """Fidelities in different units whose true q, for each method, is `quality` (depth, hed)."""
    generator = np.random.default_rng(seed)
    truth = {"none": (0.0, 0.0), "single/depth": (1.0, 0.0), "single/hed": (0.0, 1.0)} | quality
    fidelity = {}
    for row, (condition, gain) in enumerate(zip(CONDITIONS, gains, strict=True)):
        difficulty = generator.normal(size=n)  # shared by all methods: the comparison is paired
        fidelity[condition] = {
            method: gain * (difficulty + q[row] + noise * generator.normal(size=n)) - 3 for method, q in truth.items()
        }
    return fidelity


def test_no_control_is_zero_and_the_own_single_is_one_exactly():
    scores = joint_scores(simulated(40, 0, {"fused": (0.9, 0.7)}), seed=0)
    for condition in CONDITIONS:
        q = scores["none"].quality[condition]
        assert (q.value, q.low, q.high) == (0, 0, 0)
        q = scores[f"single/{condition}"].quality[condition]
        assert (q.value, q.low, q.high) == (1, 1, 1)
    none = scores["none"]
    assert none.mean.value == none.minimum.value == none.share_both.value == 0
    assert none.dominant is None and np.isnan(none.dominant_share.value)
    assert scores["single/hed"].dominant == "hed"
    assert scores["single/depth"].dominant == "depth"


def test_by_hand():
    fidelity = {
        "depth": {
            "none": [0.0, 1.0, 2.0, 3.0],
            "single/depth": [2.0, 3.0, 4.0, 5.0],  # gains 2
            "single/hed": [0.0, 1.0, 2.0, 3.0],
            "fused": [2.0, 3.0, 2.0, 4.0],  # q 1, 1, 0, 1/2
        },
        "hed": {
            "none": [0.0, 0.0, 0.0, 0.0],
            "single/depth": [0.0, 0.0, 0.0, 0.0],
            "single/hed": [3.0, 4.0, 5.0, 4.0],  # gains 4 on average
            "fused": [4.0, 2.0, 1.0, 3.0],  # q 1, 1/2, 1/4, 3/4
        },
    }
    fused = joint_scores(fidelity, seed=0)["fused"]
    assert fused.method == "fused"
    assert {name: q.value for name, q in fused.quality.items()} == {"depth": 0.625, "hed": 0.625}
    assert (fused.mean.value, fused.minimum.value) == (0.625, 0.625)
    assert fused.share_both.value == 0.25  # one half is not above one half
    assert fused.dominant is None
    assert (fused.left_out, fused.note) == ((), "")

    fidelity["depth"]["fused"] = [2.0, 3.0, 2.4, 4.2]  # q 1, 1, 0.2, 0.6
    fused = joint_scores(fidelity, seed=0)["fused"]
    assert fused.quality["depth"].value == pytest.approx(0.7)
    assert fused.mean.value == pytest.approx(0.6625)
    assert fused.minimum.value == 0.625
    assert fused.share_both.value == 0.5
    assert fused.dominant == "depth"
    assert fused.dominant_share.value == 0.25  # equal in the first sample, less in the last two
    assert fused.mean.n == fused.dominant_share.n == 4


def test_units_and_offsets_of_a_fidelity_do_not_matter():
    fidelity = simulated(30, 1, {"fused": (0.9, 0.4)})
    moved = {
        condition: {method: 7 * values + 100 for method, values in methods.items()}
        for condition, methods in fidelity.items()
    }
    first, second = (joint_scores(f, seed=0, resamples=200)["fused"] for f in (fidelity, moved))
    for field in ("mean", "minimum", "share_both", "dominant_share"):
        one, other = getattr(first, field), getattr(second, field)
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-9)
    assert first.dominant == second.dominant == "depth"


def test_the_seed_decides_the_interval_and_the_samples_order_only_that():
    fidelity = simulated(50, 2, {"fused": (0.9, 0.4)})
    first = joint_scores(fidelity, seed=0)
    assert joint_scores(fidelity, seed=0) == first
    assert joint_scores(fidelity, seed=1)["fused"].mean != first["fused"].mean
    order = np.random.default_rng(0).permutation(50)
    shuffled = joint_scores({c: {m: v[order] for m, v in f.items()} for c, f in fidelity.items()}, seed=0)
    for field in ("mean", "minimum", "share_both", "dominant_share"):
        one, other = getattr(first["fused"], field), getattr(shuffled["fused"], field)
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.03)


def test_other_methods_in_the_table_do_not_matter():
    fidelity = simulated(30, 3, {"fused": (0.9, 0.4), "average": (0.5, 0.5)})
    alone = {c: {m: v for m, v in f.items() if m != "average"} for c, f in fidelity.items()}
    assert joint_scores(alone, seed=0)["fused"] == joint_scores(fidelity, seed=0)["fused"]


def test_intervals_cover_the_true_scores():
    trials = 150
    hits = {"mean": 0, "minimum": 0, "depth": 0}
    for trial in range(trials):
        fused = joint_scores(simulated(50, trial, {"fused": (0.9, 0.4)}), seed=trial, resamples=300)["fused"]
        for name, truth, interval in (
            ("mean", 0.65, fused.mean),
            ("minimum", 0.4, fused.minimum),
            ("depth", 0.9, fused.quality["depth"]),
        ):
            hits[name] += interval.low <= truth <= interval.high
    for name, count in hits.items():
        assert 0.89 <= count / trials <= 0.995, name


def test_the_denominator_is_drawn_with_the_numerator():
    fidelity = simulated(40, 4, {"fused": (0.9, 0.4)})
    fused = joint_scores(fidelity, seed=5, resamples=300)["fused"]

    def minimum(index):
        scores = []
        for condition, methods in fidelity.items():
            gain = (methods[f"single/{condition}"] - methods["none"])[index].mean()
            scores.append((methods["fused"] - methods["none"])[index].mean() / gain)
        return min(scores)

    expected = bootstrap(minimum, 40, seed=5, resamples=300)
    ours = fused.minimum
    assert (ours.value, ours.low, ours.high) == pytest.approx((expected.value, expected.low, expected.high), rel=1e-9)


def test_the_share_uses_the_draws_own_denominator():
    fidelity = simulated(40, 4, {"fused": (0.9, 0.6)})

    def share(index):
        good = np.ones(40, dtype=bool)
        for condition, methods in fidelity.items():
            gain = (methods[f"single/{condition}"] - methods["none"])[index].mean()
            good &= (methods["fused"] - methods["none"])[index] / gain > 0.5
        return good.mean()

    expected = bootstrap(share, 40, seed=5, resamples=300)
    assert joint_scores(fidelity, seed=5, resamples=300)["fused"].share_both == expected
    assert 0.1 < expected.value < 0.9


def test_the_condition_with_the_larger_q_dominates():
    scores = joint_scores(simulated(60, 6, {"a": (0.9, 0.2), "b": (0.3, 1.1)}), seed=0)
    assert (scores["a"].dominant, scores["b"].dominant) == ("depth", "hed")
    for method in ("a", "b"):
        share = scores[method].dominant_share
        assert 0.5 < share.low < share.value <= share.high <= 1


def test_a_condition_that_its_single_does_not_gain_is_left_out_and_named():
    quality = {"fused": (0.9, 0.4)}
    fidelity = simulated(40, 7, quality)
    generator = np.random.default_rng(0)
    fidelity["hed"]["single/hed"] = fidelity["hed"]["none"] + 0.01 * generator.normal(size=40)
    scores = joint_scores(fidelity, seed=0)
    for score in scores.values():
        assert score.left_out == ("hed",)
        assert "hed" in score.note and "undefined" not in score.note
        assert set(score.quality) == {"depth"}
        assert score.mean == score.minimum == score.quality["depth"]
        assert score.dominant is None and np.isnan(score.dominant_share.value)
    assert scores["fused"].share_both.value > 0.5  # over what is left

    worse = simulated(40, 7, quality)
    worse["hed"]["single/hed"] = worse["hed"]["none"] - 1
    assert joint_scores(worse, seed=0)["fused"].left_out == ("hed",)


def test_the_limit_of_leaving_out_is_the_lower_bound_of_the_gain():
    def left_out(scale: float) -> tuple[str, ...]:
        fidelity = simulated(40, 8, {})
        gain = np.random.default_rng(1).normal(size=40)
        gain = (gain - gain.mean()) / gain.std()
        fidelity["hed"]["single/hed"] = fidelity["hed"]["none"] + scale + gain
        return joint_scores(fidelity, seed=0)["none"].left_out

    # The mean's standard error is 1 / sqrt(40) = 0.158: the bound crosses zero near 0.31.
    assert left_out(0.2) == ("hed",)
    assert left_out(0.45) == ()


def test_with_no_condition_left_the_score_is_undefined_and_says_so():
    fidelity = simulated(20, 9, {"fused": (0.9, 0.4)})
    for condition in CONDITIONS:
        fidelity[condition][f"single/{condition}"] = fidelity[condition]["none"]
    scores = joint_scores(fidelity, seed=0)
    assert set(scores) == {"none", "single/depth", "single/hed", "fused"}
    for method, score in scores.items():
        assert score.method == method
        assert score.left_out == CONDITIONS
        assert "no condition is left" in score.note
        assert score.quality == {}
        for interval in (score.mean, score.minimum, score.share_both, score.dominant_share):
            assert np.isnan([interval.value, interval.low, interval.high]).all()
            assert interval.n == 20


def test_draws_without_a_gain_do_not_spoil_the_interval():
    # Half of six samples gain: one draw in 64 gains nothing and has no q.
    gain = np.array([1.0, 1, 1, 0, 0, 0])
    fidelity = {
        condition: {"none": np.zeros(6), "single/depth": gain, "single/hed": gain, "fused": 0.5 * gain}
        for condition in CONDITIONS
    }
    fused = joint_scores(fidelity, seed=0)["fused"]
    assert fused.left_out == ()
    assert (fused.mean.low, fused.mean.value, fused.mean.high) == (0.5, 0.5, 0.5)
    assert fused.share_both.value == 0.5  # q is 1 where there is a gain and 0 elsewhere
    assert fused.share_both.low > 0


def test_three_conditions_and_other_names():
    generator = np.random.default_rng(0)
    names = ("depth", "seg", "hed")
    fidelity = {
        condition: {"text": generator.normal(size=30)}
        | {f"{other} alone": generator.normal(size=30) + 5 * (other == condition) for other in names}
        | {"fused": generator.normal(size=30) + 5 * (row + 1) / 4}
        for row, condition in enumerate(names)
    }
    scores = joint_scores(fidelity, seed=0, none="text", singles={name: f"{name} alone" for name in names})
    fused = scores["fused"]
    values = [fused.quality[name].value for name in names]
    assert fused.mean.value == pytest.approx(np.mean(values))
    assert fused.minimum.value == min(values) == values[0]
    assert fused.dominant == "hed"
    q = {
        name: (methods["fused"] - methods["text"]) / np.mean(methods[f"{name} alone"] - methods["text"])
        for name, methods in fidelity.items()
    }
    led = (q["hed"] > q["depth"]) & (q["hed"] > q["seg"])
    assert fused.dominant_share.value == led.mean() < (q["hed"] > q["depth"]).mean()
    assert scores["seg alone"].quality["seg"].value == 1


def test_a_score_cannot_be_changed():
    score = joint_scores(simulated(10, 0, {}), seed=0)["none"]
    with pytest.raises(AttributeError):
        score.method = "other"
    assert replace(score, method="other").method == "other"


def test_mistakes_are_named():
    def broken(change):
        fidelity = simulated(12, 0, {"fused": (1, 1)})
        change(fidelity)
        return fidelity

    for change, message in (
        (lambda f: f["hed"].pop("none"), "condition 'hed' has no fidelity of none"),
        (lambda f: f["depth"].pop("single/depth"), "condition 'depth' has no fidelity of single/depth"),
        (lambda f: [methods.pop("none") for methods in f.values()], "condition 'depth' has no fidelity of none"),
        (lambda f: f["hed"].pop("fused"), "condition 'hed' has no fidelity of fused"),
        (lambda f: f["depth"].pop("fused"), "condition 'depth' has no fidelity of fused"),
        (lambda f: f["hed"].update(fused=np.zeros(11)), r"same samples everywhere, got \[11, 12\]"),
        (
            lambda f: f["hed"]["fused"].__setitem__(4, np.nan),
            "hed of fused has no finite number in 1 of 12 rows: 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            joint_scores(broken(change), seed=0)
    with pytest.raises(ValueError, match="at least one condition"):
        joint_scores({}, seed=0)
