"""Sweeps: every member in turn, one that fails stops no other, and a ledger that says what became of each."""

import json
import os
import stat
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from maxbench.__main__ import main
from maxbench.cli.command import jobs, parse, read_overrides
from maxbench.cli.sweep import sweep_name
from maxbench.configuration.compose import hydra_on
from runs import all_runs


@pytest.fixture
def performed(monkeypatch, tmp_path):
    """The configurations that would be run, in the place of runs."""
    found = []
    monkeypatch.setattr("maxbench.cli.run._perform", found.append)
    monkeypatch.chdir(tmp_path)  # where ledgers go
    return found


def ledger_of(output):
    """The only sweep's folder in an output folder, and its table."""
    (path,) = Path(output).glob("sweep-*/sweep.csv")
    return path.parent, pd.read_csv(path)


def members(*arguments):
    with hydra_on() as hydra:
        return jobs(read_overrides(parse(["-m", *arguments]), hydra.config_loader))


def test_a_sweep_is_the_product_of_its_values():
    assert members("seed=0,1", "samples=range(2,4)") == [
        ["seed=0", "samples=2"],
        ["seed=0", "samples=3"],
        ["seed=1", "samples=2"],
        ["seed=1", "samples=3"],
    ]
    assert members("seed=choice(3,4)") == [["seed=3"], ["seed=4"]]
    assert members("experiment=glob(hed_*)") == [["experiment=hed_depth"], ["experiment=hed_seg"]]
    assert members("seed=0,1", "~methods.sum") == [["seed=0", "~methods.sum"], ["seed=1", "~methods.sum"]]
    assert members("methods.a.scale=1,2", "seed=0,1", "seed=5") == [
        ["++methods.a.scale=1", "seed=5"],
        ["++methods.a.scale=2", "seed=5"],
    ]


@pytest.mark.parametrize("more", [[], ["hydra/launcher=joblib"]])
def test_a_value_that_is_given_twice_is_a_mistake(more, capsys, tmp_path):
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1,0", f"output_dir={tmp_path}", *more]) == 2
    assert capsys.readouterr().err.strip() == "maxbench: seed=0,1,0 has seed=0 twice, which is one run; leave one out."
    assert not list(tmp_path.iterdir())


def test_groups_and_removals_are_swept(performed, capsys):
    assert main(["run", "experiment=hed_depth,seg_depth", "~methods.sum", "-m"]) == 0
    assert [cfg.name for cfg in performed] == ["hed_depth", "seg_depth"]
    assert all("sum" not in cfg.methods for cfg in performed)
    said = capsys.readouterr().out
    assert "job 1 of 2: experiment=hed_depth ~methods.sum" in said and "job 2 of 2" in said


@pytest.mark.parametrize("bad", ["experiment=hed_dept", "samples=0"])
def test_a_member_that_fails_stops_no_other(bad, performed, capsys):
    key, value = bad.split("=")
    good = {"experiment": "hed_depth", "samples": "4"}
    swept = [f"{key}={value},{good[key]}", *(f"{name}={each}" for name, each in good.items() if name != key)]
    assert main(["run", "-m", *swept]) == 2
    assert len(performed) == 1
    said = capsys.readouterr()
    assert "job 2 of 2" in said.out
    first, _, *listed = said.err.splitlines()
    assert value in first and listed and all("job 1 of 2" in each for each in listed)


def test_a_sweep_is_stopped_by_the_keyboard(monkeypatch, tmp_path):
    begun = []
    monkeypatch.chdir(tmp_path)

    def perform(cfg):
        begun.append(cfg)
        raise KeyboardInterrupt

    monkeypatch.setattr("maxbench.cli.run._perform", perform)
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1"]) == 130
    assert len(begun) == 1
    assert list(ledger_of("runs")[1].state) == ["stopped", "waiting"]


def test_another_launcher_of_hydras_is_given_the_sweep(performed):
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1", "hydra/launcher=basic", "~methods.sum"]) == 0
    assert [cfg.seed for cfg in performed] == [0, 1]
    assert all("sum" not in cfg.methods and OmegaConf.select(cfg, "hydra") is None for cfg in performed)


@pytest.mark.processes
def test_two_small_runs_and_a_bad_one(small_run, tmp_path, capsys):
    few = ["~methods.maxfusion_published", "~methods.outputs_only", f"output_dir={tmp_path}"]
    assert main(["run", "-m", *small_run, *few, "seed=0,-1,1"]) == 2
    runs = [path for path in tmp_path.iterdir() if (path / "metrics.csv").exists()]
    assert len(runs) == 2
    said = capsys.readouterr()
    assert "seed is -1" in said.err
    folder, table = ledger_of(tmp_path)
    assert list(table.drop_duplicates("job").state) == ["finished", "failed", "finished"]
    assert list(table.drop_duplicates("job").seed) == [0, -1, 1]  # what was varied is a column, nothing else is
    assert "samples" not in table and "seed is -1" in table[table.state == "failed"].why.item()
    done = table[table.state == "finished"]
    assert set(done.run) == {path.name for path in runs} and all(
        Path(each, "metrics.csv").exists() for each in done.folder
    )
    for name, own in done.groupby("run"):
        metrics = pd.read_csv(tmp_path / name / "metrics.csv").query("metric == 'clip_score'").set_index("method")
        for row in own.itertuples():
            expected = metrics.loc[row.method]
            assert (row.clip_score, row.clip_score_low, row.n) == (expected.value, expected.low, expected.n)
        assert set(own.method) == set(metrics.index[metrics.role != "reference"])
    summary = said.out[said.out.rindex("job  seed") :]
    assert all(
        len(line) <= 100 for line in summary.splitlines() if not line.startswith(("job ", "sweep:", "as a page:"))
    )
    assert (
        "maxfusion" in summary and f"job 1, finished: {tmp_path}" in summary and "job 2, failed: seed is -1" in summary
    )
    page = (folder / "sweep.md").read_text()
    assert page.startswith(f"# {folder.name}\n") and "3 jobs: 2 finished, 1 failed" in page and "| none |" in page


def test_the_same_command_goes_on_with_its_ledger(performed, monkeypatch, capsys):
    command = ["run", "-m", "experiment=hed_depth", "seed=0,1,2"]

    def fails_at_1(cfg):
        if cfg.seed == 1:
            raise KeyboardInterrupt
        performed.append(cfg)

    monkeypatch.setattr("maxbench.cli.run._perform", fails_at_1)
    assert main(command) == 130
    folder, table = ledger_of("runs")
    assert list(table.state) == ["finished", "stopped", "waiting"]
    capsys.readouterr()
    during = []

    def looks(cfg):
        during.append(list(pd.read_csv(folder / "sweep.csv").state))

    monkeypatch.setattr("maxbench.cli.run._perform", looks)
    assert main([*command, "runtime.threads=1"]) == 0  # another way to compute the same is the same sweep
    assert "1 of 3 jobs were finished before" in capsys.readouterr().out
    assert during == [
        ["finished", "waiting", "waiting"], ["finished", "running", "waiting"], ["finished", "finished", "running"]
    ]  # fmt: skip
    assert list(ledger_of("runs")[1].state) == ["finished"] * 3


def test_members_decide_the_name_of_a_sweep():
    first = sweep_name([["experiment=a", "seed=0"], ["experiment=a", "seed=1"]])
    assert first.startswith("sweep-a-")
    assert first == sweep_name([["seed=0", "output_dir=x", "experiment=a"], ["seed=1", "output_dir=x", "experiment=a"]])
    assert first != sweep_name([["experiment=a", "seed=0"], ["experiment=a", "seed=2"]])
    assert first != sweep_name([["experiment=a", "seed=0", "~methods.sum"], ["experiment=a", "seed=1", "~methods.sum"]])
    threads = [["experiment=a", f"runtime.threads={count}"] for count in (1, 2)]
    assert sweep_name(threads) != sweep_name(threads[:1])  # what is varied counts, whatever it is


def test_a_member_s_file_that_is_damaged_is_a_member_that_waits(performed, tmp_path):
    command = ["run", "-m", "experiment=hed_depth", "seed=0,1"]
    assert main(command) == 0
    folder, _ = ledger_of("runs")
    for content in ("[]", "\x00"):
        (folder / "jobs" / "0001.json").write_text(content)
        assert main(command) == 0
        assert list(ledger_of("runs")[1].state) == ["finished", "finished"]
        assert json.loads((folder / "jobs" / "0001.json").read_text())["state"] == "finished"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_ledger_that_cannot_be_written_ends_nothing(performed, capsys):
    Path("runs").mkdir()
    Path("runs").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1"]) == 0
    assert len(performed) == 2
    assert capsys.readouterr().err.count("ledger cannot be written") == 1


def test_a_file_in_the_ledger_s_place_ends_nothing(performed, capsys):
    Path("runs").write_text("")
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,-1"]) == 2
    assert len(performed) == 1
    said = capsys.readouterr()
    assert said.err.count("ledger cannot be written") == 1
    assert "job 1, finished" in said.out and "job 2, failed: seed is -1" in said.out and "sweep.md" not in said.out


def test_looking_ahead_keeps_no_ledger(monkeypatch, tmp_path):
    monkeypatch.setattr("maxbench.cli.perform.foresee", lambda cfg: None)
    monkeypatch.setattr("maxbench.cli.forecast.say_hours", lambda configs: None)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1", "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.fixture
def submitit(monkeypatch):
    """The launcher; its jobs import this checkout."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return "hydra/launcher=submitit_local"


@pytest.mark.processes
def test_jobs_of_submitit_share_a_store_and_one_that_fails_stops_no_other(submitit, small_run, tmp_path, capsys):
    few = [f"~methods.{name}" for name in ("maxfusion_published", "outputs_only", "average", "sum")]
    swept = ["seed=0,-1,1", "samples=2", "pairing.reference=8", "baseline=none", f"output_dir={tmp_path}"]
    assert main(["run", "-m", submitit, *small_run, *few, *swept]) == 2
    said = capsys.readouterr()
    folders = all_runs(tmp_path)
    seeds = {yaml.safe_load((folder / "config.yaml").read_text())["seed"]: folder for folder in folders}
    assert sorted(seeds) == [0, 1] and all((folder / "metrics.csv").exists() for folder in folders)
    for number, seed in ((1, 0), (3, 1)):
        told = said.out.split(f"job {number} of 3: ")[1].splitlines()
        assert f"seed={seed}" in told[0].split() and told[1].strip() == str(seeds[seed])
    failed, sentence, counted = said.err.splitlines()
    assert "job 2 of 3: " in failed and sentence.strip().startswith("seed is -1;")
    assert counted == "maxbench: 1 of 3 jobs failed."
    _, table = ledger_of(tmp_path)
    once = table.drop_duplicates("job")
    assert list(once.state) == ["finished", "failed", "finished"] and list(once.seed) == [0, -1, 1]
    assert list(once.folder[once.state == "finished"]) == [str(seeds[0]), str(seeds[1])]
    assert table.clip_score.notna().sum() == 8  # of four methods, twice
    logs = tmp_path / ".submitit"
    assert f"{logs}/<job>/" in said.out
    assert sum("images: " in log.read_text() for log in logs.glob("*/*_log.out")) == 2
    stored = {path.stat().st_ino for path in (tmp_path / "store").rglob("*.png")}
    pictures = [path for folder in folders for path in (folder / "images").rglob("*.png")]
    assert pictures and all(path.stat().st_ino in stored for path in pictures)


@pytest.mark.processes
def test_a_job_of_submitit_that_does_not_come_back_is_said(submitit, small_run, tmp_path, capsys):
    at_once = "hydra.launcher.timeout_min=0"  # is when it is ended
    assert main(["run", "-m", submitit, at_once, *small_run, "seed=0", f"output_dir={tmp_path}"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("maxbench: A job of the sweep did not come back (Job ") and "run the same command" in said
    (state,) = ledger_of(tmp_path)[1].state
    assert state in ("waiting", "running")  # it may have begun before it was ended


@pytest.mark.processes
def test_jobs_of_joblib_write_one_ledger(small_run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    few = [f"~methods.{name}" for name in ("maxfusion_published", "outputs_only", "average", "sum", "maxfusion")]
    swept = ["seed=0,-1,1", "samples=2", "pairing.reference=8", "baseline=none", f"output_dir={tmp_path}"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert main(["run", "-m", *launcher, *small_run, *few, *swept]) == 2
    folder, table = ledger_of(tmp_path)
    once = table.drop_duplicates("job")
    assert list(once.state) == ["finished", "failed", "finished"]
    assert {Path(each).name for each in once.folder.dropna()} == {each.name for each in all_runs(tmp_path)}
    told = {json.loads(path.read_text())["process"] for path in (folder / "jobs").iterdir()}
    assert os.getpid() not in told
    said = capsys.readouterr()
    assert "job 2, failed: seed is -1" in said.out and "maxbench: 1 of 3 jobs failed." in said.err


def test_submitit_that_is_not_installed_is_one_sentence(monkeypatch, capsys):
    for name in ("submitit_local", "submitit_slurm"):
        monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{name}.yaml", raising=False)
        assert main(["run", "-m", "experiment=hed_depth", "seed=0,1", f"hydra/launcher={name}"]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"maxbench: hydra/launcher={name} needs") and "pip install 'maxbench[slurm]'" in said


def test_joblib_that_is_not_installed_is_one_sentence(monkeypatch, capsys):
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml", raising=False)
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1", "hydra/launcher=joblib"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "needs joblib's launcher" in said and "pip install 'maxbench[joblib]'" in said


def test_a_sweep_that_another_launcher_runs_has_a_suite_and_its_failures_are_told(performed, monkeypatch, capsys):
    monkeypatch.setattr("maxbench.cli.run.with_suite", lambda hydra, overrides, main: [*overrides, "suite=sd15"])
    assert main(["run", "-m", "experiment=hed_depth", "samples=4,0", "hydra/launcher=basic"]) == 2
    assert [cfg.suite.name for cfg in performed] == ["sd15"]
    said = capsys.readouterr()
    assert "job 1 of 2: experiment=hed_depth samples=4" in said.out
    assert "job 2 of 2: experiment=hed_depth samples=0" in said.err and "maxbench: 1 of 2 jobs failed." in said.err
