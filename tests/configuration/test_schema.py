"""Mistakes in a configuration: one sentence with the key, the value and what would be good, before torch."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest

from maxbench.__main__ import main
from maxbench.cli.command import jobs, parse, read_overrides
from maxbench.configuration import schema
from maxbench.configuration.compose import CONF, compose, hydra_on, plain
from maxbench.data import pairing as pairings
from maxbench.errors import UserError

MISTAKES = [
    ("samples=1", "samples is 1; it must be a whole number, 2 or more."),
    ("samples=many", "samples is 'many'; it must be a whole number"),
    ("samples=2.5", "samples is 2.5; it must be a whole number"),
    ("samples=true", "samples is true; it must be a whole number"),
    ("samples='64'", "samples is '64'; it must be a whole number"),
    ("samples=???", "samples has no value"),
    ("sampels=4", "There is no setting 'sampels'; did you mean 'samples'?"),
    ("+sampels=4", "There is no setting 'sampels'; did you mean 'samples'?"),
    ("samplr=paper", "did you mean 'sampler'?"),
    ("replicates=0", "replicates is 0"),
    ("seed=18446744073709551616", "seed is 18446744073709551616; it must be a whole number from 0 to"),
    ("seed=-1", "seed is -1"),
    ("seed=0,1", "add -m"),
    ("foo", "'foo' is no setting; write key=value"),
    ("pairing.template={x}", "a text with brackets"),
    ("name=../../x", "name is '../../x'; it must be a name"),
    ("name=/tmp/x", "name is '/tmp/x'; it must be a name"),
    ("name=a..b", "name is 'a..b'; it must be a name"),
    ("suite.name=../x", "suite.name is '../x'"),
    ("output_dir=null", "output_dir is null; it must be a text"),
    ("store_dir=3", "store_dir is 3; it must be a text"),
    ("baseline=avrage", "baseline is 'avrage', which is no method here; did you mean 'average'?"),
    ("experiment=hed_dept", "There is no experiment 'hed_dept'; did you mean 'hed_depth'?"),
    ("suite=minature", "There is no suite 'minature'; did you mean 'miniature'?"),
    ("sampler=euler", "There is no sampler 'euler'; there are ddim, paper, unipc."),
    ("pairing=complementry", "There is no pairing 'complementry'; did you mean 'complementary'?"),
    ("suite.resolution=65", "suite.resolution is 65; it must be a positive multiple of 8."),
    ("+suite.resolutoin=64", "There is no setting 'suite.resolutoin'; did you mean 'suite.resolution'?"),
    ("+condition@conditions.dpeth=depth", "has no control for 'dpeth'; did you mean 'depth'?"),
    ("sampler.scheduler=null", "sampler.scheduler is null; it must be a component"),
    ("sampler.steps=0", "sampler.steps is 0; it must be a whole number from 1 to 1000."),
    ("sampler.guidance_scale=-2", "sampler.guidance_scale is -2"),
    ("+sampler.stesp=3", "did you mean 'sampler.steps'?"),
    ("+pairing.refrence=3", "did you mean 'pairing.reference'?"),
    ("+pairing.object=sge", "pairing.object is 'sge'"),
    ("+pairing.template=x", "There is no setting 'pairing.template'"),
    ("+data.cuont=3", "did you mean 'data.count'?"),
    ("data.count=0", "data.count is 0"),
    ("calibration.data.count=many", "calibration.data.count is 'many'"),
    ("metrics.level=95", "metrics.level is 95; it must be a number from 0.5 to 0.999."),
    ("metrics.level=nan", "metrics.level is nan"),
    ("runtime.dtype=fp8", "it must be one of float32, bfloat16, float16, or fp32, bf16, fp16 for short."),
    ("runtime.dtype=16", "it must be one of float32, bfloat16, float16, or fp32, bf16, fp16 for short."),
    ("runtime.tf32=yes please", "it must be true or false."),
    ("runtime.channels_last=1", "it must be true or false."),
    ("runtime.compile=default", "it must be true or false."),
    ("runtime.vae_slices=4", "it must be true, false, or null for where it saves much memory."),
    ("runtime.vae_tiling=null", "it must be true or false."),
    ("runtime.device=gpu", "it must be auto, cpu, cuda or cuda:<number>."),
    ("runtime.batch_size=4097", "it must be a whole number from 1 to 4096, or auto."),
    ("runtime.batch_size=Auto", "it must be a whole number from 1 to 4096, or auto."),
    ("runtime.workers=0", "it must be a whole number from 1 to 4096, or null."),
    ("runtime.workers=1.5", "it must be a whole number from 1 to 4096, or null."),
    ("runtime.threads=999999999999", "it must be a whole number from 1 to 4096, or null."),
    ("conditions=hed", "+condition@conditions.NAME=FILE adds one"),
    ("~conditions", "conditions is missing"),
    ("methods=average", "methods is 'average'; it must be settings, {key: value}; +fusion@methods.NAME=FILE adds one"),
    ("methods.none=null", "methods.none is null; it must be settings, {key: value}; ~methods.none leaves it out."),
    ("~methods.summ", "did you mean 'methods.sum'?"),
    ("+methods.x={}", "methods.x.rule is missing; a method needs a rule"),
    ("+fusion@methods.real=sum", "methods.real is named like a row that every table has"),
    ("+fusion@methods.Shuffled=sum", "methods.Shuffled is named like a row"),
    ("+fusion@methods.SUM=sum", "'sum' and 'SUM' would write the same files"),
    ("methods.sum.sclae=2", "There is no setting 'methods.sum.sclae'; did you mean 'methods.sum.scale'?"),
    ("methods.maxfusoin.scale=2", "there is no method 'maxfusoin'; did you mean 'maxfusion'?"),
    ("methods.sum.scale=strong", "methods.sum.scale is 'strong'; it must be a number, 0 or more."),
    ("methods.sum.scale=inf", "methods.sum.scale is inf"),
    ("methods.sum.scale=${nothing}", "methods.sum.scale refers to what is not there"),
    ("methods.sum.rule=null", "methods.sum.rule is null; it must be a component"),
    ("methods.sum.rule._target_=Sum", "methods.sum.rule._target_ is 'Sum'; it must be the dotted path"),
    ("methods.sum.rule._args_=[1]", "methods.sum.rule has _args_"),
    ("methods.sum.sites=null", "methods.sum.sites is null; it must be a list of sites"),
    ("methods.sum.sites=[top]", "methods.sum.sites[0] is 'top'"),
    ("methods.sum.branches=3", "methods.sum.branches is 3; it must be a list of conditions"),
    ("methods.sum.branches=hed", "methods.sum.branches is 'hed'; it must be a list of conditions, such as [hed]"),
    ("methods.sum.branches=[hed,hed]", "methods.sum.branches has 'hed' twice"),
    ("methods.sum.branches=[dept]", "methods.sum.branches[0] is for 'dept', no condition here; did you mean 'depth'?"),
    ("methods.sum.branch_scale.hde=2", "did you mean 'hed'?"),
    ("methods.sum.branch_scale.hed=-2", "methods.sum.branch_scale.hed is -2"),
    ("methods.sum.layer_scale=[1,-1]", "methods.sum.layer_scale[1] is -1"),
    ("methods.sum.control_end.hed=2", "methods.sum.control_end.hed is 2; it must be a number from 0 to 1."),
    ("methods.sum.fusion_start=-1", "methods.sum.fusion_start is -1"),
    ("methods.sum.match=maxfusio", "which is no method with a strength of its own; did you mean 'maxfusion'?"),
    ("methods.sum.match=none", "which is no method with a strength of its own"),
    ("methods.sum.vary=3", "methods.sum.vary is 3; it must be settings"),
    ("methods.sum.vary={scael: [1]}", "did you mean 'scale'?"),
    ("methods.sum.vary={scale: 3}", "methods.sum.vary.scale is 3; it must be a list of numbers"),
    ("methods.sum.vary={scale: [1,1]}", "none of them twice"),
    ("methods.sum.vary={scale: [1,-1]}", "methods.sum.vary.scale has -1"),
    ("methods.sum.vary={scale: [1], rule.delta: [1]}", "one number of a method can vary at a time"),
]


def composed(*overrides, experiment="hed_depth", folder=None):
    command = parse([f"experiment={experiment}", *overrides])
    with hydra_on(folder) as hydra:
        (job,) = jobs(read_overrides(command, hydra.config_loader))
        return compose(hydra, job)


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=[each for each, _ in MISTAKES])
def test_a_mistake_is_one_sentence(mistake, sentence, capsys, monkeypatch):
    def perform(cfg):
        raise AssertionError("a configuration with a mistake would be run")

    monkeypatch.setattr("maxbench.cli.run._perform", perform)
    chosen = [] if mistake.startswith("experiment=") else ["experiment=hed_depth"]
    assert main(["run", *chosen, mistake]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and len(said.err.splitlines()) == 1 and not said.out


def test_a_mistake_is_answered_before_torch_is_imported():
    code = (
        "import json, sys, time; begun = time.monotonic(); from maxbench.__main__ import main; "
        "code = main(['run', 'experiment=hed_depth', 'methods.sum.sclae=2']); "
        "heavy = sorted({'torch', 'diffusers', 'pandas'} & set(sys.modules)); "
        "print(json.dumps([code, heavy, time.monotonic() - begun]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    code, heavy, seconds = json.loads(done.stdout)
    assert code == 2 and heavy == [] and "did you mean 'methods.sum.scale'" in done.stderr
    assert seconds < 10  # half a second on an idle machine


@pytest.mark.parametrize(
    ("pairing", "template", "sentence"),
    [
        ("object_on_scene", "{objct} on {caption}", "pairing.template has '{objct}'; did you mean 'object'?"),
        ("object_on_scene", "{} on {caption}", "pairing.template has '{}'"),
        ("object_on_scene", "{object", "pairing.template is '{object': expected '}'"),
        ("object_on_scene", "{object:d}", "pairing.template is '{object:d}': Unknown format code"),
        ("object_on_scene", "{object:{width}}", "pairing.template is '{object:{width}}'"),
        ("cross_image", "{caption}", "pairing.template has '{caption}'; there are first, second."),
        ("styled", "{object}", "pairing.template has '{object}'; there are things, caption."),
    ],
)
def test_a_template_has_words_that_its_pairing_knows(pairing, template, sentence):
    with pytest.raises(UserError) as caught:
        composed(f"pairing={pairing}", f'pairing.template="{template}"', *STYLES.get(pairing, ()))
    assert sentence in str(caught.value)


STYLES = {"styled": ["pairing.style=hed"]}


@pytest.mark.parametrize("pairing", ["object_on_scene", "cross_image", "half_split"])
def test_a_pairing_has_the_parameters_of_its_class(pairing):
    pair = composed(f"pairing={pairing}").pairing
    cls = getattr(pairings, pair["_target_"].rpartition(".")[2])
    assert {each.name for each in fields(cls)} == set(pair) - {"_target_"}
    made = cls(**{key: value for key, value in pair.items() if key != "_target_"})
    assert made == cls()  # the file says what the defaults are
    assert pair["_target_"] in schema.Pairing.known


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_composes_and_is_valid(experiment):
    composed(experiment=experiment)


@pytest.mark.parametrize("fusion", sorted(path.stem for path in (CONF / "fusion").glob("*.yaml")))
def test_every_method_file_is_settings_without_a_class(fusion):
    assert "experiments.method" not in (CONF / "fusion" / f"{fusion}.yaml").read_text()


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_every_setting_of_a_method_is_set_with_a_plus_or_without(plus):
    values = {
        "branch_scale.hed": 2,
        "layer_scale": [1, 0.5],
        "control_start.hed": 0.5,
        "control_end": 0.75,
        "fusion_start": 0.25,
        "fusion_end": 0.5,
        "match": "sum",
        "scale": 3,
        "otherwise._target_": "maxbench.fusion.Sum",
        "rule.delta": 0.5,
        "vary": "{scale: [1, 2]}",
    }
    cfg = composed(*(f"{plus}methods.maxfusion.{key}={value}" for key, value in values.items()))
    method = plain(cfg)["methods"]["maxfusion"]
    assert method["branch_scale"] == {"hed": 2} and method["control_start"] == {"hed": 0.5}
    assert method["layer_scale"] == [1, 0.5] and method["vary"] == {"scale": [1, 2]} and method["rule"]["delta"] == 0.5
    assert method["otherwise"] == {"_target_": "maxbench.fusion.Sum"} and method["match"] == "sum"


def test_an_older_file_that_names_the_class_of_a_method_is_still_read():
    composed("+methods.sum._target_=maxbench.experiments.method.Method")
    with pytest.raises(UserError, match=r"methods\.sum\._target_ is 'other\.Method'; it must be left out"):
        composed("+methods.sum._target_=other.Method")


def test_rows_are_named_as_the_methods_that_are_made():
    from maxbench.configuration.objects import make_method

    for experiment in ("hed_depth", "three_conditions", "threshold", "scale"):
        config = plain(composed(experiment=experiment))
        conditions = list(config["conditions"])
        for name, entry in config["methods"].items():
            rows = schema.Method.model_validate(entry).rows(name, conditions)
            made = make_method(entry, f"methods.{name}").expand(name, conditions)
            assert [(row.name, row.branches) for row in rows] == [(each.name, each.branches) for each in made]


def test_the_schema_knows_what_the_classes_take():
    from maxbench.experiments.method import EXCHANGED, REAL, SHUFFLED, VAE_RECONSTRUCTION, Method
    from maxbench.models.lockstep import ALL_SITES
    from maxbench.models.pipeline import Sampler
    from maxbench.suites.folder import FolderSuite

    for kind, made, other in (
        (schema.Method, Method, {"name", "entry", "series", "parameter", "setting", "tuned"}),
        (schema.Sampler, Sampler, set()),
        (schema.Suite, FolderSuite, set()),
    ):
        assert set(kind.settings()) - {"_target_"} == {each.name for each in fields(made)} - other
    assert schema.SITES == ALL_SITES and schema.RESERVED == (REAL, VAE_RECONSTRUCTION, SHUFFLED, EXCHANGED)
    method = Method(rule=None)
    for name, field in schema.Method.model_fields.items():
        if name not in ("target", "rule", "otherwise"):
            default = getattr(method, name)
            assert field.default == (list(default) if isinstance(default, tuple) else default), name
