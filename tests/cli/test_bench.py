"""The verb `bench`, on small random networks."""

from __future__ import annotations

import re
from dataclasses import replace
from statistics import median

import pandas as pd
import pytest

from maxbench.__main__ import main
from maxbench.bench.shapes import TINY
from maxbench.cli import bench
from maxbench.cli.command import compose_one
from maxbench.cli.subject import _loaded
from maxbench.models.precision import Precision

METHODS = ("sum", "maxfusion", "maxfusion_published", "average", "none")


@pytest.fixture(scope="module")
def words(small_run):
    return ["bench", *small_run, "runtime.batch_size=2", "--turns", "2"]


@pytest.fixture(scope="module")
def kept(words, tmp_path_factory):
    """The page and the table of a measurement."""
    output = tmp_path_factory.mktemp("bench")
    assert main([*words, "--output", str(output)]) == 0
    (page,) = output.glob("*.md")
    assert page.stem.endswith("-miniature-float32-batch2")
    return page.read_text(), pd.read_csv(page.with_suffix(".csv"), keep_default_na=False)


def test_the_tables_are_complete(kept):
    page, table = kept
    timed = table[table.measure == "seconds"]
    counts = timed.groupby(["method", "does"]).size().to_dict()
    expected = {(name, "pictures"): 2 for name in ("diffusers", *METHODS)}
    assert counts == {**expected, ("sum", "denoising"): 2, ("sum", "end to end"): 2}
    assert set(table.measure) == {"seconds", "part", "difference", "matrix rate", "work"}
    for name in ("diffusers", *METHODS):
        assert page.count(f"`{name}`") == 2  # as a case and as a column of parts
    for verdict in ("met: sum over diffusers", "from files to files", "maxfusion over sum, eager", "matrix rate"):
        assert verdict in page
    assert re.search(r"commit [0-9a-f]{10}|maxbench \d", page) and "torch " in page and "diffusers 0." in page


def test_pictures_agree(kept):
    _, table = kept
    assert float(table[table.measure == "difference"].value.iloc[0]) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_ratios_are_those_of_the_turns(kept, name):
    page, table = kept
    turns = table[(table.measure == "seconds") & (table.does == "pictures")]
    seconds = {
        method: [float(value) for value in each.sort_values("turn").value] for method, each in turns.groupby("method")
    }
    ratio = median(one / other for one, other in zip(seconds[name], seconds["diffusers"], strict=True))
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[4].split()[0]) == pytest.approx(ratio, abs=6e-4)
    assert float(cells[1]) == pytest.approx(2 / median(seconds[name]), rel=6e-3)


def test_it_prints_what_it_found_and_writes_nothing_unasked(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--turns", "1", "--methods", "maxfusion"]) == 0
    printed = capsys.readouterr().out
    assert "sum" in printed and "maxfusion" in printed and "average" not in printed
    assert not [path for path in tmp_path.rglob("*.csv")]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "sum,maxfusoin"], "no method 'maxfusoin'; did you mean 'maxfusion'?"),
        (["~conditions.depth", "~methods.single"], "1 control and nothing to add up"),
        (["--turns", "0"], "--turns is 0"),
        (["--turns", "some"], "--turns"),
        (["--random-weights"], "leave out suite="),
        (["suite=nothing"], "no suite 'nothing'"),
        (["--compile"], "--compile"),
        (["sampler.guidance_scale=0.5"], "different pictures"),
        (["methods.sum.sites=[down]"], "is not the sum"),
    ],
)
def test_a_mistake_is_one_sentence(words, capsys, more, said):
    given = [*words, "suite=miniature", *more] if "--random-weights" in more else [*words, *more]
    assert main(given) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("maxbench:")]
    assert said in line
    assert "images/s" not in printed.out


def test_adapters_are_refused(small_run, capsys):
    settings = [each for each in small_run if not each.startswith("experiment=")]
    assert main(["bench", "experiment=adapters_hed_depth", *settings]) == 2
    assert "is no ControlNet" in capsys.readouterr().err


def test_a_method_that_a_run_would_tune_is_refused(small_run, capsys):
    settings = [each for each in small_run if "tuned_sum" not in each]
    assert main(["bench", *settings, "calibration.samples=2", "--methods", "tuned_sum"]) == 2
    assert "no settings before a run" in capsys.readouterr().err


def test_random_weights_need_nothing(tmp_path, capsys):
    settings = ["suite=sd15", "suite.resolution=64", "suite.steps=2", "runtime.batch_size=1", "runtime.device=cpu"]
    cfg = compose_one(["experiment=hed_depth", *settings], None)
    assert bench.measured(cfg, ["maxfusion"], 1, False, tmp_path, "bench", TINY) == 0
    printed = capsys.readouterr().out
    assert "tiny, random weights, 64 pixels, batch 1" in printed
    assert list(tmp_path.glob("*tiny-random-weights-float32-batch1.csv"))


def test_compiled_is_a_second_set_of_networks():
    """Its own precision, and the eager one stays eager whatever the run would do."""

    class Loaded:
        def computing(self, precision, batch, resolution):
            return precision

    for asked in (False, True):
        eager, compiled = _loaded(lambda dtype: Loaded(), replace(Precision(), compiled=asked), True, 1, 64)
        assert (eager.compiled, compiled.compiled) == (False, True)


def test_help_says_every_option(capsys):
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    assert {"--turns", "--methods", "--compiled", "--random-weights", "--output", "--config-dir"} <= set(
        re.findall(r"--[a-z-]+", printed)
    )
