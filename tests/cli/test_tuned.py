"""Tuned methods in a run: what may be asked for, and what is chosen, kept and found again."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from hydra.utils import instantiate

from maxbench.__main__ import main
from maxbench.cli.command import jobs, parse, read_overrides
from maxbench.configuration.compose import CONF, compose, hydra_on, plain
from maxbench.configuration.schema import check
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.experiments.search import stand_ins
from maxbench.report.tables import read_tables
from runs import counted, digests, only_run

TUNE = "methods.tuned_sum.tune"
MISTAKES = [
    (["+{0}.scael=[1]"], "tune has 'scael', which cannot be tuned; did you mean 'scale'?"),
    (["+{0}.fusion_end=[1]"], "tune has 'fusion_end', which cannot be tuned"),
    (["+{0}.rule=[1]"], "tune has 'rule', which cannot be tuned"),
    (["{0}.scale=[1,0.5,1]"], "tune.scale is [1.0, 0.5, 1.0]; give it values, none of them twice."),
    (["{0}.scale=[]"], "tune.scale is []; give it values"),
    (["{0}.scale=[-1]"], "tune.scale has -1; it must be 0 or more."),
    (["+{0}.control_end=[1.5]"], "tune.control_end has 1.5; it must be from 0 to 1."),
    (["+{0}.control_start=[-0.5]"], "tune.control_start has -0.5; it must be from 0 to 1."),
    (["+methods.tuned_sum.vary={{scale:[1,2]}}"], "tune goes neither with vary nor with match"),
    (["+methods.tuned_sum.match=sum"], "tune goes neither with vary nor with match"),
    (["{0}.scale=[many]"], "many"),
    (["{0}.scale=1"], "must be"),
    (
        ["~methods.tuned_sum.then", "+methods.tuned_sum.trials=4"],
        "tune.scale is [1.0, 0.7, 1.4, 2.0, 2.8, 4.0]; with trials it is the lowest and the highest",
    ),
    (
        ["~methods.tuned_sum.then", "{0}={{scale:[2,1]}}", "+methods.tuned_sum.trials=4"],
        "the lowest and the highest value",
    ),
    (["{0}={{scale:[1,2]}}", "+methods.tuned_sum.trials=1"], "a whole number from 2 to"),
    (["{0}={{scale:[1,2]}}", "+methods.tuned_sum.trials=4"], "take out then, by ~methods.NAME.then"),
    (["~{0}", "~methods.tuned_sum.then", "+methods.tuned_sum.trials=4"], "there is no tune; give it ranges"),
    (["~{0}"], "then is chosen at the best of tune, and there is no tune; give it values, or take out then"),
    (["+methods.tuned_sum.then.scale=[1,2]"], "tune and then both have 'scale'; name it in one of them, or take"),
    (["+methods.tuned_sum.then.scael=[1]"], "then has 'scael', which cannot be tuned"),
    (["+{0}.branch_scale=[1,2]"], "have balance and branch_scale, which set the same strengths; take one"),
    (["methods.tuned_sum.then.balance=[0]"], "then.balance has 0; it must be more than 0"),
    (["methods.tuned_sum.then.balance=[-1]"], "then.balance has -1; it must be 0 or more"),
]


def checked(overrides):
    command = parse(["experiment=hed_depth", *overrides])
    with hydra_on() as hydra:
        (job,) = jobs(read_overrides(command, hydra.config_loader))
        return check(plain(compose(hydra, job)))


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES, ids=lambda each: str(each)[:40])
def test_a_mistake_in_what_is_tuned_is_a_sentence(overrides, sentence):
    with pytest.raises(UserError) as error:
        checked([each.format(TUNE) for each in overrides])
    said = str(error.value)
    assert sentence in said and said.startswith("methods.tuned_sum") and "\n" not in said


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_tuned_method_has_nine_settings(experiment):
    """So that none is better only for having been offered more."""
    with hydra_on() as hydra:
        (job,) = jobs(read_overrides(parse([f"experiment={experiment}"]), hydra.config_loader))
        config = plain(compose(hydra, job))
    conditions = list(config["conditions"])
    for name, entry in config["methods"].items():
        if not entry.get("tune"):
            continue
        branches = conditions[:1] if entry["branches"] == "each" else entry["branches"] or conditions
        asked = {key: entry[key] for key in ("tune", "then") if key in entry}
        (made,) = Method(rule=instantiate(entry["rule"]), **asked).expand(name, branches)
        assert len(stand_ins(made, [])) == 9, name


def test_what_can_be_tuned_is_taken():
    config = checked([f"{TUNE}={{scale:[1,0],control_end:[0,1],rule.power:[2]}}"])
    assert config.methods["tuned_sum"].tune["control_end"] == [0, 1]


# --- a run, with the shipped networks: of random ones no control gains anything ------------------------------


@pytest.fixture(scope="module")
def arguments(data_dir):
    left = ("single_tuned", "scheduled_sum", "random_blobs", "outputs_only", "gated_sum", "maxfusion",
            "maxfusion_tuned", "maxfusion_published", "sum")  # fmt: skip
    return [
        "experiment=hed_depth", *(f"~methods.{name}" for name in left), f"data_dir={data_dir}", "data.count=24",
        "samples=3", "pairing.reference=8", "calibration.samples=8", "calibration.data.count=12", "sampler.steps=4",
        "metrics.resamples=100", "runtime.batch_size=8", "runtime.device=cpu", f"{TUNE}={{scale:[0.5,1]}}",
        "~methods.tuned_sum.then", "+methods.tuned_sum.then.branch_scale=[1,0.25]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned_run(arguments, tmp_path_factory):
    output = tmp_path_factory.mktemp("tuned")
    assert main(["run", *arguments, f"output_dir={output}"]) == 0
    return only_run(output)


def test_the_best_candidate_is_chosen_and_all_are_kept(tuned_run):
    table = pd.read_csv(tuned_run / "tuning.csv")
    assert list(table.candidate) == [0, 1, 2, 3, 4] and set(table.method) == {"tuned_sum"} and set(table.n) == {8}
    strongest = table.scale[:2][table.joint[:2].idxmax()]
    assert list(zip(table.scale, table["branch_scale.hed"], table["branch_scale.depth"], strict=True)) == [
        (0.5, 1, 1), (1, 1, 1), (strongest, 1, 0.25), (strongest, 0.25, 1), (strongest, 0.25, 0.25)
    ]  # fmt: skip
    assert table.chosen.sum() == 1 and table.joint[table.chosen].item() == table.joint.max()
    assert table.joint.nunique() > 1
    for number in range(5):
        assert len(list((tuned_run / "tuning" / "images" / "tuned_sum" / str(number)).glob("*.png"))) == 8
    (method,) = [
        each for each in json.loads((tuned_run / "manifest.json").read_text())["methods"] if "tuned" in each
    ]  # fmt: skip
    best = table[table.chosen].iloc[0]
    assert method["name"] == "tuned_sum"
    assert method["tuned"] == {name: best[name] for name in ("scale", "branch_scale.hed", "branch_scale.depth")}
    said = "Chosen for the joint score of 8 training scenes, in brackets of how many settings (tuning.csv): "
    assert f"{said}tuned_sum (of 5) scale" in read_tables(tuned_run).markdown


def test_what_is_tuned_on_is_not_what_is_measured_on(tuned_run):
    """Scenes of another split: none of their pictures is a sample's or the reference's."""
    trained, measured = (
        {path.read_bytes() for path in (tuned_run / room).glob("*.png")} for room in ("tuning/real", "real")
    )
    assert len(trained) == 8 and len(measured) == 3 and not trained & measured
    assert set(pd.read_csv(tuned_run / "metrics.csv").method) == {
        "real", "vae_reconstruction", "shuffled", "none", "single/hed", "single/depth", "average", "tuned_sum"
    }  # fmt: skip


def test_a_second_run_finds_everything(tuned_run, arguments, capsys):
    before = (tuned_run / "tuning.csv").read_bytes()
    assert main(["run", *arguments, f"output_dir={tuned_run.parent}"]) == 0
    assert all(count["made"] == 0 for count in counted(tuned_run).values())
    assert counted(tuned_run)["images"]["found"] >= 15
    assert "nothing to do" in capsys.readouterr().err and (tuned_run / "tuning.csv").read_bytes() == before


def test_a_plain_method_with_the_chosen_settings_makes_the_same_pictures(tuned_run, arguments, tmp_path):
    best = pd.read_csv(tuned_run / "tuning.csv").query("chosen").iloc[0]
    scales = f"{{hed:{best['branch_scale.hed']:g},depth:{best['branch_scale.depth']:g}}}"
    plain_settings = [each for each in arguments if "methods.tuned_sum." not in each]
    usual = yaml.safe_load((tuned_run / "config.yaml").read_text())["suite"]["control_scale"]
    scale = f"methods.tuned_sum.scale={usual * best.scale:g}"
    more = [f"~{TUNE}", "~methods.tuned_sum.then", scale, f"+methods.tuned_sum.branch_scale={scales}"]
    more += [f"output_dir={tmp_path}"]
    assert main(["run", *plain_settings, *more]) == 0
    folder = only_run(tmp_path)
    own, theirs = (digests(each / "images" / "tuned_sum") for each in (folder, tuned_run))
    assert own == theirs and len(own) == 3
    assert not (folder / "tuning").exists() and not (folder / "tuning.csv").exists()


def test_a_damaged_choice_is_one_sentence(tuned_run, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("metrics.csv", "differences.csv", "config.yaml", "evaluation.json"):
        shutil.copy(tuned_run / name, copy)
    for content in ("", "method,candidate\nx,0\n", "\x00\x01"):
        (copy / "tuning.csv").write_text(content)
        with pytest.raises(UserError, match=r"tuning\.csv is damaged; run the experiment again"):
            read_tables(copy)


def untuned(folder, method="tuned_sum"):
    """What the manifest says that a method was tuned to, in a run in which nothing could be chosen."""
    assert not (folder / "tuning.csv").exists()
    (row,) = [each for each in json.loads((folder / "manifest.json").read_text())["methods"] if each["name"] == method]
    return row["tuned"]


def test_without_what_the_joint_score_is_made_of_the_first_setting_stays(arguments, tmp_path, capsys):
    assert main(["run", *arguments, "~methods.single", "samples=2", f"output_dir={tmp_path}"]) == 0
    note = "Not tuned, but at their first setting: tuned_sum; that needs `none` and a `single` of every condition"
    assert note in capsys.readouterr().err
    folder = only_run(tmp_path)
    assert untuned(folder) == {"scale": 0.5, "branch_scale.hed": 1, "branch_scale.depth": 1}
    assert not (folder / "tuning").exists() and note in (folder / "table.md").read_text()


def test_where_no_control_gains_the_first_setting_stays(small_run, tmp_path, capsys):
    """Random networks follow nothing; with this seed neither does any by chance, on three scenes."""
    left = [f"~methods.{name}" for name in ("maxfusion", "maxfusion_published", "outputs_only")]
    settings = [each for each in small_run if "tuned_sum" not in each and "samples=" not in each]
    more = [
        "samples=2",
        "calibration.samples=3",
        "calibration.seed=1",
        "calibration.data.count=12",
        f"{TUNE}={{scale:[0.5,1]}}",
    ]
    assert main(["run", *settings, *left, *more, f"output_dir={tmp_path}"]) == 0
    note = "Not tuned, but at their first setting: tuned_sum; on the training scenes there is no joint score ("
    assert note in capsys.readouterr().err
    folder = only_run(tmp_path)
    assert untuned(folder) == {"scale": 0.5, "balance": 1}
    assert note in (folder / "table.md").read_text()


def test_training_scenes_have_noise_and_pictures_of_their_own_in_the_run_s_identity(small_run):
    from maxbench.cli.build import build
    from maxbench.cli.perform import run_identity
    from maxbench.configuration.compose import compose, hydra_on

    settings = [each for each in small_run if "tuned_sum" not in each]
    with hydra_on() as hydra:
        job = build(compose(hydra, [*settings, "calibration.samples=3", "calibration.data.count=12"]))
    assert job.config["calibration"]["seed"] == job.experiment.seed  # and yet
    assert job.calibration.seed != job.experiment.seed
    said = run_identity(job)["calibration"]
    assert len(said["pictures"]) == 3 and said["seed"] == job.calibration.seed
