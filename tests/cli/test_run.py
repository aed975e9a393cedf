"""The main command on small random models: what it leaves, resumes, mends and refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from maxbench.__main__ import main
from maxbench.cli.build import build
from maxbench.cli.perform import make_evaluation, make_generation, open_folder
from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.store.files import read_sealed, seal, write_atomically
from runs import all_runs, counted, digests, only_run

METHODS = ["none", "single/hed", "single/depth", "average", "sum", "outputs_only", "maxfusion", "maxfusion_published"]


def run(arguments, output, *more) -> Path:
    assert main(["run", *arguments, f"output_dir={output}", *more]) == 0
    return only_run(output)


def made(folder: Path) -> dict[str, int]:
    """What the last invocation has made, by kind, where it was anything."""
    return {kind: count["made"] for kind, count in counted(folder).items() if count["made"]}


def test_a_run_leaves_what_the_contract_names(finished_run):
    for name in (
        "metrics.csv", "samples.parquet", "differences.csv", "table.md", "contact_sheet.png", "config.yaml",
        "stamp.json", "manifest.json", "run.json", "evaluation.json",
    ):  # fmt: skip
        assert (finished_run / name).stat().st_size > 0, name
    for method in METHODS:
        assert len(list((finished_run / "images" / method).glob("*.png"))) == 6
    stamp = json.loads((finished_run / "stamp.json").read_text())[-1]
    assert {"git", "packages", "device", "date"} <= set(stamp)
    assert not list(finished_run.rglob("*.partial"))


def test_metrics_are_tidy_and_complete(finished_run):
    metrics = pd.read_csv(finished_run / "metrics.csv")
    assert {
        "experiment", "method", "role", "branches", "parameter", "setting", "condition", "metric", "protocol", "value",
        "low", "high", "n", "scorer", "seed",
    } <= set(metrics)  # fmt: skip
    assert not metrics.duplicated(["method", "metric", "condition", "protocol"]).any()
    wide = metrics[metrics.metric != "q"].pivot(index="method", columns="metric", values="value")
    assert {*METHODS, "real", "vae_reconstruction", "shuffled"} == set(wide.index)
    assert (
        wide.loc[METHODS, ["fd_clip", "kd_clip", "clip_score", "hed_ssim", "depth_rmse", "seconds"]]
        .notna()
        .all(axis=None)
    )
    by_annotator = wide.loc["real", ["hed_ssim_by_annotator", "depth_rmse_by_annotator"]]
    assert by_annotator.iloc[0] == pytest.approx(1) and by_annotator.iloc[1] == 0  # it drew these maps from these
    assert wide.loc["real", "depth_rmse"] > 0  # the scorer is another network
    assert wide.loc["shuffled", ["hed_ssim", "depth_rmse"]].notna().all()
    assert wide.loc["none", "control_evaluations"] == 0
    assert wide.loc["single/hed", "control_evaluations"] == wide.loc["none", "unet_evaluations"] == 4
    assert wide.loc["maxfusion", "control_evaluations"] == 8
    assert (wide.defects == 0)[METHODS].all()


def test_what_a_row_is_stands_in_columns_and_not_in_its_name_alone(finished_run):
    for name in ("metrics.csv", "samples.parquet"):
        table = pd.read_csv(finished_run / name) if name.endswith("csv") else pd.read_parquet(finished_run / name)
        rows = table.drop_duplicates("method").set_index("method")
        roles = {name: group.index.tolist() for name, group in rows.groupby("role")}
        assert roles.keys() == {"reference", "none", "single", "fusion"}
        assert set(roles["reference"]) == {"real", "vae_reconstruction", "shuffled"} and roles["none"] == ["none"]
        assert rows.branches["single/depth"] == "depth" and rows.branches["maxfusion"] == "hed+depth"
        assert rows.parameter.isna().all() and rows.setting.isna().all()  # nothing varies in this run
        of_fidelity = table[table.metric.isin(["hed_ssim", "depth_rmse"])]
        assert (of_fidelity.condition == of_fidelity.metric.str.split("_").str[0]).all()


def test_sample_rows_add_up_to_the_table(finished_run):
    samples = pd.read_parquet(finished_run / "samples.parquet")
    metrics = pd.read_csv(finished_run / "metrics.csv")
    assert not samples.duplicated(["sample", "replicate", "method", "metric", "condition"]).any()
    for metric in ("depth_rmse", "clip_score", "hed_ssim"):
        means = samples[samples.metric == metric].groupby("method").value.mean()
        table = metrics[metrics.metric == metric].set_index("method").value
        pd.testing.assert_series_equal(means, table, check_like=True, check_names=False, check_index_type=False)
    inside = metrics.dropna(subset=["low"])
    assert ((inside.low <= inside.value + 1e-9) & (inside.value <= inside.high + 1e-9)).all()


def test_differences_are_paired_with_the_baseline(finished_run):
    differences = pd.read_csv(finished_run / "differences.csv")
    values = pd.read_csv(finished_run / "metrics.csv").set_index(["metric", "method"]).value
    assert set(differences.baseline) == {"sum"}  # and the tuned sum, where there is one
    own = differences[differences.metric == "depth_rmse"]
    assert list(own.method) == [name for name in METHODS if name != "sum"]
    for row in own.itertuples():
        assert row.value == pytest.approx(values["depth_rmse", row.method] - values["depth_rmse", "sum"])
    assert set(differences.comparisons) == {differences.p.notna().sum()}  # of every column and method


def test_all_methods_saw_the_same_maps_and_the_maps_are_lossless(finished_run):
    maps = sorted((finished_run / "conditions" / "depth").glob("*.png"))
    assert len(maps) == 6
    with Image.open(maps[0]) as image:
        assert image.mode == "L" and image.size == (64, 64)


def test_a_finished_run_is_left_as_it_is(finished_run, small_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*.png") if path.name != "contact_sheet.png"}
    assert main(["run", *small_run, f"output_dir={finished_run.parent}"]) == 0
    said = capsys.readouterr()
    assert "nothing to do" in said.err and "generating" not in said.err
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert all_runs(finished_run.parent) == [finished_run] and made(finished_run) == {}


@pytest.mark.processes
def test_a_finished_run_is_shown_without_what_makes_pictures(finished_run, small_run):
    """Libraries that take seconds to import are not waited for; a sampler of diffusers' loads diffusers' base alone."""
    words = ["run", *small_run, f"output_dir={finished_run.parent}"]
    slow = ("transformers", "torchvision", "torchmetrics", "matplotlib", "diffusers.models.unets")
    check = (
        "import sys\nfrom maxbench.__main__ import main\n"
        f"code = main({words!r})\nprint([name for name in {slow!r} if name in sys.modules])\nraise SystemExit(code)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing to do" in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_damaged_and_lost_files_are_made_again(finished_run, small_run, tmp_path):
    output = tmp_path / "runs"
    copy = shutil.copytree(finished_run, output / finished_run.name)  # without the store, which the folder fills again
    before = digests(copy)
    broken = sorted((copy / "images" / "maxfusion").glob("*.png"))[2]
    broken.write_bytes(broken.read_bytes()[:100])
    sorted((copy / "conditions" / "hed").glob("*.png"))[0].unlink()
    sorted((copy / "images" / "sum").glob("*.png"))[0].unlink()
    (copy / "metrics.csv").unlink()
    assert run(small_run, output) == copy
    assert digests(copy) == before
    assert (copy / "metrics.csv").exists()
    counts = made(copy)
    assert counts.keys() == {"images", "maps", "scores"}  # scores lie in the store alone
    assert (counts["images"], counts["maps"]) == (2, 1)


def test_what_a_folder_alone_has_lost_is_put_back_and_not_made(finished_run, small_run, tmp_path):
    shutil.copytree(finished_run.parent, tmp_path, dirs_exist_ok=True)
    copy = tmp_path / finished_run.name
    before = digests(copy)
    damaged = sorted((copy / "images" / "maxfusion").glob("*.png"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    shutil.rmtree(copy / "conditions")
    (copy / "records" / "images" / "sum.json").write_text("[]")
    assert run(small_run, tmp_path) == copy
    assert digests(copy) == before and made(copy) == {}


@pytest.mark.processes
@pytest.mark.parametrize("seconds", [0.5, pytest.param(2.0, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(finished_run, small_run, tmp_path, seconds):
    command = [sys.executable, "-m", "maxbench", "run", *small_run, f"output_dir={tmp_path}"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while process.poll() is None and not list(tmp_path.glob("*/images/none/*.png")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = run(small_run, tmp_path)
    assert digests(resumed) == digests(finished_run)


def test_where_and_how_fast_do_not_change_the_name_but_what_does(finished_run, small_run, tmp_path):
    def name(*more):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("main", [*small_run, f"output_dir={tmp_path}", *more])
        return open_folder(build(cfg)).path.name

    assert name() == name("runtime.threads=1") == finished_run.name
    others = ["seed=1", "samples=5", "sampler.steps=3", "methods.maxfusion.rule.delta=0.5"]
    assert len({name(), *(name(other) for other in others)}) == 5


def test_noise_is_the_same_at_another_batch_size(finished_run, small_run, tmp_path):
    other = run(small_run, tmp_path, "runtime.batch_size=3", "~methods.sum", "~methods.outputs_only")
    for path in sorted((finished_run / "images" / "maxfusion").glob("*.png")):
        with Image.open(path) as one, Image.open(other / "images" / "maxfusion" / path.name) as two:
            assert np.abs(np.asarray(one, int) - np.asarray(two, int)).max() <= 1


def test_replicates_differ_and_are_averaged_before_intervals(small_run, tmp_path):
    folder = run(small_run, tmp_path, "replicates=2", "samples=4", "~methods.sum")
    files = sorted((folder / "images" / "average").glob("*.png"))
    assert len(files) == 8 and files[0].read_bytes() != files[1].read_bytes()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics[metrics.metric == "clip_score"].n) == {4}
    assert len(pd.read_parquet(folder / "samples.parquet").query("metric == 'clip_score' and method == 'none'")) == 8


def test_evaluation_refuses_a_run_with_a_doubled_image(finished_run, small_run, tmp_path):
    copy = shutil.copytree(finished_run, tmp_path / finished_run.name)
    record = copy / "records" / "images" / "sum.json"
    rows = read_sealed(record)
    write_atomically(record, seal([*rows[1:], rows[1]]))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*small_run, f"output_dir={tmp_path}"]))
    folder = open_folder(job)
    assert folder.path == copy
    inputs = make_generation(job, folder).sampling.inputs
    inputs.make()
    with pytest.raises(UserError, match=r"images of 'sum'.*1 missing, 1 twice"):
        make_evaluation(job, folder, inputs).run()


def test_a_sweep_makes_one_run_each(small_run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cheap = ["samples=2", *(f"~methods.{name}" for name in ("sum", "outputs_only", "none", "single"))]
    assert main(["run", "-m", *small_run, *cheap, f"output_dir={tmp_path}/runs", "seed=0,1"]) == 0
    assert len(list(tmp_path.glob("runs/*/metrics.csv"))) == 2
    assert not list((tmp_path / "elsewhere").iterdir())  # nothing is left where the user stands


def test_tables_prints_a_finished_run(finished_run, capsys):
    assert main(["tables", str(finished_run)]) == 0
    said = capsys.readouterr().out
    assert "maxfusion" in said and "HED SSIM" in said
    assert main(["tables", "--output-dir", str(finished_run.parent)]) == 0


@pytest.mark.gpu
def test_a_gpu_makes_the_same_pictures_as_the_processor(finished_run, small_run, tmp_path):
    rest = [each for each in small_run if not each.startswith("runtime.device")]
    other = run(rest, tmp_path, "runtime.device=cuda")
    for path in sorted((finished_run / "images" / "maxfusion").glob("*.png")):
        with Image.open(path) as one, Image.open(other / "images" / "maxfusion" / path.name) as two:
            assert np.abs(np.asarray(one, int) - np.asarray(two, int)).mean() < 2
    assert "peak_memory" in set(pd.read_csv(other / "metrics.csv").metric)


@pytest.mark.parametrize("pairing", ["half_split", "object_on_scene"])
def test_pairs_that_contradict_are_given_and_scored_by_region(small_run, tmp_path, pairing):
    left = ("sum", "outputs_only", "maxfusion_published")
    methods = [name for name in METHODS if name not in left]
    settings = [f"pairing={pairing}", "samples=2", "pairing.reference=8", *(f"~methods.{name}" for name in left)]
    low = ["pairing.low=0.02"] if pairing == "object_on_scene" else []
    folder = run(small_run, tmp_path, *settings, *low)
    manifest = json.loads((folder / "manifest.json").read_text())["samples"]
    metrics = pd.read_csv(folder / "metrics.csv")
    wide = metrics[metrics.metric != "q"].pivot(index="method", columns="metric", values="value")
    assert (
        wide.loc[["real", "vae_reconstruction", "shuffled", *methods], ["hed_ssim", "depth_rmse"]]
        .notna()
        .all(axis=None)
    )
    assert metrics.query("metric == 'depth_rmse'").protocol.str.endswith("inside its evaluation mask").all()
    one_source = pairing == "half_split"
    assert wide.loc["real", "fd_clip":"fd_clip"].notna().all() == one_source  # two sources have no one real picture
    for sample in manifest:
        masks = {
            name: np.asarray(Image.open(folder / "evaluation_masks" / name / f"{sample['id']}.png")) > 0
            for name in ("hed", "depth")
        }
        assert np.array_equal(masks["hed"], ~masks["depth"])
    assert set(manifest[0]["control_masks"]) == ({"hed", "depth"} if one_source else {"hed"})
    before = digests(folder)
    assert digests(run(small_run, tmp_path, *settings, *low)) == before


def test_an_adapter_takes_the_place_of_a_controlnet(small_run, finished_run, tmp_path):
    mixed = run(small_run, tmp_path, "suite.controls.hed=t2iadapter_hed")
    metrics = pd.read_csv(mixed / "metrics.csv").query("metric != 'q'")
    metrics = metrics.pivot(index="method", columns="metric", values="value")
    assert metrics.loc["single/hed", "control_evaluations"] == 1  # once per image
    assert metrics.loc["single/depth", "control_evaluations"] == 4
    assert metrics.loc["sum", "control_evaluations"] == 5
    same, other = (digests(mixed / "images" / name) for name in ("single/depth", "single/hed"))
    assert same == digests(finished_run / "images" / "single/depth")
    assert other != digests(finished_run / "images" / "single/hed")


def test_a_single_method_has_a_table_without_differences(small_run, tmp_path):
    only = [f"~methods.{name}" for name in METHODS if "/" not in name and name != "average"]
    folder = run(small_run, tmp_path, *only, "~methods.single", "samples=2")
    table = (folder / "table.md").read_text()
    assert "| average |" in table and "Paired differences" not in table
