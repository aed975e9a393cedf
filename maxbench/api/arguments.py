"""What a call says, in the words of diffusers' pipelines -> what a run is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from numbers import Integral, Real
from typing import Any

import torch
import yaml

from maxbench import fusion
from maxbench.configuration.compose import CONF
from maxbench.configuration.objects import make_method
from maxbench.configuration.schema import nearest
from maxbench.errors import UserError
from maxbench.experiments.method import NONE, Method
from maxbench.fusion import Fusion, Rule
from maxbench.models.pipeline import Sampler
from maxbench.seeds import DrawnNoise, Noise, RunNoise

Strength = float | Sequence[float] | Mapping[str, float] | None
"""One number for all controls, one for each in the order in which they were loaded, or condition -> number."""

OUTPUTS = ("pil", "np", "pt")
LARGEST_SEED = 2**64
ALL = ""
"""Among conditions, of which none is named so."""


def prompts_of(prompt: str | Sequence[str], copies: int) -> tuple[str, ...]:
    """The prompt of every picture, those of one prompt one after the other, as in diffusers."""
    given = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(given, list | tuple) or not given:
        raise UserError(f"prompt is {prompt!r}; give a text, or a list of texts.")
    for each in given:
        if not isinstance(each, str) or not each.strip():
            raise UserError(f"prompt has {each!r}; say in words what the picture shows.")
    if not is_whole(copies) or copies < 1:
        raise UserError(f"num_images_per_prompt is {copies!r}; give a whole number, 1 or more.")
    return tuple(each for each in given for _ in range(copies))


def noise_of(
    seed: int | RunNoise | Sequence[int | RunNoise] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    count: int,
    shape: tuple[int, ...],
) -> tuple[Noise, ...]:
    """The noise of every picture; the generators are advanced by what is drawn of them, as diffusers leaves them.

    One seed or generator for several pictures gives their noise one after the other.
    """
    if seed is not None and generator is not None:
        raise UserError("seed and generator both say the noise; leave one of them out.")
    if generator is not None:
        own = list(generator) if isinstance(generator, list | tuple) else [generator]
        for each in own:
            if not isinstance(each, torch.Generator) or each.device.type != "cpu":
                raise UserError(
                    "generator is to be a torch.Generator on the processor, torch.Generator().manual_seed(0): noise is "
                    "drawn there, so that it is the same on every device."
                )
        found = _spread([DrawnNoise.of(each) for each in own], "generators", count)
        for place, each in enumerate(own):
            torch.randn((count if len(own) == 1 else 1) * math.prod(shape), generator=each)
            if any(each is other for other in own[:place]):
                raise UserError("generator has one generator twice; give one alone, or one for each picture.")
        return found
    given = [torch.Generator().seed() % 2**63] if seed is None else seed
    given = list(given) if isinstance(given, list | tuple) and not isinstance(given, Noise) else [given]
    for each in given:
        if not isinstance(each, Noise) and not (is_whole(each) and 0 <= each < LARGEST_SEED):
            raise UserError(
                f"seed is {str(each)[:40]}; give a whole number, 0 or more, or what maxbench.seed_of returns."
            )
    if len(given) == 1 and isinstance(given[0], RunNoise) and count > 1:
        raise UserError(f"seed is the noise of one image of a run, for {count} pictures; give one for each of them.")
    return _spread([each if isinstance(each, Noise) else DrawnNoise(int(each)) for each in given], "seeds", count)


def _spread(found: Sequence[Noise], what: str, count: int) -> tuple[Noise, ...]:
    """The noise of every picture; what one generator gives is taken one after the other."""
    if len(found) not in (1, count):
        raise UserError(f"{len(found)} {what} for {count} pictures; give one for all, or one for each of them.")
    if len(found) == count:
        return tuple(found)
    return tuple(found[0]._replace(before=found[0].before + place) for place in range(count))


def sampler_of(usual: Sampler, steps: int | None, guidance_scale: float | None, negative_prompt: str | None) -> Sampler:
    """The sampler with what a call changes of it."""
    changed: dict[str, Any] = {}
    if steps is not None:
        if not is_whole(steps) or not 1 <= steps <= 1000:
            raise UserError(f"num_inference_steps is {steps!r}; give a whole number from 1 to 1000.")
        changed["steps"] = int(steps)
    if guidance_scale is not None:
        if not _is_number(guidance_scale) or guidance_scale < 0:
            raise UserError(f"guidance_scale is {guidance_scale!r}; give a number, 0 or more; 1 is none.")
        changed["guidance_scale"] = float(guidance_scale)
    if negative_prompt is not None:
        if not isinstance(negative_prompt, str):
            raise UserError("negative_prompt is a text, one for all pictures; '' is none.")
        changed["negative_prompt"] = negative_prompt
    return replace(usual, **changed)


def method_of(
    rule: Rule | Fusion | str | None,
    sites: Sequence[str] | None,
    scale: Strength,
    start: Strength,
    end: Strength,
    controls: Sequence[str],
    branches: Sequence[str],
    usual_scale: float,
    named: Callable[[str], Mapping[str, Any]],
) -> Method:
    """What a call does with its maps.

    controls: as they were loaded. branches: those of which there are maps. named: the settings of a file in
    conf/fusion/.
    """
    chosen = _fusion(rule, usual_scale, named)
    if sites is not None:
        if isinstance(sites, str) or not isinstance(sites, Sequence):
            raise UserError(f"sites is {sites!r}; give a list, such as ['conv_in', 'down', 'mid'], or [] for none.")
        chosen = replace(chosen, sites=tuple(sites))
    if scale is not None:
        chosen = _scaled(chosen, _checked(scale, "controlnet_conditioning_scale", controls, math.inf), controls)
    shares = {"control_start": (start, "control_guidance_start"), "control_end": (end, "control_guidance_end")}
    for key, (value, name) in shares.items():
        if value is not None:
            chosen = replace(chosen, **{key: _checked(value, name, controls, 1.0)})
    name = rule if isinstance(rule, str) else type(chosen.rule).__name__
    settings = {each.name: getattr(chosen, each.name) for each in fields(Fusion)}
    silent = isinstance(chosen, Method) and chosen.branches is not None and not len(chosen.branches)  # as "none" is
    try:
        (method,) = Method(**settings, branches=[] if silent else list(branches)).expand(name, list(controls))
    except UserError as error:
        raise UserError(str(error).replace(f"methods.{name}.", "").replace(f"methods.{name}: ", "")) from error
    for branch in method.branches:
        first, last = _of(method.control_start, branch, 0.0), _of(method.control_end, branch, 1.0)
        if first >= last:
            raise UserError(
                f"control_guidance_start is {first:g} and control_guidance_end {last:g} for '{branch}', which would "
                "never act; leave its map out, or let it end later."
            )
    return method


def _fusion(rule: Rule | Fusion | str | None, usual_scale: float, named: Callable[[str], Mapping[str, Any]]) -> Fusion:
    """A rule with where and how strongly it acts, as experiments have it."""
    if isinstance(rule, Fusion):
        if not isinstance(rule.rule, Rule):
            raise UserError(f"The fusion's rule is a {type(rule.rule).__name__}; a rule extends maxbench.fusion.Rule.")
        if isinstance(rule, Method) and (rule.vary or rule.match or rule.tune):
            raise UserError(
                "The method stands for several, or has no settings before a run; give a maxbench.fusion.Fusion."
            )
        return rule
    if isinstance(rule, Rule):
        return Fusion(rule, sites=usual_sites(type(rule)), scale=usual_scale)
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise UserError(f"rule is the class {rule.__name__}; give a rule of it, {rule.__name__}().")
    if rule is not None and not isinstance(rule, str):
        raise UserError(
            f"rule is a {type(rule).__name__}; give a rule such as maxbench.fusion.MaxFusion(), a "
            "maxbench.fusion.Fusion, or the name of a file in conf/fusion/."
        )
    settings = named("sum" if rule is None else rule)
    method = make_method(settings, f"fusion.{rule or 'sum'}")
    if method.tune or method.match or method.vary:
        raise UserError(
            f"'{rule}' has no settings before a run has found them; give a maxbench.fusion.Fusion with those of a run."
        )
    return method


@cache
def usual_sites(rule: type[Rule]) -> tuple[str, ...]:
    """Where the experiments' methods unmerge with a rule; with a rule of one's own, where the paper does.

    Of several methods with one rule that is the one which unmerges most.
    """
    found = []
    for path in sorted((CONF / "fusion").glob("*.yaml")):
        settings = yaml.safe_load(path.read_text())
        target = (settings.get("rule") or {}).get("_target_", "")
        if target.startswith("maxbench.fusion.") and getattr(fusion, target.rpartition(".")[2], None) is rule:
            found.append(tuple(settings["sites"]))
    return max(found, key=len, default=tuple(fusion.SITES))


def _scaled(chosen: Fusion, strength: float | dict[str, float], controls: Sequence[str]) -> Fusion:
    """One number is the strength of what is merged; several are each control's own, and then nothing else is.

    A control that a mapping does not name keeps the strength that it had.
    """
    if isinstance(strength, dict):
        usual = {name: chosen.scale * chosen.weight(name) for name in controls}
        return replace(chosen, scale=1.0, branch_scale={**usual, **strength})
    return replace(chosen, scale=strength)


def _checked(value: Any, name: str, controls: Sequence[str], most: float) -> float | dict[str, float]:
    """One number, or condition -> number of every control."""
    if isinstance(value, Mapping):
        for each in value:
            if each not in controls:
                raise UserError(f"{name} has '{each}'; {nearest(str(each), controls)}")
        own = dict(value)
    elif isinstance(value, list | tuple):
        if len(value) != len(controls):
            raise UserError(
                f"{name} has {len(value)} numbers for the controls {', '.join(controls)}; give one for each of them, "
                "one for all, or {condition: number}."
            )
        own = dict(zip(controls, value, strict=True))
    else:
        own = {ALL: value}
    wanted = "0 or more" if most == math.inf else f"from 0 to {most:g}"
    for each in own.values():
        if not _is_number(each) or not 0 <= each <= most:
            raise UserError(f"{name} has {each!r}; give numbers, {wanted}.")
    found = {key: float(each) for key, each in own.items()}
    return found.get(ALL, found)


def check_rule(method: Method, kinds: Sequence[str], sampler: Sampler) -> None:
    """What a rule cannot do; kinds: of the branches that are fused, each with those of its own kind."""
    if method.role == NONE:
        return
    most = max((kinds.count(kind) for kind in kinds), default=0)
    if isinstance(method.rule, fusion.base.TwoBranches) and most > 2:
        raise UserError(f"{type(method.rule).__name__} is for two controls, and there are {most} maps; take MaxFusion.")
    if sampler.halves == 1 and method.needs_guidance is not None:
        raise UserError(
            f"{type(method.needs_guidance).__name__} runs only under classifier-free guidance; give a guidance_scale "
            "other than 1."
        )


def _of(value: float | Mapping[str, float], branch: str, default: float) -> float:
    return value.get(branch, default) if isinstance(value, Mapping) else value


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
