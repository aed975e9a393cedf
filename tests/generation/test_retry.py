"""Pictures that a smaller dtype leaves NaN or black are made once more in float32."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from maxbench import images as im
from maxbench.__main__ import main
from maxbench.models.pipeline import Pipeline
from maxbench.store.artefacts import Store
from maxbench.store.runfolder import RunFolder
from runs import counted, digests, only_run

METHODS = ("none", "average")


@pytest.fixture(scope="module")
def overflowing():
    """Latents of some noises overflow in everything but float32; yields the settings (which noises, to what)."""
    settings = {"share": 0.0, "value": torch.inf, "always": False}
    original = Pipeline.denoise

    def denoise(pipeline, noise, *rest):
        made = original(pipeline, noise, *rest).clone()
        if pipeline.dtype != torch.float32 or settings["always"]:
            made[noise.flatten(1).mean(1) > settings["share"]] = settings["value"]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "denoise", denoise)
        yield settings


@pytest.fixture(scope="module")
def half(small_run, overflowing):
    left = ("single", "sum", "outputs_only", "maxfusion", "maxfusion_published")
    return [
        *small_run, *(f"~methods.{name}" for name in left), "baseline=average", "samples=6", "pairing.reference=4",
        "sampler.steps=1", "runtime.batch_size=3", "runtime.dtype=bf16",
    ]  # fmt: skip


def run(arguments, output, *more) -> Path:
    assert main(["run", *arguments, f"output_dir={output}", *more]) == 0
    return only_run(output)


@pytest.fixture(scope="module")
def retried(half, tmp_path_factory) -> Path:
    """A run in bfloat16 of which some pictures had to be made again."""
    return run(half, tmp_path_factory.mktemp("retried"))


@pytest.fixture(scope="module")
def exact(half, tmp_path_factory) -> Path:
    """The same run in float32."""
    return run(half, tmp_path_factory.mktemp("exact"), "runtime.dtype=fp32")


@pytest.fixture(scope="module")
def sound(half, overflowing, tmp_path_factory) -> Path:
    """The same run in bfloat16 where nothing overflows."""
    overflowing["share"] = torch.inf
    try:
        return run(half, tmp_path_factory.mktemp("sound"))
    finally:
        overflowing["share"] = 0.0


def details(folder: Path) -> dict[str, dict]:
    """File -> what its record says, of every picture of a method."""
    records = [
        json.loads(path.read_text())["value"] for path in sorted((folder / "records" / "images").rglob("*.json"))
    ]
    return {each["file"]: each["details"] for record in records for each in record}


def test_what_overflowed_is_the_picture_of_float32_and_the_rest_is_untouched(retried, exact, sound):
    assert retried.name == sound.name != exact.name
    mine, in_float32, in_half = (digests(folder / "images") for folder in (retried, exact, sound))
    known = {file.removeprefix("images/"): each for file, each in details(retried).items()}
    again = {file for file, each in known.items() if "retried" in each}
    assert 2 <= len(again) < len(mine) == 12
    assert {file: mine[file] for file in again} == {file: in_float32[file] for file in again}
    others = mine.keys() - again
    assert {file: mine[file] for file in others} == {file: in_half[file] for file in others}
    assert all(in_float32[file] != in_half[file] for file in mine)  # else nothing is shown here


def test_a_record_says_what_was_seen_first_and_only_where_something_was(retried, exact):
    for each in details(retried).values():
        assert each["defect"] is None
        assert ("retried" in each) == ("retried_for" in each)
        assert (each.get("retried"), each.get("retried_for")) in ((None, None), ("float32", "nan"))
    assert not any("retried" in each for each in details(exact).values())  # its pictures are in float32 already


def test_every_method_s_number_is_in_the_tables_and_in_a_sentence(retried, exact):
    per_method = {
        name: sum("retried" in each for file, each in details(retried).items() if file.startswith(f"images/{name}/"))
        for name in METHODS
    }
    metrics = pd.read_csv(retried / "metrics.csv")
    own = metrics[metrics.metric == "retried"].set_index("method").value
    assert own.to_dict() == per_method
    said = ", ".join(f"{name} {count}" for name, count in per_method.items())
    sentence = f"Images of 6 that were NaN or black and were made again in float32: {said}."
    assert sentence in (retried / "table.md").read_text()
    assert sentence in json.loads((retried / "evaluation.json").read_text())["value"]["notes"]
    assert metrics[metrics.metric == "defects"].value.sum() == 0
    assert "again in float32" not in (exact / "table.md").read_text()
    assert "retried" not in set(pd.read_csv(exact / "metrics.csv").metric)


def test_nothing_is_made_twice_when_the_run_is_given_again(half, retried):
    before = digests(retried)
    assert run(half, retried.parent) == retried
    assert digests(retried) == before and all(count["made"] == 0 for count in counted(retried).values())


def test_a_run_that_stopped_goes_on_to_the_same_bytes(half, retried, tmp_path, monkeypatch):
    kept, keep = [], RunFolder.keep

    def failing(folder, kind, *rest, **more):
        if kind == "image" and len(kept) == 4:  # within the second batch
            raise KeyboardInterrupt
        kept.extend([kind] * (kind == "image"))
        return keep(folder, kind, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "keep", failing)
        assert main(["run", *half, f"output_dir={tmp_path}"]) == 130
    assert len(kept) == 4
    assert digests(run(half, tmp_path)) == digests(retried)


def test_a_defect_that_stays_is_marked_and_not_made_a_third_time(half, retried, overflowing, tmp_path):
    shutil.copytree(retried.parent, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "store" / "image")
    shutil.rmtree(tmp_path / retried.name)
    overflowing.update(value=torch.nan, always=True)
    try:
        folder = run(half, tmp_path)
        assert counted(folder)["images"]["made"] == 12
        bad = [each for each in details(folder).values() if each["defect"] is not None]
        assert bad and all((each["defect"], each["retried"], each["retried_for"]) == ("nan", "float32", "nan")
                           for each in bad)  # fmt: skip
        assert pd.read_csv(folder / "metrics.csv").query("metric == 'defects'").value.sum() == len(bad)
        assert run(half, tmp_path) == folder and counted(folder)["images"]["made"] == 0
    finally:
        overflowing.update(value=torch.inf, always=False)


def test_a_defect_that_an_older_version_kept_is_made_again(half, retried, tmp_path):
    shutil.copytree(retried.parent, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / retried.name
    records = [json.loads(path.read_text())["value"] for path in (folder / "records" / "images").rglob("*.json")]
    entry = next(each for record in records for each in record if "retried" in each["details"])
    old = {**entry["details"], "defect": "nan"}
    old.pop("retried"), old.pop("retried_for")
    black = im.encode_png(np.zeros((64, 64, 3), np.uint8))
    (folder / entry["file"]).unlink()
    Store(tmp_path / "store").keep("image", entry["key"], black, old)
    assert run(half, tmp_path) == folder and counted(folder)["images"]["made"] == 1
    assert digests(folder) == digests(retried)


@pytest.mark.gpu
def test_on_a_gpu_in_float16_too(half, tmp_path):
    settings = [each for each in half if not each.startswith(("runtime.device", "runtime.dtype"))]
    folder = run(settings, tmp_path, "runtime.device=cuda", "runtime.dtype=fp16")
    again = [each for each in details(folder).values() if "retried" in each]
    assert 2 <= len(again) < 12 and all(each["defect"] is None for each in details(folder).values())
    assert all(each["peak_memory"] > 0 for each in details(folder).values())
