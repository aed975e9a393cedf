"""From a composed configuration to the objects of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from maxbench.cli.config import check_values
from maxbench.data.pairing import ImageSet, Plan
from maxbench.errors import UserError
from maxbench.experiments.method import Experiment, Method
from maxbench.generation.strength import Calibration
from maxbench.generation.trace import Tracing
from maxbench.models.pipeline import Sampler
from maxbench.suites.folder import FolderSuite

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
    store_dir: Path
    tracing: Tracing
    calibration: Calibration | None  # only where methods are matched in strength


def build(cfg: DictConfig) -> Run:
    """Check every value of a composed configuration and make its objects; a mistake is a UserError."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_values(config)
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
        store_dir=Path(config["store_dir"]),
        tracing=Tracing(**config["diagnostics"]),
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
        if not condition.is_spatial and any(
            name in {**each.control_masks, **each.evaluation_masks} for each in experiment.samples
        ):
            raise UserError(f"'{name}' has no places and this pairing gives it a mask; take pairing=styled.")


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
