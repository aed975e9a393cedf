"""scripts/slurm.sbatch, with programs of the names that it calls: no Slurm, and no second machine, is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes
SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm.sbatch"

# Each writes down its words and the part of its environment that matters, then does as little as the script needs.
PROGRAM = """\
#!{python}
import json, os, signal, subprocess, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
kept = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "RAY_", "SLURM_")
said = {{"words": words, "environment": {{key: value for key, value in os.environ.items() if key.startswith(kept)}}}}
with open(os.path.join({calls!r}, name), "a") as file:
    file.write(json.dumps(said) + "\\n")
"""
AFTER = {
    "python": """
if os.environ.get("FAKE_SECONDS"):
    print("begun", flush=True)
    try:
        time.sleep(float(os.environ["FAKE_SECONDS"]))
    except KeyboardInterrupt:
        sys.exit(130)
sys.exit(int(os.environ.get("FAKE_CODE", "0")))
""",
    # the head's task alone: it does what `ray symmetric-run` does there, and that exits as the command does
    "ray": """
if os.environ.get("FAKE_RAY") == "does not start":
    sys.exit(0)
sys.exit(subprocess.run(words[words.index("--") + 1 :]).returncode)
""",
    "srun": """
command = next(place for place, word in enumerate(words) if not word.startswith("-"))
code = subprocess.run(words[command:]).returncode
time.sleep(float(os.environ.get("FAKE_OTHER_NODES", "0")))  # that do not end
sys.exit(code)
""",
    "scontrol": "",
    "getent": 'print("127.0.1.1 STREAM here\\n10.20.0.7 STREAM here\\n10.20.0.8 STREAM here")\n',
}


class Cluster:
    """A folder of such programs, first on PATH; calls: what they were called with."""

    def __init__(self, folder: Path, job: int):
        self.bin, self.kept, self.job = folder / "bin", folder / "calls", job
        self.bin.mkdir()
        self.kept.mkdir()
        self.scratch = Path(f"/tmp/maxbench-{job}-0")
        for name, after in AFTER.items():
            program = self.bin / name
            program.write_text(PROGRAM.format(python=sys.executable, calls=str(self.kept)) + after)
            program.chmod(0o755)

    def environment(self, **given) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RAY_", "FAKE_"))}
        path = f"{self.bin}:{own['PATH']}"
        return {**own, "PATH": path, "SLURM_JOB_ID": str(self.job), "SLURM_CPUS_ON_NODE": "16", **given}

    def run(self, *words: str, **given) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", SCRIPT, *words], env=self.environment(**given), capture_output=True, text=True, timeout=60
        )

    def calls(self, name: str) -> list[dict]:
        file = self.kept / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path, 4_000_000_000 + os.getpid())  # a number that no other test, and no Slurm, has
    yield found
    shutil.rmtree(found.scratch, ignore_errors=True)


WORDS = (
    "experiment=hed_depth",
    "suite.weights_dir=/a folder/it's",
    "~methods.sum",
    'name="two words"',
    "samples=$HOME",
)


def test_one_node_runs_the_command_itself(cluster):
    ended = cluster.run(*WORDS, CUDA_VISIBLE_DEVICES="3,5", HF_HOME="/weights", RAY_ADDRESS="elsewhere:6379")
    assert (ended.returncode, ended.stderr) == (0, "")
    (call,) = cluster.calls("python")
    assert call["words"] == ["-m", "maxbench", "run", *WORDS]
    assert call["environment"]["CUDA_VISIBLE_DEVICES"] == "3,5" and call["environment"]["HF_HOME"] == "/weights"
    assert "RAY_ADDRESS" not in call["environment"]
    assert not cluster.calls("srun") and not cluster.calls("ray") and not cluster.scratch.exists()


def test_several_nodes_start_ray_on_each_and_the_command_once(cluster):
    ended = cluster.run(*WORDS, SLURM_JOB_NUM_NODES="4", CUDA_VISIBLE_DEVICES="3,5")
    assert (ended.returncode, ended.stderr) == (0, "")
    (srun,), (ray,), (python,) = (cluster.calls(name) for name in ("srun", "ray", "python"))
    assert {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1", "--cpu-bind=none", "--wait=0"} <= set(srun["words"])
    flags = ray["words"][: ray["words"].index("--")]
    assert flags[0] == "symmetric-run"
    settings = dict(zip(flags[1:5:2], flags[2:5:2], strict=True)) | dict(each.split("=") for each in flags[5:])
    host, _, port = settings["--address"].partition(":")
    assert host == "10.20.0.7", "a loopback address would start a head on every node"
    ports = [int(port), int(settings["--dashboard-agent-listen-port"]), int(settings["--dashboard-port"])]
    assert len(set(ports)) == 3 and all(20000 <= each < 32768 for each in ports)
    assert settings["--min-nodes"] == "4" and settings["--num-cpus"] == "16"
    assert "--include-dashboard" not in settings, "`ray start` takes it on the head alone"
    assert python["words"] == ["-m", "maxbench", "run", *WORDS, f"runtime.address={host}:{port}"]
    assert python["environment"]["CUDA_VISIBLE_DEVICES"] == "3,5"
    for call in (ray, python):
        assert call["environment"]["RAY_AUTH_MODE"] == "token" and len(call["environment"]["RAY_AUTH_TOKEN"]) == 64
    assert len(f"{cluster.scratch}/ray/session_2026-11-24_18-31-27_053715_4194304/sockets/plasma_store.1") <= 107
    assert not cluster.scratch.exists()


def test_jobs_have_ports_and_a_token_of_their_own(tmp_path):
    found, tokens = [], set()
    for number in (70_001, 70_002):
        (tmp_path / str(number)).mkdir()
        own = Cluster(tmp_path / str(number), number)
        assert own.run("experiment=hed_depth", SLURM_JOB_NUM_NODES="2").returncode == 0
        (ray,) = own.calls("ray")
        tokens.add(ray["environment"]["RAY_AUTH_TOKEN"])
        found.append({re.split("[=:]", word)[-1] for word in ray["words"] if "port" in word or ":" in word})
    assert not found[0] & found[1] and len(tokens) == 2


def test_there_are_as_many_processors_as_workers(cluster):
    given = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "1", "SLURM_GPUS_ON_NODE": "8"}
    assert cluster.run("experiment=hed_depth", **given).returncode == 0
    assert "--num-cpus=8" in cluster.calls("ray")[0]["words"]


@pytest.mark.parametrize("nodes", ["1", "3"])
@pytest.mark.parametrize("code", ["1", "2", "137"])
def test_the_exit_code_is_the_runs(cluster, nodes, code):
    assert cluster.run("experiment=hed_depth", SLURM_JOB_NUM_NODES=nodes, FAKE_CODE=code).returncode == int(code)
    assert not cluster.calls("scontrol")


def test_ray_that_does_not_start_is_no_success(cluster):
    ended = cluster.run("experiment=hed_depth", SLURM_JOB_NUM_NODES="3", FAKE_RAY="does not start")
    assert ended.returncode == 1 and "the run did not begin" in ended.stderr and not cluster.calls("python")


@pytest.mark.parametrize("code", ["0", "1"])
def test_nodes_that_do_not_end_are_not_waited_for(cluster, code):
    began = time.monotonic()
    given = {"SLURM_JOB_NUM_NODES": "3", "FAKE_CODE": code, "FAKE_OTHER_NODES": "50"}
    ended = cluster.run("experiment=hed_depth", **given)
    assert (ended.returncode, ended.stderr) == (int(code), "") and time.monotonic() - began < 20


@pytest.mark.parametrize("words", [(), ("suite=sd15",), ("experiment=",), ("name=experiment=x",)])
def test_a_command_without_an_experiment_starts_nothing(cluster, words):
    ended = cluster.run(*words, SLURM_JOB_NUM_NODES="2")
    assert ended.returncode == 2 and "say which experiment" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not list(cluster.kept.iterdir()) and not cluster.scratch.exists()


def test_it_says_that_it_is_for_slurm(cluster):
    ended = cluster.run("experiment=hed_depth", SLURM_JOB_ID="")
    assert ended.returncode == 2 and "sbatch" in ended.stderr and not cluster.calls("python")


@pytest.mark.parametrize("nodes", ["1", "2"])
@pytest.mark.parametrize(
    ("sent", "lives", "requeues", "again"),
    [
        (signal.SIGUSR1, "0", "2", True),
        (signal.SIGUSR1, "2", "2", False),
        (signal.SIGUSR1, "0", "", False),
        (signal.SIGTERM, "0", "2", False),
    ],
)
def test_a_signal_stops_the_run_and_the_time_limit_requeues_it(cluster, nodes, sent, lives, requeues, again):
    given = {"SLURM_JOB_NUM_NODES": nodes, "SLURM_RESTART_COUNT": lives, "FAKE_SECONDS": "50"}
    given |= {"MAXBENCH_REQUEUES": requeues} if requeues else {}
    cluster.scratch = Path(f"/tmp/maxbench-{cluster.job}-{lives}")
    began = time.monotonic()
    with subprocess.Popen(
        ["bash", SCRIPT, "experiment=hed_depth"],
        env=cluster.environment(**given), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        assert job.stdout.readline() == "begun\n"
        job.send_signal(sent)
        _, said = job.communicate(timeout=20)
    assert job.returncode == 130 and time.monotonic() - began < 20
    assert f"{sent.name}: the run is stopped" in said
    assert [call["words"] for call in cluster.calls("scontrol")] == ([["requeue", str(cluster.job)]] if again else [])
    assert ("submit the same command again" in said) == (sent == signal.SIGUSR1 and not again)
