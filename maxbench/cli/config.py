"""From Hydra's configuration to objects, and from Hydra's errors to sentences."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maxbench.data.pairing import ImageSet, Plan
from maxbench.errors import UserError
from maxbench.experiments.method import Experiment, Method
from maxbench.models.pipeline import Sampler
from maxbench.generation.strength import Calibration
from maxbench.suites.folder import FolderSuite
from maxbench.generation.trace import Watching

CONF = next(
    folder for folder in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if folder.is_dir()
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Run:
    """Everything that one run is made of, built and checked; no weights are loaded yet."""

    config: dict[str, Any]  # resolved, plain values
    experiment: Experiment
    suite: FolderSuite
    image_set: ImageSet
    sampler: Sampler
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    threads: int | None
    resamples: int
    level: float
    output_dir: Path
    watching: Watching
    calibration: Calibration | None  # only where methods are matched in strength


def build(cfg: DictConfig) -> Run:
    """Check every value of a composed configuration and make its objects; a mistake is a UserError."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    _check_values(config)
    suite = _make(cfg.suite, "suite")
    if not config["conditions"] or not config["methods"]:
        raise UserError(
            "An experiment needs at least one condition and one method; see conf/experiment/hed_depth.yaml."
        )
    conditions = {name: _make(entry, f"conditions.{name}") for name, entry in cfg.conditions.items()}
    suite.require(list(conditions))
    methods = tuple(
        method
        for name, entry in cfg.methods.items()
        for method in _make(entry, f"methods.{name}").expand(name, list(conditions))
    )
    sampler = _make(cfg.sampler, "sampler")
    _check_guidance(methods, sampler)
    image_set = _make(cfg.data, "data")
    pairing = _make(cfg.pairing, "pairing")
    plan: Plan = pairing.plan(image_set, list(conditions), config["samples"], config["seed"])
    experiment = Experiment(
        name=config["name"],
        conditions=conditions,
        methods=methods,
        samples=plan.samples,
        reference=plan.reference,
        seed=config["seed"],
        replicates=config["replicates"],
        baseline=config["baseline"],
    )
    _check_regions(experiment)
    runtime, metrics = config["runtime"], config["metrics"]
    return Run(
        config=config,
        experiment=experiment,
        suite=suite,
        image_set=image_set,
        sampler=sampler,
        device=pick_device(runtime["device"]),
        dtype=DTYPES[runtime["dtype"]],
        batch_size=runtime["batch_size"],
        threads=runtime["threads"],
        resamples=metrics["resamples"],
        level=metrics["level"],
        output_dir=Path(config["output_dir"]),
        watching=Watching(**config["diagnostics"]),
        calibration=_calibration(cfg, config, experiment),
    )


def _calibration(cfg: DictConfig, config: dict[str, Any], experiment: Experiment) -> Calibration | None:
    """The experiment's own pairing over training scenes, if a strength is to be measured."""
    if all(method.match is None for method in experiment.methods):
        return None
    image_set = _make(OmegaConf.merge(cfg.data, cfg.calibration.data), "calibration.data")
    pairing = _make(OmegaConf.merge(cfg.pairing, {"reference": 2}), "pairing")
    plan: Plan = pairing.plan(
        image_set, list(experiment.conditions), config["calibration"]["samples"], config["calibration"]["seed"]
    )
    return Calibration(image_set, plan.samples)


def _check_regions(experiment: Experiment) -> None:
    """A condition without places cannot speak in a part of a picture."""
    for name, condition in experiment.conditions.items():
        if not condition.is_spatial and any(name in {**each.control_masks, **each.evaluation_masks} for each in experiment.samples):
            raise UserError(f"'{name}' has no places and this pairing gives it a region; take pairing=styled.")


def _check_guidance(methods: Sequence[Method], sampler: Sampler) -> None:
    for method in methods:
        if sampler.halves == 1 and method.needs_guidance and len(method.branches) > 0:
            raise UserError(
                f"methods.{method.name} runs only under classifier-free guidance, and sampler.guidance_scale is 1; "
                f"set another or leave the method out with ~methods.{method.name}."
            )


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where it is visible, else the processor."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(name)):
        raise UserError(f"runtime.device is '{name}'; take auto, cpu, cuda or cuda:<number>.")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device is '{name}', but {torch.cuda.device_count()} CUDA devices are visible; "
            "take cpu, or look at `python -m maxbench doctor`."
        )
    return device


def _make(entry: DictConfig, key: str) -> Any:
    """Instantiate one entry; what its class says against its values becomes a sentence that names the key."""
    try:
        return instantiate(entry, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        said = " ".join(str(cause or error).split())
        raise UserError(f"{key}: {said}; mend it in the command or in conf/.") from error


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


def _check_values(config: dict[str, Any]) -> None:
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
