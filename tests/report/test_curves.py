"""Methods that vary a number -> curves over that number, and the table of what is drawn."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from maxbench.__main__ import main
from maxbench.report.curves import Scale, _figure, caption, drawn, write_curves
from maxbench.report.runs import Results
from runs import only_run

FAMILIES = ["sum", "outputs_only", "maxfusion", "maxfusion_published", "alone/hed", "alone/depth"]
FILES = ("curves.png", "curves.pdf", "curves.csv")
DELTAS = (-1, 0.5, 0.7, 0.85, 1)


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


@pytest.fixture(scope="module")
def threshold_run(data_dir, tmp_path_factory):
    """The shipped experiment with the shipped networks, at few thresholds, of few samples in few steps."""
    output = tmp_path_factory.mktemp("threshold")
    few = [
        f"data_dir={data_dir}", "data.count=24", "samples=3", "pairing.reference=8", "sampler.steps=2",
        "metrics.resamples=100", "runtime.batch_size=4", "runtime.device=cpu", f"deltas={list(DELTAS)}",
        "diagnostics.samples=2", "calibration.samples=3", "calibration.data.count=12",
        "methods.tuned_sum.tune={scale:[1,0.7]}", "~methods.tuned_sum.then",
    ]  # fmt: skip
    assert main(["run", "experiment=threshold", *few, f"output_dir={output}"]) == 0
    return only_run(output)


def test_a_run_whose_methods_vary_leaves_curves(swept_run):
    with Image.open(swept_run / "curves.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels < 250).any(-1).mean() > 0.02  # not a blank page
    assert (swept_run / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_sweep_has_every_method_at_every_scale_at_the_strength_of_the_sum(swept_run):
    metrics = pd.read_csv(swept_run / "metrics.csv")
    assert {f"{family}/scale={scale}" for family in FAMILIES for scale in ("0.5", "2")} < set(metrics.method)
    used = metrics.query("metric == 'control_scale'").set_index("method").value
    assert (used["sum/scale=0.5"], used["sum/scale=2"]) == (0.5, 2)
    for family in FAMILIES:  # strength is proportional to scale, whatever a scale is worth
        assert used[f"{family}/scale=2"] == pytest.approx(4 * used[f"{family}/scale=0.5"], rel=1e-6)
        assert family == "sum" or used[f"{family}/scale=2"] != pytest.approx(2, rel=0.01)


def test_curves_draw_the_numbers_of_the_tables(threshold_run):
    table, metrics = pd.read_csv(threshold_run / "curves.csv"), pd.read_csv(threshold_run / "metrics.csv")
    known = metrics.set_index(["method", "metric", "condition"])
    for row in table[table.metric != "merged"].itertuples():
        theirs = known.loc[(row.method, row.metric, row.condition)]
        assert (row.value, row.n) == (theirs.value, theirs.n)
        assert row.low == theirs.low or np.isnan(theirs.low)
    assert {"joint", "q", "hed_ssim", "depth_rmse", "clip_score", "fd_clip", "merged"} == set(table.metric)
    for (metric, condition), own in table.fillna({"condition": ""}).groupby(["metric", "condition"]):
        for family in ("maxfusion", "outputs_only"):
            assert tuple(own.setting[own.series == family]) == DELTAS, (metric, condition)
        flat = {"merged": set()}.get(metric, {"none", "average", "sum", "tuned_sum"})
        assert set(own.method[own.setting.isna()]) == flat


def test_what_is_merged_falls_from_everything_to_nothing(threshold_run):
    """The ends have names because of this: at -1 the mean is taken everywhere, at 1 nowhere."""
    merged = pd.read_csv(threshold_run / "curves.csv").query("metric == 'merged'")
    assert set(merged.n) == {2}
    for _, line in merged.groupby("series"):
        shares = line.sort_values("setting").value.to_numpy()
        assert (shares[0], shares[-1]) == (1, 0) and (np.diff(shares) <= 0).all() and 0 < shares[1] < 1
    for row in merged.itertuples():
        trace = pd.read_csv(threshold_run / "diagnostics" / f"{row.method}.csv")
        assert row.value == pytest.approx(trace.merged.mean())
        assert row.low <= row.value <= row.high
    assert not list(threshold_run.glob("*_maps.png"))  # maps were not asked for


def text_of(figure):
    FigureCanvasAgg(figure).draw()
    found = [each for axis in figure.axes if axis.get_visible() for each in axis.texts]
    found += [label for axis in figure.axes if axis.get_visible() for label in axis.get_xticklabels()]
    return " ".join(each.get_text() for each in [*found, *figure.legends[0].get_texts(), *figure.texts])


def test_the_figure_says_what_it_is_of(threshold_run):
    results = Results(threshold_run)
    said = text_of(_figure(drawn(results), results)).replace("\n", " ")
    for words in ("mean at every site", "selection at every site", "0.7", "maxfusion", "outputs_only", "none", "sum"):
        assert words in said
    assert "threshold on miniature, seed 0: N = 3" in said and "of merged: 2" in said and "95% intervals" in said
    assert "Dotted: 0.7, the paper's threshold." in said


def test_a_scale_is_no_threshold(swept_run):
    results = Results(swept_run)
    said = text_of(_figure(drawn(results), results))
    assert "every site" not in said and "Dotted" not in said


@pytest.mark.parametrize(
    "settings", [DELTAS, (-1, -0.5, 0, 0.25, 0.5, 0.7, 0.85, 1), (0.25, 0.5, 1, 2, 4), (0.7, 0.71)]
)
def test_labels_do_not_touch(settings):
    scale = Scale("x", settings, settings[0] > 0 and settings[-1] / settings[0] > 8, None, False)
    places = [scale.at(each) for each in scale.labelled]
    assert places[0] == 0 and (len(places) == 1 or min(np.diff(places)) >= 0.12)


def copy_of(run, folder):
    """All that curves are made of; returns the run's metrics."""
    for name in ("metrics.csv", "manifest.json", "config.yaml"):
        shutil.copy(run / name, folder)
    return pd.read_csv(run / "metrics.csv")


def test_a_run_whose_methods_do_not_vary_has_no_curves(finished_run, tmp_path):
    assert not any((finished_run / name).exists() for name in FILES)
    copy_of(finished_run, tmp_path)
    assert write_curves(tmp_path) is None and len(list(tmp_path.iterdir())) == 3


def test_curves_need_numbers_alone_and_change_with_them(swept_run, tmp_path):
    metrics = copy_of(swept_run, tmp_path)
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    assert write_curves(tmp_path) == tmp_path / "curves.png"
    as_drawn = {name: (tmp_path / name).read_bytes() for name in FILES}
    assert as_drawn == {name: (swept_run / name).read_bytes() for name in FILES}
    chosen = (metrics.method == "sum/scale=2") & (metrics.metric == "clip_score")
    metrics.loc[chosen, ["value", "low", "high"]] += 5
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    write_curves(tmp_path)
    assert not any((tmp_path / name).read_bytes() == as_drawn[name] for name in FILES)


def test_a_number_without_an_interval_is_a_point(swept_run, tmp_path):
    metrics = copy_of(swept_run, tmp_path)
    metrics.loc[metrics.metric == "fd_clip", ["low", "high"]] = None
    metrics.to_csv(tmp_path / "metrics.csv", index=False)
    assert write_curves(tmp_path) is not None


def test_of_several_n_each_is_said(swept_run):
    results = Results(swept_run)
    table = drawn(results)
    table.loc[table.metric == "fd_clip", "n"] = 7
    assert re.search(r"N = 3; of FD-CLIP: 7\.", caption(table, results).replace("\n", " "))
