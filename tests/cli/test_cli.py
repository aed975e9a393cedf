"""Manners: help at once, and a sentence instead of a traceback."""

import re
import runpy
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from maxbench.__main__ import main
from maxbench.configuration.compose import CONF, compose, hydra_on
from maxbench.miniature.dataset import folder_name
from runs import LEFT_OUT, only_run

MISTAKES = [
    (["samples=23"], "lower samples to at most 12"),
    (["runtime.device=cuda:99"], "CUDA devices are visible"),
    (["methods.maxfusion.rule.delta=nan"], "methods.maxfusion.rule: delta is a similarity"),
    (["methods.maxfusion.rule.delta=high"], "methods.maxfusion.rule: delta is a similarity"),
    (["methods.maxfusion.rule.dleta=0.3"], "did you mean 'methods.maxfusion.rule.delta'"),
    (["methods.maxfusion.rule._target_=maxbench.fusion.Maxfusion"], "has no 'Maxfusion'; did you mean 'MaxFusion'"),
    (["methods.maxfusion.rule._target_=os.system"], "'os.system', which is no maxbench.fusion.Rule"),
    (["methods.maxfusion.rule._target_=mine.Rule"], "there is no module 'mine'"),
    (["+methods.weighted={rule: {_target_: maxbench.fusion.Weighted}}"], "methods.weighted.rule.weights is missing"),
    (["conditions.hed._target_=pathlib.Path"], "'pathlib.Path', which is no condition"),
    (["sampler.scheduler._target_=diffusers.DDIMSchedular.from_config"], "did you mean 'DDIMScheduler'"),
    (["+conditions.hed.low=3"], "There is no setting 'conditions.hed.low'"),
    (["suite.root=/nowhere/at/all"], r"lacks the weights of vae, .*/nowhere/at/all.*MB"),
    (["data.split=test"], "no split 'test'; take one of train, val"),
    (["output_dir=/proc/nothing"], "/proc/nothing.* cannot be made .*; set output_dir= or store_dir="),
]
"""What is known only when the classes and the data are there; the others are in test_schema.py."""


def said(arguments, capsys) -> tuple[int, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_sentence_and_code_2(mistake, sentence, small_run, tmp_path, capsys):
    replaced = {each.split("=")[0] for each in mistake}
    rest = [each for each in [*small_run, f"output_dir={tmp_path}/runs"] if each.split("=")[0] not in replaced]
    code, error = said(["run", *rest, *mistake], capsys)
    assert code == 2
    assert re.search(sentence, error), error
    assert len(error.strip().splitlines()) == 1, error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.png"))


def test_no_experiment_lists_them(capsys):
    code, error = said(["run"], capsys)
    assert code == 2 and "hed_depth" in error and len(error.splitlines()) == 1


def test_damaged_files_are_named_and_nothing_is_lost(small_run, small_suite, data_dir, tmp_path, capsys):
    data = shutil.copytree(data_dir, tmp_path / "data")
    for path in data.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    rest = [each for each in small_run if not each.startswith(("data_dir", "suite.root"))]
    code, error = said(
        ["run", *rest, f"suite.root={small_suite}", f"data_dir={data}", f"output_dir={tmp_path}/a"], capsys
    )
    assert code == 2 and re.search(r"image .*\.png cannot be read", error)

    suite = shutil.copytree(small_suite, tmp_path / "suite")
    weights = next((suite / "controlnet_depth").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    code, error = said(
        ["run", *rest, f"suite.root={suite}", f"data_dir={data_dir}", f"output_dir={tmp_path}/b"], capsys
    )
    assert code == 2 and re.search(r"controlnet_depth cannot be loaded", error)


def test_debug_brings_the_traceback_back(small_run, capsys):
    from maxbench.errors import UserError

    with pytest.raises(UserError):
        main(["run", *small_run, "samples=0", "--debug"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data", "cocoa"], "no data set 'cocoa'"),
    ],
)
def test_other_verbs_have_manners_too(arguments, sentence, capsys):
    code, error = said(arguments, capsys)
    assert code == 2 and sentence in error and "Traceback" not in error


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from maxbench.__main__ import main; main(['run', '--help']); main([]); "
        "assert not {'torch', 'hydra', 'diffusers', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "experiment=hed_depth" in done.stdout and "doctor" in done.stdout


def test_help_names_every_group_a_run_can_choose(capsys):
    main(["run", "--help"])
    text = capsys.readouterr().out
    for key in ("experiment=", "suite=", "samples=", "seed=", "output_dir=", "sampler="):
        assert key in text


def test_doctor_says_what_is_there(data_dir, capsys, tmp_path):
    code = main(["doctor", "--data-dir", str(data_dir), "--output-dir", str(tmp_path / "not" / "yet")])
    text = capsys.readouterr().out
    for word in ("python", "torch", "suite miniature", "disk", "W&B", "CUDA" if code else "data"):
        assert word in text


def test_data_prepares_and_lists(tmp_path, capsys):
    assert main(["data", "--data-dir", str(tmp_path)]) == 0
    assert "No data set" in capsys.readouterr().out
    assert main(["data", "miniature", "--count", "2", "--data-dir", str(tmp_path)]) == 0
    assert main(["data", "--data-dir", str(tmp_path)]) == 0
    assert folder_name("val", 2) in capsys.readouterr().out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One output folder, so that experiments find in its store what they have in common."""
    return tmp_path_factory.mktemp("experiments")


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_runs(experiment, small_run, runs):
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    rest = [each for each in small_run if not each.startswith(("experiment", "samples", "pairing", "~"))]
    with hydra_on() as hydra:
        methods = compose(hydra, [f"experiment={experiment}"]).methods
    left = [f"~methods.{name}" for name in LEFT_OUT if name in methods]
    few = ["samples=2", "pairing.reference=6"]  # so that enough scenes are left for objects on other scenes
    few += ["calibration.samples=3", "calibration.data.count=12"]
    assert main(["run", f"experiment={experiment}", *few, *rest, *left, f"output_dir={runs}"]) == 0
    assert f"python -m maxbench run experiment={experiment}" in text


def test_the_rule_of_ones_own_is_tested_and_ranked_with_the_others(small_run, tmp_path, monkeypatch):
    text = (CONF.parent / "docs" / "own_rule.md").read_text()
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == ["mine.py", "myconf/fusion/norm_weighted.yaml", "test_mine.py"]
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    tests = runpy.run_path(str(tmp_path / "test_mine.py"))
    tests["test_it_lies_between_the_average_and_the_loudest"]()
    chosen = ["--config-dir", str(tmp_path / "myconf"), "+fusion@methods.norm_weighted=norm_weighted"]
    assert main(["run", *chosen, *small_run, f"output_dir={tmp_path}/runs"]) == 0
    metrics = pd.read_csv(only_run(tmp_path / "runs") / "metrics.csv")
    assert "norm_weighted" in set(metrics[metrics.metric == "clip_score"].method)
