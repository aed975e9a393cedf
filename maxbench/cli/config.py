"""From Hydra's configuration to objects, and from Hydra's errors to sentences."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maxbench.errors import UserError

CONF = next(
    folder for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if folder.is_dir()
)
DTYPES = ("float32", "float16", "bfloat16")


# --- values -----------------------------------------------------------------------------------------------


def _whole(low: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= low
        return None if good else f"a whole number, {low} or more"

    return check


def _number(low: float, high: float = math.inf, within: str = "") -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return None if good and math.isfinite(value) else within or f"a number, {low:g} or more"

    return check


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "a text"


def _one_of(*choices: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in choices else f"one of {', '.join(choices)}"


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "name": _text,
    "samples": _whole(2),
    "replicates": _whole(1),
    "seed": _whole(0),
    "baseline": _text,
    "output_dir": _text,
    "data_dir": _text,
    "sampler.steps": _whole(1),
    "sampler.guidance_scale": _number(0),
    "sampler.negative_prompt": lambda value: None if isinstance(value, str) else "a text",
    "pairing.reference": _whole(2),
    "calibration.samples": _whole(1),
    "diagnostics.samples": _whole(0),
    "diagnostics.maps": _whole(1),
    "diagnostics.steps": _whole(1),
    "metrics.resamples": _whole(100),
    "metrics.level": _number(0.5, 0.999, "a number from 0.5 to 0.999"),
    "runtime.batch_size": _whole(1),
    "runtime.dtype": _one_of(*DTYPES),
    "runtime.threads": lambda value: None if value is None else _whole(1)(value),
}
"""What a value must be; a check gives None, or what would have been good."""


def check_values(config: dict[str, Any]) -> None:
    for key, check in CHECKS.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        wanted = check(value)
        if wanted:
            raise UserError(f"{key} is {value!r}; it must be {wanted}.")


# --- errors -----------------------------------------------------------------------------------------------


def nearest(word: str, choices: Sequence[str]) -> str:
    """ "; did you mean 'x'?" where something is close, else the choices."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(sorted(choices))}."


def explain(error: Exception, overrides: Sequence[str]) -> str | None:
    """One sentence for a mistake in the command line or the configuration; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' is no setting; write key=value, for example samples=64."
    if isinstance(error, ConfigCompositionException):
        return _explain_composition(error, overrides)
    if isinstance(error, HydraException | OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        return f"{f'{key}: ' if key else ''}{str(error).splitlines()[0]}; mend it in the command or in conf/."
    return None


def _explain_missing(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in error.options or () if not option.startswith("_")]
    if not options:
        return f"{str(error).splitlines()[0]}; there is no such file in conf/."
    return f"There is no {group or 'configuration'} '{choice}'; {nearest(choice, options)}"


def _explain_composition(error: ConfigCompositionException, overrides: Sequence[str]) -> str:
    from maxbench.experiments.method import Method

    message = str(error)
    if found := re.search(r"You must specify '(\w+)'", message):
        group = found[1]
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return f"Say which {group} to run: {group}= one of {', '.join(options)}."
    found = re.search(r"Could not override '([\w.@/]+)'", message)
    found = found or re.search(r"Could not delete from config. '([\w.@/]+)'", message)
    settings = "|".join(each.name for each in fields(Method))
    inner = "branch_scale|control_start|control_end"
    if found and "override" in found[0] and re.fullmatch(rf"methods\.[^.]+\.(({settings})|({inner})\.\w+)", found[1]):
        return f"'{found[1]}' is at its default and not in the file; write +{found[1]}= to set it."
    if found:
        return f"There is no setting '{found[1]}'; {_nearest_key(found[1], overrides)}"
    return f"{message.splitlines()[0]}; mend it in the command or in conf/."


def _nearest_key(key: str, overrides: Sequence[str]) -> str:
    groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    keys = sorted({*known_keys(overrides), *groups})
    tails = {each.rsplit(".", 1)[-1]: each for each in keys}
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    close = close or [tails[tail] for tail in difflib.get_close_matches(key, list(tails), n=1, cutoff=0.6)]
    return f"did you mean '{close[0]}'?" if close else "see `python -m maxbench run --help` for the keys."


def known_keys(overrides: Sequence[str]) -> list[str]:
    """Dotted keys of the configuration, of the chosen experiment where the overrides name one that exists."""
    chosen = [each for each in overrides if each.startswith("experiment=")] or ["experiment=hed_depth"]
    GlobalHydra.instance().clear()  # of the composition that failed
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = OmegaConf.to_container(compose("main", chosen[:1]))
    except HydraException:
        return []
    keys: list[str] = []

    def walk(value: Any, prefix: str) -> None:
        for name, inner in value.items():
            keys.append(prefix + name)
            if isinstance(inner, dict):
                walk(inner, f"{prefix}{name}.")

    walk(config, "")
    return [key for key in keys if not key.endswith(("_target_", "_partial_"))]
