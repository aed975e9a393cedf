"""The verb `search`: numbers chosen on training scenes within a budget, then measured on others."""

import json
import shutil

import pandas as pd
import pytest

from maxbench.__main__ import main
from maxbench.store.files import read_sealed
from runs import counted, digests, only_run

LEFT_OUT = ("single_tuned", "tuned_sum", "scheduled_sum", "random_blobs", "outputs_only", "gated_sum",
            "maxfusion_published", "average")  # fmt: skip


@pytest.fixture(scope="module")
def words(data_dir):
    """With the shipped networks: of random ones no control gains anything. One method beside is tuned step by step."""
    return [
        "experiment=hed_depth", *(f"~methods.{name}" for name in LEFT_OUT), f"data_dir={data_dir}", "data.count=24",
        "samples=2", "pairing.reference=8", "calibration.samples=4", "calibration.data.count=12", "sampler.steps=3",
        "metrics.resamples=100", "runtime.batch_size=4", "runtime.device=cpu", "method=maxfusion,sum", "trials=4",
        "methods.maxfusion_tuned.tune={scale:[1,2]}", "methods.maxfusion_tuned.then={rule.delta:[0.7,0.9]}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def searched_run(words, tmp_path_factory):
    output = tmp_path_factory.mktemp("searched")
    assert main(["search", *words, f"output_dir={output}"]) == 0
    return only_run(output)


def test_both_methods_have_the_same_budget_and_the_best_is_run(searched_run):
    table = pd.read_csv(searched_run / "tuning.csv")
    sizes = {"maxfusion_searched": 4, "maxfusion_tuned": 3, "sum_searched": 4}
    assert dict(table.groupby("method").size()) == sizes and set(table.n) == {4}
    for name, own in table.groupby("method"):
        assert own.chosen.sum() == 1 and own.joint[own.chosen].item() == own.joint.max()
        assert len({tuple(each) for each in own.drop(columns=["candidate", "joint"]).values}) > 2, name
    first = table[table.candidate == 0].set_index("method")
    assert (first["rule.delta"]["maxfusion_searched"], first["scale"]["maxfusion_searched"]) == (0.7, 1)
    methods = {each["name"]: each for each in json.loads((searched_run / "manifest.json").read_text())["methods"]}
    best = table[table.chosen].set_index("method").loc["maxfusion_searched"]
    assert methods["maxfusion_searched"]["tuned"] == {"rule.delta": best["rule.delta"], "scale": best["scale"]}
    text = (searched_run / "table.md").read_text()
    assert "of 4 training scenes" in text and "maxfusion_searched (of 4) scale" in text
    differences = pd.read_csv(searched_run / "differences.csv")
    pairs = set(zip(differences.method, differences.baseline, strict=True))
    assert {("maxfusion_searched", "maxfusion"), ("maxfusion_searched", "sum"), ("sum_searched", "sum")} <= pairs


def test_the_search_has_seen_no_sample(searched_run):
    trained, measured = (
        {path.read_bytes() for path in (searched_run / room).glob("*.png")} for room in ("tuning/real", "real")
    )
    assert len(trained) == 4 and len(measured) == 2 and not trained & measured


def test_a_second_search_finds_everything(searched_run, words, capsys):
    before = (searched_run / "tuning.csv").read_bytes()
    assert main(["search", *words, f"output_dir={searched_run.parent}"]) == 0
    assert all(count["made"] == 0 for count in counted(searched_run).values())
    assert "trial" not in capsys.readouterr().err and (searched_run / "tuning.csv").read_bytes() == before


@pytest.mark.parametrize("left", [1, 3, "damaged"])
def test_a_stopped_search_goes_on_and_ends_as_the_unbroken_one(left, searched_run, words, tmp_path):
    shutil.copytree(searched_run.parent, tmp_path / "runs")
    folder = only_run(tmp_path / "runs")
    trials = folder / "tuning" / "trials.json"
    if left == "damaged":
        trials.write_bytes(trials.read_bytes()[:-9])
    else:
        from maxbench.store.files import seal

        trials.write_text(seal({name: own[:left] for name, own in read_sealed(trials).items()}))
    assert main(["search", *words, f"output_dir={tmp_path / 'runs'}"]) == 0
    for name in ("tuning.csv", "tuning/trials.json", "metrics.csv"):
        assert (folder / name).read_bytes() == (searched_run / name).read_bytes()
    assert digests(folder / "images") == digests(searched_run / "images")


def test_looking_ahead_counts_the_trials(searched_run, words, tmp_path, capsys):
    assert main(["search", *words, "--dry-run", f"output_dir={tmp_path}"]) == 0
    said = capsys.readouterr().out
    lines = {line.split("  ")[0]: line.split() for line in said.splitlines()}
    assert "tuning: images of maxfusion_searched, 4 settings" in lines and not list(tmp_path.iterdir())
    assert main(["search", *words, "--dry-run", f"output_dir={searched_run.parent}"]) == 0
    assert "to make: 0 images" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["maxfusion_tuned", "tuned_sum"])
def test_what_is_tuned_already_can_be_searched_too(method, tmp_path, capsys):
    places = [f"{name}_dir={tmp_path / name}" for name in ("output", "data")]
    assert main(["search", "experiment=hed_depth", f"method={method}", "trials=3", *places, "--dry-run"]) == 0
    assert f"tuning: images of {method}_searched, 3 settings" in capsys.readouterr().out


MISTAKES = [
    (["experiment=hed_depth"], "Say which method to search"),
    (["experiment=hed_depth", "method=maxfusio"], "did you mean 'maxfusion'?"),
    (["experiment=hed_depth", "method=maxfusion,maxfusion"], "name each once"),
    (["experiment=hed_depth", "method=none"], "no control"),
    (["experiment=hed_depth", "method=maxfusion", "method=sum"], "said twice"),
    (["experiment=hed_depth", "method=maxfusion", "trials=1"], "from 2 to 10000"),
    (["experiment=hed_depth", "method=maxfusion", "trials=many"], "trials is 'many'"),
    (["experiment=hed_depth", "method=maxfusion", "space={rule.delta: [1, 0]}"], "its lowest and its highest"),
    (["experiment=hed_depth", "method=maxfusion", "space={rule.delta: 1}"], "its lowest and its highest"),
    (["experiment=hed_depth", "method=maxfusion", "space={rule.delta: [0, yes]}"], "its lowest and its highest"),
    (["experiment=hed_depth", "method=maxfusion", "space={"], "cannot be read"),
    (["experiment=hed_depth", "method=maxfusion", "space=7"], "no range"),
    (["experiment=hed_depth", "method=maxfusion", "space={rule.dleta: [0, 1]}"], "no number of its rule"),
    (["experiment=hed_depth", "method=maxfusion", "space={scael: [0, 1]}"], "did you mean 'scale'?"),
    (["experiment=hed_depth", "method=maxfusion", "space={scale: [-1, 1]}"], "0 or more"),
    (["experiment=hed_depth", "method=sum", "space={rule.delta: [0, 1]}"], "no number of its rule"),
    (["experiment=threshold", "method=maxfusion"], "has vary"),
    (["experiment=hed_depth", "method=maxfusion", "~methods.single"], "needs a joint score"),
    (["experiment=hed_dept", "method=maxfusion"], "There is no experiment"),
    (["experiment=hed_depth", "method=maxfusion", "seed=0,1"], "several values"),
    (["experiment=hed_depth", "method=maxfusion", "--trials", "4"], "Unrecognized arguments: --trials 4"),
    ([], "Say which method"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=lambda each: str(each)[:50])
def test_a_mistake_is_one_sentence(words, sentence, data_dir, tmp_path, capsys):
    places = [] if not words or "--trials" in words else [f"data_dir={data_dir}", f"output_dir={tmp_path}"]
    if words:
        places += ["data.count=24", "samples=2", "pairing.reference=8", "calibration.data.count=36"]
    assert main(["search", *words, *places]) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and said.startswith("maxbench: ") and "\n" not in said


def test_help_is_there(capsys):
    assert main(["search", "--help"]) == 0
    assert "method=" in capsys.readouterr().out
