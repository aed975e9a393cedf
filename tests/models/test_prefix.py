"""Steps that methods share are computed once, and nothing else changes."""

from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from maxbench.configuration.compose import CONF
from maxbench.fusion import Fusion, MaxFusion, Sum
from maxbench.models.pipeline import Sampler
from maxbench.models.prefix import Prefixes, plan_of, stops_of

STEPS = 6
BOTH = ["hed", "depth"]
METHODS = {
    "none": ([], Fusion(Sum())),
    "sum": (BOTH, Fusion(Sum(), sites=())),
    "hed ends": (BOTH, Fusion(Sum(), sites=(), control_end={"hed": 0.5})),
    "depth ends": (BOTH, Fusion(Sum(), sites=(), control_end={"depth": 0.7})),
    "late": (BOTH, Fusion(MaxFusion(), control_start=0.5)),
    "stronger": (BOTH, Fusion(Sum(), sites=(), scale=1.5)),
    "fused at first": (BOTH, Fusion(MaxFusion(), fusion_end=0.5, otherwise=Sum())),
    "fused": (BOTH, Fusion(MaxFusion())),
}
SPARED = {"hed ends": 3, "depth ends": 4, "late": 3, "fused": 3}
"""Steps that a method need not compute after those before it in METHODS."""


@pytest.fixture(scope="module")
def pipeline(small_suite):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={small_suite}"])
    return instantiate(cfg.suite, _convert_="all").pipeline(BOTH, torch.device("cpu"), torch.float32)


def made(pipeline, scheduler, names, prefixes=None):
    """Latents of methods, in their order, and the U-Net's calls of each."""
    generator = torch.Generator().manual_seed(4)
    hints = {name: torch.rand(2, 3, 64, 64, generator=generator) for name in BOTH}
    noise = torch.randn(2, 4, 16, 16, generator=generator)
    text, negative = pipeline.encode_text(["a red sphere", "a box"]), pipeline.encode_text(["", ""])
    sampler, calls, latents = Sampler(scheduler, STEPS, 3.0), {}, {}
    plans = {name: plan_of(METHODS[name][1], METHODS[name][0], STEPS) for name in names}
    stops = stops_of(plans) if prefixes is not None else dict.fromkeys(names, ())
    for name in names:
        branches, fusion = METHODS[name]
        control = pipeline.control({each: hints[each] for each in branches}, fusion)
        own = [torch.Generator().manual_seed(place) for place in range(2)]
        counted = []
        hook = pipeline.unet.register_forward_hook(lambda *each, counted=counted: counted.append(1))
        latents[name] = pipeline.denoise(noise, text, negative, control, sampler, own, prefixes, stops[name])
        hook.remove()
        calls[name] = len(counted)
    return latents, calls


def stochastic(config):
    return Noisy.from_config(config)


class Noisy(DDIMScheduler):
    """A scheduler that draws in every step."""

    def step(self, *arguments, generator=None, **more):
        return super().step(*arguments, eta=1.0, generator=generator, **more)


@pytest.mark.parametrize("scheduler", [DDIMScheduler.from_config, UniPCMultistepScheduler.from_config, stochastic])
def test_every_bit_is_as_without_sharing_and_shared_steps_are_not_computed(pipeline, scheduler):
    alone, every = made(pipeline, scheduler, METHODS)
    shared, fewer = made(pipeline, scheduler, METHODS, Prefixes())
    for name in METHODS:
        assert torch.equal(alone[name], shared[name]), name
    assert every == dict.fromkeys(METHODS, STEPS)
    assert fewer == {name: STEPS - SPARED.get(name, 0) for name in METHODS}
    assert len({tuple(each.flatten()[:8].tolist()) for each in alone.values()}) == len(METHODS)  # none is another


def test_the_order_of_methods_does_not_matter_to_any_bit(pipeline):
    alone, _ = made(pipeline, UniPCMultistepScheduler.from_config, METHODS)
    backwards, fewer = made(pipeline, UniPCMultistepScheduler.from_config, list(METHODS)[::-1], Prefixes())
    assert all(torch.equal(alone[name], backwards[name]) for name in METHODS)
    assert sum(fewer.values()) < STEPS * len(METHODS)


def test_what_was_spared_is_told(pipeline):
    prefixes = Prefixes()
    made(pipeline, DDIMScheduler.from_config, ["sum", "depth ends"], prefixes)
    assert prefixes.spared > 0
    made(pipeline, DDIMScheduler.from_config, ["stronger"], prefixes)
    assert prefixes.spared == 0


@dataclass(frozen=True)
class Own(Sum):
    """Looks like another when it is printed."""

    hidden: int = 0

    def __repr__(self):
        return "Sum()"


class Silent(Sum):
    """Cannot be compared."""

    def __eq__(self, other):
        raise TypeError

    __hash__ = None


def test_only_what_is_equal_is_shared():
    def parted(one, other, branches=BOTH):
        stops = stops_of({"one": plan_of(one, branches, STEPS), "other": plan_of(other, branches, STEPS)})
        assert stops["one"] == stops["other"]
        return stops["one"]

    ends = {"control_end": {"depth": 0.5}}
    assert parted(Fusion(Sum()), Fusion(Sum(), **ends)) == (3,)
    assert parted(Fusion(Sum()), Fusion(Sum())) == ()  # they never part
    for other in (Own(), Own(1), Silent(), MaxFusion()):
        assert parted(Fusion(Sum()), Fusion(other, **ends)) == ()
    assert parted(Fusion(Own(1)), Fusion(Own(2), **ends)) == ()
    assert parted(Fusion(Own(1)), Fusion(Own(1), **ends)) == (3,)
    assert parted(Fusion(Silent()), Fusion(Silent(), **ends)) == ()
    assert parted(Fusion(MaxFusion()), Fusion(MaxFusion(), sites=("mid",), **ends)) == ()
    assert parted(Fusion(Sum()), Fusion(Sum(), scale=2, **ends)) == ()
    assert parted(Fusion(Sum()), Fusion(Sum(), branch_scale={"hed": 0.9}, **ends)) == ()
    assert parted(Fusion(Sum(), control_start=0.5), Fusion(Silent(), control_start=0.5)) == (3,)  # nothing acts before
