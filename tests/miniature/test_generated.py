"""Written runs whose numbers are known beforehand, read by what reads finished runs."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from maxbench.errors import UserError
from maxbench.evaluation.state import State
from maxbench.metrics.statistics import Interval
from maxbench.miniature.annotators import HEADS, OUTPUTS
from maxbench.miniature.bars import bars_of, bars_table
from maxbench.miniature.generated import (
    RECOGNISED,
    agreement_on,
    control_fidelity_of,
    equal_size,
    frechet_draws,
    quality_of_pictures,
    read_run,
    require_same_weights,
    share_closed,
    text_fidelity,
    write_untrained,
)
from maxbench.miniature.quality import Measure
from maxbench.miniature.world import CLASSES, VISIBLE
from maxbench.models.files import digest_of
from maxbench.store.files import read_sealed, seal

SAMPLES, REFERENCE, WIDTH = 24, 12, 4
METHODS = ("none", "single/hed", "single/depth")
ROLES = {
    "real": ("reference", ""), "vae_reconstruction": ("reference", ""), "none": ("none", ""),
    "single/hed": ("single", "hed"), "single/depth": ("single", "depth"),
}  # fmt: skip
FIDELITY = {
    "shuffled": 0.1,
    "none": 0.2,
    "single/hed": 0.5,
    "single/depth": 0.3,
    "vae_reconstruction": 0.8,
    "real": 0.9,
}


def write_run(folder, weights, shift=0.0, scorer="clip@1", seed=0):
    """A finished run: features of `none` lie `shift` from real ones, those of every control half as far."""
    generator = np.random.default_rng(seed)
    real = generator.normal(size=(SAMPLES + REFERENCE, WIDTH))
    rows = {"real": real[:SAMPLES], "vae_reconstruction": real[:SAMPLES] + 0.1}
    rows |= {name: generator.normal(size=(SAMPLES, WIDTH)) + shift / (1 + (name != "none")) for name in METHODS}
    arrays = {f"measured/{name}//features/clip": features.astype(np.float32) for name, features in rows.items()}
    np.savez(folder / "state.npz", **arrays, **{"reference/clip": real[SAMPLES:].astype(np.float32)})
    metrics = [
        {"method": row, "role": role, "branches": branches, "parameter": None, "setting": None, "metric": metric,
         "protocol": "12 reference images", "value": 7.0, "low": 6.0, "high": 8.0, "n": SAMPLES, "scorer": scorer}
        for row, (role, branches) in ROLES.items()
        for metric in ("fd_clip", "clip_score")
    ]  # fmt: skip
    pd.DataFrame(metrics).to_csv(folder / "metrics.csv", index=False)
    samples = []
    noise = generator.normal(size=SAMPLES) * 0.02
    for metric, sign in (("hed_ssim", 1), ("depth_rmse", -1)):  # an error falls where a similarity rises
        for row, level in FIDELITY.items():
            for name, by in ((metric, "maps@2"), (f"{metric}_by_annotator", "annotators@3")):
                gain = 1 if by == "maps@2" else 1.5
                values = sign * (gain * level + noise) + (sign < 0) * 9
                numbers = [f"{number:03d}" for number in range(SAMPLES)]
                fields = {"sample": numbers, "method": row, "condition": metric.split("_")[0], "metric": name}
                fields |= {"protocol": "p", "scorer": by}
                samples.append(pd.DataFrame({**fields, "value": values}))
    pd.concat(samples).to_parquet(folder / "samples.parquet", index=False)
    for method in METHODS:
        (folder / "images" / method).mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / method / f"{number}.png")
    prompts = ("a red box on grass", "two red boxes on grass", "a red box and a cone on grass")
    said = [{"id": f"{number}", "prompt": prompts[number % 3]} for number in range(SAMPLES)]
    (folder / "manifest.json").write_text(json.dumps({"samples": said}))
    config = {
        "samples": SAMPLES, "replicates": 1, "seed": 4, "suite": {"resolution": 64},
        "sampler": {"steps": 20, "guidance_scale": 3.0}, "runtime": {"dtype": "float32"},
    }  # fmt: skip
    known = {part: digest_of(weights / part) for part in ("vae", "scorers/clip")}
    (folder / "maxbench-run.json").write_text(seal({"config": config, "weights": known}))
    return folder


@pytest.fixture(scope="module")
def trained(small_suite, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("trained"), small_suite, shift=1.0)


@pytest.fixture(scope="module")
def untrained(small_suite, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("untrained"), small_suite, shift=6.0)


def test_pictures_stand_between_the_floor_and_the_anchor(trained, untrained):
    measures = quality_of_pictures(read_run(trained), read_run(untrained), draws=20)
    distance = {each.part: each.interval for each in measures if each.measure.startswith("FD-CLIP at N")}
    assert {interval.n for interval in distance.values()} == {equal_size(SAMPLES, REFERENCE)} == {18}
    assert distance["real"].value < distance["single/hed"].value < distance["none"].value < distance["untrained"].value
    assert all(interval.low <= interval.value <= interval.high for interval in distance.values())
    way = {each.part: each.interval.value for each in measures if each.measure.startswith("share")}
    assert way["real"] == 1 and way["untrained"] == 0 and 0 < way["none"] < way["single/hed"] < 1
    assert {each.interval.value for each in measures if each.measure == "FD-CLIP of the run"} == {7.0}
    alone = {each.part for each in quality_of_pictures(read_run(trained), draws=2)}
    assert alone == {"real", "vae_reconstruction", *METHODS}


def test_a_picture_is_never_held_against_its_own_source():
    generator = np.random.default_rng(1)
    real, reference = generator.normal(size=(20, 3)), generator.normal(size=(10, 3))
    distances = frechet_draws({"real": real, "copies": real.copy()}, reference, draws=5)
    assert np.array_equal(distances["copies"], distances["real"])  # else copies would look better than real pictures
    assert distances["real"].min() > 0 and len(set(distances["real"])) == 5


def test_runs_that_cannot_be_compared_are_refused(trained, small_suite, tmp_path):
    other = write_run(tmp_path, small_suite, scorer="clip@2")
    with pytest.raises(UserError, match=r"differ in scorer \(clip@1, clip@2\)"):
        quality_of_pictures(read_run(trained), read_run(other))


def test_the_share_closed_is_1_for_the_ceiling_and_0_for_no_control():
    generator = np.random.default_rng(2)
    none, ceiling = generator.normal(0, 1, 200), generator.normal(4, 1, 200)
    for values, share in ((ceiling, 1), (none, 0)):
        interval = share_closed(values, none, ceiling)
        assert interval.value == interval.low == interval.high == share and interval.n == 200
    middle = generator.normal(2, 1, 200)
    interval = share_closed(middle, none, ceiling)
    assert interval.low < 0.5 < interval.high and interval.high - interval.low < 0.2
    mirrored = share_closed(-middle, -none, -ceiling)
    assert mirrored.value == pytest.approx(interval.value)


def test_control_fidelity_is_reported_by_the_scorer_and_then_by_the_annotator(trained):
    found = control_fidelity_of(read_run(trained))
    assert [(each.condition, each.scorer) for each in found] == [
        ("hed", "maps@2"), ("hed", "annotators@3"), ("depth", "maps@2"), ("depth", "annotators@3"),
    ]  # fmt: skip
    hed, _, depth, _ = found
    assert list(hed.ends) == ["shuffled", "none", "single", "vae_reconstruction", "real"]
    assert hed.closed.value == pytest.approx(0.5) and depth.closed.value == pytest.approx(1 / 6)
    assert depth.ends["single"].value > depth.ends["vae_reconstruction"].value  # an error
    measures = [each for control in found for each in control.measures()]
    assert ("single/depth", "depth_rmse", "by maps@2", "lower") in {
        (each.part, each.measure, each.on, each.better) for each in measures
    }


def test_an_observer_agrees_with_itself(trained):
    def look(images):
        kinds = torch.stack([(images[:, 0] * 9 + number).sin() for number in range(11)], dim=1)
        return torch.cat([images.mean(1, keepdim=True), images[:, :1], kinds], dim=1)

    measures = agreement_on(read_run(trained), {"annotator": look, "scorer": look})
    assert {each.on for each in measures} == set(METHODS)
    perfect = {"depth": 0, "mIoU": 100, "edge": 1}
    for each in measures:
        assert each.interval.value == pytest.approx(perfect[each.measure.split()[0]], abs=1e-3) and each.interval.n == 3


def seeing(kind, pixels):
    """A scorer that sees a solid of a kind in the upper left corner, and sky everywhere else."""

    def look(images):
        output = torch.zeros(len(images), OUTPUTS, 64, 64)
        logits = output[:, HEADS["seg"]]
        logits[:, CLASSES.index("sky")] = 1
        logits[:, CLASSES.index(kind), 0, :pixels] = 2
        return output

    return look


@pytest.mark.parametrize(("kind", "pixels", "value"), [("box", VISIBLE, 100), ("cone", 40, 0), ("box", VISIBLE - 1, 0)])
def test_a_kind_is_recognised_where_the_prompt_names_one_solid(trained, kind, pixels, value):
    measures = text_fidelity(read_run(trained), seeing(kind, pixels))
    assert [each.part for each in measures] == list(METHODS)  # this run has no real pictures
    assert {(each.interval.value, each.interval.n) for each in measures} == {(value, 1)}


def test_bars_are_decided_by_what_was_measured(trained):
    run = read_run(trained)
    measures = [
        Measure("annotator", "mIoU x100 of solids", "renderings", Interval(61.0, 55.0, 66.0, 9), "higher"),
        Measure("annotator", "mIoU x100 of solids", "VAE reconstructions", Interval(1.0, 1.0, 1.0, 9), "higher"),
        Measure("none", RECOGNISED, "", Interval(69.9, 60.0, 80.0, 9), "higher"),
        *quality_of_pictures(run, draws=2),
    ]
    bars = bars_of(measures, control_fidelity_of(run))
    assert [(bar.what.split(",")[0], bar.met) for bar in bars] == [
        ("annotator", True), ("none", False), ("none", False), ("single/depth", False), ("single/hed", False),
    ]  # fmt: skip
    floor = next(each.interval for each in measures if each.part == "real" and each.measure.startswith("FD-CLIP at"))
    assert bars[2].aim == pytest.approx(1.3 * floor.high) and bars[2].better == "lower"
    hed = bars[-1]
    assert hed.aim == 0.85 and hed.interval.value == pytest.approx(0.5)  # by the scorer, not by the annotator
    table = bars_table(bars)
    assert "| annotator, mIoU x100 of solids, renderings | ≥ 60 | 61.0 [55.0, 66.0] | 9 | yes |" in table
    assert table.count("**no**") == 4


def test_an_untrained_family_differs_in_its_unet_alone(small_suite, tmp_path):
    write_untrained(small_suite, tmp_path / "one", seed=5)
    write_untrained(small_suite, tmp_path / "two", seed=5)
    names = {entry.name for entry in small_suite.iterdir()}
    assert {entry.name for entry in (tmp_path / "one").iterdir()} == names
    assert all((tmp_path / "one" / name).resolve() == small_suite / name for name in names - {"unet"})
    one, two, trained = (
        UNet2DConditionModel.from_pretrained(root / "unet", torch_dtype=torch.float16).state_dict()
        for root in (tmp_path / "one", tmp_path / "two", small_suite)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv_in.weight"], trained["conv_in.weight"])
    with pytest.raises(UserError, match="not empty"):
        write_untrained(small_suite, tmp_path / "one", seed=5)


def test_a_run_is_finished_and_of_the_same_family_or_refused(trained, small_suite, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"lacks maxbench-run\.json, manifest\.json, metrics\.csv, samples\.parquet, state\.npz;"
    ):
        read_run(tmp_path)
    require_same_weights(read_run(trained), small_suite, digest_of, "no matter")
    with pytest.raises(UserError, match=r"another vae than the one in .*; take the other\."):
        require_same_weights(read_run(trained), tmp_path, digest_of, "take the other")
    copy = shutil.copytree(trained, tmp_path / "run")
    (copy / "maxbench-run.json").write_bytes((copy / "maxbench-run.json").read_bytes()[:-3])
    with pytest.raises(UserError, match=r"maxbench-run\.json is damaged"):
        read_run(copy)
    shutil.copy(trained / "maxbench-run.json", copy)
    (copy / "state.npz").write_bytes((copy / "state.npz").read_bytes()[:-99])
    with pytest.raises(UserError, match=r"state\.npz has no CLIP features of real"):
        quality_of_pictures(read_run(copy), draws=2)
    pd.read_csv(copy / "metrics.csv").drop(columns="role").to_csv(copy / "metrics.csv", index=False)
    with pytest.raises(UserError, match="has no column role: it is of an older version"):
        read_run(copy)


def test_a_finished_run_is_read_as_it_was_left(finished_run, small_suite):
    run = read_run(finished_run)
    require_same_weights(run, small_suite, digest_of, "no matter")
    assert run.identity == read_sealed(finished_run / "maxbench-run.json") and run.settings["samples"] == 6
    assert run.methods == ["none", "single/hed", "single/depth"]
    assert run.singles == {"hed": "single/hed", "depth": "single/depth"}
    found = control_fidelity_of(run)
    assert [(each.condition, each.metric, each.method) for each in found[::2]] == [
        ("hed", "hed_ssim", "single/hed"), ("depth", "depth_rmse", "single/depth"),
    ]  # fmt: skip
    assert "scorers/maps" in found[0].scorer and "annotators" in found[1].scorer
    by_annotator = run.metrics[(run.metrics.metric == "hed_ssim_by_annotator") & (run.metrics.method == "single/hed")]
    assert found[1].ends["single"].value == pytest.approx(by_annotator.value.iloc[0])
    assert {each.part for each in quality_of_pictures(run, draws=2)} == {"real", "vae_reconstruction", *run.methods}
    state = State.unpack((finished_run / "state.npz").read_bytes())  # the features are the run's own
    assert np.array_equal(run.features("reference"), state.reference["clip"])
    assert np.array_equal(run.features("single/hed"), state.measured["single/hed"]["features/clip"])


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command():
    path = Path(__file__).parents[2] / "scripts" / "measure_miniature.py"
    spec = importlib.util.spec_from_file_location("measure_miniature", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_writes_a_page_and_a_table(command, trained, untrained, small_suite, tmp_path):
    places = ["--weights", str(small_suite), "--folder", str(tmp_path), "--output", str(tmp_path / "out")]
    runs = ["--run", str(trained), "--untrained", str(untrained)]
    assert command.main([*places, "--scenes", "4", *runs]) == 0
    text = (tmp_path / "out" / "quality.md").read_text()
    for word in (
        "PSNR",
        "FD-CLIP at N = 18 ↓",
        "untrained (bad anchor)",
        "by",
        "maps@2",
        "annotators@3",
        "share closed",
    ):
        assert word in text
    assert "{" not in text
    table = pd.read_csv(tmp_path / "out" / "quality.csv")
    assert list(table.columns) == ["part", "measure", "value", "low", "high", "n", "better"]
    assert not table.duplicated(["part", "measure"]).any()


def test_a_mistake_is_one_sentence_and_code_2(command, small_suite, tmp_path, capsys):
    assert command.main(["--weights", str(small_suite), "--run", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("measure_miniature: ") and "nowhere" in said and len(said.splitlines()) == 1
