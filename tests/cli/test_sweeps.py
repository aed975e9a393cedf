"""Sweeps: every member in turn, and one that fails stops no other."""

import pytest
from omegaconf import OmegaConf

from maxbench.__main__ import main
from maxbench.cli.command import jobs, parse, read_overrides
from maxbench.cli.config import hydra_on


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
