"""Pictures made elsewhere as rows of an experiment, and everything that can be wrong with a folder of them."""

import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxbench.__main__ import main
from maxbench.generation.export import sealed
from maxbench.store.files import read_sealed
from runs import counted, digests, only_run


def manifest_of(export):
    return json.loads((export / "manifest.json").read_text())


def enter(pictures, export, name, output=None):
    words = ["--images", str(pictures), "--manifest", str(export / "manifest.json"), "--name", name]
    return main(["evaluate", *words, *([] if output is None else ["--output-dir", str(output)])])


def png(array, mode=None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "PNG") if mode else Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def picture(seed: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def entered(pictures, exported, tmp_path_factory) -> Path:
    """The output folder of an experiment of which nothing was run, with pictures entered as `mine`."""
    output = tmp_path_factory.mktemp("entered")
    assert enter(pictures, exported, "mine", output) == 0
    return output


@pytest.fixture
def own(pictures, tmp_path) -> Path:
    """The pictures, to be spoilt."""
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


@pytest.fixture
def files(exported) -> list[str]:
    return [each["file"] for each in manifest_of(exported)["images"]]


def test_only_what_q_needs_is_made_and_the_row_joins_every_table(entered, pictures):
    folder = only_run(entered)
    made = {str(each.parent.relative_to(folder / "images")) for each in (folder / "images").rglob("*.png")}
    assert made == {"none", "single/depth", "single/hed"}
    assert counted(folder)["images"]["made"] == 12
    metrics = pd.read_csv(folder / "metrics.csv")
    row = metrics[metrics.method == "mine"]
    assert set(row.role) == {"entered"} and row.branches.isna().all()
    assert {"fd_clip", "clip_score", "hed_ssim", "depth_rmse", "defects"} <= set(row.metric)
    assert not {"seconds", "unet_evaluations", "control_scale"} & set(row.metric)
    samples = pd.read_parquet(folder / "samples.parquet").query("method == 'mine'")
    assert len(samples[samples.metric == "clip_score"]) == 4
    table = (folder / "table.md").read_text()
    assert "| mine (entered) |" in table and "Without pictures, and so without rows: average, sum" in table
    # the run holds the very files, and a record of them
    assert {path.name: path.read_bytes() for path in (folder / "entered" / "mine").iterdir()} == {
        path.name: path.read_bytes() for path in pictures.iterdir()
    }
    assert {each["kind"] for each in read_sealed(folder / "records" / "entered" / "mine.json")} == {"entered"}


def test_a_row_is_scored_like_the_run_s_own(seeded, exported, tmp_path, lean):
    """The pictures of `sum`, entered, have the numbers of `sum` and a difference of nothing at all."""
    output = tmp_path / "runs"
    shutil.copytree(seeded, output)
    words = ["hed_depth", *lean, f"output_dir={output}", "--output", str(tmp_path / "export")]
    assert main(["export", *words]) == 0
    folder = next(path for path in output.glob("hed_depth-miniature-*/images") if _seed(path.parent) == 0).parent
    assert enter(folder / "images" / "sum", tmp_path / "export", "same") == 0
    metrics = pd.read_csv(folder / "metrics.csv").set_index(["metric", "condition"])
    one, other = (metrics[metrics.method == name] for name in ("sum", "same"))
    shared = other.index
    np.testing.assert_array_equal(one.loc[shared, ["value", "low", "high"]], other[["value", "low", "high"]])
    assert counted(folder)["images"]["made"] == 0 and counted(folder)["scores"]["made"] == 0
    differences = pd.read_csv(folder / "differences.csv").set_index(["metric", "condition"])
    pair = [differences[differences.method == name].value for name in ("sum", "same")]
    np.testing.assert_array_equal(*pair)
    # a later run of the same experiment lists it again, and scoring the run anew changes nothing
    before = {name: (folder / name).read_bytes() for name in ("metrics.csv", "differences.csv", "samples.parquet")}
    assert main(["run", "experiment=hed_depth", *lean, f"output_dir={output}"]) == 0
    assert main(["evaluate", str(folder)]) == 0
    assert {name: (folder / name).read_bytes() for name in before} == before


def _seed(run: Path) -> int:
    return json.loads(json.dumps(read_sealed(run / "maxbench-run.json")))["config"].get("seed")


def test_entering_again_replaces_and_pruning_keeps(entered, pictures, exported, tmp_path, files, capsys):
    output = tmp_path / "runs"
    shutil.copytree(entered, output)
    others = tmp_path / "others"
    shutil.copytree(pictures, others)
    (others / files[0]).write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    (others / files[1]).write_bytes(png(np.full((64, 64, 3), 9, np.uint8)))
    assert enter(others, exported, "mine", output) == 0
    captured = capsys.readouterr()
    assert (
        "entered as 'mine' before are replaced" in captured.err
        and "2 of 4 pictures are black or of one" in captured.out
    )
    folder = only_run(output)
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics[(metrics.method == "mine") & (metrics.metric == "defects")].value.item() == 2
    assert main(["data", "prune", "--yes", "--store-dir", str(output / "store")]) == 0
    shutil.rmtree(folder / "entered")
    assert main(["evaluate", str(folder)]) == 0  # the store has them
    assert {path.name: path.read_bytes() for path in (folder / "entered" / "mine").iterdir()} == {
        path.name: path.read_bytes() for path in others.iterdir()
    }
    shutil.rmtree(folder / "entered")
    shutil.rmtree(output / "store" / "entered")
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "4 of the entered pictures 'mine' are lost" in said and len(said.splitlines()) == 1
    assert enter(pictures, exported, "mine", output) == 0  # as it says
    (folder / "records" / "entered" / "mine.json").write_text("{}")
    assert main(["evaluate", str(folder)]) == 2
    assert "record of the entered pictures 'mine' is damaged" in capsys.readouterr().err
    assert enter(pictures, exported, "mine", output) == 0


def spoilt_checksum(content: bytes) -> bytes:
    """The same picture with a wrong checksum of its data, which decoders pass over."""
    place = content.index(b"IDAT")
    length = struct.unpack(">I", content[place - 4 : place])[0]
    end = place + 4 + length
    return content[:end] + struct.pack(">I", zlib.crc32(content[place:end]) ^ 1) + content[end + 4 :]


def replaced(content):
    return lambda folder, file: (folder / file).write_bytes(content)


def renamed(change):
    return lambda folder, file: (folder / file).rename(folder / change(file))


def added(name, content=b"x"):
    return lambda folder, file: (folder / name.format(file=file, stem=Path(file).stem)).write_bytes(content)


def jpeg(folder, file):
    Image.open(folder / file).save(folder / Path(file).with_suffix(".jpg"))
    (folder / file).unlink()


def linked_nowhere(folder, file):
    (folder / file).unlink()
    (folder / file).symlink_to(folder / "gone.png")


def piped(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)


WRONG = {
    "missing": (lambda folder, file: (folder / file).unlink(), "1 missing ({file})"),
    "foreign": (added("notes.txt"), "1 that belong to no image (notes.txt)"),
    "of another sample": (added("other-0.png", png(picture(0))), "1 that belong to no image (other-0.png)"),
    "a subfolder": (lambda folder, file: (folder / "more").mkdir(), "1 that belong to no image (more/)"),
    "a folder for a file": (
        lambda folder, file: ((folder / file).unlink(), (folder / file).mkdir()), "1 that are no files ({file})"
    ),
    "a pipe": (piped, "1 that are no files ({file})"),
    "doubled": (added("{stem}.PNG", png(picture(1))), "1 doubled ("),
    "doubled as JPEG": (added("{stem}.jpg"), "1 doubled ("),
    "JPEG": (jpeg, "1 not PNG (JPEG and resizing shift distances such as FID"),
    "JPEG called PNG": (replaced(b"\xff\xd8\xff\xe0" + b"x" * 99), "no PNG, whatever its name says"),
    "capitals": (renamed(lambda file: Path(file).stem + ".PNG"), ".PNG, it must be {file}"),
    "a broken link": (linked_nowhere, "1 that cannot be read ({file}: No such file"),
    "empty": (replaced(b""), "1 that cannot be read ({file}: empty)"),
    "cut off": (
        lambda folder, file: (folder / file).write_bytes((folder / file).read_bytes()[:200]), "1 that cannot be read ("
    ),
    "the signature alone": (replaced(b"\x89PNG\r\n\x1a\n"), "{file}: cut off"),
    "a wrong checksum": (replaced(spoilt_checksum(png(picture(2)))), "1 that cannot be read ("),
    "another size": (replaced(png(picture(3, 32))), "1 of another size than 64 x 64 ({file}: 32 x 32)"),
    "16 bits": (
        replaced(png(np.arange(4096, dtype=np.uint16).reshape(64, 64))),
        "1 other than 8-bit RGB ({file}: 16-bit grayscale)",
    ),
    "RGBA": (replaced(png(picture(4), "RGBA")), "({file}: 8-bit RGB with alpha)"),
    "grayscale": (replaced(png(picture(4), "L")), "({file}: 8-bit grayscale)"),
    "a palette": (replaced(png(picture(4), "P")), "({file}: 8-bit palette)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_what_is_wrong_with_a_folder_is_named_before_anything_is_made(mistake, own, exported, files, tmp_path, capsys):
    spoil, sentence = WRONG[mistake]
    spoil(own, files[2])
    assert enter(own, exported, "mine", tmp_path / "runs") == 2
    said = capsys.readouterr().err.splitlines()
    assert sentence.format(file=files[2]) in said[-1] and said[-1].startswith("maxbench: ")
    assert not any("Traceback" in line for line in said) and not (tmp_path / "runs").exists()


def test_many_mistakes_are_counted_and_a_few_are_named(own, exported, files, tmp_path, capsys):
    for file in files:
        (own / file).unlink()
    for number in range(5):
        (own / f"x{number}.png").write_bytes(b"")
    (own / ".DS_Store").write_bytes(b"the system's")
    assert enter(own, exported, "mine", tmp_path / "runs") == 2
    said = capsys.readouterr().err
    assert "4 missing (" in said and "5 that belong to no image (x0.png; x1.png; x2.png, ...)" in said
    assert "x3.png" not in said and "DS_Store" not in said
    listed = Path(re.search(r"\(all of them are named in (\S+)\)", said).group(1))
    assert len(listed.read_text().splitlines()) == 9 and "belong to no image: x3.png" in listed.read_text()
    listed.unlink()


def test_links_and_files_of_the_system_are_taken_as_they_are_meant(own, exported, files, entered, tmp_path):
    output = Path(shutil.copytree(entered, tmp_path / "runs"))
    (own / files[0]).rename(tmp_path / "kept.png")
    (own / files[0]).symlink_to(tmp_path / "kept.png")
    (own / ".DS_Store").write_bytes(b"the system's")
    assert enter(own, exported, "linked", output) == 0
    kept = only_run(output) / "entered" / "linked" / files[0]
    assert kept.read_bytes() == (tmp_path / "kept.png").read_bytes() and not kept.is_symlink()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sum", "'sum' is a method of this experiment"),
        ("SUM", "'sum' is a method of this experiment"),
        ("Single", "'single' is a method of this experiment"),
        ("Real", "which every run has a row or file of"),
        ("reference", "which every run has a row or file of"),
        ("../mine", "it must be a name"),
        ("a..b", "it must be a name"),
        ("mine/too", "it must be a name"),
        ("", "it must be a name"),
        ("x" * 101, "it must be a name"),
    ],
)
def test_names_that_cannot_be(name, sentence, pictures, exported, tmp_path, capsys):
    assert enter(pictures, exported, name, tmp_path / "runs") == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_name_in_other_capitals_is_refused(pictures, exported, entered, capsys):
    assert enter(pictures, exported, "MINE", entered) == 2
    assert "entered as 'mine' already" in capsys.readouterr().err


def rewritten(change):
    """The manifest changed by somebody who knows how to seal it."""

    def write(path):
        said = json.loads(path.read_text())
        said.pop("sha256")
        change(said)
        path.write_text(sealed(said))

    return write


def edited(path):
    path.write_text(path.read_text().replace('"prompt": "a picture', '"prompt": "a fine picture', 1))


MANIFESTS = {
    "missing": (lambda path: path.unlink(), "There is no manifest"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    "no JSON": (lambda path: path.write_text("{"), "is no JSON"),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is no JSON"),
    "a list": (lambda path: path.write_text("[]"), "is no manifest of an export"),
    "a run's": (lambda path: path.write_text('{"samples": []}'), "is no manifest of an export"),
    "edited": (edited, "was changed after it was exported"),
    "not a number": (
        lambda path: path.write_text(path.read_text().replace('"resolution": 64', '"resolution": NaN')), "was changed"
    ),
    "newer": (rewritten(lambda said: said.update(version=2)), "is of version 2, and this maxbench reads 1"),
    "another prompt": (rewritten(lambda said: said["images"][0].update(prompt="x")), "1 of its 4 images have"),
    "no images": (rewritten(lambda said: said.update(images=[])), "4 of its 4 images have"),
    "another seed": (rewritten(lambda said: said["config"].update(seed=7)), "another prompt, noise or name"),
    "no config": (rewritten(lambda said: said.pop("config")), "has no configuration of a run"),
    "a wrong config": (rewritten(lambda said: said["config"].update(samples="x")), "samples is 'x'"),
    "lost data": (rewritten(lambda said: said["config"]["suite"].update(root="/nowhere")), "cannot be built"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MANIFESTS)
def test_a_manifest_of_anything_else_is_refused(mistake, pictures, exported, tmp_path, capsys):
    spoil, sentence = MANIFESTS[mistake]
    shutil.copyfile(exported / "manifest.json", tmp_path / "manifest.json")
    spoil(tmp_path / "manifest.json")
    assert enter(pictures, tmp_path, "mine", tmp_path / "runs") == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_other_maps_than_were_exported_are_refused(pictures, exported, entered, tmp_path, capsys):
    shutil.copyfile(exported / "manifest.json", tmp_path / "manifest.json")
    rewritten(lambda said: said["maps"].update(depth="0" * 64))(tmp_path / "manifest.json")
    assert enter(pictures, tmp_path, "other", entered) == 2
    assert "The maps of depth are no longer those that were exported" in capsys.readouterr().err
    assert not (only_run(entered) / "entered" / "other").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--images and --manifest and --name is missing"),
        (["--images", "x", "--name", "y"], "--manifest is missing"),
        (["run", "--name", "y"], "leave out --name"),
        (["nowhere"], "There is no run 'nowhere'"),
        (["--images", "nowhere", "--manifest", "nowhere.json", "--name", "y"], "There is no manifest nowhere.json"),
        ([str(Path(__file__).parent)], "it is no run folder of maxbench"),
    ],
)
def test_mistakes_in_the_command_are_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_scored_again_without_a_picture_being_made(seeded, tmp_path, capsys):
    output = Path(shutil.copytree(seeded, tmp_path / "runs"))
    folder = next(path.parent for path in output.glob("*/images") if _seed(path.parent) == 0)
    tables = {name: (folder / name).read_bytes() for name in ("metrics.csv", "samples.parquet", "differences.csv")}
    pictures = digests(folder)
    for name in (*tables, "evaluation.json", "state.npz"):
        (folder / name).unlink()
    shutil.rmtree(output / "store" / "scores")
    assert main(["evaluate", str(folder)]) == 0
    assert {name: (folder / name).read_bytes() for name in tables} == tables and digests(folder) == pictures
    assert "images" not in counted(folder) and counted(folder)["scores"]["made"] > 0
    lost = sorted((folder / "images" / "sum").iterdir())[0]
    lost.unlink()
    assert main(["evaluate", str(folder)]) == 0 and lost.exists()  # the store has it
    lost.unlink()
    shutil.rmtree(output / "store" / "image")
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"1 images of {folder} are missing or changed (images/sum/{lost.name}); run" in said.splitlines()[-1]
    assert not lost.exists()
    (folder / "records" / "images" / "average.json").unlink()
    assert main(["evaluate", str(folder)]) == 2
    assert "the run is not finished; run it again" in capsys.readouterr().err


def start(pictures, export, output, **options):
    words = ["--images", str(pictures), "--manifest", str(export / "manifest.json"), "--name", "mine"]
    command = [sys.executable, "-m", "maxbench", "evaluate", *words, "--output-dir", str(output)]
    return subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_next_command_ends_as_an_unbroken_one(
    pictures, exported, entered, tmp_path
):
    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    process = start(pictures, exported, tmp_path / "runs", preexec_fn=no_large_files)
    said = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 2 and "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("maxbench: ")
    assert not list(tmp_path.rglob("*.partial"))
    assert enter(pictures, exported, "mine", tmp_path / "runs") == 0
    assert digests(only_run(tmp_path / "runs")) == digests(only_run(entered))


@pytest.mark.processes
def test_killed_in_the_middle_and_again(pictures, exported, entered, tmp_path):
    process = start(pictures, exported, tmp_path / "runs")
    record = "*/records/entered/mine.json"
    until = time.monotonic() + 240
    while not list((tmp_path / "runs").glob(record)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert enter(pictures, exported, "mine", tmp_path / "runs") == 0
    done, whole = only_run(tmp_path / "runs"), only_run(entered)
    assert digests(done) == digests(whole)
    assert (done / "samples.parquet").exists() and (done / "table.md").exists()
