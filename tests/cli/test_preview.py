"""The first pairs of an experiment as a sheet, before anything is generated and without a diffusion model."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.photographs import write_photographs
from maxbench.__main__ import main
from maxbench.cli.preview import preview
from maxbench.data.coco import coco_images
from maxbench.data.pairing import ObjectOnScene
from maxbench.images import read_images, to_bytes
from maxbench.report.pictures import LIGHT, SILENT
from maxbench.report.preview import GAP, LARGE, MARGIN, ORANGE


def cells(path, columns, rows):
    """The cells of a sheet, (rows, columns, LARGE, LARGE, 3): their left edges are known, their tops are found."""
    with Image.open(path) as opened:
        drawn = np.asarray(opened.convert("RGB")).astype(int)
    filled = (drawn[:, MARGIN : MARGIN + LARGE] != 255).any(-1).mean(1) > 0.5
    tops, place = [], 0
    while place <= len(filled) - LARGE:
        if filled[place : place + LARGE].all():
            tops.append(place)
            place += LARGE
        place += 1
    assert len(tops) == rows
    lefts = [MARGIN + place * (LARGE + GAP) for place in range(columns)]
    return np.stack(
        [np.stack([drawn[top : top + LARGE, left : left + LARGE] for left in lefts]) for top in tops]
    )  # fmt: skip


def share(cell, colour):
    return (np.abs(cell - colour) <= 4).all(-1).mean()


@pytest.fixture
def own(small_suite, tmp_path):
    """Settings of a preview of photographs by random annotators; no part of the diffusion model is there."""
    root = write_photographs(tmp_path / "coco")
    suite = shutil.copytree(small_suite, tmp_path / "suite")
    for part in ("unet", "vae", "text_encoder", "controlnet_hed", "controlnet_depth"):
        shutil.rmtree(suite / part)
    return [
        "data=coco", f"data.root={root}", "data.calibration_share=0", f"suite.root={suite}", "samples=4",
        "pairing.reference=2", f"output_dir={tmp_path / 'runs'}", "runtime.batch_size=4", "runtime.device=cpu",
    ]  # fmt: skip


def test_contradictory_pairs_are_drawn_as_they_will_be_given(own, tmp_path, capsys):
    words = ["experiment=contradictory_hed_depth", *own, "--pairs", "3"]
    assert main(["data", "preview", *words]) == 0
    path = tmp_path / "runs" / "preview-contradictory_hed_depth.png"
    assert f"preview: {path}" in capsys.readouterr().out
    drawn = cells(path, 4, 3)  # picture, hed, picture, depth
    images = coco_images(tmp_path / "coco", calibration_share=0)
    plan = ObjectOnScene(reference=2).plan(images, ["hed", "depth"], 4, seed=0)
    for sample, (first, hed, second, depth) in zip(plan.samples, drawn, strict=False):
        mask = sample.control_masks["hed"].mask(images, LARGE)
        silent = (np.abs(hed - SILENT) <= 4).all(-1)
        assert (silent == ~mask).mean() > 0.95 and share(depth, SILENT) < 0.01  # given inside the object alone
        assert share(first, LIGHT) > 0.005 and share(second, ORANGE) > 0.003  # borders
        for cell, image in ((first, sample.sources["hed"]), (second, sample.sources["depth"])):
            picture = to_bytes(read_images([images.picture(image).path], LARGE))[0]
            assert np.abs(picture - cell).mean() < 15  # the suite's 64 pixels, larger, with a line in it


def test_maps_and_masks_stay_in_the_store_and_are_found(own, tmp_path, capsys):
    words = ["experiment=contradictory_hed_depth", *own]
    assert main(["data", "preview", *words]) == 0
    store = tmp_path / "runs" / "store"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.png")}
    assert {path.parents[1].name for path in before} == {"source", "map", "mask"}
    capsys.readouterr()
    assert main(["data", "preview", *words]) == 0
    assert "maps" not in capsys.readouterr().err  # nothing is drawn again
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*.png")}
    assert not list((store / "runs").iterdir())  # no folder of ours is left behind


def test_annotators_draw_without_tf32(own):
    """As in a run: the store gives it these maps, and their keys say nothing of TF32."""
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's own default
    assert main(["data", "preview", "experiment=contradictory_hed_depth", *own, "--pairs", "1"]) == 0
    assert not torch.backends.cudnn.allow_tf32


def test_a_run_s_maps_are_found(finished_run, small_run, tmp_path, capsys):
    store = shutil.copytree(finished_run.parent / "store", tmp_path / "store")
    count = len(list(store.rglob("*.png")))
    settings = [*small_run, f"output_dir={tmp_path}", f"store_dir={store}", "--output", str(tmp_path / "a.png")]
    assert preview(settings) == 0
    assert len(list(store.rglob("*.png"))) == count
    assert cells(tmp_path / "a.png", 3, 6).shape[0] == 6  # the run's samples, both maps from one picture


def test_missing_annotators_leave_cells_that_say_so(own, tmp_path, capsys):
    shutil.rmtree(tmp_path / "suite" / "annotators")
    words = ["experiment=contradictory_hed_depth", *own, "condition@conditions.depth=canny"]
    # canny is arithmetic: under the name of depth it needs no weights
    assert main(["data", "preview", *words, "--pairs", "2", "--output", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out
    assert "no maps of hed: The suite 'miniature' has no 'annotators'" in said
    drawn = cells(tmp_path / "a.png", 4, 2)
    assert (drawn[:, 1] >= 100).all() and share(drawn[0, 1], (238, 238, 240)) > 0.8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Say which experiment to run"),
        (["experiment=hed_dept"], "did you mean 'hed_depth'?"),
        (["experiment=hed_depth", "--pairs", "0"], "--pairs is 0; it must be a whole number from 1 to 64"),
        (["experiment=hed_depth", "--pairs", "x"], "rgument --pairs"),
        (["experiment=hed_depth", "--output", "a.jpg"], "--output is a.jpg; give a file that ends with .png"),
        (["experiment=hed_depth", "--config-dir", "nowhere"], "--config-dir is nowhere, which is no folder"),
        (["experiment=hed_depth", "data=coco", "data.root=nowhere"], "There is no COCO in nowhere: it lacks annot"),
        (["experiment=hed_depth", "data=folder", "data.root=nowhere"], "There is no folder nowhere"),
        (["experiment=hed_depth", "data=folder"], "data.root has no value"),
        (["experiment=hed_depth", "data=coco", "data.part=all"], "data.part is 'all'; it must be evaluation or calib"),
        (["experiment=hed_depth", "data=coco", "data.count=3"], "There is no setting 'data.count'"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert main(["data", "preview", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_help_is_there(capsys):
    assert main(["data", "preview", "--help"]) == 0
    assert "--pairs N" in capsys.readouterr().out
