import json
import os

import pytest

from maxbench.errors import UserError
from maxbench.store.runfolder import RunFolder, code_fingerprint, fingerprint, write_atomically


@pytest.fixture
def folder(tmp_path):
    return RunFolder.open(tmp_path, "run", {"a": 1})


def test_a_batch_is_finished_only_while_its_files_are_what_was_written(folder):
    files = {"images/m/1.png": b"one", "images/m/2.png": b"two"}
    assert folder.finished("images/m", 0, list(files)) is None
    folder.commit("images/m", 0, files, [{"defect": None}, {"defect": "black"}])
    assert [record.defect for record in folder.finished("images/m", 0, list(files))] == [None, "black"]
    assert folder.finished("images/m", 0, ["images/m/1.png"]) is None
    (folder.path / "images/m/2.png").write_bytes(b"tw")
    assert folder.finished("images/m", 0, list(files)) is None
    folder.commit("images/m", 0, files)
    (folder.path / "images/m/1.png").unlink()
    assert folder.finished("images/m", 0, list(files)) is None


def test_a_damaged_record_is_an_unfinished_batch(folder):
    folder.commit("images/m", 0, {"x.png": b"x"})
    record = folder.path / "records/images/m/00000.json"
    record.write_text(record.read_text()[:-5])
    assert folder.finished("images/m", 0, ["x.png"]) is None


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 17)
    assert path.read_text() == "old"


def test_a_folder_is_reopened_by_its_own_run_alone(tmp_path):
    first = RunFolder.open(tmp_path, "run", {"a": 1})
    (first.path / "images").mkdir()
    (first.path / ".x.png.12.partial").write_bytes(b"")  # another worker's
    (first.path / ".y.png.13.partial").write_bytes(b"")  # a dead worker's
    os.utime(first.path / ".y.png.13.partial", (0, 0))
    assert RunFolder.open(tmp_path, "run", {"a": 1}) == first
    assert [path.name for path in first.path.glob(".*.partial")] == [".x.png.12.partial"]
    with pytest.raises(UserError, match="another run"):
        RunFolder.open(tmp_path, "run", {"a": 2})


def test_foreign_places_are_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder.open(tmp_path, "run", {})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output_dir="):
        RunFolder.open(tmp_path / "file", "run", {})
    with pytest.raises(UserError, match="is a file"):
        RunFolder.open(tmp_path, "file", {})


def test_a_fingerprint_is_of_values_not_of_their_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(json.dumps(fingerprint({}))) == 66


def test_code_is_what_it_does(tmp_path):
    path = tmp_path / "rule.py"

    def of(text):
        path.write_text(text)
        return code_fingerprint([path])

    plain = of("def f(x):\n    return x + 1\n")
    assert of('"""Doc."""\n\n\ndef f(x):\n    """Says."""\n    return (x + 1)  # why\n') == plain
    assert of("def f(x):\n    return x + 2\n") != plain
