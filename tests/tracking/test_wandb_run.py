"""W&B: what a real run told it, read back from the files of an offline run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxbench.__main__ import main
from maxbench.configuration.compose import compose, hydra_on
from maxbench.errors import UserError
from maxbench.progress import Snapshot, Status
from maxbench.tracking.wandb_run import run_id
from runs import all_runs, only_run
from tracking.wandb_log import Log

FEW = ("maxfusion_published", "outputs_only", "average")


@pytest.fixture(scope="module", autouse=True)
def closed(tmp_path_factory):
    """No login, and a server that nothing listens for: what tries to reach it fails."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("WANDB_"):
                patch.delenv(name)
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.chdir(home)
        yield home
    assert not [path for path in home.rglob("*wandb*") if path.parent.name not in (".config", ".cache")], "left behind"


@pytest.fixture(scope="module")
def words(small_run):
    return [*small_run, *(f"~methods.{name}" for name in FEW), "samples=4", "pairing.reference=8", "tracking=wandb",
            "tracking.pictures=3", "tracking.tags=[tried]"]  # fmt: skip


@pytest.fixture(scope="module")
def output(words, tmp_path_factory):
    place = tmp_path_factory.mktemp("tracked")
    assert main(["run", *words, f"output_dir={place}"]) == 0
    return place


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def told(folder):
    """What a run's invocations told, in order."""
    return [Log(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]


@pytest.fixture(scope="module")
def log(output):
    (found,) = told(only_run(output))
    return found


def test_a_run_is_known_by_its_folder_and_belongs_to_its_experiment(output, log):
    folder = only_run(output)
    assert (log.run.run_id, log.run.display_name) == (folder.name, folder.name)
    assert (log.run.project, log.run.run_group, log.run.job_type) == ("maxbench", "hed_depth", "run")
    assert list(log.run.tags) == ["tried"] and log.exits == [0]


def test_configuration_and_environment_are_told(log):
    assert log.config["name"] == "hed_depth" and log.config["samples"] == 4 and "tracking" not in log.config
    assert log.config["methods"]["maxfusion"]["rule"]["delta"] == 0.7
    assert log.config["environment"]["packages"]["torch"] and log.config["environment"]["device"] == "cpu"


def test_progress_is_told_while_it_generates(log):
    points = [each["progress/generating"] for each in log.history if "progress/generating" in each]
    assert points and points[-1] == 1 and points == sorted(points)
    assert all("progress/seconds" in each for each in log.history if "progress/generating" in each)


def test_progress_has_the_figures_that_the_run_folder_has(output, log):
    """One source: what is in run.json is what W&B is told."""
    figures = Snapshot("generating", 1, 2, "images", 0.5, 2.0, Status(8, 7, 1)).figures
    assert figures == {
        "done": 1, "total": 2, "per_second": 0.5, "seconds_left": 2, "workers": 8, "busy": 7, "failures": 1
    }  # fmt: skip
    point = next(each for each in log.history if "progress/generating" in each)
    told = {name.removeprefix("progress/generating/") for name in point if name.startswith("progress/generating/")}
    assert told == set(figures)


@pytest.mark.parametrize("name", ["metrics", "differences"])
def test_tables_are_the_run_s(name, output, log):
    table, kept = log.table(name), pd.read_csv(only_run(output) / f"{name}.csv")
    assert table["columns"] == list(kept.columns) and len(table["data"]) == len(kept)
    values = [row[table["columns"].index("value")] for row in table["data"]]
    np.testing.assert_allclose(np.array(values, float), kept.value, rtol=1e-12)
    assert [row[table["columns"].index("method")] for row in table["data"]] == list(kept.method)


def test_headline_numbers_are_the_summary(output, log):
    metrics = pd.read_csv(only_run(output) / "metrics.csv").set_index(["method", "metric"]).value
    assert log.summary["maxfusion/clip_score"] == pytest.approx(metrics["maxfusion", "clip_score"])
    assert log.summary["sum/fd_clip"] == pytest.approx(metrics["sum", "fd_clip"])


def test_samples_have_their_pictures_and_are_capped(output, log):
    folder, table, sent = only_run(output), log.table("samples"), log.artifact("samples")
    place = {name: number for number, name in enumerate(table["columns"])}
    assert len(table["data"]) == 3
    for row in table["data"]:
        sample = row[place["sample"]]
        for method in ("none", "single/hed", "sum", "maxfusion"):
            made = folder / "images" / method / f"{sample}-0.png"
            assert np.array_equal(pixels(sent[row[place[method]]["path"]]), pixels(made))
        assert isinstance(row[place["sum: clip_score"]], float) and row[place["prompt"]]
        for name in ("source of hed", "map of hed", "map of depth"):
            assert pixels(sent[row[place[name]]["path"]]).shape == (64, 64, 3)
    assert 3 * 5 < len(sent) - 1 <= 3 * 9  # of three samples: five methods, two maps, a source that is both conditions'


def test_the_contact_sheet_is_told(output, log):
    assert np.array_equal(pixels(log.picture("contact_sheet")), pixels(only_run(output) / "contact_sheet.png"))


def test_lines_that_are_said_are_told(log):
    assert any("W&B: offline" in line for line in log.lines)


def test_the_same_again_tells_nothing_and_another_cap_the_same_run(output, words, log, tmp_path, capsys):
    place = tmp_path / "runs"
    shutil.copytree(output, place)
    folder = only_run(place)
    assert main(["run", *words, f"output_dir={place}"]) == 0
    assert "W&B" not in capsys.readouterr().err and len(told(folder)) == 1
    assert main(["run", *words, "tracking.pictures=0", f"output_dir={place}"]) == 0
    first, second = told(folder)
    assert first.run.run_id == second.run.run_id == folder.name
    assert "samples" not in second.history[-1] and "metrics" in second.history[-1]


def test_tracking_is_no_part_of_what_a_run_is(output, words, capsys):
    plain = [each for each in words if not each.startswith("tracking")]
    assert main(["run", *plain, f"output_dir={output}"]) == 0
    assert len(all_runs(output)) == 1 and "nothing to do" in capsys.readouterr().err


def test_without_a_login_one_sentence_says_so_and_how_to_send_it_later(words, output, tmp_path, capsys):
    place = tmp_path / "runs"
    shutil.copytree(output, place)
    assert main(["run", *words, "tracking.name=again", f"output_dir={place}"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line or "wandb" in line]
    assert len(said) == 1 and "no login" in said[0]
    path = Path(said[0].rpartition("wandb sync ")[2])
    assert list(path.glob("*.wandb"))


def test_a_server_that_does_not_answer_is_no_end(words, output, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    place = tmp_path / "runs"
    shutil.copytree(output, place)
    assert main(["run", *words, "tracking.name=again", f"output_dir={place}"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line or "wandb" in line]
    assert len(said) == 1 and "http://127.0.0.1:9 does not answer" in said[0]


def test_what_fails_in_w_and_b_ends_no_run(words, output, tmp_path, capsys):
    place = tmp_path / "runs"
    shutil.copytree(output, place)
    shutil.rmtree(only_run(place) / "wandb")
    (only_run(place) / "wandb").write_text("a file where its folder belongs")
    assert main(["run", *words, f"output_dir={place}"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line]
    assert len(said) == 1 and "the run goes on without it" in said[0]


def test_a_run_that_fails_is_told_as_failed(words, tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    monkeypatch.setattr("maxbench.cli.perform.write_tables", lambda folder: 1 / 0)
    assert main(["run", *words, f"output_dir={tmp_path}"]) == 1
    (found,) = told(only_run(tmp_path))
    assert found.exits == [1] and "metrics" not in found.history[-1]


def test_a_sweep_is_a_group_and_ends_in_its_table(words, output, tmp_path):
    place = tmp_path / "runs"
    shutil.copytree(output, place)
    assert main(["run", "-m", *words, "seed=0,1", f"output_dir={place}"]) == 0
    (ledger,) = place.glob("sweep-*")
    runs = [told(folder)[-1].run for folder in all_runs(place)]
    assert {each.run_group for each in runs} == {ledger.name}
    (sweep,) = told(ledger)
    assert (sweep.run.run_group, sweep.run.job_type, sweep.run.run_id) == (ledger.name, "sweep", ledger.name)
    table = sweep.table("sweep")
    assert len(table["data"]) == len(pd.read_csv(ledger / "sweep.csv")) and {"seed", "method"} <= set(table["columns"])


def test_pooled_seeds_are_a_run_of_the_same_group(words, tmp_path):
    few = ["~methods.maxfusion", "~methods.sum", "baseline=none", "samples=2", "tracking.pictures=0"]
    assert main(["run", *words, *few, "--seeds", "0,1", f"output_dir={tmp_path}"]) == 0
    runs = {folder: told(folder)[0].run for folder in all_runs(tmp_path)}
    assert sorted(each.job_type for each in runs.values()) == ["pooled", "run", "run"]
    assert {each.run_group for each in runs.values()} == {"hed_depth"}
    (pooled,) = (folder for folder, run in runs.items() if run.job_type == "pooled")
    assert told(pooled)[0].table("metrics")["data"]


def test_without_tracking_wandb_is_not_loaded(tmp_path):
    """What else a run loads is said by the test of the architecture."""
    check = (
        "import sys, pathlib\n"
        "import maxbench.cli.run, maxbench.cli.search\n"
        "from maxbench.tracking import RUN, Subject, tracking\n"
        "with tracking({'kind': 'none'}, Subject(pathlib.Path('x'), RUN, 'y')) as tracker:\n"
        "    tracker.results()\n"
        "print([name in sys.modules for name in ('wandb', 'optuna')])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.splitlines() == ["[False, False]"], done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tracking=wandbb"], "There is no tracking 'wandbb'; did you mean 'wandb'?"),
        (["tracking.project=mine"], "There is no setting 'tracking.project'"),
        (["tracking=wandb", "tracking.project=a/b"], "tracking.project is 'a/b'; it must be a name"),
        (["tracking=wandb", "tracking.mode=off"], "tracking.mode is"),
        (["tracking=wandb", "tracking.pictures=-1"], "tracking.pictures is -1"),
        (["tracking=wandb", "tracking.tags=one"], "tracking.tags is 'one'"),
    ],
)
def test_a_mistake_is_a_sentence(words, sentence):
    with hydra_on() as hydra, pytest.raises(UserError) as error:
        compose(hydra, ["experiment=hed_depth", *words])
    assert sentence in str(error.value)


def test_ids_are_what_w_and_b_takes():
    assert run_id("hed_depth-miniature-0123456789") == "hed_depth-miniature-0123456789"
    assert run_id("a.b") != run_id("a+b") and len({run_id("x" * 200), run_id("x" * 201)}) == 2
    assert all(len(run_id(name)) <= 128 for name in ("x" * 300, "a.b"))
