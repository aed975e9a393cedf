"""The verb `figures`: what it draws of a run, where it leaves it, and what it says of mistakes."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from drawings import require_embedded
from maxbench.__main__ import main
from maxbench.cli.figures import NAMES
from runs import as_written

RESULTS = Path(__file__).parents[2] / "results"
FAST = ["--format", "png", "--samples", "1"]


@pytest.fixture
def run(finished_run, tmp_path):
    """An output folder with a copy of a finished run, whose experiment is hed_depth."""
    copy = tmp_path / "runs" / finished_run.name
    shutil.copytree(finished_run, copy, ignore=shutil.ignore_patterns("state.npz", "records"))
    return copy


def figures(run, *words):
    return main(["figures", "hed_depth", "--output-dir", str(run.parent), *words])


def test_a_run_is_found_by_name_and_its_figures_lie_in_its_folder(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert figures(run, "--samples", "2", "--only", "contact_sheet,conditioning,intervals") == 0
    made = {path.name for path in (run / "figures").iterdir()}
    assert made == {
        f"{name}.{kind}" for name in ("contact_sheet", "conditioning", "intervals") for kind in ("pdf", "png")
    }
    said = capsys.readouterr().out
    for path in (run / "figures").iterdir():
        assert str(path) in said
        if path.suffix == ".pdf":
            require_embedded(path.read_bytes())
    assert all(path.read_bytes() == content for path, content in before.items())


def test_what_there_is_nothing_of_is_said_and_is_no_failure(run, tmp_path, capsys):
    assert figures(run, *FAST, "--output", str(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert all(f"{name}:" in said for name in NAMES)
    more = "run it with diagnostics.samples=8 diagnostics.maps=4"
    assert f"winner_maps:     not drawn: no decision of a rule was recorded; {more}." in said
    assert (tmp_path / "out" / "contact_sheet.png").exists() and not (run / "figures").exists()
    assert figures(run, *FAST, "--output", str(tmp_path / "out"), "--only", "conflict") == 2  # it was asked for


def test_named_methods_and_samples_are_shown(run, tmp_path):
    sample = json.loads((run / "manifest.json").read_text())["samples"][2]["id"]
    words = ["--format", "png", "--only", "contact_sheet", "--output", str(tmp_path / "out")]
    assert figures(run, *words, "--methods", "sum,none", "--sample", sample) == 0
    with Image.open(tmp_path / "out" / "contact_sheet.png") as image:
        few = image.size
    assert figures(run, *words, "--methods", "sum,none,average", "--samples", "2") == 0
    with Image.open(tmp_path / "out" / "contact_sheet.png") as image:
        assert image.width > few[0] and image.height > few[1]


def test_curves_come_along(run, tmp_path, capsys):
    table = pd.read_csv(run / "metrics.csv").astype({"parameter": object})
    table.loc[table.method == "sum", "parameter"] = "scale"
    table.loc[table.method == "sum", "setting"] = 1.0
    table.to_csv(run / "metrics.csv", index=False)
    as_written(run)
    assert figures(run, "--only", "curves", "--output", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "curves.png").exists() and not (run / "curves.png").exists()


def test_results_without_pictures_still_have_their_tables_drawn(tmp_path, capsys):
    kept = RESULTS / "contradictory_hed_depth"
    before = sorted(kept.iterdir())
    assert main(["figures", str(kept), "--format", "png", "--output", str(tmp_path)]) == 0
    made = {path.name for path in tmp_path.iterdir()}
    assert {"intervals.png", "differences_sum.png", "differences_tuned_sum.png", "conflict.png"} <= made
    said = capsys.readouterr().out
    assert "contact_sheet:   not drawn:" in said and "has no manifest.json" in said
    assert sorted(kept.iterdir()) == before


def test_several_runs_have_a_folder_each_and_one_that_fails_stops_no_other(run, tmp_path, capsys):
    (run.parent / "broken").mkdir()
    words = ["figures", str(run.parent / "broken"), str(run), *FAST, "--only", "contact_sheet"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [run.name]
    assert "is no finished run" in capsys.readouterr().err


MISTAKES = {
    "an unknown run": (["--output-dir", "elsewhere"], "There is no run 'hed_depth'"),
    "an unknown method": (["--methods", "best"], "has no method 'best'; it has"),
    "a method twice": (["--methods", "sum,sum"], "names a method twice"),
    "an unknown sample": (["--sample", "x"], "has no sample 'x'"),
    "an unknown figure": (["--only", "fig9"], "--only has 'fig9'; there are contact_sheet"),
    "an unknown format": (["--format", "svg"], "--format has 'svg'; there are pdf, png"),
    "no format": (["--format", ","], "names no format"),
    "no samples": (["--samples", "0"], "--samples is 0"),
    "no replicates": (["--replicates", "-1"], "--replicates is -1"),
    "both": (["--samples", "2", "--sample", "x"], "one of the two"),
    "too many rows": (["--replicates", "50", "--only", "contact_sheet"], "are too many for a sheet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_sentences(run, mistake, capsys):
    words, said = MISTAKES[mistake]
    assert figures(run, *words) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not (run / "figures").exists()


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json", "samples.parquet", "metrics.csv", "differences.csv"])
def test_a_damaged_file_is_named_and_the_rest_is_drawn(run, file, tmp_path, capsys):
    (run / file).write_bytes(b"{")
    words = [*FAST, "--output", str(tmp_path / "out"), "--only", "contact_sheet,differences"]
    assert figures(run, *words) == 2
    error = capsys.readouterr().err
    assert file in error and "Traceback" not in error
    drawn = {path.stem.partition("_sum")[0] for path in (tmp_path / "out").glob("*")}
    assert drawn == {
        "samples.parquet": {"differences"}, "differences.csv": {"contact_sheet"},
    }.get(file, drawn)  # fmt: skip


def test_a_folder_that_cannot_be_written_is_a_sentence(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert figures(run, *FAST, "--only", "contact_sheet", "--output", str(tmp_path / "file" / "out")) == 2
    assert "cannot be written" in capsys.readouterr().err
    if os.geteuid():
        run.chmod(0o555)
        assert figures(run, *FAST, "--only", "contact_sheet") == 2
        run.chmod(0o755)
        assert "cannot be written" in capsys.readouterr().err
