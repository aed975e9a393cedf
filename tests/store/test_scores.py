"""Measurements of pictures: they come back exactly, and what is damaged is unknown."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maxbench.store.files import read_sealed, seal, write_atomically
from maxbench.store.scores import SPARSE, Scores, _array, _plain

SUBJECT = "ab" + "0" * 62
DTYPES = arrays.floating_dtypes() | arrays.integer_dtypes() | arrays.unsigned_integer_dtypes() | arrays.boolean_dtypes()


def same(one, two):
    """Dtype, shape and every bit, also of a NaN."""
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


@given(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))
def test_any_array_comes_back_exactly_also_through_a_file(array):
    said = _plain(array)
    assert same(_array(said), array)
    assert same(_array(json.loads(json.dumps(said))), array)


@given(
    arrays.arrays(st.sampled_from(["<i8", ">i4", "<u2", "u1"]), (11, 11), elements=st.integers(0, 100), fill=st.just(0))
)
def test_a_confusion_comes_back_exactly(array):
    assert same(_array(_plain(array)), array)


def test_what_is_mostly_zero_is_kept_as_its_few_numbers():
    counts = np.zeros((150, 150), np.int64)
    counts[3, 5], counts[149, 149] = 7, 2**62
    said = _plain(counts)
    assert "bytes" not in said and said["values"] == [7, 2**62] and len(json.dumps(said)) < 200
    assert same(_array(said), counts)
    dense = np.arange(1, 101)
    dense[: int(100 * (1 - SPARSE)) - 1] = 0  # one more than the share
    assert "bytes" in _plain(dense) and same(_array(_plain(dense)), dense)
    assert "bytes" in _plain(np.zeros(8))  # of numbers with a fraction every bit is kept: 0 is not -0


def test_arrays_that_lie_otherwise_in_memory_come_back():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (array.T, array[::2, 1::3], np.asfortranarray(array), array[0, 0]):
        assert np.array_equal(_array(_plain(view)), view) and _array(_plain(view)).shape == view.shape


@pytest.fixture
def scores(tmp_path):
    return Scores(tmp_path)


def test_measurements_are_added_to_what_is_known(scores):
    assert scores.of(SUBJECT) == {}
    scores.add(SUBJECT, {"one": np.array([1.5, np.nan]), "two": np.asarray(3.0)})
    scores.add(SUBJECT, {"three": np.eye(9, dtype=np.int32), "two": np.asarray(4.0)})  # measured anew: the last counts
    known = scores.of(SUBJECT)
    assert set(known) == {"one", "two", "three"} and known["two"] == 4
    assert same(known["one"], np.array([1.5, np.nan])) and same(known["three"], np.eye(9, dtype=np.int32))
    assert scores.of("cd" + "0" * 62) == {}  # another picture's
    assert [path.name for path in scores.path.rglob("*.*")] == [f"{SUBJECT}.json"]


@given(st.data())
def test_a_damaged_file_is_unknown_as_a_whole(tmp_path_factory, data):
    scores = Scores(tmp_path_factory.mktemp("scores"))
    scores.add(SUBJECT, {"one": np.array([1.5, 2.5]), "two": np.eye(5, dtype=int)})
    content = bytearray(scores.file(SUBJECT).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    scores.file(SUBJECT).write_bytes(content)
    assert scores.of(SUBJECT) == {}
    scores.add(SUBJECT, {"one": np.array([1.5])})  # and is begun anew
    assert set(scores.of(SUBJECT)) == {"one"}


@pytest.mark.parametrize(
    "said",
    [
        [], 3, {"one": None}, {"one": {}}, {"one": {"dtype": "f8", "shape": [3], "bytes": ""}},
        {"one": {"dtype": "no dtype", "shape": [0], "bytes": ""}},
        {"one": {"dtype": "<i8", "shape": [2], "places": [5], "values": [1]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_whole_file_of_another_kind_is_unknown(scores, said):
    write_atomically(scores.file(SUBJECT), seal(said))
    assert scores.of(SUBJECT) == {}
    scores.add(SUBJECT, {"two": np.asarray(1.0)})
    assert scores.of(SUBJECT) == {"two": 1}
    assert read_sealed(scores.file(SUBJECT)) is not None


def test_the_scores_of_another_picture_are_not_believed(tmp_path):
    book = Scores(tmp_path)
    one, two = "a" * 64, "b" * 64
    book.add(one, {"k": np.array(1.0)})
    book.add(two, {"k": np.array(2.0)})
    first, second = book.file(one).read_bytes(), book.file(two).read_bytes()
    book.file(one).write_bytes(second)
    book.file(two).write_bytes(first)
    assert book.of(one) == book.of(two) == {}
