import json

import torch

from maxbench.store import stamp
from maxbench.store.artefacts import Store
from maxbench.store.runfolder import RunFolder


def test_a_stamp_is_added_only_when_something_has_changed(tmp_path, monkeypatch):
    folder = RunFolder.open(tmp_path, "run", {}, Store.open(tmp_path / "store"))
    cpu = torch.device("cpu")
    assert stamp.write_stamp(folder, cpu) == []
    assert stamp.write_stamp(folder, cpu) == []
    monkeypatch.setattr(stamp, "package_version", lambda name: "9.9")
    assert stamp.write_stamp(folder, cpu) == ["packages"]
    stamps = json.loads((folder.path / "stamp.json").read_text())
    assert len(stamps) == 2
    assert stamps[0]["packages"]["torch"] == torch.__version__
    assert {"python", "git", "processor", "threads", "date", "maxbench"} <= set(stamps[0])


def test_a_damaged_stamp_says_nothing_and_is_begun_anew(tmp_path):
    folder, cpu = RunFolder.open(tmp_path, "run", {}, Store.open(tmp_path / "store")), torch.device("cpu")
    for damage in ("", "[1]", '{"date": 1}', "\0"):
        (folder.path / stamp.STAMP).write_text(damage)
        assert stamp.write_stamp(folder, cpu) == []
        assert len(json.loads((folder.path / stamp.STAMP).read_text())) == 1


def test_what_is_made_says_by_which_code_and_machine():
    made = stamp.made_by(torch.device("cpu"))
    assert set(made) == {"code", "machine", "torch", "diffusers", "transformers", "pillow"} and all(made.values())
    assert stamp.code_version({"git": {"commit": "a" * 40, "dirty": True}}) == "commit aaaaaaaaaa, dirty"
    assert stamp.code_version({"git": {"commit": "a" * 40, "dirty": False}}) == "commit aaaaaaaaaa"
    assert stamp.code_version({"git": None, "maxbench": "0.1"}) == "maxbench 0.1"
