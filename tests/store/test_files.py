"""Files appear whole or not at all, know when they are damaged, and leave nothing behind."""

import errno
import json
import os
import shutil
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxbench.store import files
from maxbench.store.files import (
    STRAY_SECONDS,
    Damaged,
    digest,
    file_digest,
    fingerprint,
    link_or_copy,
    read_sealed,
    seal,
    sweep,
    unseal,
    write_atomically,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


# --- writing -------------------------------------------------------------------------------------------------


def test_a_written_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    for content in ("a text: ü", b"\x00\xff", ""):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [each.name for each in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("held", [None, b"old"])
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_a_full_disk_stops_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, held, failing):
    path = tmp_path / "file"
    if held is not None:
        path.write_bytes(held)
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(files.Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ([] if held is None else ["file"])
    assert held is None or path.read_bytes() == held


def test_what_is_no_content_is_not_written(tmp_path):
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", 17)
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_is_interrupted_leaves_nothing_half_written(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_where_a_file_belongs_is_moved_aside_whole(tmp_path, monkeypatch):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "thesis.tex").write_text("years of work")
    with monkeypatch.context() as patched:  # a write that fails leaves it where it is
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(tmp_path / "file", "new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    (aside,) = (each for each in tmp_path.iterdir() if each.name != "file")
    assert aside.name.startswith("file.aside-") and (aside / "thesis.tex").read_text() == "years of work"


def test_others_may_read_a_file_as_far_as_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # asking for it has not changed it
    finally:
        os.umask(before)


# --- a second name -------------------------------------------------------------------------------------------


def test_a_file_has_a_second_name_where_there_are_links(tmp_path):
    write_atomically(tmp_path / "one", b"content")
    (tmp_path / "two").write_text("another file")
    link_or_copy(tmp_path / "one", tmp_path / "two")
    link_or_copy(tmp_path / "one", tmp_path / "new" / "three")
    assert (tmp_path / "one").samefile(tmp_path / "two") and (tmp_path / "one").samefile(tmp_path / "new" / "three")


def test_writing_a_file_anew_leaves_its_other_names_as_they_were(tmp_path):
    write_atomically(tmp_path / "one", b"content")
    link_or_copy(tmp_path / "one", tmp_path / "two")
    write_atomically(tmp_path / "one", b"changed")
    assert (tmp_path / "two").read_bytes() == b"content"


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_a_file_is_copied_where_there_are_no_links(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "one", b"content")
    (tmp_path / "two").write_text("another file")
    link_or_copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == b"content" and not (tmp_path / "one").samefile(tmp_path / "two")
    assert (tmp_path / "two").stat().st_mode == (tmp_path / "one").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2


def test_a_copy_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", full_disk)
    monkeypatch.setattr(shutil, "copyfile", full_disk)
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    with pytest.raises(OSError, match="No space left"):
        link_or_copy(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "two" and len(list(tmp_path.iterdir())) == 2


def test_what_dead_processes_left_is_removed_and_what_another_writes_now_stays(tmp_path, monkeypatch):
    (tmp_path / "room").mkdir()
    kept = [tmp_path / ".now.partial", tmp_path / "picture.png", tmp_path / "thesis.partial"]
    old = [tmp_path / ".dead.partial", tmp_path / "room" / ".dead.partial"]
    for path in (*kept, *old):
        path.write_text("")
    monkeypatch.setattr("maxbench.store.files.age", lambda path: STRAY_SECONDS + (-60 if "now" in path.name else 60))
    sweep(tmp_path)
    assert all(path.exists() for path in kept) and not any(path.exists() for path in old)


# --- sealed --------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_a_sealed_value_comes_back(value):
    assert unseal(seal(value).encode()) == value


def old_seal(value):
    """As earlier versions sealed it."""
    return json.dumps(json.loads(seal(value)), indent=1)


@given(PLAIN)
def test_what_was_sealed_before_comes_back(value):
    assert unseal(old_seal(value).encode()) == value


@settings(max_examples=300)
@given(PLAIN, st.data(), st.sampled_from((seal, old_seal)))
def test_any_changed_byte_is_noticed(value, data, form):
    content = bytearray(form(value).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Damaged):
        unseal(bytes(content))


@given(PLAIN, st.data())
def test_a_part_of_a_sealed_file_is_damaged(value, data):
    content = seal(value).encode()
    with pytest.raises(Damaged):
        unseal(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(Damaged):
        unseal(content + b"\n")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"value": 1}', b'{"sha256": 1, "value": 1}', b"\xff", b"[" * 100_000]
)
def test_what_was_never_sealed_is_damaged(content):
    with pytest.raises(Damaged):
        unseal(content)


def test_a_missing_or_damaged_file_reads_as_none(tmp_path):
    assert read_sealed(tmp_path / "nowhere") is None and read_sealed(tmp_path) is None
    (tmp_path / "file").write_text(seal({"a": [1, 2.5, None]}))
    assert read_sealed(tmp_path / "file") == {"a": [1, 2.5, None]}
    (tmp_path / "file").write_text('{"a": [1, 2.5, null]}')
    assert read_sealed(tmp_path / "file") is None


# --- digests -------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_values_not_of_their_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert (
        len({fingerprint(each) for each in ({"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.0}, {"a": True}, {"a": [1]})}) == 6
    )
    assert fingerprint([1, 2]) != fingerprint([2, 1]) and fingerprint((1, 2)) == fingerprint([1, 2])
    assert len(fingerprint({})) == 64


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", object(), float("nan"), float("inf")], ids=lambda value: type(value).__name__
)
def test_what_is_no_plain_value_has_no_fingerprint(value):
    with pytest.raises((TypeError, ValueError)):
        fingerprint({"a": value})


def test_a_file_s_digest_is_its_bytes(tmp_path):
    content = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == digest(content) and digest("ü") == digest("ü".encode())


def test_a_link_to_what_is_there_already_leaves_one_name(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"same")
    for _ in range(2):  # the second renames one name of a file to another of the same file, which does nothing
        link_or_copy(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
