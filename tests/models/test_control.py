"""What acts when and how strongly: control branches of every kind, against diffusers' own pipelines."""

from copy import deepcopy
from dataclasses import dataclass, field, replace

import pytest
import torch
from diffusers import (
    HeunDiscreteScheduler,
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
    UniPCMultistepScheduler,
)
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.fusion import Average, Fusion, MaxFusion, Rule, Sum, Weighted
from maxbench.models.control import Control, ImagePrompt
from maxbench.models.image_prompt import ImageEncoder, install_image_prompt
from maxbench.models.lockstep import lockstep_adapters, lockstep_controlnets
from maxbench.models.pipeline import Sampler

PROMPTS = ["a red sphere on grass", "a blue box"]
STEPS = 5
NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
HINTS = dict(
    zip(("hed", "depth", "style"), torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(4)), strict=True)
)
MAPS = {name: HINTS[name] for name in ("hed", "depth")}
MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.25)
WIDTH, TOKENS = 6, 4  # of an image embedding, of what an IP-Adapter makes of one

GUIDANCE = pytest.mark.parametrize("guidance", [1.0, 3.0])


@pytest.fixture(scope="module")
def load(small_suite):
    """Makes a base model with two ControlNets; each call has networks of its own."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={small_suite}"])
    suite = instantiate(cfg.suite, _convert_="all")
    return lambda: suite.pipeline(["hed", "depth"], torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def pipeline(load):
    return load()


@pytest.fixture(scope="module")
def adapters(pipeline, small_suite):
    """The same base model with T2I-Adapters."""
    nets = {name: T2IAdapter.from_pretrained(small_suite / f"t2iadapter_{name}").eval() for name in MAPS}
    return replace(pipeline, controls=nets)


@pytest.fixture(scope="module")
def pooled(pipeline):
    """The same base model whose second ControlNet averages its residuals over space."""
    return replace(pipeline, controls={**pipeline.controls, "depth": pooling(pipeline.controls["depth"])})


@pytest.fixture(scope="module")
def prompt_file(pipeline, tmp_path_factory):
    """A random IP-Adapter in the Hub's format."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return 0.5 * torch.randn(shape, generator=generator)

    width = pipeline.unet.config.cross_attention_dim
    state = {
        "image_proj.proj.weight": normal(TOKENS * width, WIDTH),
        "image_proj.proj.bias": normal(TOKENS * width),
        "image_proj.norm.weight": 1 + normal(width),
        "image_proj.norm.bias": normal(width),
    }
    readers = [name for name in pipeline.unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(readers):
        like = pipeline.unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for kind in ("k", "v"):
            state[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"] = normal(*like)
    file = tmp_path_factory.mktemp("prompt") / "prompt.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def eye(tmp_path_factory):
    """The folder of a random picture encoder."""
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        projection_dim=WIDTH,
    )
    folder = tmp_path_factory.mktemp("eye")
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompted(load, prompt_file, eye):
    """A base model of its own that has an IP-Adapter beside its ControlNets."""
    own = load()
    install_image_prompt(own.unet, prompt_file)
    prompt = ImagePrompt(own.unet, ImageEncoder.load(eye, torch.device("cpu"), MEAN, STD))
    return replace(own, controls={**own.controls, "style": prompt})


@pytest.fixture(scope="module")
def shown(eye):
    """What the encoder sees in the style pictures, by transformers alone."""
    model = CLIPVisionModelWithProjection.from_pretrained(eye).eval()
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    with torch.no_grad():
        return model((HINTS["style"] - mean) / std).image_embeds


@dataclass
class Recording(Rule):
    """A rule that remembers of how many features it has heard."""

    rule: Rule
    merged: list[int] = field(default_factory=list)
    unmerged: list[int] = field(default_factory=list)

    def unmerge(self, features):
        self.unmerged.append(len(features))
        return self.rule.unmerge(features)

    def merge(self, features):
        self.merged.append(len(features))
        return self.rule.merge(features)


class Deciding(MaxFusion):
    """MaxFusion that remembers its decisions."""

    def _see(self, features, f):
        decision = super()._see(features, f)
        self.__dict__.setdefault("decisions", []).append(decision)
        return decision


def pooling(net):
    net = deepcopy(net)
    net.register_to_config(global_pool_conditions=True)
    return net


def ours(pipeline, hints, fusion, guidance=3.0):
    """Latents of pictures by our loop."""
    text, negative = pipeline.encode_text(PROMPTS), pipeline.encode_text([""] * len(PROMPTS))
    sampler = Sampler(UniPCMultistepScheduler.from_config, STEPS, guidance)
    return pipeline.denoise(NOISE, text, negative, pipeline.control(hints, fusion), sampler)


def diffusers_own(kind, pipeline, **parts):
    """A pipeline of diffusers on the same networks."""
    own = kind(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        scheduler=UniPCMultistepScheduler.from_config(pipeline.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    own.set_progress_bar_config(disable=True)
    return own


def theirs(own, guidance=3.0, rows=slice(None), **arguments):
    """Latents of pictures by theirs."""
    return own(
        prompt=PROMPTS[rows],
        latents=NOISE[rows],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="latent",
        **arguments,
    ).images


def controlnets(pipeline, hints=MAPS):
    """diffusers' pipeline for the ControlNets of `hints`, and the maps it takes."""
    nets, images = [pipeline.controls[name] for name in hints], list(hints.values())
    single = len(nets) == 1
    own = diffusers_own(StableDiffusionControlNetPipeline, pipeline, controlnet=nets[0] if single else nets)
    return own, images[0] if single else images


def with_ip_adapter(own, file):
    own.load_ip_adapter(
        str(file.parent),
        subfolder="",
        weight_name=file.name,
        image_encoder_folder=None,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    return own


def one_by_one(own, scale, shown, guidance=3.0, images=None, **arguments):
    """Latents of pictures by theirs, each with its own image prompt: in a call diffusers has one for all prompts."""
    latents = []
    for row in (slice(0, 1), slice(1, 2)):
        own.set_ip_adapter_scale(scale)
        if images is not None:
            arguments["image"] = [image[row] for image in images]
        halves = [torch.zeros_like(shown[row]), shown[row]] if guidance != 1 else [shown[row]]
        arguments["ip_adapter_image_embeds"] = [torch.cat(halves)[:, None]]
        latents.append(theirs(own, guidance, row, **arguments))
    return torch.cat(latents)


def moment(step=0, steps=STEPS):
    """Latents of two guidance halves, a timestep, texts, and the step: what a Control is called with."""
    generator = torch.Generator().manual_seed(7)
    sample, text = torch.randn(4, 4, 16, 16, generator=generator), torch.randn(4, 7, 16, generator=generator)
    return sample, torch.tensor(901 - 200 * step), text, step, steps


@torch.inference_mode()
def residuals(pipeline, fusion, hints=MAPS, step=0):
    """What the ControlNets of `hints` add to the U-Net, the middle's last."""
    arguments = pipeline.control(hints, fusion)(*moment(step))
    return [*arguments["down_block_additional_residuals"], arguments["mid_block_additional_residual"]]


@torch.inference_mode()
def pyramid(pipeline, fusion, step=0):
    """What the T2I-Adapters give the U-Net."""
    return pipeline.control(MAPS, fusion)(*moment(step))["down_intrablock_additional_residuals"]


def by_hand(pipeline, rule, hints=MAPS, step=0, **options):
    """The same from the lockstep alone."""
    nets = [pipeline.controls[name] for name in hints]
    both = [hint.repeat(2, 1, 1, 1) for hint in hints.values()]
    down, mid = lockstep_controlnets(nets, rule, *moment(step)[:3], both, **options)
    return [*down, mid]


def assert_close(one, two):
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def identical(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def differ(one, two, by=1e-3):
    return (one - two).abs().max() > by


# When branches act


@pytest.mark.parametrize(
    ("ours_window", "their_window"),
    [
        ({"control_start": 0.2, "control_end": 0.8}, (0.2, 0.8)),
        ({"control_start": {"depth": 0.4}, "control_end": {"hed": 0.6}}, ([0.0, 0.4], [0.6, 1.0])),
        ({"control_start": {"hed": 0.5}, "control_end": 0.7}, ([0.5, 0.0], [0.7, 0.7])),
    ],
)
def test_windows_of_control_are_those_of_diffusers(pipeline, ours_window, their_window):
    own, images = controlnets(pipeline)
    start, end = their_window
    expected = theirs(own, image=images, control_guidance_start=start, control_guidance_end=end)
    assert_close(ours(pipeline, MAPS, Fusion(Sum(), **ours_window)), expected)
    assert differ(expected, theirs(own, image=images))


@GUIDANCE
def test_one_controlnet_in_a_window_is_diffusers_own(pipeline, guidance):
    only = {"depth": MAPS["depth"]}
    own, image = controlnets(pipeline, only)
    expected = theirs(own, guidance, image=image, control_guidance_start=0.3, control_guidance_end=0.9)
    assert_close(ours(pipeline, only, Fusion(MaxFusion(), control_start=0.3, control_end=0.9), guidance), expected)


def test_a_branch_that_does_not_act_does_not_run_and_no_rule_hears_of_it(pipeline):
    rule, runs = Recording(Sum()), {name: [] for name in MAPS}
    hooks = [
        pipeline.controls[name].conv_in.register_forward_hook(
            lambda module, given, out, name=name: runs[name].append(len(out))
        )
        for name in MAPS
    ]
    fusion = Fusion(rule, control_end={"hed": 0.5})
    try:
        ours(pipeline, MAPS, fusion)
    finally:
        for hook in hooks:
            hook.remove()
    outputs = len(pipeline.controls["hed"].controlnet_down_blocks) + 1
    assert rule.merged == [2] * 2 * outputs + [1] * 3 * outputs
    assert set(rule.unmerged) == {1, 2} and sorted(rule.unmerged, reverse=True) == rule.unmerged
    assert {name: len(each) for name, each in runs.items()} == {"hed": 2, "depth": 5}
    sampler = Sampler(UniPCMultistepScheduler.from_config, STEPS, 3.0)
    per_picture = sum(map(sum, runs.values())) // len(PROMPTS)
    assert pipeline.cost(list(MAPS), fusion, sampler).control == per_picture == (2 + 5) * 2
    assert pipeline.cost(list(MAPS), fusion, replace(sampler, guidance_scale=1)).control == 2 + 5
    assert pipeline.cost(list(MAPS), Fusion(Sum(), control_end=0), sampler).control == 0


def test_adapters_run_once_for_each_set_of_them_that_acts_together(adapters):
    runs = []
    hooks = [net.register_forward_hook(lambda *_: runs.append(1)) for net in bodies(adapters)]
    sampler = Sampler(UniPCMultistepScheduler.from_config, STEPS, 3.0)
    try:
        for fusion, times in (
            (Fusion(Average()), 2),
            (Fusion(Average(), control_end={"hed": 0}), 1),
            (Fusion(Average(), control_end={"hed": 0.4}), 3),  # both, then one alone
            (Fusion(MaxFusion(), fusion_end=0.4), 4),  # fused, then averaged
            (Fusion(MaxFusion(), fusion_end=0.4, otherwise=MaxFusion()), 4),
        ):
            runs.clear()
            ours(adapters, MAPS, fusion)
            assert len(runs) == adapters.cost(list(MAPS), fusion, sampler).control == times
    finally:
        for hook in hooks:
            hook.remove()


def bodies(adapters):
    """The first block of each adapter: the lockstep runs the parts and never the whole."""
    return [adapters.controls[name].adapter.body[0] for name in MAPS]


# When the rule acts


def test_outside_its_window_a_rule_is_not_asked_and_nothing_is_unmerged(pipeline):
    rule, otherwise = Recording(MaxFusion()), Recording(Average())
    ours(pipeline, MAPS, Fusion(rule, fusion_start=0.4, fusion_end=0.8, otherwise=otherwise))
    outputs = len(pipeline.controls["hed"].controlnet_down_blocks) + 1
    assert len(rule.merged) == 2 * outputs and len(rule.unmerged) == 2 * outputs
    assert len(otherwise.merged) == 3 * outputs and otherwise.unmerged == []


@pytest.mark.parametrize("step", range(STEPS))
@torch.inference_mode()
def test_in_each_step_control_is_that_of_the_rule_in_force(pipeline, step):
    found = residuals(pipeline, Fusion(MaxFusion(), fusion_start=0.4, fusion_end=0.8, otherwise=Sum()), step=step)
    inside = step in (2, 3)
    expected = by_hand(pipeline, MaxFusion() if inside else Sum(), step=step, **({} if inside else {"sites": []}))
    assert identical(found, expected)


def test_a_rule_without_a_window_is_its_substitute_without_sites(pipeline, adapters):
    for otherwise in (Average(), Sum(), MaxFusion(0.9)):
        for each in (pipeline, adapters):
            never = ours(each, MAPS, Fusion(MaxFusion(), fusion_end=0, otherwise=otherwise))
            assert torch.equal(never, ours(each, MAPS, Fusion(otherwise, sites=[])))


@torch.inference_mode()
def test_adapters_too_follow_the_rule_in_force(adapters):
    nets, hints = list(adapters.controls.values()), list(MAPS.values())
    fused, apart = lockstep_adapters(nets, MaxFusion(), hints), lockstep_adapters(nets, Sum(), hints, sites=[])
    assert differ(fused[0], apart[0])
    control = adapters.control(MAPS, Fusion(MaxFusion(), fusion_end=0.4, otherwise=Sum()))
    for step in (0, 1, 2, 3, 4, 0):  # the last time from what is known
        found = control(*moment(step))["down_intrablock_additional_residuals"]
        expected = fused if step in (0, 1) else apart
        assert identical(found, [each.repeat(2, 1, 1, 1) for each in expected])


@torch.inference_mode()
def test_in_each_step_adapters_are_those_that_act(adapters):
    control = adapters.control(MAPS, Fusion(MaxFusion(), control_start={"depth": 0.2}, control_end={"hed": 0.4}))
    for step, names in enumerate((["hed"], ["hed", "depth"], ["depth"], ["depth"], ["depth"])):
        found = control(*moment(step))["down_intrablock_additional_residuals"]
        nets, hints = [adapters.controls[name] for name in names], [MAPS[name] for name in names]
        expected = lockstep_adapters(nets, MaxFusion(), hints)
        assert identical(found, [each.repeat(2, 1, 1, 1) for each in expected])


@pytest.mark.parametrize("rule", [MaxFusion(), MaxFusion(0.2), Sum(), Average()])
@torch.inference_mode()
def test_by_default_control_is_the_lockstep_itself_to_the_last_bit(pipeline, rule):
    expected = by_hand(pipeline, rule)
    for step in (0, STEPS - 1):
        assert identical(residuals(pipeline, Fusion(rule), step=step), by_hand(pipeline, rule, step=step))
    ones = Fusion(rule, branch_scale={"hed": 1.0}, layer_scale=[1.0] * len(expected))
    assert identical(residuals(pipeline, ones), expected)


# How strongly branches act


@GUIDANCE
def test_branch_scales_under_a_sum_are_diffusers_conditioning_scales(pipeline, guidance):
    own, images = controlnets(pipeline)
    expected = theirs(own, guidance, image=images, controlnet_conditioning_scale=[0.3, 1.4])
    fusion = Fusion(Sum(), branch_scale={"depth": 1.4, "hed": 0.3})
    assert_close(ours(pipeline, MAPS, fusion, guidance), expected)
    assert_close(ours(pipeline, MAPS, Fusion(Weighted([0.3, 1.4])), guidance), expected)
    assert differ(expected, theirs(own, guidance, image=images))


def test_a_branch_that_is_not_named_has_scale_one(pipeline):
    own, images = controlnets(pipeline)
    expected = theirs(own, image=images, controlnet_conditioning_scale=[0.5 * 1.0, 0.5 * 0.4])
    assert_close(ours(pipeline, MAPS, Fusion(Sum(), scale=0.5, branch_scale={"depth": 0.4})), expected)


def test_layer_scales_multiply_each_residual(pipeline, pooled):
    for nets, hints in ((pipeline, MAPS), (pooled, {"depth": MAPS["depth"]})):
        plain = residuals(nets, Fusion(MaxFusion()), hints)
        factors = [0.5 * number for number in range(len(plain))]
        scaled = residuals(nets, Fusion(MaxFusion(), layer_scale=factors), hints)
        assert identical(scaled, [factor * each for factor, each in zip(factors, plain, strict=True)])
        both = residuals(nets, Fusion(MaxFusion(), scale=0.25, layer_scale=factors), hints)
        assert identical(both, [0.25 * each for each in scaled])


def test_layer_scales_multiply_each_level_of_an_adapter(adapters):
    factors = [0.5, 0.0, 2.0, 4.0]
    plain = pyramid(adapters, Fusion(MaxFusion()))
    scaled = pyramid(adapters, Fusion(MaxFusion(), layer_scale=factors))
    assert identical(scaled, [factor * each for factor, each in zip(factors, plain, strict=True)])


def test_layer_scales_of_another_number_are_refused_with_both_numbers(pipeline, adapters, pooled):
    with pytest.raises(UserError, match="3 scales for 5 residuals"):
        residuals(pipeline, Fusion(Sum(), layer_scale=[1.0, 1.0, 1.0]))
    with pytest.raises(UserError, match="5 scales for 4 residuals"):
        pyramid(adapters, Fusion(Sum(), layer_scale=[1.0] * 5))
    with pytest.raises(UserError, match="3 scales for 5 residuals"):
        residuals(pooled, Fusion(Sum(), layer_scale=[1.0, 1.0, 1.0]), {"depth": MAPS["depth"]})


def test_one_down_block_is_a_site_of_its_own(pipeline):
    rule = MaxFusion(0.9)
    nowhere, first, second, everywhere = (
        residuals(pipeline, Fusion(rule, sites=sites)) for sites in ([], ["down.0"], ["down.1"], ["down"])
    )
    early, late = slice(0, 3), slice(3, None)  # conv_in and two of the first block; one of the second, and the middle
    assert identical(second[early], nowhere[early]) and identical(first[early], everywhere[early])
    for one in (nowhere, first, everywhere):
        assert all(differ(a, b) for a, b in zip(second[late], one[late], strict=True))
    assert all(differ(a, b) for a, b in zip(second[1:3], everywhere[1:3], strict=True))
    both = residuals(pipeline, Fusion(rule, sites=["down.0", "down.1"]))
    assert identical(both, everywhere)
    with pytest.raises(UserError, match=r"down\.0 to down\.1"):
        residuals(pipeline, Fusion(rule, sites=["down.2"]))


def test_a_factor_on_a_feature_changes_neither_winner_nor_cluster():
    features = torch.randn(3, 2, 8, 6, 6, generator=torch.Generator().manual_seed(8)) + 0.5
    plain = MaxFusion(0.2).decide(list(features))
    assert plain.cluster.float().mean() > 0.4 and len(plain.winner.unique()) == 3
    scaled = MaxFusion(0.2).decide([factor * each for factor, each in zip((0.3, 1.0, 7.0), features, strict=True)])
    assert torch.equal(plain.winner, scaled.winner) and torch.equal(plain.cluster, scaled.cluster)


def test_branch_scales_leave_every_decision_as_it_is(pipeline):
    plain, scaled = Deciding(), Deciding()
    one = residuals(pipeline, Fusion(plain))
    two = residuals(pipeline, Fusion(scaled, branch_scale={"hed": 0.3, "depth": 2.5}))
    assert len(plain.decisions) == len(scaled.decisions) == 10  # unmerged and merged, at five places
    for before, after in zip(plain.decisions, scaled.decisions, strict=True):
        assert torch.equal(before.won, after.won) and torch.equal(before.cluster, after.cluster)
    assert all(differ(a, b) for a, b in zip(one, two, strict=True))


# ControlNets with global pooling


@GUIDANCE
def test_a_pooled_controlnet_alone_is_diffusers_own(pooled, guidance):
    only = {"depth": MAPS["depth"]}
    own, image = controlnets(pooled, only)
    expected = theirs(own, guidance, image=image, controlnet_conditioning_scale=0.6, control_guidance_end=0.8)
    fusion = Fusion(MaxFusion(), branch_scale={"depth": 0.6}, control_end=0.8)
    assert_close(ours(pooled, only, fusion, guidance), expected)
    assert differ(expected, ours(pooled, {}, fusion, guidance))


@torch.inference_mode()
def test_a_pooled_controlnet_is_added_to_spatial_ones_on_the_prompted_half(pooled):
    fusion = Fusion(Sum(), scale=0.5, branch_scale={"hed": 0.9, "depth": 0.6})
    spatial = residuals(pooled, fusion, {"hed": MAPS["hed"]})
    sample, timestep, text, *_ = moment()
    down, mid = pooled.controls["depth"](
        sample[2:], timestep, text[2:], MAPS["depth"], conditioning_scale=0.3, guess_mode=True, return_dict=False
    )
    for found, one, other in zip(residuals(pooled, fusion), spatial, [*down, mid], strict=True):
        assert other.shape[-2:] == (1, 1)
        assert torch.equal(found[:2], one[:2])
        assert_close(found[2:], one[2:] + other)
        assert differ(found[2:], one[2:])


def test_no_rule_hears_of_a_pooled_controlnet(pooled):
    rule = Recording(Sum())
    residuals(pooled, Fusion(rule))
    assert set(rule.merged) == set(rule.unmerged) == {1}


# T2I-Adapters


@GUIDANCE
def test_one_adapter_is_diffusers_own(adapters, guidance):
    only = {"hed": MAPS["hed"]}
    own = diffusers_own(StableDiffusionAdapterPipeline, adapters, adapter=adapters.controls["hed"])
    expected = theirs(own, guidance, image=MAPS["hed"], adapter_conditioning_scale=0.7)
    assert_close(ours(adapters, only, Fusion(MaxFusion(), scale=0.7), guidance), expected)
    assert_close(ours(adapters, only, Fusion(Sum(), branch_scale={"hed": 0.7}), guidance), expected)
    assert differ(expected, ours(adapters, {}, Fusion(Sum()), guidance))


def test_two_adapters_are_diffusers_own_with_weights(adapters):
    own = diffusers_own(
        StableDiffusionAdapterPipeline, adapters, adapter=MultiAdapter(list(adapters.controls.values()))
    )
    equal = theirs(own, image=list(MAPS.values()), adapter_conditioning_scale=[0.5, 0.5])
    assert_close(ours(adapters, MAPS, Fusion(Average(), sites=[])), equal)
    weighted = theirs(own, image=list(MAPS.values()), adapter_conditioning_scale=[0.3, 1.1])
    assert_close(ours(adapters, MAPS, Fusion(Sum(), branch_scale={"hed": 0.3, "depth": 1.1})), weighted)
    assert_close(ours(adapters, MAPS, Fusion(Weighted([0.3, 1.1]))), weighted)
    assert differ(equal, weighted)


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_an_adapter_that_ends_is_diffusers_conditioning_factor(adapters, share):
    # Only diffusers' XL pipeline has `adapter_conditioning_factor`: it passes the pyramid on while
    # i < int(steps * factor), else None. Here a hook does the same to the plain pipeline's U-Net. It is our
    # (i + 1) / steps <= share but for rounding (100 steps, 0.29: int(28.999...)), of which there is none here.
    own = diffusers_own(StableDiffusionAdapterPipeline, adapters, adapter=adapters.controls["hed"])
    calls = []

    def end(unet, positional, named):
        calls.append(1)
        if len(calls) > int(STEPS * share):
            named["down_intrablock_additional_residuals"] = None
        return positional, named

    hook = adapters.unet.register_forward_pre_hook(end, with_kwargs=True)
    try:
        expected = theirs(own, image=MAPS["hed"])
    finally:
        hook.remove()
    assert_close(ours(adapters, {"hed": MAPS["hed"]}, Fusion(Sum(), control_end=share)), expected)
    assert differ(expected, theirs(own, image=MAPS["hed"]))


# Image prompts


@GUIDANCE
def test_an_image_prompt_is_diffusers_ip_adapter(load, prompted, prompt_file, shown, guidance):
    own = with_ip_adapter(diffusers_own(StableDiffusionPipeline, load()), prompt_file)
    expected = one_by_one(own, 0.7, shown, guidance)
    fusion, style = Fusion(MaxFusion(), branch_scale={"style": 0.7}), {"style": HINTS["style"]}
    assert_close(ours(prompted, style, fusion, guidance), expected)
    assert differ(expected, ours(prompted, style, Fusion(MaxFusion()), guidance))


def test_an_image_prompt_that_ends_is_one_whose_scale_is_set_to_nought(load, prompted, prompt_file, shown):
    own = with_ip_adapter(diffusers_own(StableDiffusionPipeline, load()), prompt_file)

    def end(pipe, step, timestep, known):
        if step == 1:
            pipe.set_ip_adapter_scale(0.0)
        return known

    expected = one_by_one(own, 0.7, shown, callback_on_step_end=end)
    fusion = Fusion(MaxFusion(), branch_scale={"style": 0.7}, control_end={"style": 0.4})
    assert_close(ours(prompted, {"style": HINTS["style"]}, fusion), expected)


def test_beside_controlnets_an_image_prompt_is_diffusers_own(load, prompted, prompt_file, shown):
    own, images = controlnets(load())
    with_ip_adapter(own, prompt_file)
    expected = one_by_one(own, 0.7, shown, images=images, controlnet_conditioning_scale=[1.0, 0.5])
    fusion = Fusion(Sum(), branch_scale={"style": 0.7, "depth": 0.5})
    found = ours(prompted, HINTS, fusion)
    assert_close(found, expected)
    for less in ("style", "hed"):
        assert differ(found, ours(prompted, {name: hint for name, hint in HINTS.items() if name != less}, fusion))


def test_without_a_picture_an_installed_prompt_is_the_base_model(pipeline, prompted):
    fusion = Fusion(MaxFusion())
    expected = ours(pipeline, {}, fusion), ours(pipeline, MAPS, fusion)
    for _ in range(2):
        assert_close((ours(prompted, {}, fusion), ours(prompted, MAPS, fusion)), expected)
        assert differ(ours(prompted, {"style": HINTS["style"]}, fusion), expected[0])


def test_one_call_of_the_unet_right_after_a_prompted_one_is_the_base_models(pipeline, prompted):
    sample, timestep, text, *_ = moment()
    with torch.inference_mode():
        shows, silent = (prompted.control(each, Fusion(Sum())) for each in ({"style": HINTS["style"]}, {}))
        first, second = (
            prompted.unet(sample, timestep, text, **control(*moment())).sample for control in (shows, silent)
        )
        assert_close(second, pipeline.unet(sample, timestep, text).sample)
        assert_close(first[:2], zero_prompt(prompted, sample, timestep, text)[:2])
    assert differ(first[2:], second[2:])


def zero_prompt(prompted, sample, timestep, text):
    """The U-Net shown an embedding of zeros, which is not the same as being shown nothing."""
    for processor in prompted.unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [1.0]
    zeros = {"image_embeds": [torch.zeros(len(sample), 1, WIDTH)]}
    return prompted.unet(sample, timestep, text, added_cond_kwargs=zeros).sample


def test_two_image_prompts_are_refused(prompted):
    with pytest.raises(UserError, match="style and mood are image prompts"):
        replace(prompted, controls={**prompted.controls, "mood": prompted.controls["style"]})


# All kinds at once


def test_kinds_do_not_hear_of_each_other(prompted, pooled, adapters):
    nets = {
        "hed": prompted.controls["hed"],
        "depth": adapters.controls["depth"],
        "style": prompted.controls["style"],
        "shuffle": pooled.controls["depth"],
    }
    hints, prompt = {**HINTS, "shuffle": MAPS["depth"]}, nets["style"]
    fusion = Fusion(MaxFusion(), branch_scale={"style": 0.7})

    def control(*names):
        return Control(fusion, {name: nets[name] for name in names}, {name: hints[name] for name in names}, prompt)

    with torch.inference_mode():
        together = control(*nets)(*moment())
        hed, depth, style, shuffle = (control(name)(*moment()) for name in nets)
    within = "down_intrablock_additional_residuals"
    assert identical(together[within], depth[within])
    (seen,), (alone,) = (each["added_cond_kwargs"]["image_embeds"] for each in (together, style))
    assert torch.equal(seen, alone)
    down = "down_block_additional_residuals"
    for whole, one, other in zip(together[down], hed[down], shuffle[down], strict=True):
        assert_close(whole, one + other)
    assert not {down, within} & style.keys() and down not in depth and within not in hed


# What goes wrong


@pytest.mark.parametrize("rule", [Sum(), MaxFusion()])
@pytest.mark.parametrize("kind", ["pipeline", "adapters", "pooled"])
def test_a_branch_that_is_not_finite_ends_in_a_sentence(request, kind, rule):
    whole = request.getfixturevalue(kind)
    damaged = deepcopy(whole.controls["depth"])
    with torch.no_grad():
        next(p for p in damaged.parameters() if p.ndim == 4)[0, 0, 0, 0] = torch.inf
    whole = replace(whole, controls={**whole.controls, "depth": damaged})
    with pytest.raises(UserError, match=f"{type(rule).__name__} on hed, depth: feature .* infinite or NaN") as caught:
        ours(whole, MAPS, Fusion(rule))
    assert type(caught.value) is UserError and "runtime.dtype" not in str(caught.value)  # it is float32 already


def test_in_half_precision_the_sentence_says_what_to_do(pipeline):
    damaged = deepcopy(pipeline.controls["depth"])
    with torch.no_grad():
        damaged.controlnet_mid_block.bias[0] = torch.inf
    half = {name: net.to(torch.bfloat16) for name, net in {**deepcopy(pipeline.controls), "depth": damaged}.items()}
    parts = {name: deepcopy(getattr(pipeline, name)).to(torch.bfloat16) for name in ("unet", "text_encoder")}
    with pytest.raises(UserError, match=r"in bfloat16.*set runtime\.dtype=float32"):
        ours(replace(pipeline, controls=half, **parts), MAPS, Fusion(Sum()))


def test_a_rule_for_another_number_of_branches_is_refused_in_a_sentence(pipeline):
    with pytest.raises(UserError, match="Weighted on hed, depth: 3 weights and 2 branches"):
        ours(pipeline, MAPS, Fusion(Weighted([1.0, 1.0, 1.0])))


def test_a_network_with_global_pooling_runs_for_the_prompted_half_alone(pooled):
    sampler = Sampler(UniPCMultistepScheduler.from_config, STEPS, 3.0)
    assert pooled.cost(list(MAPS), Fusion(Sum()), sampler) == (2 * STEPS, 2 * STEPS + STEPS)


def test_a_sampler_that_looks_twice_is_counted_twice(pipeline):
    runs = []
    hook = pipeline.unet.register_forward_hook(lambda module, given, out: runs.append(len(given[0]) // len(PROMPTS)))
    sampler = Sampler(HeunDiscreteScheduler.from_config, STEPS, 3.0)
    try:
        text, negative = pipeline.encode_text(PROMPTS), pipeline.encode_text(["", ""])
        pipeline.denoise(NOISE, text, negative, pipeline.control({}, Fusion(Sum())), sampler)
    finally:
        hook.remove()
    assert pipeline.cost(list(MAPS), Fusion(Sum()), sampler) == (sum(runs), 2 * sum(runs))
    assert sum(runs) > 2 * STEPS


def test_a_rule_that_goes_on_as_another_of_its_kind_is_heard_anew(adapters):
    rule = MaxFusion(0.9)
    same, equal = (Fusion(rule, fusion_end=0.4, otherwise=other) for other in (rule, MaxFusion(0.9)))
    assert_close(pyramid_after(adapters, same), pyramid_after(adapters, equal))


@torch.inference_mode()
def pyramid_after(pipeline, fusion):
    """Of the last step, by a control that has been through the first."""
    control = pipeline.control(MAPS, fusion)
    control(*moment(0))
    return control(*moment(STEPS - 1))["down_intrablock_additional_residuals"]
