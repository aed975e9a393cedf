"""From a composed configuration to the objects of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from maxbench.configuration.component import CONDITION, PAIRING, SAMPLER, component
from maxbench.configuration.compose import plain
from maxbench.configuration.objects import make_method, make_precision, pick_device
from maxbench.configuration.schema import baselines_of, check
from maxbench.data.pairing import ImageSet, Plan, Sample
from maxbench.errors import UserError
from maxbench.experiments.method import NONE, Experiment, Method
from maxbench.experiments.search import require_optuna
from maxbench.experiments.tuning import BALANCE, axes, candidate, require_settings
from maxbench.fusion.base import TwoBranches
from maxbench.generation.strength import Calibration
from maxbench.generation.trace import Tracing
from maxbench.models.pipeline import Sampler
from maxbench.models.precision import Precision
from maxbench.seeds import derive
from maxbench.suites.folder import IMAGE_PROMPT, FolderSuite


@dataclass(frozen=True)
class Run:
    """Everything that one run is made of, built and checked; no weights are loaded yet."""

    config: dict[str, Any]  # resolved, plain values
    experiment: Experiment
    suite: FolderSuite
    weights: dict[str, str]  # part -> digest, as they were when the run began
    image_set: ImageSet
    sampler: Sampler
    device: torch.device
    precision: Precision
    batch_size: int
    threads: int | None
    workers: int | None
    address: str | None
    resamples: int
    level: float
    output_dir: Path
    store_dir: Path
    tracing: Tracing
    calibration: Calibration | None  # only where methods are matched in strength, or tuned
    notes: tuple[str, ...] = ()  # what the tables must say of the run


def build(cfg: DictConfig) -> Run:
    """Check every value of a composed configuration and make its objects; a mistake is a UserError."""
    config = plain(cfg)
    config["runtime"] = check(config).runtime.model_dump()  # one name for each dtype, and every setting
    suite = component(config["suite"], "suite")
    conditions = {
        name: component(entry, f"conditions.{name}", CONDITION) for name, entry in config["conditions"].items()
    }
    weights = suite.fingerprint(list(conditions))
    methods = tuple(
        each
        for name, entry in config["methods"].items()
        for each in make_method(entry, f"methods.{name}").expand(name, list(conditions))
    )
    sampler = component(config["sampler"], "sampler", SAMPLER)
    _check_guidance(methods, sampler)
    _check_rules(methods, suite)
    image_set = component(config["data"], "data")
    pairing = component(config["pairing"], "pairing", PAIRING)
    plan: Plan = pairing.plan(image_set, list(conditions), config["samples"], config["seed"])
    experiment = Experiment(
        name=config["name"],
        conditions=conditions,
        methods=methods,
        samples=plan.samples,
        reference=plan.reference,
        seed=config["seed"],
        replicates=config["replicates"],
        baselines=tuple(baselines_of(config["baseline"], [method.name for method in methods])),
    )
    check_regions(conditions, plan.samples)
    runtime, metrics = config["runtime"], config["metrics"]
    return Run(
        config=config,
        experiment=experiment,
        suite=suite,
        weights=weights,
        image_set=image_set,
        sampler=sampler,
        device=pick_device(runtime["device"]),
        precision=make_precision(runtime, runtime["batch_size"], suite.resolution),
        batch_size=runtime["batch_size"],
        threads=runtime["threads"],
        workers=runtime["workers"],
        address=runtime["address"],
        resamples=metrics["resamples"],
        level=metrics["level"],
        output_dir=Path(config["output_dir"]),
        store_dir=Path(config["store_dir"]),
        tracing=Tracing(**config["diagnostics"]),
        calibration=_calibration(config, experiment),
    )


def _calibration(config: dict[str, Any], experiment: Experiment) -> Calibration | None:
    """The experiment's own pairing over pictures of its calibration, if a method is to be matched or tuned."""
    if all(method.match is None and not method.tune for method in experiment.methods):
        return None
    image_set = component({**config["data"], **config["calibration"]["data"]}, "calibration.data")
    pairing = component({**config["pairing"], "reference": 2}, "pairing", PAIRING)
    samples, seed = config["calibration"]["samples"], config["calibration"]["seed"]
    try:
        plan: Plan = pairing.plan(image_set, list(experiment.conditions), samples, seed)
    except UserError as error:
        raise UserError(
            f"Methods cannot be calibrated on {samples} samples of pictures that no result is measured on; lower "
            f"calibration.samples, or hold out more (data.calibration_share=, calibration.data.count=): "
            f"{error}"
        ) from error
    return Calibration(image_set, plan.samples, derive("calibration", seed))


def check_regions(conditions: Mapping[str, Any], samples: Sequence[Sample]) -> None:
    """A condition without places cannot speak in a part of a picture."""
    for name, condition in conditions.items():
        if not condition.is_spatial and any(
            name in {**each.control_masks, **each.evaluation_masks} for each in samples
        ):
            raise UserError(f"'{name}' is not spatial and this pairing gives it a mask; take pairing=styled.")


def _check_guidance(methods: Sequence[Method], sampler: Sampler) -> None:
    for method in methods:
        if sampler.halves == 1 and method.needs_guidance and len(method.branches) > 0:
            raise UserError(
                f"methods.{method.name} runs only under classifier-free guidance, and sampler.guidance_scale is 1; "
                f"set another or leave the method out with ~methods.{method.name}."
            )


def _check_blocks(method: Method, suite: FolderSuite) -> None:
    """What a method says of single down blocks and residuals must be of those that its controls have."""
    for name in method.branches:
        down, residuals = suite.blocks(name) or (None, None)
        for site in method.sites:
            kind, _, number = site.partition(".")
            if down and number and int(number) >= down:
                raise UserError(
                    f"methods.{method.name}.sites has '{site}', and the control for '{name}' has the blocks {kind}.0 "
                    f"to {kind}.{down - 1}."
                )
        if residuals and method.layer_scale is not None and len(method.layer_scale) != residuals:
            raise UserError(
                f"methods.{method.name}.layer_scale has {len(method.layer_scale)} numbers, and the control for "
                f"'{name}' has {residuals} residuals; give one number for each, or leave layer_scale out."
            )


def _check_rules(methods: Sequence[Method], suite: FolderSuite) -> None:
    """What only the rule knows, before anything is computed: tuning and other methods may take hours."""
    for method in methods:
        kinds = Counter(suite.control_kind(name) for name in method.branches)  # branches are fused within their kind
        most = max((count for kind, count in kinds.items() if kind != IMAGE_PROMPT), default=0)
        if isinstance(method.rule, TwoBranches) and most > 2:
            raise UserError(
                f"methods.{method.name} is for two branches and has {most}; leave it out with "
                f"~methods.{method.entry} or set its branches."
            )
        if method.tune and method.role == NONE:
            raise UserError(f"methods.{method.name} has no control, so there is nothing to tune; leave out its tune.")
        _check_blocks(method, suite)
        if BALANCE in axes(method) and len(method.branches) < 2:
            raise UserError(f"methods.{method.name} has one branch, so there is no balance; leave it out of its tune.")
        if method.trials is None:
            require_settings(method)  # a rule may refuse a value
        else:
            require_optuna()
            for end in (0, 1):
                candidate(method, {name: ends[end] for name, ends in axes(method).items()}, 0)
