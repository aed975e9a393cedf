"""The tables, against independent computations on states that are numbers alone."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from scipy.linalg import sqrtm

from evaluation.states import CONDITIONS, METHODS, make_state
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.state import Row

N = 10
LEVEL = 0.95


def made(state, **settings):
    return Tables(state, CONDITIONS, **{"resamples": 100, "level": LEVEL, **settings})


@pytest.fixture(scope="module")
def state():
    return make_state(N)


@pytest.fixture(scope="module")
def tables(state):
    return made(state)


@pytest.fixture(scope="module")
def metrics(tables):
    return tables.metrics()


@pytest.fixture(scope="module")
def samples(tables):
    return tables.samples()


@pytest.fixture(scope="module")
def differences(tables):
    return tables.differences()


def value(table, metric, method, condition=None):
    rows = table[(table.metric == metric) & (table.method == method)]
    if condition is not None:
        rows = rows[rows.condition == condition]
    return rows.iloc[0]


def iou(counts):
    """Mean IoU x100 of (3, C) counts, over the classes that occur."""
    both, given, measured = np.asarray(counts, float)
    present = given + measured > 0
    return 100 * np.mean((both / np.where(present, given + measured - both, 1))[present])


def q_by_hand(state, row, weights=None, mean_floor=False):
    """(2, N) q of depth and segmentation, from what was measured."""
    weights = np.ones(len(state.images)) if weights is None else weights
    followed = {
        name: np.stack([-own["depth/depth_rmse"], [iou(each) for each in own["seg/seg_miou"]]])
        for name, own in state.measured.items() if name in (row, "none", "single/depth", "single/seg")
    }  # fmt: skip
    none = followed["none"]
    gain = np.stack([followed["single/depth"][0] - none[0], followed["single/seg"][1] - none[1]]) @ weights
    floor = none.mean(1, keepdims=True) if mean_floor else none
    return np.clip((followed[row] - floor) / (gain / weights.sum())[:, None], -1, 2)


# --- metrics -------------------------------------------------------------------------------------------------


def test_every_row_has_its_columns_and_every_number_its_interval(metrics, state):
    assert not metrics.duplicated(["method", "metric", "condition", "protocol"]).any()
    assert list(dict.fromkeys(metrics.method)) and set(metrics.method) == {row.name for row in state.rows}
    single = metrics[metrics.method == "single/depth"]
    assert set(single.role) == {"single"} and set(single.branches) == {"depth"}
    known = metrics.dropna(subset=["low"])
    assert ((known.low <= known.value + 1e-9) & (known.value <= known.high + 1e-9)).all()
    assert set(known[~known.metric.isin(["seconds"])].n) == {N}


def test_a_mean_is_numpy_s_and_its_interval_scipy_s(metrics, state):
    for method in ("none", "average", "real"):
        values = state.measured[method]["depth/depth_rmse"]
        assert value(metrics, "depth_rmse", method).value == pytest.approx(values.mean(), rel=1e-12)
    table, values = made(state, resamples=20_000), state.measured["none"]["depth/depth_rmse"]
    column = next(each for each in table.columns.all if each.metric == "depth_rmse")
    (interval,) = table._intervals(lambda weights: column.of("none", weights)[None])
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    spread = values.std() / np.sqrt(N)
    assert interval.low == pytest.approx(theirs.low, abs=0.1 * spread)
    assert interval.high == pytest.approx(theirs.high, abs=0.1 * spread)


def test_the_data_set_s_iou_is_of_summed_counts_and_stands_beside_the_images_mean(metrics, state):
    for method in METHODS:
        counts = state.measured[method]["seg/seg_miou"]
        whole, mean = iou(counts.sum(0)), np.mean([iou(each) for each in counts])
        assert value(metrics, "seg_miou", method).value == pytest.approx(whole, rel=1e-12)
        assert value(metrics, "seg_image_iou", method).value == pytest.approx(mean, rel=1e-12)
        assert abs(whole - mean) > 1e-3
        right, given, _ = state.measured[method]["seg/seg_accuracy"].sum(0)
        assert value(metrics, "seg_accuracy", method).value == pytest.approx(100 * right / given, rel=1e-12)
    protocols = metrics.groupby("metric").protocol.first()
    assert protocols["seg_miou"].startswith("data set") and protocols["seg_image_iou"].startswith("mean over images")


def test_q_and_the_joint_score_are_those_of_numpy(metrics, state):
    for method in ("average", "better", "none", "real"):
        q = q_by_hand(state, method)
        for place, condition in enumerate(("depth", "seg")):
            assert value(metrics, "q", method, condition).value == pytest.approx(q[place].mean(), rel=1e-9, abs=1e-12)
        assert value(metrics, "joint", method).value == pytest.approx(q.min(0).mean(), rel=1e-9, abs=1e-12)
        assert value(metrics, "share_both", method).value == pytest.approx((q > 0.5).all(0).mean())
    shuffled = metrics[metrics.method == "shuffled"]
    assert "joint" in set(shuffled.metric)  # here all maps are of one picture


def test_distances_are_to_the_reference(metrics, state):
    features, reference = state.measured["average"]["features/clip"], state.reference["clip"]
    means, spreads = zip(*((each.mean(0), np.cov(each, rowvar=False)) for each in (features, reference)), strict=True)
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(
        spreads[0] + spreads[1] - 2 * np.real(sqrtm(spreads[0] @ spreads[1]))
    )
    found = value(metrics, "fd_clip", "average")
    assert found.value == pytest.approx(expected, rel=1e-6) and found.protocol == "30 reference images"
    assert found.scorer == "clip@1" and found.n == N
    assert not {"fid", "kid"} & set(metrics.metric)  # these are Inception's alone
    assert not len(metrics[(metrics.metric == "fd_clip") & (metrics.method == "shuffled")])  # features are its own


def test_what_the_annotator_measures_is_told_apart(metrics, state):
    row = value(metrics, "depth_rmse_by_annotator", "average")
    assert row.scorer == "annotator@1" and row.protocol.endswith("by its annotator")
    assert row.value == pytest.approx(state.measured["average"]["depth/depth_rmse, annotator"].mean(), rel=1e-12)
    assert not len(metrics[(metrics.metric == "depth_rmse_by_annotator") & (metrics.method == "shuffled")])
    assert not metrics.metric.str.startswith("seg_miou_by").any()  # its scorer is the annotator


def test_a_region_is_named_in_the_protocol(state):
    regional = made(replace(state, regional=("depth",)))
    of = {each.metric: each.protocol for each in regional.columns.all}
    assert of["depth_rmse"].endswith("inside its evaluation mask") and "inside" not in of["seg_miou"]


def test_time_is_over_batches_and_the_first_is_left_out(metrics, state):
    own = state.measured["average"]
    batches = np.unique(own["seconds"][4:])
    found = value(metrics, "seconds", "average")
    assert found.value == pytest.approx(batches.mean()) and found.value < 5 and len(batches) == 2
    assert batches.min() <= found.low <= found.high <= batches.max()
    alone = {**state.measured, "average": {**own, "warm_up": np.ones(N)}}  # nothing else is there to be measured
    assert value(made(replace(state, measured=alone)).metrics(), "seconds", "average").value > 5


def test_costs_are_told_of_what_was_generated(metrics):
    assert value(metrics, "control_evaluations", "average").value == 40
    assert value(metrics, "unet_evaluations", "none").value == 20
    assert value(metrics, "control_scale", "average").value == 1
    assert not len(metrics[(metrics.metric == "control_scale") & (metrics.method == "none")])
    assert not len(metrics[(metrics.metric == "seconds") & (metrics.method == "real")])
    assert not len(metrics[metrics.metric == "peak_memory"])  # there is no accelerator


def test_defects_are_counted_and_named(state):
    bad = np.zeros(N)
    bad[[2, 5]] = 1
    measured = {**state.measured, "average": {**state.measured["average"], "defect": bad}}
    table = made(replace(state, measured=measured))
    assert table.defects()["average"] == ["s002-0", "s005-0"] and table.defects()["none"] == []
    assert value(table.metrics(), "defects", "average").value == 2


def test_images_that_were_made_again_are_counted_for_each_method_and_said(state):
    def again(*places):
        marks = np.zeros(N)
        marks[list(places)] = 1
        return marks

    marks = {"average": again(2, 5, 7), "none": again(), "better": again(1)}
    measured = {
        row: {**own, **({"retried": marks[row]} if row in marks else {})} for row, own in state.measured.items()
    }
    table = made(replace(state, measured=measured, notes=("First.",)))
    rows = table.metrics().query("metric == 'retried'").set_index("method").value
    assert rows.to_dict() == {"average": 3, "better": 1}
    said = f"Images of {N} that were NaN or black and were made again in float32: "
    assert table.notes[0] == "First." and len(table.notes) == 2 and table.notes[1].startswith(said)
    assert set(table.notes[1].removeprefix(said).removesuffix(".").split(", ")) == {"average 3", "better 1"}
    assert made(state).notes == list(state.notes)


# --- samples -------------------------------------------------------------------------------------------------


def test_samples_are_what_was_measured(samples, state, metrics):
    assert not samples.duplicated(["sample", "replicate", "method", "metric", "condition"]).any()
    rows = samples[(samples.metric == "depth_rmse") & (samples.method == "better")]
    np.testing.assert_array_equal(rows.value, state.measured["better"]["depth/depth_rmse"])
    assert list(rows["sample"]) == [image.sample for image in state.images]
    rows = samples[(samples.metric == "seg_image_iou") & (samples.method == "better")]
    np.testing.assert_allclose(rows.value, [iou(each) for each in state.measured["better"]["seg/seg_miou"]])
    for metric in ("depth_rmse", "clip_score", "seg_image_iou", "joint", "share_both", "q_mean"):
        means = samples[samples.metric == metric].groupby("method").value.mean()
        for method in METHODS:
            assert means[method] == pytest.approx(value(metrics, metric, method).value, rel=1e-9, abs=1e-12)


# --- differences ---------------------------------------------------------------------------------------------


def test_differences_are_paired_and_in_the_metric_s_direction(differences, metrics, state):
    assert set(differences.method) == set(METHODS) - {"average"} and set(differences.baseline) == {"average"}
    for metric in ("depth_rmse", "seg_image_iou", "clip_score", "joint", "q_mean", "share_both", "fd_clip", "kd_clip"):
        for method in ("better", "worse"):
            found = value(differences, metric, method)
            expected = value(metrics, metric, method).value - value(metrics, metric, "average").value
            assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-12), metric
            assert found.low <= found.value <= found.high
    paired = value(differences, "depth_rmse", "better")
    alone = value(metrics, "depth_rmse", "better")
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)  # what images share falls away


def test_every_other_column_has_differences_too_and_they_are_not_tested(tables, differences, metrics):
    further = tables.further_differences()
    assert set(further.method) == set(METHODS) - {"average"} and not {"p", "verdict", "change"} & set(further)
    keys = [set(map(tuple, each[["metric", "condition"]].fillna("").values)) for each in (differences, further)]
    assert not keys[0] & keys[1]
    assert {metric for metric, _ in keys[1]} >= {"depth_rmse_by_annotator", "fd_clip_infinity"}
    found = value(further, "depth_rmse_by_annotator", "better")
    expected = [value(metrics, "depth_rmse_by_annotator", name).value for name in ("better", "average")]
    assert found.value == pytest.approx(expected[0] - expected[1]) and found.low <= found.value <= found.high


def test_p_is_of_all_signs(differences, state):
    """Ten images have 1024 patterns of signs: all are tried."""
    for metric, label in (("depth_rmse", "depth/depth_rmse"), ("clip_score", "clip_score")):
        change = state.measured["worse"][label] - state.measured["average"][label]
        signs = 1 - 2 * (np.arange(2**N)[:, None] >> np.arange(N) & 1)
        expected = np.mean(np.abs(signs @ change) >= abs(change.sum()) * (1 - 1e-9))
        assert value(differences, metric, "worse").p == pytest.approx(expected, rel=1e-12)


def test_holm_is_over_the_whole_table(differences):
    tested = differences.dropna(subset=["p"]).sort_values("p")
    m = len(tested)
    assert set(differences.comparisons) == {m}
    expected = np.minimum(np.maximum.accumulate(tested.p.to_numpy() * np.arange(m, 0, -1)), 1)
    np.testing.assert_allclose(np.sort(tested.p_holm), np.sort(expected), rtol=1e-12)
    assert (differences.p_holm >= differences.p - 1e-15).all()
    assert (np.diff(tested.p_holm) >= -1e-15).all()


@pytest.fixture(scope="module")
def clear():
    """More images, so that Holm's correction leaves something to be shown."""
    state = make_state(24)
    return made(state).differences()


def test_verdicts_follow_from_p_and_direction(clear):
    shown = clear.p_holm < 1 - LEVEL
    assert ((clear.verdict != "not shown") == shown).all()
    lower = clear.metric.isin(["depth_rmse", "fd_clip", "kd_clip"])
    better = (clear.value < 0) == lower
    assert (clear.verdict[shown] == np.where(better[shown], "better", "worse")).all()
    assert shown.any() and not shown.all()


def test_a_lower_error_is_better_and_a_lower_distance_too(clear):
    assert value(clear, "depth_rmse", "better").value < 0
    assert value(clear, "depth_rmse", "better").verdict == "better"
    assert value(clear, "depth_rmse", "worse").verdict == "worse"
    assert value(clear, "depth_rmse", "better").win_rate > 0.9 > 0.1 > value(clear, "depth_rmse", "worse").win_rate
    assert value(clear, "joint", "worse").verdict == "worse" and value(clear, "joint", "worse").value < 0
    assert value(clear, "q", "better", "depth").verdict == "better"


def test_a_distance_s_direction(state):
    """Features on the reference are better than features far from it."""
    reference = state.reference["clip"]
    generator = np.random.default_rng(0)
    measured = {
        row: {**own, "features/clip": reference[generator.permutation(30)[:N]] + 0.01} if row == "better" else own
        for row, own in state.measured.items()
    }
    far = {**measured["average"], "features/clip": reference[:N] + 9}
    table = made(replace(state, measured={**measured, "average": far})).differences()
    found = value(table, "fd_clip", "better")
    assert found.value < 0 and found.p < 1e-3 and np.isnan(found.win_rate)
    assert found.verdict == "better"


def test_the_difference_of_distances_is_paired(differences, state):
    """Two methods with the same features differ by nothing, with no width: their errors are the same."""
    same = {**state.measured["better"], "features/clip": state.measured["average"]["features/clip"]}
    table = made(replace(state, measured={**state.measured, "better": same})).differences()
    found = value(table, "fd_clip", "better")
    assert (found.value, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, "not shown")
    other = value(differences, "fd_clip", "better")
    assert other.low < other.value < other.high


def test_the_difference_of_q_has_the_denominators_of_the_draw(state):
    """Bounds by brute force: data sets drawn from the images, with their own gain."""
    generator = np.random.default_rng(2)
    draws = []
    for _ in range(400):
        weights = np.bincount(generator.integers(N, size=N), minlength=N).astype(float)
        one, other = (q_by_hand(state, row, weights)[0] for row in ("better", "average"))
        draws.append(weights @ (one - other) / N)
    found = value(made(state, resamples=400).differences(), "q", "better", "depth")
    spread = np.std(draws)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.4 * spread) and found.high == pytest.approx(high, abs=0.4 * spread)
    fixed = q_by_hand(state, "better")[0] - q_by_hand(state, "average")[0]
    assert spread != pytest.approx(fixed.std() / np.sqrt(N), rel=0.05)  # with the whole set's unit it is another


def test_several_baselines_and_one_that_is_unknown(state):
    table = made(state, baselines=("average", "none")).differences()
    assert set(table.baseline) == {"average", "none"} and len(table) == 2 * len(made(state).differences())
    assert set(table.comparisons) == {int(table.p.notna().sum())}  # one family
    one, other = (
        table[(table.baseline == base) & (table.method == method) & (table.metric == "depth_rmse")].iloc[0]
        for base, method in (("average", "none"), ("none", "average"))
    )
    assert one.value == -other.value and one.p == other.p
    with pytest.raises(UserError, match=r"'avrage' is no method of this run; take one of none, single/depth"):
        made(state, baselines=("avrage",)).differences()
    with pytest.raises(UserError, match="'real' is no method"):
        made(state, baselines=("real",)).differences()


def test_replicates_are_one_cluster():
    state = make_state(N, replicates=2)
    table = made(state)
    found = value(table.differences(), "depth_rmse", "worse")
    assert found.n == N // 2
    change = (state.measured["worse"]["depth/depth_rmse"] - state.measured["average"]["depth/depth_rmse"]).reshape(5, 2)
    assert found.p >= 2 / 2**5 and found.value == pytest.approx(change.mean())


def test_a_run_of_one_method_has_no_differences(state):
    alone = replace(state, rows=tuple(row for row in state.rows if row.role == "reference" or row.name == "average"))
    assert made(alone).differences().empty


# --- without a joint score -----------------------------------------------------------------------------------


def test_without_singles_there_is_no_joint_score(state):
    fewer = replace(state, rows=tuple(row for row in state.rows if row.name != "single/seg"))
    table = made(replace(fewer, measured={name: own for name, own in state.measured.items() if name != "single/seg"}))
    assert table.joint is None and "needs the methods `none`" in table.joint_note and table.dominant() == {}
    assert not {"q", "joint"} & set(table.metrics().metric)
    assert table.columns.conflict() is None and table.conflict_curve() is None


def test_a_tuned_or_varied_single_is_no_unit(state):
    rows = tuple(replace(row, is_unit=False) if row.name == "single/seg" else row for row in state.rows)
    assert made(replace(state, rows=rows)).joint is None
    more = Row("single_tuned/seg", "single", ("seg",), same=True)
    measured = {**state.measured, more.name: state.measured["worse"]}
    joint = made(replace(state, rows=(*state.rows, more), measured=measured)).joint
    np.testing.assert_array_equal(joint.gain["seg"], made(state).joint.gain["seg"])


def test_with_no_condition_left_all_other_columns_stand(state):
    same = {name: state.measured["none"] | {"features/clip": own["features/clip"]} if "single" in name else own
            for name, own in state.measured.items()}  # fmt: skip
    table = made(replace(state, measured=same))
    found = table.metrics()
    assert not {"q", "joint", "q_mean", "share_both"} & set(found.metric) and "depth_rmse" in set(found.metric)
    assert "no condition is left" in table.joint_note and len(table.samples()) and len(table.differences())


def test_the_condition_that_leads_is_named(tables, state):
    q = q_by_hand(state, "single/depth")
    assert tables.dominant()["single/depth"] == ("depth", pytest.approx((q[0] > q[1]).mean()))
    assert tables.dominant()["single/seg"][0] == "seg" and "none" not in tables.dominant()


# --- conflict ------------------------------------------------------------------------------------------------


def test_conflict_is_what_the_other_picture_lacks():
    state = make_state(24, exchanged=True)
    table = made(state)
    expected = (1 - np.clip(q_by_hand(state, "exchanged", mean_floor=True), 0, 1)).mean(0)
    np.testing.assert_allclose(table.columns.conflict(), expected, rtol=1e-9)
    curve = table.conflict_curve(bins=3)
    methods = curve[curve.method == "better"]
    order = np.argsort(expected)
    joint = q_by_hand(state, "better").min(0)
    bins = [order[:8], order[8:16], order[16:]]
    np.testing.assert_allclose(methods.value, [joint[own].mean() for own in bins], rtol=1e-9)
    np.testing.assert_allclose(methods.conflict, [expected[own].mean() for own in bins], rtol=1e-9)
    assert list(methods.n) == [8, 8, 8] and set(curve.method) == set(METHODS)
    assert table.conflict_curve(bins=7) is None and table.conflict_differences(bins=7) is None  # too few for so many
    rows = table.samples().query("metric == 'conflict'")
    np.testing.assert_allclose(rows.value, expected, rtol=1e-9)
    assert made(make_state(8)).columns.conflict() is None  # all conditions are of one picture


def test_differences_by_conflict_are_paired_in_the_shares_of_the_curve():
    state = make_state(24, exchanged=True)
    table = made(state)
    curve, differences = table.conflict_curve(bins=3), table.conflict_differences(bins=3)
    (baseline,) = differences.baseline.unique()
    assert baseline in METHODS and set(differences.method) == set(METHODS) - {baseline}
    values = curve.set_index(["method", "bin"]).value
    for each in differences.itertuples():
        expected = values[each.method, each.bin] - values[baseline, each.bin]
        assert each.value == pytest.approx(expected, abs=1e-9) and each.low <= each.value <= each.high
    one = differences[differences.method == "better"].set_index("bin")
    own = curve[curve.method == "better"].set_index("bin")
    assert one[["conflict", "conflict_low", "n"]].equals(own[["conflict", "conflict_low", "n"]])
    order = np.argsort(table.columns.conflict())[:8]
    change = (q_by_hand(state, "better").min(0) - q_by_hand(state, baseline).min(0))[order]
    error = change.std() / np.sqrt(len(change))  # of paired differences, and not of two means
    assert one.loc[0, "high"] - one.loc[0, "low"] == pytest.approx(2 * 1.96 * error, rel=0.35)


def test_rows_of_several_pictures_have_q_and_no_joint_score():
    state = make_state(8, exchanged=True)
    found = made(state).metrics()
    for name in ("real", "exchanged", "shuffled"):
        assert set(found[(found.method == name) & found.metric.isin(["q", "joint", "share_both"])].metric) == {"q"}


def test_delta_is_a_column_of_every_table(state):
    rows = tuple(replace(row, delta=0.7 if row.name == "better" else None) for row in state.rows)
    tables = Tables(replace(state, rows=rows), CONDITIONS, 100, 0.95)
    for table in (tables.samples(), tables.metrics(), tables.differences()):
        assert table.delta.dtype == "float64"
        assert set(table[table.method == "better"].delta) == {0.7}
        assert table[table.method != "better"].delta.isna().all()
