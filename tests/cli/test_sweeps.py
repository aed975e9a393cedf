"""Sweeps: every member in turn, and one that fails stops no other."""

from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from maxbench.__main__ import main
from maxbench.cli.command import jobs, parse, read_overrides
from maxbench.configuration.compose import hydra_on
from runs import all_runs


@pytest.fixture
def performed(monkeypatch):
    """The configurations that would be run, in the place of runs."""
    found = []
    monkeypatch.setattr("maxbench.cli.run._perform", found.append)
    return found


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


def test_a_sweep_is_stopped_by_the_keyboard(monkeypatch):
    begun = []

    def perform(cfg):
        begun.append(cfg)
        raise KeyboardInterrupt

    monkeypatch.setattr("maxbench.cli.run._perform", perform)
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1"]) == 130
    assert len(begun) == 1


def test_another_launcher_of_hydras_is_given_the_sweep(performed):
    assert main(["run", "-m", "experiment=hed_depth", "seed=0,1", "hydra/launcher=basic", "~methods.sum"]) == 0
    assert [cfg.seed for cfg in performed] == [0, 1]
    assert all("sum" not in cfg.methods and OmegaConf.select(cfg, "hydra") is None for cfg in performed)


def test_two_small_runs_and_a_bad_one(small_run, tmp_path, capsys):
    few = ["~methods.maxfusion_published", "~methods.outputs_only", f"output_dir={tmp_path}"]
    assert main(["run", "-m", *small_run, *few, "seed=0,-1,1"]) == 2
    assert len([path for path in tmp_path.iterdir() if (path / "metrics.csv").exists()]) == 2
    assert "seed is -1" in capsys.readouterr().err


@pytest.fixture
def submitit(monkeypatch):
    """The launcher; its jobs import this checkout."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return "hydra/launcher=submitit_local"


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
    logs = tmp_path / ".submitit"
    assert f"{logs}/<job>/" in said.out
    assert sum("images: " in log.read_text() for log in logs.glob("*/*_log.out")) == 2
    stored = {path.stat().st_ino for path in (tmp_path / "store").rglob("*.png")}
    pictures = [path for folder in folders for path in (folder / "images").rglob("*.png")]
    assert pictures and all(path.stat().st_ino in stored for path in pictures)


def test_a_job_of_submitit_that_does_not_come_back_is_said(submitit, small_run, tmp_path, capsys):
    at_once = "hydra.launcher.timeout_min=0"  # is when it is ended
    assert main(["run", "-m", submitit, at_once, *small_run, "seed=0", f"output_dir={tmp_path}"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("maxbench: A job of the sweep did not come back (Job ") and "run the same command" in said


def test_submitit_that_is_not_installed_is_one_sentence(monkeypatch, capsys):
    for name in ("submitit_local", "submitit_slurm"):
        monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{name}.yaml", raising=False)
        assert main(["run", "-m", "experiment=hed_depth", "seed=0,1", f"hydra/launcher={name}"]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"maxbench: hydra/launcher={name} needs") and "pip install 'maxbench[slurm]'" in said


def test_a_sweep_that_another_launcher_runs_has_a_suite_and_its_failures_are_told(performed, monkeypatch, capsys):
    monkeypatch.setattr("maxbench.cli.run.with_suite", lambda hydra, overrides, main: [*overrides, "suite=sd15"])
    assert main(["run", "-m", "experiment=hed_depth", "samples=4,0", "hydra/launcher=basic"]) == 2
    assert [cfg.suite.name for cfg in performed] == ["sd15"]
    said = capsys.readouterr()
    assert "job 1 of 2: experiment=hed_depth samples=4" in said.out
    assert "job 2 of 2: experiment=hed_depth samples=0" in said.err and "maxbench: 1 of 2 jobs failed." in said.err
