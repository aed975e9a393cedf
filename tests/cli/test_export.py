"""What an experiment's export says is enough to make its pictures elsewhere, and what it must not overwrite."""

import hashlib
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from maxbench.__main__ import main
from maxbench.generation import export
from runs import only_run


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def levels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_noise_is_that_of_every_method_and_its_seed_says_how_it_was_drawn(exported):
    said = manifest_of(exported)
    for image in said["images"]:
        words = f"noise/0/{image['sample']}/{image['replicate']}"  # of the first seed; each sample is its own group
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") // 2
        assert image["noise_seed"] == seed
        drawn = torch.randn(said["latent_shape"], generator=torch.Generator().manual_seed(seed)).numpy()
        kept = np.load(exported / image["noise"])
        assert kept.dtype == np.float32 and np.array_equal(kept, drawn)


def test_maps_are_the_run_s_and_hints_what_a_controlnet_is_shown(exported):
    run = only_run(exported.parent / "runs")
    sources = {each.stem.lstrip("0") or "0": each for each in (run / "conditions" / "depth").iterdir()}
    for image in manifest_of(exported)["images"]:
        control = image["controls"]["depth"]
        own = levels(exported / control["map"])
        assert np.array_equal(own, levels(sources[image["sample"].lstrip("0") or "0"]))
        assert np.array_equal(levels(exported / control["hint"]), np.stack([own] * 3, axis=-1))
        assert control["control_mask"] is None
    assert len({path.read_bytes() for path in (exported / "hints" / "hed").iterdir()}) == 4


def test_what_a_condition_does_not_say_is_not_given_away(lean, tmp_path):
    words = ["hed_depth", *lean, "pairing=half_split", "samples=2", f"output_dir={tmp_path / 'runs'}"]
    assert main(["export", *words, "--output", str(tmp_path / "export")]) == 0
    masked = 0
    for image in manifest_of(tmp_path / "export")["images"]:
        for control in image["controls"].values():
            mask = levels(tmp_path / "export" / control["control_mask"])
            assert set(np.unique(mask)) == {0, 255}
            for kind in ("map", "hint"):
                assert not levels(tmp_path / "export" / control[kind])[mask == 0].any()
            masked += 1
    assert masked == 2 * len(manifest_of(tmp_path / "export")["images"])


def test_the_same_export_is_left_as_it_is_and_another_is_refused(exported, lean, capsys):
    words = ["export", "experiment=hed_depth", f"output_dir={exported.parent / 'runs'}", "--output", str(exported)]
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert main([*words, *lean]) == 0
    assert "there already" in capsys.readouterr().out
    assert main([*words, *lean, "seed=1"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before


def test_a_folder_of_somebody_else_and_a_file_are_refused_untouched(lean, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        assert main(["export", "hed_depth", *lean, f"output_dir={tmp_path / 'runs'}", "--output", str(place)]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said and "--output is" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_an_export_that_is_stopped_leaves_nothing_and_the_next_is_whole(lean, tmp_path, monkeypatch):
    written = export.write_atomically
    count = iter(range(100))

    def stopped(path, content):
        if next(count) == 5:
            raise KeyboardInterrupt
        written(path, content)

    words = ["export", "hed_depth", *lean, f"output_dir={tmp_path / 'runs'}", "--output", str(tmp_path / "export")]
    monkeypatch.setattr(export, "write_atomically", stopped)
    assert main(words) == 130
    assert sorted(os.listdir(tmp_path)) == ["runs"]
    monkeypatch.undo()
    os.mkdir(tmp_path / "export")  # empty, so nobody's
    assert main(words) == 0
    assert sorted(os.listdir(tmp_path)) == ["export", "runs"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hed_depth"], "Say where to: --output DIR"),
        (["hed_depth", "seg_depth", "--output", "x"], "several experiments, hed_depth and seg_depth"),
        (["hed_dept", "--output", "x"], "did you mean 'hed_depth'?"),
        (["--output", "x"], "Say which experiment to run"),
        (["hed_depth", "--outptu", "x"], "python -m maxbench export --help"),
        (["hed_depth", "--output"], "python -m maxbench export --help"),
        (["hed_depth", "seed=0,1", "--output", "x"], "several values"),
        (["hed_depth", "samples=none", "--output", "x"], "samples"),
        (["hed_depth", "--config-dir", "nowhere", "--output", "x"], "which is no folder"),
    ],
)
def test_mistakes_in_the_command_are_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())
