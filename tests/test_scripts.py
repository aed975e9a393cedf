"""The scripts, on a finished small run."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(monkeypatch, name, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    return script(name).main()


def test_decisions_are_read_from_what_a_run_has_recorded(watched_run, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "diagnose_fusion", watched_run, "--output", tmp_path) == 0
    assert capsys.readouterr().out.strip() == (tmp_path / "fusion.md").read_text().strip()
    table = pd.read_csv(tmp_path / "fusion.csv")
    assert set(table.method) == {"maxfusion", "outputs_only"} and set(table.experiment) == {"hed_depth"}
    assert table.step.nunique() == 2  # the run's two steps
    assert table[["rho", "merged", "wins/hed", "wins/depth"]].notna().all(axis=None)
    assert (table["wins/hed"] + table["wins/depth"]).round(3).eq(1).all()  # every location has a winner
    assert set(table[table.method == "outputs_only"].kind) == {"output"} and "unmerge" in set(table.kind)
    lines = [line for line in (tmp_path / "fusion.md").read_text().splitlines() if line.startswith("| hed_depth")]
    assert len(lines) == 4 and all(line.endswith("(hed) | - |") for line in lines)  # no regions, so none is its own
    outputs = table[(table.method == "outputs_only")]
    assert f"| outputs | {outputs.rho.mean():.2f} | {outputs.merged.mean():.2f} |" in "".join(lines)
    text = (tmp_path / "fusion.md").read_text()
    assert "rho of the loser" in text and "Drift" in text and "hed 0." in text and "depth 0." in text


def test_a_run_without_a_recording_cannot_be_diagnosed(finished_run, watched_run, tmp_path, monkeypatch, capsys):
    for arguments, said in (
        ([finished_run], "has no recording of maxfusion, outputs_only; run its experiment again with diagnostics."),
        ([watched_run, "--methods", "none"], "has no recording of none"),
        ([tmp_path], "is no finished run"),
    ):
        assert call(monkeypatch, "diagnose_fusion", *arguments, "--output", tmp_path / "out") == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("diagnose_fusion: ") and said in told and len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_metrics_are_validated_and_nothing_is_left_in_the_run(finished_run, tmp_path, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "torch_fidelity.metric_fid", None)  # as if it were not installed
    small = ["--draws", 4, "--simulations", 3, "--resamples", 40, "--flips", 99]
    assert call(monkeypatch, "validate_metrics", finished_run, *small, "--output", tmp_path / "out" / "v.md") == 0
    assert before == {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    text = (tmp_path / "out" / "v.md").read_text()
    assert capsys.readouterr().out == text and str(tmp_path) not in text
    for number, part in enumerate(("Order", "Coverage", "Fakes", "Independent packages", "Two observers"), start=1):
        assert f"## {number}. {part}\n" in text
    lines = {cells[0]: cells for line in text.splitlines() if (cells := line.strip("| ").split(" | "))}
    metrics = pd.read_csv(finished_run / "metrics.csv").query("method == 'sum'").set_index(["metric", "condition"])
    headings = lines["row"]
    for metric, condition in (("depth_rmse", "depth"), ("hed_ssim", "hed")):  # a row of the run is the table's own
        value = float(lines["sum"][headings.index(metric)])
        assert value == pytest.approx(metrics.value[metric, condition], abs=6e-4)
    assert {"alternating singles", "grey picture", "another sample's picture", "map of hed as a picture"} <= set(lines)
    assert "torch-fidelity | - | - | - | not compared: it is not installed here" in text
    exact = ("kernel distance", "object IoU", "depth RMSE", "p of sign flips", "mean IoU")
    for line in text.splitlines():
        if line.startswith(tuple(f"| {what} |" for what in exact)):
            assert float(line.split(" | ")[4]) < 1e-6, line
    assert call(monkeypatch, "validate_metrics", tmp_path, "--output", tmp_path / "none.md") == 2
    assert "is no finished run" in capsys.readouterr().err and not (tmp_path / "none.md").exists()


def test_what_fusion_costs_is_measured(tmp_path, monkeypatch):
    small = ["--shape", 2, 8, 4, 4, "--batch", 2, "--repeats", 1, "--device", "cpu"]
    assert call(monkeypatch, "measure_cost", *small, "--output", tmp_path / "cost.md") == 0
    text = (tmp_path / "cost.md").read_text()
    assert "| maxfusion, lockstep |" in text and "| MaxFusion | 3 | bfloat16 | unmerge |" in text
    measure, (one, two) = script("measure_cost"), torch.randn(2, 1, 4, 2, 2)
    with measure.Traffic() as traffic:
        one.view(-1).add(two.view(-1))  # views move nothing: two tensors are read and one is written
    assert traffic.bytes == 3 * one.numel() * 4


def test_kept_results_do_not_say_where_they_were_made(finished_run):
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    kept = script("keep_results").without_places(config)
    assert str(finished_run.parent) in str(config) and str(finished_run.parent) not in str(kept)
    assert kept["methods"] == config["methods"] and kept["data"]["count"] == config["data"]["count"]


def test_of_pooled_runs_the_tables_are_kept_with_the_pictures_of_one(finished_run, tmp_path):
    command, pooled, results = script("keep_results"), tmp_path / "pooled", tmp_path / "results"
    pooled.mkdir()
    for name in command.KEPT:
        shutil.copy(finished_run / name, pooled)
    (pooled / "table.md").write_text("of both")
    results.mkdir()
    (results / "conflict.png").write_bytes(b"of a run that had one")
    command.keep(pooled, results, finished_run, samples=2)
    assert (results / "table.md").read_text() == "of both"
    assert not (results / "conflict.png").exists() and (results / "contact_sheet.png").stat().st_size > 1000
    command.keep(pooled, results, pooled, samples=2)
    assert not (results / "contact_sheet.png").exists()  # nothing says of what pictures


def test_no_committed_result_names_a_place_of_a_machine():
    for path in (SCRIPTS.parent / "results").rglob("config.yaml"):
        config = yaml.safe_load(path.read_text())
        places = [config["output_dir"], config.get("store_dir", "."), config["data_dir"], config["data"]["root"]]
        assert not any(Path(place).is_absolute() for place in places), path
