"""A user's own configuration: files that cannot be read, options in any order, and names that would leave a folder."""

import sys

import pytest

from maxbench.__main__ import main
from maxbench.cli.command import parse
from maxbench.configuration.component import RULE, component
from maxbench.errors import UserError

RUN = ["run", "experiment=hed_depth"]


@pytest.fixture
def user(tmp_path):
    """A folder of a user's, laid out like conf/, to which a test adds files."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rule: {_target_: x\n  foo: [\n", "fusion/mine.yaml, line 2 is not YAML"),
        ("\tscale: 2\n", "fusion/mine.yaml, line 1 is not YAML"),
        ("scale: 1\nscale: 2\n", "fusion/mine.yaml, line 2 is not YAML: found duplicate key scale"),
        (b"\xff\xfe", "not text in UTF-8"),
        ("", "methods.mine.rule is missing; a method needs a rule"),
        ("just words", "There is no setting 'methods.mine.just words'"),
        ("- a\n", "methods.mine is ['a']; it must be settings"),
        ("rule: {_target_: maxbench.fusion.Sum}\nscael: 1\n", "did you mean 'methods.mine.scale'?"),
    ],
)
def test_a_method_file_that_cannot_be_used_is_one_sentence(user, text, sentence, capsys):
    folder = user("fusion/mine.yaml", text)
    assert main([*RUN, "--config-dir", str(folder), "+fusion@methods.mine=mine"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nme: x", "There is no setting 'nme'; did you mean 'name'?"),
        ("methods: {a/../../b: {rule: {_target_: maxbench.fusion.Sum}}}", "methods has 'a/../../b'; its name must be"),
        ("conditions: {../x: {_target_: maxbench.conditions.hed.HED}}", "conditions has '../x'; its name must be"),
        ("samples: ${nothing}", "samples refers to what is not there"),
        ("methods: {sum: {rule: {_target_: [a]}}}", "methods.sum.rule._target_ is ['a']; it must be the dotted path"),
    ],
)
def test_an_experiment_file_is_checked_like_the_command(user, text, sentence, capsys):
    folder = user("experiment/mine.yaml", f"# @package _global_\ndefaults:\n  - hed_depth\n  - _self_\n{text}\n")
    assert main(["run", "experiment=mine", f"--config-dir={folder}"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_no_experiment_lists_those_of_the_user_too(user, capsys):
    folder = user("experiment/mine.yaml", "# @package _global_\n")
    assert main(["run", "--config-dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "hed_depth" in error and "mine" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "--config-dir", "D", "experiment=a", "samples=2,3"],
        ["experiment=a", "-m", "samples=2,3", "--config-dir", "D"],
        ["experiment=a", "samples=2,3", "--config-dir=D", "--multirun"],
    ],
)
def test_options_stand_anywhere(arguments, tmp_path):
    command = parse([each.replace("D", str(tmp_path)) if "D" in each else each for each in arguments])
    assert command.multirun and command.config_dir == tmp_path
    assert command.overrides == ("experiment=a", "samples=2,3")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--experiment", "hed_depth"], "write experiment=hed_depth."),
        (["--samples=3"], "write samples=3."),
        (["--multi-run"], "did you mean '--multirun'?"),
        (["--config-dir", "nowhere"], "--config-dir is nowhere, which is no folder"),
        (["--config-dir"], "expected one argument"),
        (["--cfg", "jb"], "choose from"),
        (["--resolve"], "add --cfg job"),
        (["-m", "--cfg", "job"], "leave out -m"),
    ],
)
def test_a_mistaken_option_is_one_sentence(arguments, sentence, capsys):
    assert main([*RUN, *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_the_composed_configuration_is_printed_and_nothing_is_run(capsys):
    assert main([*RUN, "--cfg", "job", "--package", "methods.sum", "methods.sum.branch_scale.hed=2"]) == 0
    assert "branch_scale:\n  hed: 2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("raise RuntimeError('no luck')", "importing broken fails with RuntimeError: no luck"),
        ("def f(:", "importing broken fails with SyntaxError"),
        ("import nothing_of_this_name", "importing broken fails with ModuleNotFoundError"),
        ("X = 3", "'broken.X', which is no class and no function"),
        ("class Y: pass", "broken has no 'X'; there are Y."),
        ("class X: pass", "'broken.X', which is no maxbench.fusion.Rule"),
    ],
)
def test_what_is_wrong_with_a_users_module_is_told(text, sentence, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(UserError, match="is 'broken") as caught:
        component({"_target_": "broken.X"}, "methods.a.rule", RULE)
    assert sentence in str(caught.value)


def test_a_parameter_of_a_rule_calls_nothing_but_rules(tmp_path):
    with pytest.raises(UserError, match=r"rule\.delta\._target_ is 'os\.mkdir', which is no maxbench\.fusion\.Rule"):
        component(
            {"_target_": "maxbench.fusion.MaxFusion", "delta": {"_target_": "os.mkdir", "path": str(tmp_path / "x")}},
            "rule",
            RULE,
        )
    assert not list(tmp_path.iterdir())
