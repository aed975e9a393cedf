import json

import torch

from maxbench.store import stamp
from maxbench.store.runfolder import RunFolder


def test_a_stamp_is_added_only_when_something_has_changed(tmp_path, monkeypatch):
    folder = RunFolder.open(tmp_path, "run", {})
    cpu = torch.device("cpu")
    assert stamp.write_stamp(folder, cpu) == []
    assert stamp.write_stamp(folder, cpu) == []
    monkeypatch.setattr(stamp, "package_version", lambda name: "9.9")
    assert stamp.write_stamp(folder, cpu) == ["packages"]
    stamps = json.loads((folder.path / "stamp.json").read_text())
    assert len(stamps) == 2
    assert stamps[0]["packages"]["torch"] == torch.__version__
    assert {"python", "git", "processor", "threads", "date", "maxbench"} <= set(stamps[0])
