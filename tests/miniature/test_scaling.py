"""Written runs and histories -> the control fidelity of controls that were trained for different times."""

import shutil

import pytest

from compare_controls import main
from maxbench.errors import UserError
from maxbench.metrics.statistics import Interval
from maxbench.miniature.context import write_history
from maxbench.miniature.generated import read_run
from maxbench.miniature.scaling import TrainedControl, require_comparable, scaling_table, trained_controls
from maxbench.models.files import digest_of
from maxbench.store.files import read_sealed, seal
from miniature.test_generated import FIDELITY, write_run

CONTROLS = {"hed": "controlnet_hed", "depth": "controlnet_depth"}
EXPECTED = {name: (FIDELITY[f"single/{name}"] - 0.2) / 0.6 for name in CONTROLS}  # between none and the reconstruction


def family(small_suite, folder, steps):
    """The small suite with histories that say how long its controls were trained; another length, other weights."""
    shutil.copytree(small_suite, folder)
    for name, subfolder in CONTROLS.items():
        (folder / subfolder / "config.json").write_text(f'{{"steps": {steps[name]}}}')
        own = {"subfolder": subfolder, "recipe": {"steps": steps[name], "batch": 48}}
        write_history(folder, f"net_{name}", {"part": own, "loss": [1.0, 0.25 / steps[name]]})
    return folder


def run_of(weights, folder):
    folder.mkdir()
    write_run(folder, weights)
    return rewritten(
        folder, lambda said: said["weights"].update({name: digest_of(weights / name) for name in CONTROLS.values()})
    )


def rewritten(run, change):
    """The run with another identity."""
    said = {"samples": "s1", **read_sealed(run / "maxbench-run.json")}
    said["config"]["suite"] |= {
        "controls": CONTROLS,
        "control_scale": said["config"]["suite"].get("control_scale", 1.5),
    }
    change(said)
    (run / "maxbench-run.json").write_text(seal(said))
    return run


@pytest.fixture(scope="module")
def families(small_suite, tmp_path_factory):
    """Run -> family: a short training and a long one that have their depth control in common."""
    place = tmp_path_factory.mktemp("scaling")
    steps = {"short": {"hed": 100, "depth": 300}, "long": {"hed": 2000, "depth": 300}}
    known = {name: family(small_suite, place / name, each) for name, each in steps.items()}
    return {run_of(weights, place / f"run-{name}"): weights for name, weights in known.items()}


def test_a_control_is_said_with_its_pictures_and_its_share(families):
    run, weights = next(iter(families.items()))
    hed, depth = trained_controls(read_run(run), weights)
    assert (hed.part, hed.pictures, hed.loss) == ("net_hed", 4800, 0.0025)
    assert (hed.metric, hed.scorer) == ("hed_ssim", "maps@2")  # and not the annotator's
    assert hed.closed.value == pytest.approx(EXPECTED["hed"], abs=0.01)
    assert depth.closed.value == pytest.approx(EXPECTED["depth"], abs=0.01) and depth.metric == "depth_rmse"


def test_the_table_goes_from_few_to_many_and_repeats_no_weights(families, tmp_path):
    words = [f"{run}={weights}" for run, weights in reversed(families.items())]
    assert main([*words, "--note", "Two lengths.", "--output", str(tmp_path / "a" / "b.md")]) == 0
    page = (tmp_path / "a" / "b.md").read_text()
    rows = [line.split(" | ")[:2] for line in page.splitlines() if line.startswith("| net_")]
    assert rows == [["| net_hed", "4,800"], ["| net_hed", "96,000"], ["| net_depth", "14,400"]]
    for said in ("Two lengths.", "24 samples, seed 4, 20 steps, guidance 3, control scale 1.5", "| maps@2 |"):
        assert said in page


def test_two_trainings_of_one_length_are_two_lines():
    one, two = (TrainedControl("net", each, 4800, 0.1, "m", "s", Interval(0.5, 0, 1, 9)) for each in ("a", "b"))
    assert scaling_table([one, two, one]).count("| net | 4,800 |") == 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda said: said["weights"].update(vae="another"), "vae"),
        (lambda said: said.update(samples="s2"), "samples"),
        (lambda said: said["config"]["sampler"].update(steps=5), "sampler"),
        (lambda said: said["config"]["suite"].update(control_scale=2.0), r"suite\.control_scale"),
        (lambda said: said["config"]["runtime"].update(dtype="bfloat16"), r"runtime\.dtype"),
    ],
)
def test_runs_that_differ_in_more_than_controls_are_refused(change, what, families, tmp_path):
    one, two = families
    require_comparable([read_run(one), read_run(two)])
    other = rewritten(shutil.copytree(two, tmp_path / "other"), change)
    with pytest.raises(UserError, match=rf"run-short and .*other differ in {what}; compare runs"):
        require_comparable([read_run(one), read_run(other)])


def test_what_is_lacking_is_one_sentence(families, tmp_path, capsys):
    run, weights = next(iter(families.items()))
    bare = shutil.copytree(weights, tmp_path / "bare")
    shutil.rmtree(bare / "histories")
    with pytest.raises(UserError, match="has no history of controlnet_hed, and so nothing says how long"):
        trained_controls(read_run(run), bare)
    (bare / "vae" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"was made with another vae than the one in .*; run the experiment again"):
        trained_controls(read_run(run), bare)
    for words, sentence in (([str(run)], "names no family; give RUN=FAMILY"), ([f"nowhere={bare}"], "does not exist")):
        assert main([*words, "--output", str(tmp_path / "page.md")]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
    assert not (tmp_path / "page.md").exists()
