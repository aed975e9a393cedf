"""Whatever goes wrong in a verb ends in one sentence and an exit code; the tables of kept and of damaged results."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maxbench import __main__
from maxbench.__main__ import main
from maxbench.cli import doctor
from maxbench.errors import Incomplete, UserError
from runs import as_written

RESULTS = Path(__file__).parents[2] / "results"


def fail(error):
    def verb():
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("this, so that."), 2, "maxbench: this, so that."),
        (OSError(errno.ENOSPC, "No space", "a/b.png"), 2, "maxbench: a/b.png: no space is left on the disk; free some"),
        (OSError(errno.EROFS, "Read-only", "a"), 2, "a: the disk is read-only; set output_dir="),
        (PermissionError(errno.EACCES, "Denied", "a"), 2, "a: permission is denied; change its permissions"),
        (OSError(errno.EMFILE, "Many", "a"), 2, "too many files are open; raise the limit with `ulimit -n 4096`"),
        (OSError(errno.EFBIG, "Large"), 2, "the file is larger than is allowed here"),
        (OSError(errno.ENAMETOOLONG, "Long", "a"), 2, "a: a name is too long for this disk"),
        (MemoryError(), 2, "The memory is full; lower runtime.batch_size"),
        (torch.cuda.OutOfMemoryError("CUDA"), 2, "The accelerator's memory is full; lower runtime.batch_size"),
        (KeyboardInterrupt(), 130, "maxbench: stopped"),
        (Incomplete("1 batch left out; run the same command again."), 1, "maxbench: 1 batch left out; run the same"),
        (KeyError("x"), 1, "maxbench failed: KeyError: 'x'; run again with --debug for the traceback"),
        (RuntimeError("two\nlines"), 1, "maxbench failed: RuntimeError: two lines; run again with --debug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_one_sentence_and_a_code(error, code, sentence, capsys):
    assert __main__._guarded(False, fail(error)) == code
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_debug_brings_any_traceback_back():
    with pytest.raises(KeyError):
        __main__._guarded(True, fail(KeyError("x")))


def shell(command: str) -> subprocess.CompletedProcess:
    command = command.replace("maxbench", f"{sys.executable} -m maxbench", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd=RESULTS.parent)


def test_a_reader_that_leaves_early_is_no_error():
    done = shell("maxbench tables results/hed_depth results/seg_depth | head -1")
    assert done.returncode == 0 and done.stdout == "results/hed_depth\n" and done.stderr == ""


@pytest.mark.parametrize("runs", ["results/hed_depth", "results/hed_depth results/seg_depth results/hed_seg"])
def test_an_output_that_is_full_is_a_sentence(runs):
    done = shell(f"maxbench tables {runs} > /dev/full")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "the output cannot be written" in done.stderr


@pytest.mark.parametrize("kept", sorted(path.parent.name for path in RESULTS.glob("*/metrics.csv")))
def test_kept_results_have_their_tables_and_stay_as_they_are(kept, capsys):
    before = (RESULTS / kept / "table.md").stat().st_mtime_ns
    assert main(["tables", str(RESULTS / kept)]) == 0
    assert "samples x" in capsys.readouterr().out
    assert (RESULTS / kept / "table.md").stat().st_mtime_ns == before


DAMAGES = [
    ("metrics.csv", "", "metrics.csv is damaged"),
    ("metrics.csv", b"\xff\xfe\x00", "metrics.csv is damaged"),
    ("metrics.csv", "a,b\n1,2\n", "metrics.csv has no column experiment"),
    ("metrics.csv", None, "has no metrics.csv: it is no finished run"),
    ("config.yaml", None, "config.yaml cannot be read"),
    ("config.yaml", "samples: [", "config.yaml is damaged"),
    ("config.yaml", "samples: 3", "config.yaml is no configuration of a run"),
    ("evaluation.json", "{", "evaluation.json is damaged"),
    ("evaluation.json", '{"joint": 3}', "evaluation.json is damaged"),
    ("differences.csv", "a,b\n1,2\n", "differences.csv has no column baseline"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), DAMAGES)
def test_a_damaged_folder_is_one_sentence_and_hides_no_other(name, content, sentence, tmp_path, capsys):
    damaged = shutil.copytree(RESULTS / "hed_depth", tmp_path / "damaged")
    (damaged / name).unlink()
    if content is not None:
        (damaged / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if "no column" in sentence:  # as a run of another version would write it
        as_written(damaged)
    assert main(["tables", str(damaged), str(RESULTS / "seg_depth")]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and len(said.err.splitlines()) == 1
    assert "results/seg_depth" in said.out and "maxfusion" in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "There is no run 'nowhere'"),
        (["README.md"], "README.md has no metrics.csv"),
        (["--output-dir", "nowhere"], "no finished run in nowhere/"),
    ],
)
def test_what_is_no_run_is_one_sentence(arguments, sentence, capsys):
    assert main(["tables", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_tables_need_no_torch():
    code = (
        "import sys; from maxbench.__main__ import main; main(['tables', 'results/hed_depth']); "
        "assert not {'torch', 'hydra', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=RESULTS.parent)
    assert done.returncode == 0, done.stderr


def test_bfloat16_is_called_slow_where_the_processor_lacks_it(monkeypatch):
    flags = "flags : avx2 avx512f"
    monkeypatch.setattr(Path, "read_text", lambda path: flags)
    assert "set runtime.dtype=float32" in doctor.slow_dtype("bfloat16", "cpu")
    assert doctor.slow_dtype("float32", "cpu") is None and doctor.slow_dtype("bfloat16", "cuda:0") is None
    assert "no instructions for float16" in doctor.slow_dtype("float16", "cpu")
    flags += " avx512_bf16"
    assert doctor.slow_dtype("bfloat16", "cpu") is None and doctor.slow_dtype("float16", "cpu") is not None


def test_doctor_names_damaged_data(tmp_path, capsys):
    from maxbench.miniature.corpus import WORLD_VERSION

    (tmp_path / f"miniature-{WORLD_VERSION}-val-3" / "annotations").mkdir(parents=True)
    (tmp_path / f"miniature-{WORLD_VERSION}-val-4").mkdir()
    (tmp_path / f"miniature-{WORLD_VERSION}-val-4" / "annotations").write_text("no folder")
    main(["doctor", "--data-dir", str(tmp_path), "--output-dir", __file__])
    said = capsys.readouterr().out
    assert said.count("damaged, it has no images") == 2 and "is a file: set output_dir=" in said


@pytest.mark.parametrize("what", ["store", "prune"])
def test_a_store_that_is_not_there_is_one_sentence(what, capsys):
    assert main(["data", what, "--store-dir", "nowhere"]) == 2
    assert "There is no store nowhere" in capsys.readouterr().err
