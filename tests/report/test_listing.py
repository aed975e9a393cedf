"""One line a run: names that mean it, states that are true, and nothing hidden by what is damaged."""

import json
import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
import yaml

from maxbench.report.listing import as_table, listed
from maxbench.report.runs import differing, find
from report.frames import metrics_of

CONFIG = {
    "name": "pairs", "seed": 0, "samples": 40, "replicates": 1, "suite": {"name": "none"}, "output_dir": "runs",
    "methods": {"rule": {"rule": {"delta": 0.7}}, "sum": {"rule": {}}}, "sampler": {"steps": 10},
}  # fmt: skip


def write_run(place, folder, status=None, finished=True, **changes):
    folder = place / folder
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    (folder / "maxbench-run.json").write_text("{}")
    if finished:
        metrics_of({"joint": {"sum": 0.5}}).to_csv(folder / "metrics.csv", index=False)
    if status is not None:
        now = datetime.now().astimezone()
        said = {"at": now.isoformat(), "host": socket.gethostname(), "process": os.getpid(), **status}
        (folder / "run.json").write_text(json.dumps({"images": {}, "status": said}))
    return folder


def test_every_name_that_is_listed_means_its_run(tmp_path):
    write_run(tmp_path, "pairs-none-0a11")
    write_run(tmp_path, "pairs-none-0b22", seed=1)
    write_run(tmp_path, "pairs-none-0c33", samples=80, seed=1)
    write_run(tmp_path, "pairs-none-pooled-9f", seed=[0, 1], pooled=["pairs-none-0a11", "pairs-none-0b22"])
    write_run(tmp_path, "pairs_again-none-0d44", name="pairs_again")
    runs = listed(tmp_path)
    assert [find([each.name], tmp_path) for each in runs] == [[each.folder] for each in runs]
    names = {each.run: each.name for each in runs}
    assert names["pairs-none-0a11"] == "pairs:seed=0" and names["pairs_again-none-0d44"] == "pairs_again"
    assert names["pairs-none-0c33"] == "pairs:samples=80" and names["pairs-none-pooled-9f"] == "pairs:seed=0+1"
    assert find(["0b2"], tmp_path) == [tmp_path / "pairs-none-0b22"]  # by its last digits


@pytest.mark.parametrize("method", [{"rule": {"delta": 0.5}}, {"rule": {"delta": 0.7}, "scale": 2}])
def test_what_a_run_differs_in_is_told_and_places_are_not(tmp_path, method):
    write_run(tmp_path, "pairs-none-0a")
    write_run(tmp_path, "pairs-none-0b", output_dir="elsewhere", methods={**CONFIG["methods"], "rule": method})
    one, other = listed(tmp_path)
    assert len(other.differs) == 1 and set(other.differs) < {"methods.rule.rule.delta", "methods.rule.scale"} | {"x"}
    assert one.delta == "0.7" and other.delta == f"{method['rule']['delta']:g}"


def test_a_method_that_only_one_has_is_one_difference():
    more = {**CONFIG, "methods": {**CONFIG["methods"], "new": {"rule": {"delta": 0.1}, "scale": 3}}}
    assert differing([CONFIG, more]) == ["methods"]
    assert differing([CONFIG, {**more, "name": "other"}]) == ["name"]


def test_many_deltas_are_their_ends(tmp_path):
    methods = {"rule": {"rule": {"delta": 0.7}, "vary": {"rule.delta": [-1, 0, 0.5, 1]}}}
    write_run(tmp_path, "pairs-none-0a", methods=methods)
    assert listed(tmp_path)[0].delta == "-1 to 1 (4)"


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_states_are_true(tmp_path):
    ago = (datetime.now().astimezone() - timedelta(hours=2)).isoformat()
    cases = {
        "a": ({"state": "finished"}, True, "finished"), "b": ({"state": "stopped"}, False, "stopped"),
        "c": ({"state": "failed", "why": "UserError: no"}, False, "failed"),
        "d": ({"state": "running", "work": "sum", "done": 1, "total": 4}, False, "running"),
        "e": ({"state": "running", "process": dead_process()}, False, "lost"),
        "f": ({"state": "running", "host": "another", "at": ago}, False, "lost"),
        "g": ({"state": "running", "host": "another"}, False, "running"),
        "h": ({"state": "finished"}, False, "damaged"),  # its tables are gone
        "i": (None, True, "finished"), "j": (None, False, "begun"),
    }  # fmt: skip
    for name, (status, finished, _) in cases.items():
        write_run(tmp_path, f"{name}-none-0a", status, finished, name=name)
    runs = {each.experiment: each for each in listed(tmp_path)}
    assert {name: each.state for name, each in runs.items()} == {name: wanted for name, (*_, wanted) in cases.items()}
    assert runs["c"].why == "UserError: no" and runs["d"].why == "sum 1 of 4" and "go on" in runs["e"].why
    assert all(each.bytes > 0 and each.at is not None for each in runs.values())


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "metrics.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", b"{}", b"name: 3"])
def test_a_damaged_run_is_a_line_and_hides_no_other(tmp_path, name, content):
    broken = write_run(tmp_path, "broken-none-0a", {"state": "finished"}, name="broken")
    write_run(tmp_path, "pairs-none-0b")
    (broken / name).write_bytes(content)
    runs = {each.run: each for each in listed(tmp_path)}
    assert runs["pairs-none-0b"].state == "finished"
    if (name, content) == ("run.json", b"{}"):  # of an older version
        assert runs["broken-none-0a"].state == "finished"
    else:
        assert runs["broken-none-0a"].state == "damaged" and name in runs["broken-none-0a"].why


def test_a_folder_that_is_no_run_is_no_line(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "paper-none").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert listed(tmp_path) == [] and listed(tmp_path / "nowhere") == []


def test_programs_get_every_column(tmp_path):
    write_run(tmp_path, "pairs-none-0a")
    write_run(tmp_path, "pairs-none-0b", seed=1)
    table = as_table(listed(tmp_path))
    assert table.run.tolist() == ["pairs-none-0a", "pairs-none-0b"] and table.seed.tolist() == ["0", "1"]
    assert table.differs.tolist() == ["seed=0", "seed=1"] and table.samples.tolist() == [40, 40]
