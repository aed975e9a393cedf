"""Runs that are disturbed: two at once, a disk that is full, files that are damaged between two commands."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from maxbench.__main__ import main
from runs import all_runs, counted, digests, only_run

pytestmark = pytest.mark.processes
CHEAP = ["samples=3", "~methods.maxfusion_published", "~methods.outputs_only", "~methods.sum"]


@pytest.fixture(scope="module")
def finished(small_run, tmp_path_factory):
    """A finished cheap run; tests copy its output folder."""
    output = tmp_path_factory.mktemp("finished")
    assert main(["run", *small_run, *CHEAP, f"output_dir={output}"]) == 0
    return output


def start(arguments, output, **options):
    command = [sys.executable, "-m", "maxbench", "run", *arguments, *CHEAP, f"output_dir={output}"]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def test_two_of_the_same_run_at_once_both_end_well(finished, small_run, tmp_path):
    both = [start(small_run, tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=400)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert digests(only_run(tmp_path)) == digests(only_run(finished))
    assert not list(tmp_path.rglob("*.partial"))


def test_two_different_runs_at_once_share_a_store(finished, small_run, tmp_path):
    other = [*small_run[1:], "experiment=seg_depth"]
    both = [start(arguments, tmp_path) for arguments in (small_run, other)]
    said = [process.communicate(timeout=400)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    (hed,) = (folder for folder in all_runs(tmp_path) if folder.name.startswith("hed_depth"))
    assert digests(hed) == digests(only_run(finished)) and len(all_runs(tmp_path)) == 2


def test_a_full_disk_is_one_sentence_and_the_next_run_ends_as_an_unbroken_one(finished, small_run, tmp_path):
    def no_large_files():  # as a quota: small files can still be written, the first larger one cannot
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    process = start(small_run, tmp_path, preexec_fn=no_large_files)
    said = process.communicate(timeout=400)[0].decode()
    assert process.returncode == 2 and "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("maxbench: ")
    assert not list(tmp_path.rglob("*.partial"))
    assert main(["run", *small_run, *CHEAP, f"output_dir={tmp_path}"]) == 0
    assert digests(only_run(tmp_path)) == digests(only_run(finished))


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "not UTF-8": lambda content: b"\xff\xfe" + content[2:],
    "empty": lambda content: b"",
    "a list": lambda content: b"[1, 2]",
    "null": lambda content: b"null",
    "of another": lambda content: json.dumps({"sha256": "0" * 64, "value": {"a": 1}}).encode(),
}
FILES = [
    "maxbench-run.json", "config.yaml", "manifest.json", "stamp.json", "references.json", "run.json",
    "evaluation.json", "metrics.csv", "samples.parquet", "differences.csv", "records/images/average.json",
    "records/conditions/hed.json", "state.npz",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_of_a_run_are_made_again(finished, small_run, tmp_path, damage, capsys):
    """All at once, which is worse than each by itself."""
    output = tmp_path / "runs"
    shutil.copytree(finished, output)
    folder = only_run(output)
    before = {file: (folder / file).read_bytes() for file in ("metrics.csv", "differences.csv", "manifest.json")}
    for file in FILES:
        (folder / file).write_bytes(DAMAGE[damage]((folder / file).read_bytes()))
    assert main(["run", *small_run, *CHEAP, f"output_dir={output}"]) == 0, capsys.readouterr().err
    assert counted(folder)["images"]["made"] == 0
    assert {file: (folder / file).read_bytes() for file in before} == before
    assert digests(folder) == digests(only_run(finished))


def test_folders_where_files_belong_are_moved_aside(finished, small_run, tmp_path):
    output = tmp_path / "runs"
    shutil.copytree(finished, output)
    folder = only_run(output)
    picture = sorted((folder / "images/average").glob("*.png"))[0]
    for path in (picture, folder / "metrics.csv", folder / "records/images/average.json", folder / "stamp.json"):
        path.unlink()
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    assert main(["run", *small_run, *CHEAP, f"output_dir={output}"]) == 0
    assert picture.is_file() and (folder / "metrics.csv").is_file()
    assert len(list(folder.rglob("*.aside-*/thesis.tex"))) == 4
