"""`maxbench paper`: which runs are there, and that its commands make the very ones that it looks for."""

import contextlib
import io
import shlex
import shutil

import pandas as pd
import pytest

from maxbench.__main__ import main
from maxbench.cli.command import Command
from maxbench.cli.paper import places_of, settings_of
from maxbench.configuration.compose import hydra_on
from maxbench.report.paper import ITEMS
from report.latex import read
from runs import all_runs, counted, only_run


@pytest.fixture(scope="module")
def small(small_run):
    """The settings of a small run, without what is one experiment's own."""
    own = ("experiment=", "~methods.")
    return [*(each for each in small_run if not each.startswith(own)), "samples=4", "pairing.reference=8"]


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """An output folder in which one figure was made, by the command that `paper` has shown."""
    output = tmp_path_factory.mktemp("paper")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["paper", *small, f"output_dir={output}", "--only", "fig_10"]) == 0
    (command,) = [line for line in shown.getvalue().splitlines() if line.startswith("python -m maxbench run")]
    assert main(shlex.split(command)[3:]) == 0
    return output


def status(capsys, *words):
    assert main(["paper", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_every_cell_has_a_command_that_is_valid_and_its_name_is_the_cell_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hydra_on() as hydra:
        places = places_of(hydra, Command(("samples=8", "suite=miniature")), ITEMS, adapters=True)
    assert [each.cell for each in places] == [cell for item in ITEMS for cell in item.cells] and len(places) == 16
    for each in places:
        assert not each.impossible and each.state == "missing", each.impossible
        assert each.cfg.name == each.cell.key and each.cfg.samples == 8
        contradictory = "contradictory" in each.cell.key
        assert ("ObjectOnScene" in each.cfg.pairing._target_) == contradictory == (each.cfg.scenes == 2048)


def test_of_nothing_every_command_is_shown_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = status(capsys, "samples=8", "sampler=paper", "--no-adapters", "--only", "fig_9,fig_10")
    commands = [line for line in text.splitlines() if line.startswith("python -m maxbench run")]
    assert len(commands) == 3 and all(line.endswith("suite=miniature samples=8 sampler=paper") for line in commands)
    assert "3 of 3 are missing" in text and "T2I" not in text and not list(tmp_path.iterdir())


def test_the_command_that_was_shown_made_the_run_that_is_looked_for_and_its_tables_are_written(made, small, capsys):
    run = only_run(made)
    text = status(capsys, *small, f"output_dir={made}", "--only", "fig_10")
    assert run.name in text and "are missing" not in text
    place = made / "paper-miniature"
    table = pd.read_csv(place / "paper.csv")
    metrics = pd.read_csv(run / "metrics.csv")
    for metric in ("hed_ssim", "depth_rmse", "clip_score", "fd_clip"):
        own = table[table.metric == metric].set_index("method").value
        pd.testing.assert_series_equal(
            own.sort_index(), metrics[(metrics.metric == metric) & (metrics.role != "reference")]
            .set_index("method").value.sort_index(),
        )  # fmt: skip
    assert set(table.run) == {run.name} and table.published.isna().all()
    assert set(table.method) == {"none", "single/hed", "single/depth", "maxfusion"}
    cells, _ = read((place / "fig_10.tex").read_text())
    assert len(cells) == 5 and "MaxFusion (maxfusion)" in (place / "paper.md").read_text()


def test_running_again_makes_nothing_and_says_so_first(made, small, capsys):
    assert main(["paper", *small, f"output_dir={made}", "--only", "fig_10", "--run"]) == 0
    assert "to make: 0 images in 1 run\n" in capsys.readouterr().out
    assert counted(only_run(made))["images"] == {"made": 0, "found": 16}


def test_hours_are_said_before_anything_is_made(made, small, capsys, tmp_path):
    output = shutil.copytree(made, tmp_path / "runs")
    words = ["paper", *small, f"output_dir={output}", "samples=5", "--only", "fig_10", "--run"]
    assert main(words) == 0
    text = capsys.readouterr().out
    first = text.index("to make: ")
    assert first < text.index("of generation, at the speed of conditioning_ablation") < text.index("1 of 1, Fig. 10")
    assert len(all_runs(output)) == 2


@pytest.mark.parametrize(
    ("other", "why"),
    [("samples=5", "samples is 4, not 5"), ("seed=1", "seed is 0, not 1"),
     ("sampler.steps=3", "sampler.steps is 2, not 3"),
     ("methods.maxfusion.rule.delta=0.5", "methods.maxfusion.rule.delta is 0.7, not 0.5")],
)  # fmt: skip
def test_a_run_with_other_settings_is_not_the_cell_s_and_it_is_said_why(made, small, capsys, other, why):
    text = status(capsys, *small, f"output_dir={made}", "--only", "fig_10", other)
    assert "1 of 1 are missing" in text and f"{only_run(made).name} is no such run: its {why}" in text


def test_where_and_how_fast_it_ran_is_no_difference(made, small, capsys, tmp_path):
    moved = shutil.copytree(made, tmp_path / "elsewhere")
    text = status(
        capsys, *small, f"output_dir={moved}", "--only", "fig_10", "runtime.threads=3", "calibration.samples=7"
    )
    assert only_run(made).name in text and "are missing" not in text


def test_calibration_is_a_difference_where_something_is_tuned_or_matched():
    def settings(**method):
        methods = {"sum": {"rule": {}}, "tuned": {"rule": {}, **method}}
        return settings_of({"name": "x", "methods": methods, "calibration": {"samples": 3}, "output_dir": "runs"})

    assert settings() == {"name": "x"} and settings(tune={}) == {"name": "x"}
    for method in ({"tune": {"scale": [1, 2]}}, {"match": "sum"}):
        assert settings(**method)["calibration.samples"] == 3


def test_a_run_that_was_begun_or_damaged_is_not_there(made, small, capsys, tmp_path):
    moved = shutil.copytree(made, tmp_path / "elsewhere")
    run = only_run(moved)
    (run / "metrics.csv").rename(run / "kept")
    words = [*small, f"output_dir={moved}", "--only", "fig_10"]
    text = status(capsys, *words)
    assert f"begun: {run.name}" in text and "1 of 1 are missing" in text
    (run / "metrics.csv").write_text("damage")
    text = status(capsys, *words)
    assert "is left out" in text and "metrics.csv" in text
    (run / "config.yaml").write_text("{")
    assert "1 of 1 are missing" in status(capsys, *words)


def test_published_numbers_and_latex_are_printed(made, small, capsys, tmp_path):
    (tmp_path / "p.csv").write_text("cell,method,metric,value\nconditioning_ablation,MaxFusion,clip_score,12.5\n")
    words = [
        *small,
        f"output_dir={made}",
        "--only",
        "fig_10",
        "--published",
        tmp_path / "p.csv",
        "--output",
        tmp_path / "out",
    ]
    assert "| 12.50 |" in status(capsys, *words)
    text = status(capsys, *words, "--latex", "--orientation")
    assert "12.50" in text[text.index("\\begin{table}") :] and "published" in text
    assert "Third-party figures" in (tmp_path / "out" / "paper.md").read_text()
    assert "Third-party figures" not in (made / "paper-miniature" / "paper.md").read_text()


def test_what_a_suite_cannot_make_is_said(capsys, tmp_path):
    text = status(capsys, "suite=sd15", f"data.root={tmp_path}", f"output_dir={tmp_path}", "--only", "tables_2_3")
    assert "it has no T2I-Adapter for hed" in text and text.count("python -m maxbench run") == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["experiment=hed_depth"], "experiment= is another one in every table"),
        (["name=x"], "name= is another one in every table"),
        (["samples=x"], "samples is 'x'"),
        (["sampels=3"], "did you mean 'samples'?"),
        (["samples=3,4"], "is several values"),
        (["suite=sd16"], "There is no suite 'sd16'"),
        (["--only", ""], "--only is ''; name some of table_1"),
        (["--only", "table_5"], "--only is 'table_5'; name some of table_1"),
        (["--published", "nothing.csv"], "nothing.csv cannot be read"),
        (["--config-dir", "nothing"], "--config-dir is nothing, which is no folder"),
        (["--output"], "see `python -m maxbench paper --help`"),
        (["--outptu", "x"], "see `python -m maxbench paper --help`"),
        (["--output", "file"], "--output is file, which is a file"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["paper", *words]) == 2
    told = capsys.readouterr().err
    assert sentence in told and len(told.splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_cell_that_fails_is_said_and_stops_no_other(small, tmp_path, capsys):
    """The small data set has too few objects for pairs that contradict each other."""
    words = [
        "paper",
        *small,
        f"output_dir={tmp_path}",
        "--no-adapters",
        "--only",
        "fig_9,fig_10",
        "--run",
        "deltas=[0.7]",
        "calibration.samples=3",
        "calibration.data.count=12",
    ]
    assert main([*words, "pairing.reference=16"]) == 2
    told = capsys.readouterr()
    assert "1 of 3 runs failed" in told.err and "conditioning_ablation-miniature" in told.out
