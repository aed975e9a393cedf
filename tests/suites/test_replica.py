"""The suite's parts, by the published configurations' own classes and conventions, against diffusers' pipelines."""

import pytest
import torch
from diffusers import (
    MultiAdapter,
    PNDMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    UniPCMultistepScheduler,
)
from hydra.utils import instantiate

from maxbench.configuration.compose import compose, hydra_on, plain
from maxbench.errors import UserError
from maxbench.fusion import Average, Fusion, MaxFusion, Sum
from maxbench.models.control import _in_channels_of
from maxbench.suites.hub import HubPart
from suites.replica import SIZE, write_replica

PROMPTS = ["a cat on the mat", "a photo of a dog on the mat, and of a cat"]
NOISE = torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))
GREY = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
COLOUR = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
HINTS = {"hed": GREY.expand(-1, 3, -1, -1), "seg": COLOUR}
EDGES = {
    "canny": (GREY > 0.9).float().expand(-1, 3, -1, -1),
    "depth": GREY.flip(-1).expand(-1, 3, -1, -1),
}
STEPS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with hydra_on() as hydra:
        parts = plain(compose(hydra, ["suite=sd15", "experiment=hed_depth"]))["suite"]["hub"]
    return write_replica(folder, {name: HubPart(**entry) for name, entry in parts.items()})


@pytest.fixture(scope="module")
def load(weights):
    """Pipeline and sampler as an experiment has them, but of few steps."""

    def loaded(experiment, conditions):
        words = [
            "suite=sd15",
            f"experiment={experiment}",
            f"suite.weights_dir={weights}",
            f"suite.resolution={SIZE}",
            f"sampler.steps={STEPS}",
        ]
        with hydra_on() as hydra:
            cfg = compose(hydra, words)
        suite = instantiate(cfg.suite, _convert_="all")
        return suite.pipeline(conditions, torch.device("cpu"), torch.float32), instantiate(cfg.sampler, _convert_="all")

    return loaded


@pytest.fixture(scope="module")
def controlnets(load):
    return load("hed_seg", ["hed", "seg"])


@pytest.fixture(scope="module")
def adapters(load):
    return load("adapters_canny_depth", ["canny", "depth"])


def ours(parts, hints, fusion):
    """Pictures (B, 3, H, W)."""
    pipeline, sampler = parts
    text = pipeline.encode_text(PROMPTS)
    negative = pipeline.encode_text([sampler.negative_prompt] * len(PROMPTS))
    latents = pipeline.denoise(NOISE, text, negative, pipeline.control(hints, fusion), sampler)
    return pipeline.decode(latents).clamp(0, 1)


def theirs(kind, parts, weights, image, **more):
    """The same by diffusers, its scheduler from the base model's own."""
    pipeline, _ = parts
    networks = {name: more.pop(name) for name in ("controlnet", "adapter") if name in more}
    scheduler = PNDMScheduler.from_pretrained(weights / "stable-diffusion-v1-5/stable-diffusion-v1-5/scheduler")
    own = kind(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        scheduler=UniPCMultistepScheduler.from_config(scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **networks,
    )
    own.set_progress_bar_config(disable=True)
    pictures = own(
        prompt=PROMPTS,
        negative_prompt=["monochrome, bad anatomy, lowres, worst quality, low quality"] * len(PROMPTS),
        latents=NOISE,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        output_type="np",
        image=image,
        **more,
    ).images
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert wanted.std() > 0.01


def test_timesteps_are_what_diffusers_makes_of_the_published_scheduler(controlnets):
    """UniPC's own spacing, for the file says none; PNDM's would begin at 751."""
    pipeline, sampler = controlnets
    assert pipeline.schedule(sampler).timesteps.tolist() == [999, 749, 500, 250]


def test_the_heads_are_of_the_old_convention(controlnets):
    """`attention_head_dim` of Stable Diffusion 1.5 is how many heads there are."""
    for net in (controlnets[0].unet, controlnets[0].controls["hed"]):
        assert net.config.attention_head_dim == 2
        assert net.down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads == 2


@pytest.mark.parametrize("name", ["hed", "seg"])
def test_one_controlnet_is_diffusers_own(controlnets, weights, name):
    net = controlnets[0].controls[name]
    wanted = theirs(StableDiffusionControlNetPipeline, controlnets, weights, HINTS[name], controlnet=net)
    for rule in (MaxFusion(), Sum()):
        close(ours(controlnets, {name: HINTS[name]}, Fusion(rule)), wanted)
    assert not torch.allclose(wanted, ours(controlnets, {}, Fusion(Sum())), atol=1e-3)


def test_the_sum_is_diffusers_multicontrolnet(controlnets, weights):
    nets = [controlnets[0].controls[name] for name in HINTS]
    wanted = theirs(
        StableDiffusionControlNetPipeline,
        controlnets,
        weights,
        list(HINTS.values()),
        controlnet=nets,
        controlnet_conditioning_scale=[0.7, 0.4],
    )
    close(ours(controlnets, HINTS, Fusion(Sum(), branch_scale={"hed": 0.7, "seg": 0.4}, sites=[])), wanted)


@pytest.mark.parametrize("name", ["canny", "depth"])
def test_one_adapter_is_diffusers_own(adapters, weights, name):
    """The published one of canny edges has one input channel, that of depth three."""
    net = adapters[0].controls[name]
    assert net.config.in_channels == {"canny": 1, "depth": 3}[name]
    image = EDGES[name][:, : net.config.in_channels]
    wanted = theirs(StableDiffusionAdapterPipeline, adapters, weights, image, adapter=net)
    close(ours(adapters, {name: EDGES[name]}, Fusion(MaxFusion())), wanted)
    assert not torch.allclose(wanted, ours(adapters, {}, Fusion(Sum())), atol=1e-3)


def test_two_adapters_are_diffusers_multiadapter(adapters, weights):
    net = MultiAdapter([adapters[0].controls[name] for name in EDGES])
    image = [EDGES["canny"][:, :1], EDGES["depth"]]
    wanted = theirs(
        StableDiffusionAdapterPipeline, adapters, weights, image, adapter=net, adapter_conditioning_scale=[0.5, 0.5]
    )
    close(ours(adapters, EDGES, Fusion(Average(), sites=[])), wanted)


def test_an_adapter_of_one_channel_is_not_shown_colours(adapters):
    net = adapters[0].controls["canny"]
    assert _in_channels_of(net, "canny", EDGES["canny"]).shape == (2, 1, SIZE, SIZE)
    with pytest.raises(UserError, match="'canny' reads maps of one channel"):
        _in_channels_of(net, "canny", COLOUR)
