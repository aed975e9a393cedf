"""What was measured, as a state: packed exactly, merged from parts, refused where it is damaged or foreign."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evaluation.states import CONDITIONS, make_state, part
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.state import Image, Row, State, merge

TABLES = ("metrics", "samples", "differences")


def tables(state):
    made = Tables(state, CONDITIONS, resamples=100, level=0.95)
    return [getattr(made, name)() for name in TABLES]


def assert_equal_states(one, other):
    for name in ("experiment", "suite", "baselines", "images", "rows", "scorers", "annotators", "regional", "objects",
                 "notes"):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name
    for first, second in ((one.measured, other.measured), ({"": one.reference}, {"": other.reference})):
        assert list(first) == list(second)
        for row in first:
            assert set(first[row]) == set(second[row])
            for label, each in first[row].items():
                assert each.dtype == second[row][label].dtype and each.tobytes() == second[row][label].tobytes()


# --- packing -------------------------------------------------------------------------------------------------


def test_a_packed_state_is_the_same_to_the_last_bit():
    rows = (Row("sum/scale=0.1", "fusion", ("depth", "seg"), "scale", 0.1, same=True), Row("real", "reference"))
    odd = np.array([np.nan, -0.0, np.inf, 1 / 3])
    measured = {
        "sum/scale=0.1": {"depth/depth_rmse, annotator": odd, "features/clip": np.ones((4, 2), np.float32) / 3},
        "real": {"seg/seg_miou": np.arange(24).reshape(4, 3, 2), "clip_score": odd.astype(np.float32)},
    }
    images = tuple(Image(2**63, f"s/{place} ä", "g", place) for place in range(4))
    state = replace(
        make_state(4), images=images, rows=rows, measured=measured, regional=("seg",), notes=("A 'note', and ä.",)
    )
    back = State.unpack(state.pack())
    assert_equal_states(state, back)
    assert back.rows[0].setting == 0.1 and back.images[0].seed == 2**63 and back.rows[0].branches == ("depth", "seg")


def test_tables_of_a_packed_state_are_the_same():
    state = make_state(8)
    for one, other in zip(tables(state), tables(State.unpack(state.pack())), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_state_is_written_and_read_as_it_is_packed(tmp_path):
    state, path = make_state(8), tmp_path / "state.npz"
    with open(path, "wb") as file:
        state.write(file)
    assert path.read_bytes() == state.pack() == make_state(8).pack()  # also without a date
    assert_equal_states(State.read(path), state)
    with np.load(path, allow_pickle=False) as archive:  # any program reads it
        np.testing.assert_array_equal(archive["reference/clip"], state.reference["clip"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="no state of a run"):
        State.read(path)
    with pytest.raises(FileNotFoundError):
        State.read(tmp_path / "none.npz")


def test_damaged_bytes_are_refused():
    content = make_state(4).pack()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, other=np.ones(3))
    for each in (b"", b"hello", content[: len(content) // 2], content[:-40], buffer.getvalue()):
        with pytest.raises(ValueError, match="no state of a run"):
            State.unpack(each)


def test_a_changed_byte_is_refused_or_changes_nothing():
    """An archive has bytes that say nothing (dates, for one); any other is told by a checksum."""
    state = make_state(4)
    content, refused = state.pack(), 0
    for place in range(7, len(content), len(content) // 60):
        spoilt = bytearray(content)
        spoilt[place] ^= 0xFF
        try:
            assert_equal_states(State.unpack(bytes(spoilt)), state)
        except ValueError:
            refused += 1
    assert refused > 20


# --- merging -------------------------------------------------------------------------------------------------


def test_two_parts_of_a_run_are_the_whole_to_the_last_digit():
    whole = make_state(8)
    expected = tables(whole)
    for cut in (1, 4, 7):
        merged = merge([part(whole, range(cut)), part(whole, range(cut, 8))])
        assert_equal_states(merged, whole)
        for one, other in zip(tables(merged), expected, strict=True):
            pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_merging_is_associative_and_one_state_is_itself():
    whole = make_state(12)
    a, b, c = (part(whole, range(start, start + 4)) for start in (0, 4, 8))
    assert_equal_states(merge([merge([a, b]), c]), merge([a, merge([b, c])]))
    assert_equal_states(merge([merge([a, b]), c]), whole)
    assert_equal_states(merge([whole]), whole)


def test_the_order_of_parts_changes_no_value():
    """The draws of the bootstrap follow the order of images; values, and tests that enumerate signs, do not."""
    whole = make_state(8)
    turned = merge([part(whole, range(3, 8)), part(whole, range(3))])
    assert [image.sample for image in turned.images[:5]] == [image.sample for image in whole.images[3:]]
    (metrics, samples, differences), (metrics2, samples2, differences2) = tables(whole), tables(turned)
    keys = ["method", "condition", "metric"]
    np.testing.assert_allclose(metrics.value, metrics2.value, rtol=1e-9)
    assert metrics[keys].equals(metrics2[keys])
    by = ["method", "condition", "metric", "sample"]
    pd.testing.assert_frame_equal(
        samples.sort_values(by, ignore_index=True), samples2.sort_values(by, ignore_index=True), rtol=1e-9
    )
    np.testing.assert_allclose(differences[["value", "p_holm"]], differences2[["value", "p_holm"]], rtol=1e-9)


def test_runs_of_several_seeds_are_pooled_and_samples_stay_clusters():
    first, second = make_state(8, seed=0), make_state(8, seed=1)
    pooled = merge([first, second])
    assert pooled.seeds == [0, 1] and len(pooled.images) == 16
    np.testing.assert_array_equal(pooled.groups, [*range(8), *range(8)])  # the same scenes with other noise
    metrics = Tables(pooled, CONDITIONS, resamples=100, level=0.95).metrics()
    assert set(metrics.seed) == {"0+1"} and set(metrics.query("metric == 'depth_rmse'").n) == {8}
    both = [each.measured["average"]["depth/depth_rmse"].mean() for each in (first, second)]
    value = metrics.query("metric == 'depth_rmse' and method == 'average'").value.item()
    assert value == pytest.approx(np.mean(both), rel=1e-12)


def test_references_of_several_seeds_are_put_together_each_picture_once():
    first, second = make_state(4, seed=0), make_state(4, seed=1)
    other = np.concatenate([first.reference["clip"][:10], np.random.default_rng(9).normal(size=(7, 6))])
    pooled = merge([first, replace(second, reference={"clip": other})])
    rows = {tuple(row) for row in pooled.reference["clip"]}
    assert len(pooled.reference["clip"]) == len(rows) == 37
    assert rows == {tuple(row) for row in np.concatenate([first.reference["clip"], other])}
    assert np.array_equal(merge([first, second]).reference["clip"], first.reference["clip"])


def test_rows_that_not_all_have_are_left_out_and_named():
    first, second = make_state(4, seed=0), make_state(4, seed=1)
    gone = {name: own for name, own in second.measured.items() if name not in ("worse", "average")}
    rows = tuple(row for row in second.rows if row.name in gone)
    pooled = merge([first, replace(second, rows=rows, measured=gone, notes=("One.",))])
    assert [row.name for row in pooled.rows] == [row.name for row in rows] == list(pooled.measured)
    assert pooled.notes == ("One.", "Rows that not all of the pooled runs have are left out: average, worse.")
    assert pooled.baselines == ()  # it was a row that is left out
    changed = tuple(replace(row, branches=("depth",)) if row.name == "better" else row for row in second.rows)
    assert "better" not in merge([first, replace(second, rows=changed)]).measured  # the same name and another method


def test_measurements_that_not_all_have_are_left_out():
    first, second = make_state(4, seed=0), make_state(4, seed=1)
    without = {
        name: {label: each for label, each in own.items() if label != "seconds"}
        for name, own in second.measured.items()
    }
    pooled = merge([first, replace(second, measured=without)])
    assert "seconds" not in pooled.measured["average"] and len(pooled.measured["average"]["clip_score"]) == 8


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("experiment", {"experiment": "another"}),
        ("suite", {"suite": "sd15"}),
        ("scorers", {"scorers": {"clip": "other@2"}}),
        ("annotators", {"annotators": {}}),
        ("regional", {"regional": ("depth",)}),
        ("objects", {"objects": ("seg",)}),
    ],
)
def test_what_cannot_be_pooled_is_a_sentence(what, change):
    with pytest.raises(UserError, match=f"Runs whose {what} differ cannot be pooled"):
        merge([make_state(4), make_state(4, seed=1, **change)])


def test_the_same_image_twice_is_refused():
    whole = make_state(8)
    with pytest.raises(UserError, match="same sample, seed and replicate"):
        merge([part(whole, range(5)), part(whole, range(4, 8))])
    merge([make_state(8, replicates=2), make_state(8, seed=1, replicates=2)])  # replicates are other images


def test_groups_are_numbered_by_their_names():
    state = make_state(4)
    images = tuple(replace(image, group=name) for image, name in zip(state.images, "baab", strict=True))
    np.testing.assert_array_equal(replace(state, images=images).groups, [0, 1, 1, 0])
    np.testing.assert_array_equal(make_state(8, replicates=2).groups, np.repeat(range(4), 2))


def test_a_delta_that_seeds_do_not_agree_on_is_not_known_and_the_row_stays():
    one = make_state(8, seed=0)

    def with_delta(state, delta):
        return replace(
            state, rows=tuple(replace(row, delta=delta) if row.name == "better" else row for row in state.rows)
        )

    for deltas, wanted in (((0.7, 0.7), 0.7), ((0.7, 0.5), None), ((None, 0.7), None)):
        both = merge([with_delta(one, deltas[0]), with_delta(make_state(8, seed=1), deltas[1])])
        assert [row.delta for row in both.rows if row.name == "better"] == [wanted]
        assert not both.notes


def test_a_state_of_an_older_version_is_read_without_a_delta(tmp_path):
    state = make_state(4)
    assert State.unpack(state.pack()).rows == state.rows
    packed = {**vars(state.rows[0])}
    del packed["delta"]
    assert Row(**packed) == state.rows[0]
