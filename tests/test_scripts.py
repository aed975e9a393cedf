"""The scripts, on a finished small run."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(monkeypatch, name, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    return script(name).main()


def test_a_claim_is_weighed_by_paired_joint_scores(finished_run, tmp_path, monkeypatch):
    output = tmp_path / "claim.md"
    assert call(monkeypatch, "weigh_claim", finished_run, "--output", output) == 0
    text = output.read_text()
    assert text.count("| hed_depth | 0 | 6 | maxfusion | ") == 4  # against average, sum and two singles
    weigh = script("weigh_claim")
    _, scores = weigh.joint(finished_run)
    metrics = pd.read_csv(finished_run / "metrics.csv")
    for method in ("maxfusion", "sum", "single/hed"):  # the script's joint score is the table's
        table = metrics.query("metric == 'joint_mean' and method == @method").value
        if table.notna().all():
            assert scores[method].mean() == pytest.approx(table.iloc[0])
    assert scores["none"].abs().max() == 0


def test_runs_are_compared_by_what_they_differ_in(finished_run, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "compare_runs", finished_run, finished_run, "--methods", "sum", "--metrics", "fid") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| method | n | FID |" and len(lines) == 4
    assert call(monkeypatch, "compare_runs", tmp_path) == 2
    assert "is no finished run" in capsys.readouterr().err


def test_a_rule_is_watched(finished_run, tmp_path, monkeypatch):
    assert call(monkeypatch, "diagnose_fusion", finished_run, "--samples", 2, "--output", tmp_path) == 0
    table = pd.read_csv(tmp_path / "fusion.csv")
    assert set(table.way) == {"lockstep", "outputs only"}
    assert table.step.nunique() == 2  # the run's two steps
    assert table[["rho", "merged", "hed", "depth"]].notna().all(axis=None)
    assert (table.hed + table.depth).round(5).eq(1).all()  # every location has a winner
    outputs = table[table.way == "outputs only"]
    assert set(outputs.kind) == {"merge"} and "unmerge" in set(table.kind)
    assert (tmp_path / "fusion.png").stat().st_size > 5000 and "rho of the loser" in (
        tmp_path / "fusion.md"
    ).read_text()
