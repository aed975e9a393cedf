"""How networks compute: what is asked for is what they do, and the autoencoder stays in float32."""

import pytest
import torch
from diffusers import DDIMScheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from maxbench.configuration.compose import CONF
from maxbench.fusion import Average, Fusion
from maxbench.models.pipeline import Sampler
from maxbench.models.precision import DTYPES, SLICED_FROM, Precision, forbid_tf32, tf32

SAMPLER = Sampler(DDIMScheduler.from_config, steps=2, guidance_scale=3.0)
NAMES = ["hed", "depth"]


@pytest.fixture(scope="module")
def suite(small_suite):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={small_suite}"])
    return instantiate(cfg.suite, _convert_="all")


def load(suite, precision, batch=2, device="cpu"):
    made = suite.pipeline(NAMES, torch.device(device), precision.dtype)
    return made.computing(precision, batch, suite.resolution)


def latents(pipeline, batch=2):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(batch, 4, 16, 16, generator=generator)
    hints = {name: torch.rand(batch, 3, 64, 64, generator=generator) for name in NAMES}
    text = pipeline.encode_text(["a red sphere"] * batch)
    control = pipeline.control(hints, Fusion(Average()))
    return pipeline.denoise(noise, text, pipeline.encode_text([""] * batch), control, SAMPLER)


# --- TF32 ---------------------------------------------------------------------------------------------------------


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_allowed_within_and_nowhere_else():
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's own default
    forbid_tf32()
    assert allowed() == (False, False)
    with tf32(True):
        assert allowed() == (True, True)
    assert allowed() == (False, False)
    with pytest.raises(ZeroDivisionError), tf32(True):
        raise ZeroDivisionError
    assert allowed() == (False, False)


@pytest.mark.parametrize("asked", [False, True])
def test_the_generator_may_use_tf32_where_it_is_asked_for_and_the_autoencoder_never(suite, asked):
    pipeline = load(suite, Precision(tf32=asked))
    seen = {}

    def note(name):
        return lambda *_: seen.setdefault(name, set()).add(allowed())

    parts = {"text": pipeline.text_encoder, "unet": pipeline.unet, "down": pipeline.controls["hed"].down_blocks[0]}
    parts |= {"encoder": pipeline.vae.encoder, "decoder": pipeline.vae.decoder}
    for name, net in parts.items():
        net.register_forward_hook(note(name))
    torch.backends.cudnn.allow_tf32 = True
    pipeline.reconstruct(pipeline.decode(latents(pipeline)))
    generator = {(asked, asked)}
    assert seen == {"text": generator, "unet": generator, "down": generator, "encoder": {(False, False)},
                    "decoder": {(False, False)}}  # fmt: skip


# --- dtype and layout ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_the_autoencoder_decodes_in_float32_and_latents_are_float32(suite, name):
    pipeline = load(suite, Precision(DTYPES[name]))
    dtypes = []
    pipeline.vae.decoder.register_forward_hook(lambda _, given, made: dtypes.extend((given[0].dtype, made.dtype)))
    made = latents(pipeline, 1)
    assert made.dtype == torch.float32 and pipeline.decode(made).dtype == torch.float32
    assert pipeline.encode(torch.rand(1, 3, 64, 64)).dtype == torch.float32
    assert dtypes == [torch.float32] * 2 and pipeline.unet.dtype == DTYPES[name]


def test_channels_last_is_another_layout_of_the_same_networks(suite):
    plain, other = (load(suite, Precision(channels_last=last)) for last in (False, True))
    weights = [other.unet.conv_in.weight, *(net.conv_in.weight for net in other.controls.values())]
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in weights)
    assert plain.unet.conv_in.weight.is_contiguous()
    assert other.vae.decoder.conv_in.weight.is_contiguous()
    torch.testing.assert_close(latents(other), latents(plain), atol=1e-4, rtol=0)


def test_weights_are_counted_once(suite):
    pipeline, half = (load(suite, Precision(dtype)) for dtype in (torch.float32, torch.float16))
    nets = (pipeline.vae, pipeline.unet, pipeline.text_encoder, *pipeline.controls.values())
    numbers = [sum(each.numel() for each in net.parameters()) for net in nets]
    assert pipeline.bytes == 4 * sum(numbers)
    assert half.bytes == 4 * numbers[0] + 2 * sum(numbers[1:])


# --- the autoencoder's parts --------------------------------------------------------------------------------------


def test_the_autoencoder_takes_large_batches_one_picture_at_a_time():
    usual = Precision()
    assert SLICED_FROM == 4 * 512 * 512
    assert not usual.slices(4, 512) and usual.slices(5, 512) and not usual.slices(256, 64) and usual.slices(2, 1024)
    assert Precision(sliced=True).slices(1, 64) and not Precision(sliced=False).slices(64, 1024)


def test_in_slices_it_sees_one_picture_and_makes_the_same_to_the_last_bits(suite):
    """Not the same bits, for they depend on the shape of a batch: that is why slicing is part of a key."""
    whole, sliced = load(suite, Precision()), load(suite, Precision(sliced=True))
    seen = []
    for part in (sliced.vae.decoder, sliced.vae.encoder):
        part.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    made = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    pictures = sliced.decode(made)
    torch.testing.assert_close(pictures, whole.decode(made), atol=1e-5, rtol=0)
    torch.testing.assert_close(sliced.encode(pictures), whole.encode(pictures), atol=1e-5, rtol=0)
    assert seen == [1] * 6
    assert torch.equal(pictures, torch.cat([whole.decode(each[None]) for each in made]))  # of a batch of one


def test_slicing_is_what_was_asked_for_last(suite):
    """Networks are changed in place, so that a pipeline says all of it and not only what differs."""
    pipeline = suite.pipeline(NAMES, torch.device("cpu"), torch.float32)
    pipeline.computing(Precision(sliced=True, tiled=True), 2, 64)
    assert pipeline.vae.use_slicing and pipeline.vae.use_tiling
    pipeline.computing(Precision(), 2, 64)
    assert not pipeline.vae.use_slicing and not pipeline.vae.use_tiling


def test_tiles_change_large_pictures(suite):
    whole, tiled = load(suite, Precision()), load(suite, Precision(tiled=True))
    tiled.vae.tile_sample_min_size, tiled.vae.tile_latent_min_size = 32, 8
    made = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(6))
    assert tiled.decode(made).shape == (1, 3, 64, 64) and not torch.equal(tiled.decode(made), whole.decode(made))


# --- what a picture is known by -----------------------------------------------------------------------------------


def test_only_what_is_unusual_is_part_of_a_key():
    assert Precision().unusual == Precision(torch.bfloat16).unusual == {}
    every = Precision(torch.float16, tf32=True, channels_last=True, sliced=False, tiled=True, compiled=True)
    assert every.unusual == {
        "tf32": True, "channels_last": True, "vae_slices": False, "vae_tiling": True, "compile": True,
    }  # fmt: skip
    assert every.of_autoencoder == {"vae_slices": False, "vae_tiling": True}
    assert every.exact == Precision(channels_last=True, sliced=False, tiled=True)


@pytest.mark.parametrize(("batch", "resolution"), [(2, 64), (5, 512)])
def test_slicing_that_is_asked_for_and_usual_anyway_is_not_unusual(batch, resolution):
    usual = Precision().slices(batch, resolution)
    assert Precision(sliced=usual).normal(batch, resolution) == Precision()
    assert Precision(sliced=not usual).normal(batch, resolution).unusual == {"vae_slices": not usual}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "precision",
    [
        Precision(tf32=True), Precision(channels_last=True), Precision(torch.float16), Precision(torch.bfloat16),
        Precision(sliced=True), Precision(compiled=True),
    ],
)  # fmt: skip
def test_on_a_gpu_every_way_makes_nearly_the_same_latents(suite, precision):
    plain, other = load(suite, Precision(), device="cuda"), load(suite, precision, device="cuda")
    one, two = (each.decode(latents(each)).clamp(0, 1).cpu() for each in (plain, other))
    assert (one - two).abs().mean() < 0.02 and two.isfinite().all()
