"""A run on several workers is the run of one process, whatever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maxbench.__main__ import main
from runs import counted, digests, only_run

pytestmark = pytest.mark.ray
pytest.importorskip("ray", reason="Ray is not installed: pip install 'maxbench[ray]'")

SETTINGS = [  # uneven batches: 4 + 4 + 4 + 2
    "samples=14", "pairing.reference=8", "sampler.steps=12", "runtime.threads=1", "runtime.batch_size=4",
]  # fmt: skip
AWAY = ("seconds", "warm_up", "peak_memory")  # what a method costs is no metric


def start(arguments: list[str], output: Path, workers: int) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "maxbench",
        "run",
        *arguments,
        f"output_dir={output}",
        f"runtime.workers={workers}",
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )  # a group of its own, as a terminal gives it


def processes(name: str) -> list[int]:
    """Those of Ray that are called so, and belong to no other Ray on this machine."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if name in (place / "cmdline").read_bytes().decode(errors="replace").split("\0")[0]:
                found.append(int(place.name))
        except OSError:
            pass
    return [each for each in found if each not in FOREIGN]


FOREIGN: list[int] = []


@pytest.fixture(autouse=True, scope="module")
def foreign():
    """Processes of others, which are neither to be killed nor to be waited for."""
    FOREIGN.extend(processes("ray"))
    yield
    FOREIGN.clear()


def wait_for(output: Path, running: subprocess.Popen, images: int) -> None:
    """Until some images of this invocation are made."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert running.poll() is None, running.stdout.read()
        for file in output.glob("*/run.json"):
            status = json.loads(file.read_text()).get("status", {})
            ours = status.get("process") == running.pid and status.get("work") == "generating"
            if ours and status["done"] >= images:
                return
        time.sleep(0.1)
    pytest.fail("nothing was made in five minutes")


def nothing_is_left(names: tuple[str, ...] = ("raylet", "gcs_server", "ray::Worker"), seconds: float = 20) -> None:
    """What computes is gone in seconds; two agents of Ray's own take a minute to see that their node is gone."""
    until = time.monotonic() + seconds
    while left := [each for name in names for each in processes(name)]:
        if time.monotonic() > until:
            pytest.fail(f"processes of Ray are left: {left}")
        time.sleep(0.2)


def metrics(folder: Path) -> pd.DataFrame:
    table = pd.read_parquet(folder / "samples.parquet")
    return table[~table.metric.isin(AWAY)].drop(columns=[each for each in AWAY if each in table])


@pytest.fixture(scope="module")
def settings(small_run) -> list[str]:
    return [*small_run, *SETTINGS]


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    assert main(["run", *settings, f"output_dir={output}"]) == 0
    return only_run(output)


def same(folder: Path, alone: Path) -> None:
    assert digests(folder) == digests(alone)
    own, other = metrics(folder), metrics(alone)
    pd.testing.assert_frame_equal(own, other, check_exact=True)
    assert len(own) > 100 and np.isfinite(own.value).any()


def test_a_worker_that_is_killed_changes_no_byte_and_no_metric(settings, alone, tmp_path):
    running = start(settings, tmp_path, 2)
    wait_for(tmp_path, running, 4)
    os.kill(processes("ray::Worker")[0], signal.SIGKILL)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    assert "a worker died (deaths in all: 1); it is started again" in said
    same(only_run(tmp_path), alone)
    assert counted(only_run(tmp_path))["images"] == counted(alone)["images"] == {"made": 112, "found": 0}
    assert "2 of 2 workers busy" in (only_run(tmp_path) / "run.log").read_text()
    nothing_is_left()


def test_a_driver_that_is_killed_or_stopped_leaves_no_process_and_is_continued(settings, alone, tmp_path):
    to_group = os.killpg  # as a terminal sends Ctrl-C
    for ended, images, send in ((signal.SIGKILL, 4, os.kill), (signal.SIGINT, 1, to_group)):
        running = start(settings, tmp_path, 3)
        wait_for(tmp_path, running, images)
        send(running.pid, ended)
        said, _ = running.communicate(timeout=60)
        assert running.returncode == (-9 if ended == signal.SIGKILL else 130), said
        assert "Traceback" not in said
        nothing_is_left()
    status = json.loads((only_run(tmp_path) / "run.json").read_text())["status"]
    assert status["state"] == "stopped"
    running = start(settings, tmp_path, 2)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    same(only_run(tmp_path), alone)
    made = counted(only_run(tmp_path))["images"]
    nothing_is_left(("ray::",), 90)
    assert made["made"] + made["found"] == 112 and 0 < made["made"] <= 107  # the first lost none of the five or more


KILLER = """
import os
from maxbench.fusion import Average

class Killer(Average):
    def merge(self, features):
        if "KILLS" in os.environ:
            os._exit(1)
        return super().merge(features)
"""


@pytest.mark.slow
def test_a_batch_that_kills_its_workers_is_named_and_left_out_and_made_by_a_later_run(settings, tmp_path, monkeypatch):
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    rest = [each for each in settings if not each.startswith(("samples", "runtime.batch_size"))]
    mine = ["+methods.mine.rule._target_=killer.Killer", "methods.mine.sites=[]"]
    few = [*rest, *mine, "samples=2", "runtime.batch_size=2"]  # one batch of every method
    monkeypatch.setenv("KILLS", "1")
    running = start(few, tmp_path / "runs", 2)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 1 and "Traceback" not in said, said
    assert "mine" in said.splitlines()[-1] and "run the same command again" in said.splitlines()[-1]
    made = counted(only_run(tmp_path / "runs"))["images"]
    monkeypatch.delenv("KILLS")
    running = start(few, tmp_path / "runs", 1)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    assert counted(only_run(tmp_path / "runs"))["images"] == {"made": 2, "found": made["made"]}
    nothing_is_left()


def test_a_finished_run_does_not_start_ray(settings, alone, capsys):
    assert main(["run", *settings, f"output_dir={alone.parent}", "runtime.workers=2"]) == 0
    said = capsys.readouterr()
    assert "nothing to do" in said.err and "Ray" not in said.err
