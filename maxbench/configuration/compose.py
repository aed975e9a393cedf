"""From overrides to a composed and checked configuration, and from Hydra's errors to sentences; without torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError

from maxbench.configuration.choice import with_suite
from maxbench.configuration.schema import check, nearest
from maxbench.configuration.sources import check_components
from maxbench.errors import UserError

CONF = next(
    folder for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if folder.is_dir()
)
MAIN = "main"  # the file in conf/ that every composition begins with


@contextmanager
def hydra_on(folder: Path | None = None) -> Iterator[Hydra]:
    """Hydra on conf/ and, behind it, a user's folder of the same layout; `hydra.main` without its sys.argv."""
    version.setbase("1.3")
    search_path = create_config_search_path(str(CONF))
    if folder is not None:
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()  # of a composition that failed
    try:
        yield Hydra.create_main_hydra2(task_name="maxbench", config_search_path=search_path)
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def sentences(hydra: Hydra, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Every mistake in the command or the configuration leaves as a UserError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, MarkedYAMLError, UnicodeDecodeError) as error:
        raise UserError(_explain(error, hydra, overrides)) from error


def compose(
    hydra: Hydra, overrides: Sequence[str], changes: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
) -> DictConfig:
    """The configuration of one run, checked; a mistake is a UserError. Where no suite is named, one is chosen.

    changes: of what is composed, not resolved yet, the values by dotted key that are to be others.
    """
    with sentences(hydra, overrides):
        overrides = with_suite(hydra, overrides, MAIN)
        cfg = hydra.compose_config(MAIN, list(overrides), RunMode.RUN, from_shell=False, with_log_configuration=False)
        HydraConfig.instance().set_config(cfg)  # for ${hydra:...} in a user's file
        with open_dict(cfg):
            del cfg["hydra"]
            for key, value in (changes(OmegaConf.to_container(cfg)) if changes else {}).items():
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
        check_all(plain(cfg))
    return cfg


def check_all(config: dict[str, Any]) -> None:
    """Everything that can be said of a configuration before torch is imported; a mistake is a UserError."""
    check(config)
    check_components(config)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as dicts, lists and values, everything resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


# --- errors -----------------------------------------------------------------------------------------------

FIX = "correct it in the command or in conf/."
LAUNCHERS = {"submitit_": ("submitit", "maxbench[slurm]"), "joblib": ("joblib's launcher", "maxbench[joblib]")}
"""How the names of optional launchers begin: what they need, and the extra that has it."""


def _explain(error: Exception, hydra: Hydra, overrides: Sequence[str]) -> str:
    """One sentence for an error of Hydra's, of OmegaConf's or of a YAML file."""
    if isinstance(error, MarkedYAMLError):
        return _explain_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return f"A configuration file is not text in UTF-8 ({error.reason}); save it as such."
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    if isinstance(error, OverrideParseException):
        if "=" not in error.override:
            return f"'{error.override}' is no setting; write key=value, for example samples=64."
        return (
            f"'{error.override}' cannot be read: a key is names with dots between them, and a text with brackets, "
            "commas or braces is quoted, 'key=\"text\"'."
        )
    if isinstance(error, ConfigCompositionException):
        return _explain_composition(error, hydra, overrides)
    key = getattr(error, "full_key", None)
    if isinstance(error, MissingMandatoryValue) and key:
        return f"{key} has no value; set it in the command or in conf/."
    said = str(error).splitlines()[0]
    if isinstance(error, InterpolationKeyError) and key:
        return f"{key} refers to what is not there ({said}); {FIX}"
    return f"{f'{key}: ' if key else ''}{said}; {FIX}"


def _explain_yaml(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
    return f"{place} is not YAML: {error.problem or error.context}; correct that line or the one above it."


def _explain_missing(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    for begins, (library, extra) in LAUNCHERS.items() if group == "hydra/launcher" else ():
        if choice.startswith(begins):
            return (
                f"hydra/launcher={choice} needs {library}, which is not installed; install it with "
                f"`pip install '{extra}'`."
            )
    options = [option for option in error.options or () if not option.startswith("_")]
    if not options:
        return f"{str(error).splitlines()[0]}; there is no such file in conf/."
    return f"There is no {group or 'configuration'} '{choice}'; {nearest(choice, options)}"


def _explain_composition(error: ConfigCompositionException, hydra: Hydra, overrides: Sequence[str]) -> str:
    message = str(error)
    if found := re.search(r"You must specify '(\w+)'", message):
        options = hydra.config_loader.get_group_options(found[1])
        return f"Say which {found[1]} to run: {found[1]}= one of {', '.join(options)}."
    found = re.search(r"Could not override '([\w.@/+-]+)'", message)
    found = found or re.search(r"Could not delete from config. '([\w.@/+-]+)'", message)
    if found:
        return f"There is no setting '{found[1]}'; {_nearest_key(found[1], hydra, overrides)}"
    return f"{message.splitlines()[0]}; {FIX}"


def _nearest_key(key: str, hydra: Hydra, overrides: Sequence[str]) -> str:
    groups = hydra.config_loader.list_groups("")
    keys = sorted({*_known_keys(hydra, groups, overrides), *groups})
    tails = {each.rsplit(".", 1)[-1]: each for each in keys}
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    close = close or [tails[tail] for tail in difflib.get_close_matches(key, list(tails), n=1, cutoff=0.6)]
    return f"did you mean '{close[0]}'?" if close else "see `python -m maxbench run --help` for the keys."


def _known_keys(hydra: Hydra, groups: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Dotted keys of the configuration with the same choices of files and none of the command's values."""
    chosen = [each for each in overrides if re.split(r"[@=]", each.lstrip("+~"))[0] in groups]
    try:
        cfg = hydra.compose_config(MAIN, chosen, RunMode.RUN, from_shell=False, with_log_configuration=False)
    except HydraException:
        return []
    keys = [key for key in _keys(OmegaConf.to_container(cfg), "") if not key.startswith("hydra")]
    return [key for key in keys if not key.endswith(("_target_", "_partial_"))]


def _keys(value: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, inner in value.items():
        yield prefix + name
        if isinstance(inner, dict):
            yield from _keys(inner, f"{prefix}{name}.")
