"""The validity of metrics, on runs whose truth is known because they are made up."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.evaluation import validity
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.state import BY_ANNOTATOR, Image, Row, State
from maxbench.evaluation.validity import ALTERNATING, GREY, OTHER, Pair
from maxbench.metrics.distribution import frechet_distance, kernel_distance
from maxbench.metrics.statistics import intervals

HED_SSIM, DEPTH_RMSE = "hed/hed_ssim", "depth/depth_rmse"
MEAN = {  # row -> (HED SSIM, depth RMSE)
    "real": (0.95, 1.0), "vae_reconstruction": (0.9, 2.0), "shuffled": (0.1, 50.0), "none": (0.2, 40.0),
    "single/hed": (0.8, 39.0), "single/depth": (0.2, 10.0), "average": (0.6, 20.0), "sum": (0.7, 15.0),
}  # fmt: skip
ROLES = {"none": "none", "single/hed": "single", "single/depth": "single", "average": "fusion", "sum": "fusion"}


def made_up(n: int = 60, size: int = 1, spread: float = 0.02, seed: int = 0) -> State:
    """Of `n` clusters of `size` images; every number of a row is normal about that of MEAN."""
    generator = np.random.default_rng(seed)
    measured, count = {}, n * size
    for row, (ssim, rmse) in MEAN.items():
        own = {
            HED_SSIM: ssim + spread * generator.normal(size=count),
            DEPTH_RMSE: rmse + 50 * spread * generator.normal(size=count),
        }
        if row != "shuffled":
            own |= {f"{label}{BY_ANNOTATOR}": each + 0.01 * generator.normal(size=count) for label, each in own.items()}
            own["clip_score"] = 70 + generator.normal(size=count)
            own["features/clip"] = generator.normal(size=(count, 4)) + (1 - ssim)
        measured[row] = own
    rows = tuple(
        Row(row, ROLES.get(row, "reference"), (row.split("/")[1],) if "/" in row else (), same=True, is_unit=True)
        for row in MEAN
    )
    return State(
        experiment="made up", suite="none", baselines=("average",),
        images=tuple(Image(0, f"{k}", f"{k // size}", k % size) for k in range(count)),
        rows=rows, measured=measured, reference={"clip": generator.normal(size=(40, 4))},
        scorers={"clip": "clip", "hed": "maps", "depth": "maps"}, annotators={"hed": "other", "depth": "other"},
    )  # fmt: skip


def tables_of(state: State) -> Tables:
    return Tables(state, {"hed": HED(), "depth": Depth()}, resamples=200, level=0.95)


def found(orders, metric, condition=""):
    (own,) = [each for each in orders if (each.metric, each.condition) == (metric, condition)]
    return own


def test_draws_are_without_replacement_where_there_are_more_clusters():
    index, replaced = validity.drawn(10, 6, draws=50, seed=0)
    assert not replaced and index.shape == (50, 6) and all(len(set(row)) == 6 for row in index.tolist())
    index, replaced = validity.drawn(10, 10, draws=50, seed=0)
    assert replaced and any(len(set(row)) < 10 for row in index.tolist())
    assert (index == validity.drawn(10, 10, draws=50, seed=0)[0]).all()


def test_images_and_weights_of_a_draw_are_the_same_draw():
    groups = np.array([0, 0, 1, 2, 2, 2])
    index = np.array([[2, 0, 0], [1, 1, 1]])
    weights = validity.weights_of(groups, index)
    assert weights.tolist() == [[2, 2, 0, 1, 1, 1], [0, 0, 3, 0, 0, 0]]
    for row, weight in zip(index, weights, strict=True):
        images, places = validity.images_of(validity.members(groups), row)
        assert np.bincount(images, minlength=6).tolist() == weight.tolist()
        assert [groups[image] for image in images] == [row[place] for place in places]


def test_a_plain_order_is_found_in_every_draw_and_a_wrong_one_in_none():
    state = made_up()
    orders = validity.orders(tables_of(state), 30, draws=20, seed=0)
    for metric, condition in (("hed_ssim", "hed"), ("depth_rmse", "depth"), ("joint", ""), ("q", "hed")):
        assert found(orders, metric, condition).whole == 1
    assert found(orders, "depth_rmse", "depth").pairs == (
        Pair("real", "vae_reconstruction", True), Pair("vae_reconstruction", "single/depth"),
        Pair("single/depth", "none"), Pair("none", "shuffled"),
    )  # fmt: skip
    swapped = {**state.measured, "none": state.measured["shuffled"], "shuffled": state.measured["none"]}
    orders = validity.orders(tables_of(replace(state, measured=swapped)), 30, draws=20, seed=0)
    assert found(orders, "hed_ssim", "hed").shares == (1, 1, 1, 0)
    assert found(orders, "hed_ssim", "hed").whole == 0


@pytest.mark.parametrize("n", [12, 90])
def test_shares_are_those_of_a_plain_loop(n):
    state = made_up(n=40, size=2, spread=1.2)
    orders = validity.orders(tables_of(state), n, draws=60, seed=3)
    index, replaced = validity.drawn(40, n, draws=60, seed=3)
    held = []
    for clusters in index:
        images = np.concatenate([[2 * cluster, 2 * cluster + 1] for cluster in clusters])
        means = [state.measured[row][HED_SSIM][images].mean() for row in ("none", "shuffled")]
        held.append(means[0] > means[1])
    own = found(orders, "hed_ssim", "hed")
    assert own.replaced == replaced == (n == 90)
    assert own.shares[-1] == pytest.approx(np.mean(held)) and 0 < np.mean(held) < 1


def test_ties_are_an_order_only_where_they_may_be():
    state = made_up()
    same = {**state.measured, "vae_reconstruction": state.measured["real"], "single/hed": state.measured["none"]}
    own = found(
        validity.orders(tables_of(replace(state, measured=same)), 20, draws=5, seed=0), "hed_ssim_by_annotator", "hed"
    )
    assert own.shares == (1, 1, 0)  # real >= reconstruction, > single, which is no better than no control


def test_text_and_distances_are_held_against_fakes_alone():
    state = made_up()
    poor = {**state.measured["average"], "clip_score": np.zeros(60), "features/clip": np.full((60, 4), 9.0)}
    poor["features/clip"] = poor["features/clip"] + np.random.default_rng(0).normal(size=(60, 4))
    tables = tables_of(validity.with_rows(state, {GREY: poor, OTHER: poor}))
    own = found(validity.orders(tables, 20, draws=5, seed=0), "clip_score")
    assert own.whole == 1 and {pair.worse for pair in own.pairs} == {GREY, OTHER}
    distances = list(validity.distance_orders(tables, 20, draws=5, seed=0))
    assert [each.metric for each in distances] == ["fd_clip", "kd_clip"]
    assert not any({"none", "single/hed"} & set(pair[:2]) for each in distances for pair in each.pairs)
    assert distances[0].shares[-1] == 1 and distances[0].pairs[-1] == Pair("average", GREY)


def test_distances_are_of_the_images_that_were_drawn():
    state = made_up(n=30)
    index, _ = validity.drawn(30, 8, draws=4, seed=1)
    features = {row: own["features/clip"] for row, own in state.measured.items() if "features/clip" in own}
    fd, kd = validity.distance_orders(tables_of(state), 8, draws=4, seed=1)
    for order, distance in ((fd, frechet_distance), (kd, kernel_distance)):
        for pair, share in zip(order.pairs, order.shares, strict=True):
            one, other = (
                [distance(features[row][each], state.reference["clip"]) for each in index] for row in pair[:2]
            )
            assert share == np.mean(np.less(one, other))


def test_intervals_of_a_simulation_are_those_of_a_run_with_these_clusters():
    state = made_up(n=20, size=2)
    tables = tables_of(state)
    own = validity.coverage(tables, "sum", "average", 12, simulations=1, resamples=150, seed=5)
    clusters = np.random.default_rng(5).integers(20, size=12)
    values = state.measured["sum"][HED_SSIM].reshape(20, 2)[clusters].ravel()
    (interval,) = intervals(
        lambda weights: (weights @ values / weights.sum(-1))[None], np.repeat(np.arange(12), 2), 24,
        seed=5, resamples=150,
    )  # fmt: skip
    (cell,) = [each for each in own if (each.metric, each.what) == ("hed_ssim", "sum")]
    truth = state.measured["sum"][HED_SSIM].mean()
    assert cell.covered == float(interval.low <= truth <= interval.high)
    assert {(each.metric, each.condition) for each in own if each.what == "sum - average"} >= {
        ("joint", ""), ("share_both", ""), ("q", "hed"), ("hed_ssim_by_annotator", "hed"), ("clip_score", ""),
    }  # fmt: skip


def test_means_are_covered_as_often_as_promised_and_intervals_as_wide_as_they_should_be():
    own = validity.coverage(tables_of(made_up(n=80)), "sum", "average", 50, simulations=120, resamples=200, seed=0)
    for metric in ("hed_ssim", "depth_rmse", "q_mean", "clip_score"):
        for each in (each for each in own if each.metric == metric):
            assert 0.87 <= each.covered <= 1 and 0.75 < each.width < 1.35 and each.undefined == 0


def test_a_number_that_never_varies_is_covered_and_has_no_width():
    own = validity.coverage(tables_of(made_up(spread=0.001)), "sum", "average", 20, simulations=3, resamples=50, seed=0)
    (both,) = [each for each in own if (each.metric, each.what) == ("share_both", "sum")]
    assert both.covered == 1 and np.isnan(both.width)


def test_distances_cover_their_mean_over_draws():
    own = validity.distance_coverage(tables_of(made_up(n=80)), "sum", "average", 50, simulations=120, seed=0)
    assert {(each.metric, each.what) for each in own} == {
        (metric, what) for metric in ("fd_clip", "kd_clip") for what in ("sum", "average", "sum - average")
    }
    assert all(0.85 <= each.covered <= 1 for each in own)


def test_a_narrow_interval_covers_as_seldom_as_it_says():
    state = made_up(n=40)
    narrow = replace(tables_of(state), level=0.2)
    own = validity.coverage(narrow, "sum", "average", 30, simulations=100, resamples=100, seed=0)
    (each,) = [each for each in own if (each.metric, each.what) == ("hed_ssim", "sum")]
    assert 0.08 < each.covered < 0.35


def test_false_discoveries_are_rare_after_holm_and_common_before():
    state = made_up(n=40)
    more = {f"method{k}": Row(f"method{k}", "fusion", ("hed", "depth"), same=True) for k in range(4)}
    measured = {name: made_up(n=40, seed=number + 1).measured["sum"] for number, name in enumerate(more)}
    state = replace(state, rows=(*state.rows, *more.values()), measured={**state.measured, **measured})
    own = validity.false_discoveries(tables_of(state), "average", 30, simulations=80, flips=999, seed=0)
    assert own.tests == 5 * 8  # five fusions; two fidelities, two q, three joint scores and the text score
    assert own.any_holm <= 0.12 < own.any_raw and 0.02 < own.each < 0.08


def test_alternating_singles_take_turns_by_cluster_and_fool_marginal_means_alone():
    state = made_up(n=30, size=2)
    own = validity.alternating(state)
    for place, value in enumerate(own[HED_SSIM]):
        row = ("single/hed", "single/depth")[place // 2 % 2]
        assert value == state.measured[row][HED_SSIM][place]
    assert own["features/clip"].shape == (60, 4) and "seconds" not in own
    tables = tables_of(validity.with_rows(state, {ALTERNATING: own}))
    assert validity.former_joint(tables, ALTERNATING) == pytest.approx(0.5, abs=0.05)
    assert tables.per_image("joint")[ALTERNATING].mean() < 0.1
    assert validity.former_joint(tables, "none") == 0


def test_agreement_is_that_of_scipy():
    state = made_up()
    own = validity.agreement(tables_of(state), "average")
    ours, theirs = (state.measured["sum"][f"{HED_SSIM}{by}"] for by in ("", BY_ANNOTATOR))
    change = [each - state.measured["average"][f"{HED_SSIM}{by}"] for each, by in ((ours, ""), (theirs, BY_ANNOTATOR))]
    for minus, pair in ((None, (ours, theirs)), ("average", change)):
        (each,) = [each for each in own if (each.condition, each.row, each.minus) == ("hed", "sum", minus)]
        assert each.pearson == pytest.approx(scipy.stats.pearsonr(*pair)[0])
        assert each.spearman == pytest.approx(scipy.stats.spearmanr(*pair)[0])
        assert each.same_sign
    assert not any(each.row == "real" for each in own) and {each.condition for each in own} == {"hed", "depth"}
    flat = {**state.measured["sum"], HED_SSIM: np.ones(60)}
    own = validity.agreement(tables_of(replace(state, measured={**state.measured, "sum": flat})), "average")
    assert any(np.isnan(each.pearson) for each in own)
