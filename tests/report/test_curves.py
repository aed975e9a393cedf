"""Methods that vary a number -> curves over that number."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxbench.__main__ import main
from maxbench.report.curves import write_curves
from runs import only_run

FAMILIES = ["sum", "outputs_only", "maxfusion", "maxfusion_published", "alone/hed", "alone/depth"]


@pytest.fixture(scope="module")
def swept_run(small_run, tmp_path_factory):
    """The shipped sweep of scales, of two scales and on three samples."""
    output = tmp_path_factory.mktemp("swept")
    small = ["samples=3", "pairing.reference=8", "calibration.samples=4", "calibration.data.count=12"]
    settings = [each for each in small_run[1:] if not each.startswith("~")]
    arguments = [*settings, *small, "scales=[0.5,2]", f"output_dir={output}"]
    assert main(["run", "experiment=scale", *arguments]) == 0
    folder = only_run(output)
    return folder


def test_a_run_whose_methods_vary_leaves_curves(swept_run):
    with Image.open(swept_run / "curves.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels < 250).any(-1).mean() > 0.02  # not a blank page


def test_a_sweep_has_every_method_at_every_scale_at_the_strength_of_the_sum(swept_run):
    metrics = pd.read_csv(swept_run / "metrics.csv")
    assert {f"{family}/scale={scale}" for family in FAMILIES for scale in ("0.5", "2")} < set(metrics.method)
    used = metrics.query("metric == 'control_scale'").set_index("method").value
    assert (used["sum/scale=0.5"], used["sum/scale=2"]) == (0.5, 2)
    for family in FAMILIES:  # strength is proportional to scale, whatever a scale is worth
        assert used[f"{family}/scale=2"] == pytest.approx(4 * used[f"{family}/scale=0.5"], rel=1e-6)
        assert family == "sum" or used[f"{family}/scale=2"] != pytest.approx(2, rel=0.01)


def copy_of(run, folder):
    """All that curves are made of; returns the run's metrics."""
    for name in ("metrics.csv", "manifest.json"):
        shutil.copy(run / name, folder)
    return pd.read_csv(run / "metrics.csv")


def test_a_run_whose_methods_do_not_vary_has_no_curves(finished_run, tmp_path):
    assert not (finished_run / "curves.png").exists()
    copy_of(finished_run, tmp_path)
    assert write_curves(tmp_path) is None and len(list(tmp_path.iterdir())) == 2


def test_curves_need_numbers_alone_and_change_with_them(swept_run, tmp_path):
    metrics = copy_of(swept_run, tmp_path)
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    assert write_curves(tmp_path) == tmp_path / "curves.png"
    as_drawn = (tmp_path / "curves.png").read_bytes()
    assert as_drawn == (swept_run / "curves.png").read_bytes()
    chosen = (metrics.method == "sum/scale=2") & (metrics.metric == "clip_score")
    metrics.loc[chosen, ["value", "low", "high"]] += 5
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    write_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes() != as_drawn


def test_a_number_without_an_interval_is_a_point(swept_run, tmp_path):
    metrics = copy_of(swept_run, tmp_path)
    metrics.loc[metrics.metric == "fd_clip", ["low", "high"]] = None
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    assert write_curves(tmp_path) is not None
