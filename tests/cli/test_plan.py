"""What a run will cost, said before it begins; and that nothing is touched where it is only asked for."""

import json
import re
import shutil

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from maxbench.__main__ import main
from maxbench.cli import plan as planning
from maxbench.cli.build import build
from maxbench.cli.perform import make_generation, planned, run_identity
from maxbench.cli.plan import chosen_before
from maxbench.cli.tuning import tried_before
from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.generation.plan import disk
from maxbench.store.artefacts import Store
from maxbench.store.files import seal
from maxbench.store.runfolder import RunFolder
from runs import counted

EMPTY = {"source": 6, "map": 12, "reconstruction": 6, "image": 48, "score": 72}
"""Of a small run before anything is there: 6 samples, 8 methods, 12 reference pictures."""


def plan_of(arguments, output, *more):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*arguments, f"output_dir={output}", *more]))
    return planned(job, run_identity(job))


def counts(plan) -> tuple[dict, dict]:
    """Kind -> how many are missing, and how many are found."""
    kinds = {need.kind: None for need in plan.needs}
    return tuple(
        {kind: sum(getattr(need, name) for need in plan.needs if need.kind == kind) for kind in kinds}
        for name in ("missing", "found")
    )


def everything(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


# --- counts -------------------------------------------------------------------------------------------------------


def test_of_nothing_everything_is_to_be_made_and_nothing_is_written(small_run, tmp_path, capsys):
    assert main(["run", *small_run, f"output_dir={tmp_path / 'runs'}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "which is not there yet" in said and "to make: 48 images (0 found)" in said
    # two steps of two halves; of controls for 6 images of two singles, and twice that for five methods with both
    assert "192 evaluations of the U-Net and 288 of controls" in said
    assert "control inputs are still to be made" in said and "nothing was made" in said
    assert "how long that takes is not known yet" in said  # no run was finished here
    assert list(tmp_path.iterdir()) == []
    assert counts(plan_of(small_run, tmp_path / "runs")) == (EMPTY, dict.fromkeys(EMPTY, 0))


def test_a_finished_run_has_nothing_to_make_and_is_left_alone(finished_run, small_run, capsys):
    before = everything(finished_run.parent)
    assert main(["run", *small_run, f"output_dir={finished_run.parent}", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"run folder: {finished_run}\n" in said and "to make: 0 images (48 found)" in said
    assert "about 0 B to write" in said and "control inputs are still" not in said and "assumed" not in said
    assert everything(finished_run.parent) == before
    assert main(["run", *small_run, f"output_dir={finished_run.parent}", "seed=1", "--dry-run"]) == 0
    assert re.search(rf"about .* of generation, at the speed of {finished_run.name}", capsys.readouterr().out)
    missing, found = counts(plan_of(small_run, finished_run.parent))
    assert set(missing.values()) == {0} and found["image"] == 48 and found["map"] == 12


@pytest.mark.parametrize(
    "more",
    [["samples=8"], ["+fusion@methods.softmax=softmax"], ["+methods.average.control_end={hed: 0.5}"], ["seed=1"]],
)
def test_what_is_said_is_what_is_made(finished_run, small_run, tmp_path, more):
    shutil.copytree(finished_run.parent, tmp_path, dirs_exist_ok=True)
    plan = plan_of(small_run, tmp_path, *more)
    missing, _ = counts(plan)
    assert main(["run", *small_run, f"output_dir={tmp_path}", *more]) == 0
    made = counted(plan.folder.path)
    for kind in ("source", "map", "reconstruction", "image"):
        assert made[f"{kind}s"]["made"] == missing[kind], kind
    costs = pd.read_csv(plan.folder.path / "metrics.csv").query("metric == 'control_evaluations'")
    per = {need.what: need.per.control for need in plan.needs if need.kind == "image"}
    assert per == costs.set_index("method").value.to_dict()


def test_two_arrangements_of_a_picture_share_what_they_share(small_run, tmp_path):
    """Without control they are one image; each has masks of its own."""
    left = [f"~methods.{name}" for name in ("sum", "outputs_only", "maxfusion", "maxfusion_published", "single")]
    more = ["pairing=half_split", "samples=2", "pairing.reference=4", *left]
    missing, _ = counts(plan_of(small_run, tmp_path, *more))
    assert (missing["source"], missing["map"], missing["image"]) == (2, 4, 4 + 2) and missing["mask"] > 0
    assert main(["run", *small_run, f"output_dir={tmp_path}", *more]) == 0
    plan = plan_of(small_run, tmp_path, *more)
    made = counted(plan.folder.path)
    assert {kind: made[f"{kind}s"]["made"] for kind in ("source", "map", "image")} == {
        "source": 2,
        "map": 4,
        "image": 6,
    }
    assert set(counts(plan)[0].values()) == {0}


def test_where_the_store_has_lost_all_the_run_folder_is_looked_at(finished_run, small_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / finished_run.name)  # without the store
    before = everything(tmp_path)
    missing, found = counts(plan_of(small_run, tmp_path))
    assert missing["image"] == missing["map"] == 0 and found["image"] == 48
    assert missing["score"] == 6 * 10 + 12 and found["score"] == 0  # those lie in the store alone
    assert everything(tmp_path) == before


def test_what_is_made_of_what_is_missing_counts_as_missing(finished_run, small_run, tmp_path):
    """Images are known by the digest of their maps; without control they need none."""
    shutil.copytree(finished_run.parent, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / finished_run.name)
    shutil.rmtree(tmp_path / "store" / "map")
    plan = plan_of(small_run, tmp_path)
    by_method = {need.what: need.missing for need in plan.needs if need.kind == "image"}
    assert by_method.pop("none") == 0 and set(by_method.values()) == {6}
    assert any("control inputs are still to be made" in each for each in plan.sentences)


def test_another_s_folder_is_refused_now_and_not_later(finished_run, small_run, tmp_path, capsys):
    plan = plan_of(small_run, tmp_path)
    other = plan_of(small_run, tmp_path, "seed=1")
    shutil.copytree(finished_run, other.folder.path)
    assert plan.folder.path.name == finished_run.name
    assert main(["run", *small_run, f"output_dir={tmp_path}", "seed=1", "--dry-run"]) == 2
    assert "holds another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [[], ["suite.controls.hed=t2iadapter_hed"], ["sampler.guidance_scale=1", "~methods.maxfusion_published"]]
)
def test_evaluations_are_counted_without_networks_as_with_them(small_run, tmp_path, more):
    windowed = ["+fusion@methods.windowed=maxfusion", "+methods.windowed.control_end={hed: 0.5}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*small_run, *windowed, "sampler.steps=5", *more]))
    sampling = make_generation(job, RunFolder(tmp_path, Store(tmp_path / "store"))).sampling
    counted_ = {method.name: sampling.cost(method) for method in job.experiment.methods}
    networks = sampling.executor.networks
    assert not networks.held
    for method in job.experiment.methods:
        assert counted_[method.name] == networks.pipeline.cost(method.branches, method, job.sampler), method.name


def test_a_traced_run_counts_what_is_made_once_more(watched_run, small_run, tmp_path):
    empty = plan_of(small_run, tmp_path, "diagnostics.samples=2")
    traced = [need for need in empty.needs if need.kind == "trace"]
    assert len(traced) == 8 and {need.missing for need in traced} == {2}
    done = plan_of(small_run, watched_run.parent, "diagnostics.samples=2")
    assert not [need for need in done.needs if need.kind == "trace"]


def test_methods_that_are_matched_are_measured_first(small_run, tmp_path):
    matched = ["+fusion@methods.matched=average", "+methods.matched.match=sum", "calibration.samples=4",
               "calibration.data.count=12"]  # fmt: skip
    norms = {need.what: need for need in plan_of(small_run, tmp_path, *matched).needs if need.kind == "norm"}
    assert set(norms) == {f"residual norm of {name}, scenes" for name in ("matched", "sum")}
    assert {(need.missing, need.per) for need in norms.values()} == {(4, (0, 8))}
    assert main(["run", *small_run, f"output_dir={tmp_path}", *matched, "samples=2"]) == 0
    after = plan_of(small_run, tmp_path, *matched, "samples=2")
    assert not [need for need in after.needs if need.kind == "norm"]
    assert sum(need.missing for need in after.needs) == 0


# --- tuned methods ------------------------------------------------------------------------------------------------

TUNED = ["+fusion@methods.tuned=tuned_sum", "calibration.samples=3", "calibration.data.count=12"]
GRID = ["methods.tuned.tune={scale: [1, 0.5]}", "~methods.tuned.then", "+methods.tuned.then.branch_scale=[1,0.5]"]


def test_training_is_counted_and_the_settings_are_open_until_it_is_done(small_run, tmp_path):
    plan = plan_of(small_run, tmp_path, *TUNED, *GRID)
    assert plan.is_open and any("chosen in training" in each for each in plan.sentences)
    training = [need for need in plan.stages["hed_depth-tuning"] if need.kind == "image"]
    # two strengths, then three further settings, none of them another method here; `none` and two singles beside them
    assert sum(need.missing for need in training) == 3 * (3 + 5)
    rows = [line for line in plan.table().splitlines() if line.startswith("tuning: images of tuned,")]
    assert len(rows) == 1 and "5 settings" in rows[0] and " 15 " in rows[0]
    own = [need for need in plan.stages["hed_depth"] if need.what == "tuned"]
    assert [need.missing for need in own] == [6]
    assert plan.work["hed_depth-tuning"].images == 24 and plan.work["hed_depth"].images == 54


def test_what_an_earlier_invocation_chose_is_known(small_run, tmp_path):
    left = [f"~methods.{name}" for name in ("maxfusion", "maxfusion_published", "outputs_only", "average")]
    few = [*(each for each in small_run if not each.startswith("samples=")), *left, "samples=2", *TUNED, *GRID]
    assert main(["run", *few, f"output_dir={tmp_path}"]) == 0
    plan = plan_of(few, tmp_path)
    assert not plan.is_open and sum(need.missing for need in plan.needs) == 0


def test_where_nothing_can_be_tuned_for_the_first_setting_is_known(small_run, tmp_path):
    plan = plan_of(small_run, tmp_path, *TUNED, *GRID, "~methods.none")
    assert list(plan.stages) == ["hed_depth"] and not plan.is_open
    by_method = {need.what: need.missing for need in plan.needs if need.kind == "image"}
    assert by_method["tuned"] == 0 or by_method["sum"] == 0 or by_method["tuned"] == by_method["sum"] == 6


# --- several runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-m", "seed=0,1"], ["--seeds", "0,1"]])
def test_each_of_several_runs_is_said(small_run, tmp_path, capsys, words):
    assert main(["run", *small_run, f"output_dir={tmp_path / 'runs'}", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("to make: 48 images") == 2 and "job 2 of 2" in said and "seed=1" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cfg", "job"], "--cfg and --dry-run both print and stop; leave one of them out."),
        (["-m", "hydra/launcher=joblib"], "--dry-run looks at runs here; leave out hydra/launcher="),
    ],
)
def test_what_does_not_go_together_is_a_sentence(small_run, capsys, words, sentence):
    assert main(["run", *small_run, *words, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_a_mistake_is_a_mistake_here_too(small_run, tmp_path, capsys):
    assert main(["run", *small_run, f"output_dir={tmp_path}", "sampler.steps=0", "--dry-run"]) == 2
    assert "sampler.steps is 0" in capsys.readouterr().err


# --- disk ---------------------------------------------------------------------------------------------------------


def test_disk_is_measured_where_something_is_there_and_else_assumed(finished_run, small_run, tmp_path):
    shutil.copytree(finished_run.parent, tmp_path, dirs_exist_ok=True)
    before = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    plan = plan_of(small_run, tmp_path, "samples=9")
    assert main(["run", *small_run, f"output_dir={tmp_path}", "samples=9"]) == 0
    after = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    written = after - before + (plan.folder.path / "state.npz").stat().st_size
    assert plan.bytes == pytest.approx(written, rel=0.25)
    assert not any("assumed" in each for each in plan.sentences)
    assert any("images (7.4 kB each)" in each for each in plan_of(small_run, tmp_path / "empty").sentences)


def test_a_disk_that_is_too_small_is_a_warning_and_one_far_too_small_an_error(small_run, tmp_path, monkeypatch, capsys):
    plan = plan_of(small_run, tmp_path)
    sizes = {"free": 10 * plan.bytes}
    monkeypatch.setattr(type(plan), "free", property(lambda _: sizes["free"]))
    plan.announce()
    assert capsys.readouterr().err == "" and plan.warning == ""
    sizes["free"] = round(0.9 * plan.bytes)
    plan.announce()
    assert "warning: about" in capsys.readouterr().err
    sizes["free"] = round(0.4 * plan.bytes)
    with pytest.raises(UserError, match=r"only .* are free at .*; make room, or set store_dir="):
        plan.announce()
    assert any(each.startswith("warning:") for each in plan.sentences)  # and --dry-run goes on


def test_a_run_folder_on_another_disk_holds_copies(finished_run, small_run, tmp_path, monkeypatch):
    linked = plan_of(small_run, tmp_path)
    monkeypatch.setattr(planning, "_device", lambda path: str(path))
    copied = plan_of(small_run, tmp_path)
    assert not linked.copied and copied.copied
    files = [need for need in linked.needs if need.kind != "score"]  # which lie in the store alone
    assert copied.bytes - linked.bytes == pytest.approx(disk(files, 64), abs=1) != 0


def test_a_run_says_what_it_will_cost_before_it_begins(finished_run, small_run, capsys):
    assert main(["run", *small_run, f"output_dir={finished_run.parent}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("to make: 0 images (48 found)")]
    assert lines[place - 1].startswith("run folder: ") and lines[place + 1].startswith("disk: about 0 B to write")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (7400, "7.4 kB"), (123_456, "123 kB"), (1.26e9, "1.3 GB"), (2.5e13, "25 TB")],
)
def test_sizes_are_written_with_two_digits_or_three(count, said):
    assert planning._size(count) == said


def test_settings_that_were_chosen_before_are_known_again(small_run, tmp_path):
    """Where a finished run is scored again its rows say the threshold that was chosen, not the first of the grid."""
    arguments = [each for each in small_run if each != "~methods.maxfusion_tuned"]
    small = ["calibration.samples=4", "calibration.data.count=12", f"output_dir={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*arguments, *small]))
    folder = RunFolder.look(tmp_path, "run", None, Store(tmp_path / "store"))
    folder.path.mkdir()

    def delta(manifest: str) -> float | None:
        (folder.path / "manifest.json").write_text(manifest)
        (method,) = [each for each in chosen_before(job, folder).experiment.methods if each.tune]
        return method.delta

    assert delta('{"methods": [{"name": "maxfusion_tuned", "tuned": {"rule.delta": 0.9, "scale": 1.4}}]}') == 0.9
    assert delta("{") is None and delta('{"methods": [{"name": "maxfusion_tuned"}]}') is None
    for settings in ("[1]", "5", '"x"', '{"scale": 1.4}', '{"rule.delta": 0.9, "scale": 1.3}'):  # of another grid
        assert delta(f'{{"methods": [{{"name": "maxfusion_tuned", "tuned": {settings}}}]}}') is None


@pytest.mark.parametrize("content", ['{"maxfusion_tuned": [[{"rule.power": 2}, 0.5]]}', '{"maxfusion_tuned": 3}', "[]"])
def test_what_another_run_has_tried_is_not_known(content, small_run, tmp_path):
    """A file that was copied from elsewhere: all its settings count as to be made, and nothing fails."""
    arguments = [each for each in small_run if each != "~methods.maxfusion_tuned"]
    small = ["calibration.samples=4", "calibration.data.count=12", f"output_dir={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*arguments, *small]))
    (method,) = [each for each in job.experiment.methods if each.tune]
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning" / "trials.json").write_text(seal(json.loads(content)))
    assert tried_before(tmp_path, [method]) == {"maxfusion_tuned": []}
    known = [[{"rule.delta": 0.7, "scale": 1.0}, 0.5]]
    (tmp_path / "tuning" / "trials.json").write_text(seal({"maxfusion_tuned": known}))
    assert [each.joint for each in tried_before(tmp_path, [method])["maxfusion_tuned"]] == [0.5]


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("methods.sum.sites=[conv_in,hidden.3]", "'hidden.3', and the control for 'hed' has the blocks hidden.0 to"),
        ("methods.average.layer_scale=[1,1,1]", "has 3 numbers, and the control for 'hed' has "),
        ("methods.single.sites=[down.9]", "methods.single/hed.sites has 'down.9'"),
    ],
)
def test_blocks_that_no_control_has_are_said_before_anything_is_made(small_run, tmp_path, capsys, mistake, sentence):
    """Not after hours of tuning."""
    assert main(["run", *small_run, f"output_dir={tmp_path}", mistake]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1 and not list(tmp_path.iterdir())
