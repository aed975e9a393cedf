"""What is written after `maxbench run`: Hydra's options and overrides, in any order, and the runs they stand for."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from maxbench.configuration.compose import compose, hydra_on, sentences
from maxbench.configuration.schema import nearest
from maxbench.errors import UserError


@dataclass(frozen=True)
class Command:
    """Options and overrides, apart.

    multirun: whether the overrides stand for several runs. config_dir: a user's folder, laid out like conf/.
    cfg: the part of the configuration to print instead of running it, "job", "hydra" or "all"; package and resolve
        say what of it and how, as in Hydra. seeds: of which to run each and to pool the results; empty for none.
    dry_run: whether to say what would be made, and stop.
    """

    overrides: tuple[str, ...]
    multirun: bool = False
    config_dir: Path | None = None
    cfg: str | None = None
    package: str | None = None
    resolve: bool = False
    seeds: tuple[int, ...] = ()
    dry_run: bool = False

    @property
    def by_hydra(self) -> bool:
        """Whether another launcher or sweeper of Hydra's is asked for (submitit, joblib, optuna, ...)."""
        return any(each.lstrip("+").startswith(("hydra/launcher=", "hydra/sweeper=")) for each in self.overrides)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message[:1].upper()}{message[1:]}; see `python -m maxbench {self.prog} --help`.")


def parser_of(verb: str) -> argparse.ArgumentParser:
    """A parser of a verb's words whose errors are sentences."""
    return _Parser(prog=verb, add_help=False, allow_abbrev=False)


def parse(arguments: Sequence[str]) -> Command:
    """Take options out of the overrides; an unknown one is a UserError that says how a setting is written."""
    parser = parser_of("run")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--seeds")
    parser.add_argument("--dry-run", action="store_true")
    found, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        raise UserError(_unknown(unknown[0], arguments))
    folder = config_folder(found.config_dir)
    if found.cfg is None and (found.package or found.resolve):
        raise UserError("--package and --resolve go with --cfg; add --cfg job.")
    if found.cfg is not None and found.multirun:
        raise UserError("--cfg prints the configuration of one run; leave out -m.")
    if found.cfg is not None and found.dry_run:
        raise UserError("--cfg and --dry-run both print and stop; leave one of them out.")
    seeds = _seeds(found) if found.seeds is not None else ()
    command = Command(**{**vars(found), "overrides": tuple(found.overrides), "config_dir": folder, "seeds": seeds})
    if command.dry_run and command.by_hydra:
        raise UserError("--dry-run looks at runs here; leave out hydra/launcher= and hydra/sweeper=.")
    return command


def config_folder(given: Path | None) -> Path | None:
    """The folder of --config-dir, absolute; UserError where there is none."""
    if given is None:
        return None
    if not given.is_dir():
        raise UserError(f"--config-dir is {given}, which is no folder; give one that is laid out like conf/.")
    return given.absolute()


def _seeds(found: argparse.Namespace) -> tuple[int, ...]:
    """The seeds to pool: two whole numbers or more, none of them twice."""
    if found.multirun or found.cfg is not None:
        raise UserError(f"--seeds runs one experiment several times; leave out {'-m' if found.multirun else '--cfg'}.")
    if own := [each for each in found.overrides if each.lstrip("+~").partition("=")[0] == "seed"]:
        raise UserError(f"--seeds and {own[0]} both say the seed; leave one of them out.")
    parts = [each.strip() for each in found.seeds.split(",")]
    if not all(each.isascii() and each.isdigit() and int(each) < 2**63 for each in parts):
        raise UserError(f"--seeds is '{found.seeds}'; write whole numbers, 0 or more, with commas: --seeds 0,1,2.")
    seeds = tuple(int(each) for each in parts)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is '{found.seeds}', which has a seed twice; name each once.")
    if len(seeds) < 2:
        raise UserError(f"--seeds is '{found.seeds}', and one seed is nothing to pool; write seed={seeds[0]} instead.")
    return seeds


def _unknown(option: str, arguments: Sequence[str]) -> str:
    """A setting written like an option, which is how other programs take them; or another option."""
    key, _, value = option.lstrip("-").partition("=")
    following = [each for each in arguments[arguments.index(option) + 1 :][:1] if "=" not in each and each[:1] != "-"]
    if option.startswith("--") and (value or following):
        return f"There is no option --{key}; settings have no dashes: write {key}={value or following[0]}."
    known = (
        "--multirun", "--config-dir", "--cfg", "--package", "--resolve", "--seeds", "--dry-run", "--debug", "--help"
    )  # fmt: skip
    return f"There is no option {option}; {nearest(option, known)}"


def read_overrides(command: Command, loader: ConfigLoader) -> list[Override]:
    """The overrides as Hydra understands them; several values without -m are a UserError."""
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(command.overrides))
    for each in overrides:
        if each.is_sweep_override() and not command.multirun:
            key, _, value = each.input_line.partition("=")
            raise UserError(
                f"{each.input_line} is several values; add -m to run each of them, write [{value}] for a list, "
                f"or quote a text: '{key}=\"{value}\"'."
            )
    return overrides


def jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of every run, multiplied as by Hydra's own sweeper, but with removals (~key) as they are."""
    choices: dict[str, list[str]] = {}
    for each in overrides:
        if not each.is_sweep_override():
            values = [write(each)]
        elif each.is_discrete_sweep():
            values = [f"{_settable(each)}={value}" for value in each.sweep_string_iterator()]
        else:
            raise UserError(f"{each.input_line} has no values to try one by one; write a,b or range(0,3).")
        if not values:
            raise UserError(f"{each.input_line} stands for nothing; give it at least one value.")
        if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
            raise UserError(f"{each.input_line} has {twice[0]} twice, which is one run; leave one out.")
        choices[each.get_key_element()] = values
    return [list(job) for job in itertools.product(*choices.values())]


def write(override: Override) -> str:
    """An override as it is given to Hydra."""
    return (
        override.input_line
        if override.is_delete()
        else f"{_settable(override)}={override.input_line.partition('=')[2]}"
    )


def _settable(override: Override) -> str:
    """The key of an override: a setting of a method may be new to its file, with a plus or without."""
    key, path = override.get_key_element(), override.key_or_group.split(".")
    return f"++{key.lstrip('+')}" if path[0] == "methods" and len(path) > 2 else key


def compose_one(settings: Sequence[str], config_dir: Path | None) -> DictConfig:
    """The configuration of a command that is about one run; several values of a setting are a UserError."""
    command = Command(tuple(settings), config_dir=config_folder(config_dir))
    with hydra_on(command.config_dir) as hydra:
        with sentences(hydra, command.overrides):
            overrides = read_overrides(command, hydra.config_loader)
        return compose(hydra, jobs(overrides)[0])
