"""The verb `search`: numbers of a method looked for on training scenes, then a run with what was found.

It is `run` with one more method for each that is searched: a copy whose settings are chosen by Optuna among ranges. So
resuming, the store, tables and files are those of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from maxbench.cli.command import compose_one, parser_of
from maxbench.configuration.compose import check_all, plain
from maxbench.configuration.schema import Configuration, baselines_of, check, nearest, shown
from maxbench.errors import UserError

HELP = """\
usage: maxbench search experiment=NAME method=NAME[,NAME] [trials=30] [space={...}] [key=value ...] [--dry-run]

Look for numbers of a method on training scenes with Optuna, then run the experiment with what was found: beside the
method as it is, the baselines and all other methods, on samples that the search has not seen. Running the same command
again goes on where it was, or shows the result. Needs `pip install 'maxbench[search]'`.

  python -m maxbench search experiment=contradictory_hed_depth method=maxfusion trials=30
  python -m maxbench search experiment=contradictory_hed_depth method=maxfusion,sum trials=30
  python -m maxbench search experiment=hed_depth method=maxfusion space='{rule.delta: [0, 1]}' samples=32

keys:
  method=   methods of the experiment; each is given as many trials, and the row NAME_searched
  trials=   settings that are tried for each, the method's own first
  space=    number -> [lowest, highest]; of scale, branch_scale, control_start, control_end, rule.<parameter>.
            Without it: of a rule with a threshold {rule.delta: [-1, 1], scale: [0.35, 2.8]}, of others
            {branch_scale: [0.35, 2.8]}. scale is a factor of the method's own
  calibration.samples=  training scenes; calibration.seed= chooses them, their noise and the trials
  all others as of `run`, see `maxbench run --help`
"""
OWN = ("method", "trials", "space")
TRIALS = 30
SUFFIX = "_searched"
STRENGTHS = [0.35, 2.8]


def search(words: Sequence[str]) -> int:
    """`maxbench search`; returns the exit code."""
    parser = parser_of("search")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    found = parser.parse_intermixed_args(words)
    own, settings = _split(found.settings)
    cfg = with_search(compose_one(settings, found.config_dir), own)
    from maxbench.cli.perform import foresee, perform  # torch and all that is heavy, once there is something to do

    (foresee if found.dry_run else perform)(cfg)
    return 0


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What is this verb's own, and the settings of a run."""
    own: dict[str, str] = {}
    rest = []
    for word in words:
        key, sign, value = word.partition("=")
        if key in OWN and sign:
            if key in own:
                raise UserError(f"{key}= is said twice; say it once.")
            own[key] = value
        else:
            rest.append(word)
    if "method" not in own:
        raise UserError("Say which method to search: method=maxfusion, or several, method=maxfusion,sum.")
    return own, rest


def with_search(cfg: DictConfig, own: Mapping[str, str]) -> DictConfig:
    """A configuration with the methods that are searched for, checked; own: the words of the verb."""
    config = plain(cfg)
    checked = check(config)
    _require_joint(checked)
    trials = _trials(own.get("trials"))
    space = _space(own["space"]) if "space" in own else None
    names = own["method"].strip("[] ").split(",")
    baselines = baselines_of(config["baseline"], _rows(checked))
    for name in (each.strip() for each in names):
        config["methods"][f"{name}{SUFFIX}"] = _searched(name, config["methods"], trials, space)
        baselines += [name] if name in _rows(checked) and name not in baselines else []
    config["baseline"] = baselines
    check_all(config)
    return OmegaConf.create(config)


def _searched(name: str, methods: Mapping[str, Any], trials: int, space: Mapping[str, Any] | None) -> dict[str, Any]:
    """A method's entry with a search in it."""
    if name not in methods:
        raise UserError(f"method is '{name}', which is no method of this experiment; {nearest(name, methods)}")
    if f"{name}{SUFFIX}" in methods:
        raise UserError(f"method has '{name}' twice, or there is a method '{name}{SUFFIX}'; name each once.")
    entry = methods[name]
    for key in ("vary", "match"):
        if entry.get(key):
            raise UserError(f"methods.{name} has {key}, and what is searched has its own numbers; name another method.")
    if entry.get("branches") == []:
        raise UserError(f"methods.{name} has no control, so there is nothing to search; name another method.")
    return {**entry, "tune": dict(_usual(entry) if space is None else space), "then": {}, "trials": trials}


def _usual(entry: Mapping[str, Any]) -> dict[str, list[float]]:
    """Where nobody says what to search: a threshold and the strength, or each branch's strength."""
    if "delta" in entry["rule"]:
        return {"rule.delta": [-1.0, 1.0], "scale": STRENGTHS}
    return {"branch_scale": STRENGTHS}


def _trials(said: str | None) -> int:
    if said is None:
        return TRIALS
    if not (said.isascii() and said.isdigit() and 2 <= int(said) <= 10_000):
        raise UserError(f"trials is '{said}'; it must be a whole number from 2 to 10000.")
    return int(said)


def _space(said: str) -> dict[str, list[float]]:
    """The ranges of a command, as YAML."""
    example = "write space='{rule.delta: [-1, 1], scale: [0.5, 2]}'"
    try:
        space = yaml.safe_load(said.replace(":[", ": ["))
    except yaml.YAMLError as error:
        raise UserError(f"space is '{said}', which cannot be read; {example}.") from error
    if not isinstance(space, dict) or not space:
        raise UserError(f"space is '{said}', which is no range of any number; {example}.")
    for key, ends in space.items():
        fits = isinstance(ends, list) and len(ends) == 2 and all(type(each) in (int, float) for each in ends)
        if not fits or not ends[0] < ends[1]:
            raise UserError(f"space has {key}: {shown(ends)}; give its lowest and its highest value; {example}.")
    return {str(key): [float(each) for each in ends] for key, ends in space.items()}


def _rows(checked: Configuration) -> list[str]:
    return [row.name for name, method in checked.methods.items() for row in method.rows(name, list(checked.conditions))]


def _require_joint(checked: Configuration) -> None:
    """UserError where there can be no joint score, which is what is searched for."""
    conditions = list(checked.conditions)
    units = [
        row.branches
        for name, method in checked.methods.items()
        if not (method.vary or method.match or method.tune)
        for row in method.rows(name, conditions)
    ]
    lacking = [name for name in conditions if (name,) not in units]
    if () not in units or lacking:
        raise UserError(
            "A search needs a joint score, which is made of the methods `none` and `single`; add what is missing: "
            "+fusion@methods.none=none +fusion@methods.single=single."
        )
