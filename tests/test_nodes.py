"""scripts/slurm.sbatch and `ray symmetric-run` for real, on two nodes that are namespaces of this machine; no Slurm.

Ray is in a process namespace of its own, for `ray stop`, with which symmetric-run ends, ends all of a user's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maxbench.__main__ import main
from runs import counted, digests, only_run

pytest.importorskip("ray")
SCRIPT = Path(__file__).parents[1] / "scripts" / "slurm.sbatch"
SPACES = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount"]

# The second node has a network, processes, shared memory and a folder for Ray of its own; a pair of cards joins them.
SRUN = """\
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
unshare --pid --fork --kill-child --mount-proc --net --mount bash -c '
    ip link set lo up
    until ip link show far >/dev/null 2>&1; do sleep .1; done
    ip addr add 10.77.0.2/24 dev far && ip link set far up
    mkdir "$HERE/far" && mount -t tmpfs tmpfs /dev/shm && mount --bind "$HERE/far" "$RAY_TMPDIR" && exec "$@"
' far "$@" &
until inner=$(pgrep -P $!) && ip link set far netns "$inner" 2>/dev/null; do sleep .1; done
"$@"
code=$?
wait
exit $code
"""
GETENT = "#!/bin/sh\necho 10.77.0.1 STREAM here\n"
JOB = """
ip link set lo up
ip link add near type veth peer name far
ip addr add 10.77.0.1/24 dev near && ip link set near up
mount -t tmpfs tmpfs /dev/shm
exec bash "$0" "$@"
"""


def _allowed() -> bool:
    if not all(shutil.which(name) for name in ("unshare", "ip", "pgrep")):
        return False
    tried = [*SPACES, "bash", "-c", "ip link add near type veth peer name far && mount -t tmpfs tmpfs /dev/shm"]
    return subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.slow  # 90 s on two cores that others use
@pytest.mark.ray
def test_two_nodes_make_the_pictures_of_one_process(lean_run, tmp_path):
    if not _allowed():
        pytest.skip("namespaces are not allowed here, or ip (iproute2) or pgrep (procps) is missing")
    programs, output = tmp_path / "bin", tmp_path / "runs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("getent", GETENT)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    scratch = Path(f"/tmp/maxbench-{os.getpid()}-0")
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RAY_"))}
    own |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "1"}
    own |= {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}", "HERE": str(tmp_path)}
    own |= {"PYTHONPATH": str(SCRIPT.parents[1])}
    words = [*lean_run, "runtime.threads=1", "runtime.batch_size=2"]
    assert main(["run", *words, f"output_dir={tmp_path / 'alone'}"]) == 0
    try:
        ended = subprocess.run(
            [*SPACES, "bash", "-c", JOB, SCRIPT, *words, f"output_dir={output}"],
            env=own, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        said = ended.stdout + ended.stderr
        assert ended.returncode == 0, said
        assert "2 workers in the cluster at 10.77.0.1:" in said
        together, alone = only_run(output), only_run(tmp_path / "alone")
        assert counted(together)["images"] == counted(alone)["images"] and digests(together) == digests(alone)
        assert not scratch.exists()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def lean_run(small_run) -> list[str]:
    few = [f"~methods.{name}" for name in ("maxfusion_published", "outputs_only", "average", "sum")]
    return [*small_run, *few, "samples=2", "pairing.reference=8", "baseline=none"]
