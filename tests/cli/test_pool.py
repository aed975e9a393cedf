"""Several seeds as one result, and differences to any row: from what was measured, with one cluster per picture."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from maxbench.__main__ import main
from maxbench.cli.pool import read_config, read_state, tables_of, what_was_tried
from maxbench.errors import UserError
from maxbench.evaluation.state import merge
from maxbench.report.runs import Results
from maxbench.report.tables import _tuned
from runs import all_runs

FILES = ("metrics.csv", "samples.parquet", "differences.csv", "evaluation.json", "state.npz", "table.md", "config.yaml")


@pytest.fixture(scope="module")
def runs(seeded) -> list[Path]:
    own = [folder for folder in all_runs(seeded) if "pooled" not in folder.name]
    return sorted(own, key=lambda folder: read_config(folder)["seed"])


@pytest.fixture(scope="module")
def pooled(seeded) -> Path:
    return next(seeded.glob("hed_depth-miniature-pooled-*"))


def test_pooled_numbers_are_those_of_all_images_together(runs, pooled):
    for name in FILES:
        assert (pooled / name).stat().st_size > 0, name
    samples = pd.concat([pd.read_parquet(run / "samples.parquet") for run in runs])
    metrics = pd.read_csv(pooled / "metrics.csv")
    assert set(metrics.seed) == {"0+1"}
    for metric in ("depth_rmse", "clip_score", "hed_ssim"):
        means = samples[samples.metric == metric].groupby("method").value.mean()
        table = metrics[metrics.metric == metric].set_index("method")
        np.testing.assert_allclose(table.value[means.index], means)
        assert (table.n == 8).all()
    assert set(pd.read_parquet(pooled / "samples.parquet").seed) == {0, 1}
    assert yaml.safe_load((pooled / "config.yaml").read_text())["seed"] == [0, 1]
    assert "with each of the seeds 0 and 1" in (pooled / "table.md").read_text()


def test_the_same_picture_in_two_seeds_is_one_cluster(runs):
    one = read_state(runs[0])
    other = replace(one, images=tuple(replace(image, seed=1) for image in one.images))
    both = merge([one, other])
    assert len(both.images) == 8 and len(set(both.groups)) == 4
    assert np.array_equal(both.groups[:4], both.groups[4:])
    config = {**read_config(runs[0]), "metrics": {"resamples": 400, "level": 0.95}}

    def low_and_high(state):
        table = tables_of(state, config).metrics()
        return table[table.metric == "clip_score"].set_index("method")[["low", "high"]]

    # the same numbers twice over tell no more than once: the interval stays, where eight clusters would narrow it
    np.testing.assert_allclose(low_and_high(both), low_and_high(one))
    apart = replace(both, images=tuple(replace(each, group=f"{each.group}/{each.seed}") for each in both.images))
    narrow, wide = (low_and_high(state).loc["none"] for state in (apart, both))
    assert narrow.high - narrow.low < 0.9 * (wide.high - wide.low)


def test_pooling_finished_runs_is_what_the_seeds_give_in_any_order(runs, pooled, tmp_path, capsys):
    assert main(["tables", str(runs[1]), str(runs[0]), "--pool", "--output", str(tmp_path / "both")]) == 0
    for name in FILES:
        assert (tmp_path / "both" / name).read_bytes() == (pooled / name).read_bytes(), name
    assert main(["tables", str(runs[1]), str(runs[0]), "--pool", "--output", str(tmp_path / "both")]) == 0
    capsys.readouterr()
    assert main(["tables", str(tmp_path / "both")]) == 0
    assert "seeds 0 and 1" in capsys.readouterr().out


def test_what_was_tried_is_kept_once_or_by_seed(tmp_path):
    table = pd.DataFrame(
        {"method": "tuned_sum", "candidate": [0, 1], "scale": [1.0, 2.0], "joint": 0.5, "n": 8, "chosen": [True, False]}
    )
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    assert what_was_tried(folders, (0, 1)) == b""
    for folder in folders:
        table.to_csv(folder / "tuning.csv", index=False)
    assert what_was_tried(folders, (0, 1)) == (folders[0] / "tuning.csv").read_bytes()
    table.assign(chosen=[False, True]).to_csv(folders[1] / "tuning.csv", index=False)
    both = tmp_path / "both"
    both.mkdir()
    (both / "tuning.csv").write_bytes(what_was_tried(folders, (0, 1)))
    (said,) = _tuned(Results(both))
    assert "seed 0: tuned_sum (of 2) scale 1. seed 1: tuned_sum (of 2) scale 2." in said
    (folders[1] / "tuning.csv").unlink()  # of a run in which nothing was tuned
    assert set(pd.read_csv(io.BytesIO(what_was_tried(folders, (0, 1)))).seed) == {0}


def test_pooling_touches_no_picture(runs, tmp_path):
    copies = []
    for run in runs:
        copies.append(tmp_path / run.name)
        copies[-1].mkdir()
        for name in ("state.npz", "config.yaml", "maxbench-run.json"):
            shutil.copyfile(run / name, copies[-1] / name)
    assert main(["tables", *map(str, copies), "--pool"]) == 0
    assert len(list(tmp_path.glob("*pooled*/metrics.csv"))) == 1


def test_differences_to_another_row_are_printed_and_nothing_is_written(runs, capsys):
    before = {path: path.stat().st_mtime_ns for path in runs[0].iterdir()}
    assert main(["tables", str(runs[0]), "--baseline", "none", "--baseline", "single/hed"]) == 0
    out = capsys.readouterr().out
    assert "Minus none:" in out and "Minus single/hed:" in out and "Minus average:" not in out
    value = pd.read_csv(runs[0] / "metrics.csv").query("metric == 'clip_score'").set_index("method").value
    row = next(line for line in out.split("Minus none:")[1].splitlines() if line.startswith("sum "))
    assert f"{value['sum'] - value['none']:+.2f} [" in row
    assert {path: path.stat().st_mtime_ns for path in runs[0].iterdir()} == before


def test_runs_that_differ_in_more_than_the_seed_are_refused(runs, tmp_path, capsys):
    for key, value in (("samples", 5), ("sampler.steps", 3)):
        other = tmp_path / key
        shutil.copytree(runs[1], other)
        config = read_config(other)
        place = config
        *path, last = key.split(".")
        for part in path:
            place = place[part]
        place[last] = value
        (other / "config.yaml").write_text(yaml.safe_dump(config))
        assert main(["tables", str(runs[0]), str(other), "--pool"]) == 2
        said = capsys.readouterr().err
        assert f"differ in {key} (" in said and f"and {value})" in said
    with pytest.raises(UserError, match="scorers differ"):
        merge([read_state(runs[0]), replace(read_state(runs[1]), scorers={})])


MISTAKES = {
    "one": lambda runs, pooled: ([runs[0], "--pool"], "There is nothing to pool; name"),
    "none": lambda runs, pooled: (["--pool"], "There is nothing to pool; name"),
    "twice": lambda runs, pooled: ([runs[0], f"{runs[0]}/", "--pool"], "A run is named twice"),
    "pooled already": lambda runs, pooled: ([runs[0], pooled, "--pool"], "is pooled already"),
    "no run": lambda runs, pooled: ([runs[0], pooled.parent / "x", "--pool"], "has no state.npz"),
    "both": lambda runs, pooled: ([*runs, "--pool", "--baseline", "sum"], "pool first"),
    "output alone": lambda runs, pooled: ([runs[0], "--output", "x"], "goes with --pool"),
    "onto a run": lambda runs, pooled: ([*runs, "--pool", "--output", runs[0]], "holds another run"),
    "no row": lambda runs, pooled: ([runs[0], "--baseline", "x"], "The baseline 'x' is no method of this run; take"),
    "row twice": lambda runs, pooled: ([runs[0], "--baseline", "sum", "--baseline", "sum"], "names a row twice"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_tables_are_one_sentence(mistake, runs, pooled, capsys):
    words, sentence = MISTAKES[mistake](runs, pooled)
    assert main(["tables", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_the_state_of_another_run_is_one_sentence(runs, tmp_path, capsys):
    shutil.copytree(runs[1], tmp_path / "run")
    (tmp_path / "run" / "state.npz").unlink()
    shutil.copy(runs[0] / "state.npz", tmp_path / "run")
    assert main(["tables", str(tmp_path / "run"), "--baseline", "sum"]) == 2
    assert "state.npz is damaged" in capsys.readouterr().err


def test_what_is_damaged_is_named_where_it_lies(runs, tmp_path, capsys):
    shutil.copytree(runs[1], tmp_path / "run")
    (tmp_path / "run" / "tuning.csv").write_text("")
    assert main(["tables", str(tmp_path / "run"), "--baseline", "sum"]) == 2
    assert f"{tmp_path / 'run' / 'tuning.csv'} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["state.npz", "config.yaml"])
def test_a_damaged_file_is_one_sentence(name, runs, tmp_path, capsys):
    shutil.copytree(runs[1], tmp_path / "run")
    content = (tmp_path / "run" / name).read_bytes()
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).write_bytes(b"{" + content[: len(content) // 2])
    for words in ([str(runs[0]), str(tmp_path / "run"), "--pool"], [str(tmp_path / "run"), "--baseline", "sum"]):
        assert main(["tables", *words]) == 2
        said = capsys.readouterr().err
        assert name in said and "damaged" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", "0,0"], "has a seed twice"),
        (["--seeds", "0"], "write seed=0 instead"),
        (["--seeds", ""], "write whole numbers"),
        (["--seeds", "0,-1"], "write whole numbers"),
        (["--seeds", "0,x"], "write whole numbers"),
        (["--seeds", "0,1,"], "write whole numbers"),
        (["--seeds", f"0,{2**63}"], "write whole numbers"),
        (["--seeds", "0,1", "seed=3"], "--seeds and seed=3 both say the seed"),
        (["--seeds", "0,1", "-m"], "leave out -m"),
        (["--seeds", "0,1", "--cfg", "job"], "leave out --cfg"),
        (["--seed", "0,1"], "seed"),
        (["--seeds"], "python -m maxbench run --help"),
        (["--seeds", "0,1", "samples=x"], "samples is 'x'"),
    ],
)
def test_mistakes_of_seeds_are_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=hed_depth", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_seed_that_fails_is_said_and_nothing_is_pooled(lean, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["run", "experiment=hed_depth", *lean, f"output_dir={tmp_path / 'file'}", "--seeds", "0,1"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "2 of 2 jobs failed" in said and "nothing is pooled" in said and "Traceback" not in said
