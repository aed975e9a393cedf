"""Our loop against diffusers' own pipelines, on small random models."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from maxbench.configuration.compose import CONF
from maxbench.fusion import Average, Fusion, MaxFusion, Sum
from maxbench.models.pipeline import Sampler

PROMPTS = ["a red sphere on grass", "a blue box"]


@pytest.fixture(scope="module")
def pipeline(small_suite):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={small_suite}"])
    suite = instantiate(cfg.suite, _convert_="all")
    return suite.pipeline(["hed", "depth"], torch.device("cpu"), torch.float32)


@pytest.fixture
def noise():
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def hints():
    generator = torch.Generator().manual_seed(4)
    return {name: torch.rand(2, 3, 64, 64, generator=generator) for name in ("hed", "depth")}


def ours(pipeline, noise, hints, rule, guidance=3.0, scheduler=UniPCMultistepScheduler, scale=1.0):
    sampler = Sampler(scheduler.from_config, steps=4, guidance_scale=guidance)
    text, negative = pipeline.encode_text(PROMPTS), pipeline.encode_text(["", ""])
    control = pipeline.control(hints, Fusion(rule, scale=scale))
    return pipeline.decode(pipeline.denoise(noise, text, negative, control, sampler)).clamp(0, 1)


def diffusers_own(pipeline, noise, hints, guidance=3.0, scheduler=UniPCMultistepScheduler, scale=1.0):
    reference = StableDiffusionControlNetPipeline(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        controlnet=[pipeline.controls[name] for name in hints],
        scheduler=scheduler.from_config(pipeline.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    images = reference(
        prompt=PROMPTS,
        image=list(hints.values()),
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance,
        controlnet_conditioning_scale=[scale] * len(hints),
        output_type="np",
    ).images
    return torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("scheduler", [UniPCMultistepScheduler, DDIMScheduler])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sum_is_diffusers_multi_controlnet(pipeline, noise, hints, guidance, scheduler):
    expected = diffusers_own(pipeline, noise, hints, guidance, scheduler)
    torch.testing.assert_close(ours(pipeline, noise, hints, Sum(), guidance, scheduler), expected, atol=1e-5, rtol=0)


def test_one_control_at_half_strength_is_diffusers_controlnet(pipeline, noise, hints):
    only = {"depth": hints["depth"]}
    expected = diffusers_own(pipeline, noise, only, scale=0.5)
    torch.testing.assert_close(ours(pipeline, noise, only, MaxFusion(), scale=0.5), expected, atol=1e-5, rtol=0)


def test_no_control_is_the_base_model_and_controls_matter(pipeline, noise, hints):
    text_only = ours(pipeline, noise, {}, Sum())
    silent = ours(pipeline, noise, hints, Sum(), scale=0.0)
    torch.testing.assert_close(text_only, silent, atol=1e-6, rtol=0)
    pictures = [ours(pipeline, noise, hints, rule) for rule in (Sum(), Average(), MaxFusion())]
    for one, two in ((pictures[0], text_only), (pictures[0], pictures[1]), (pictures[1], pictures[2])):
        assert (one - two).abs().max() > 1e-3


def test_a_picture_does_not_depend_on_its_batch_mates(pipeline, noise, hints):
    whole = ours(pipeline, noise, hints, MaxFusion())
    sampler = Sampler(UniPCMultistepScheduler.from_config, steps=4, guidance_scale=3.0)
    text, negative = pipeline.encode_text(PROMPTS[1:]), pipeline.encode_text([""])
    control = pipeline.control({name: hint[1:] for name, hint in hints.items()}, Fusion(MaxFusion()))
    alone = pipeline.decode(pipeline.denoise(noise[1:], text, negative, control, sampler)).clamp(0, 1)
    torch.testing.assert_close(alone, whole[1:], atol=1e-4, rtol=0)


def test_a_long_prompt_is_cut_and_a_round_trip_keeps_its_shape(pipeline):
    assert pipeline.encode_text(["a red sphere " * 40]).shape[1] == pipeline.tokenizer.model_max_length
    pictures = torch.rand(2, 3, 64, 64)
    assert pipeline.reconstruct(pictures).shape == pictures.shape
    assert pipeline.latent_shape(64) == (4, 16, 16)


def test_the_loop_reads_nothing_from_the_device(pipeline, noise, hints):
    """On the device without values a number that is read is an error: on an accelerator it would be a wait."""

    def bare(network):
        return copy.deepcopy(network).to("meta")

    controls = {name: bare(net) for name, net in pipeline.controls.items()}
    empty = replace(pipeline, unet=bare(pipeline.unet), text_encoder=bare(pipeline.text_encoder), controls=controls)
    sampler = Sampler(DDIMScheduler.from_config, steps=4, guidance_scale=3.0)
    text, negative = empty.encode_text(PROMPTS), empty.encode_text(["", ""])
    made = empty.denoise(noise, text, negative, empty.control(hints, Fusion(MaxFusion())), sampler)
    assert made.device.type == "meta" and made.shape == noise.shape
