"""The style branch's own parts: views of pictures, and an IP-Adapter in the Hub's format."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from maxbench.miniature.context import TrainingContext, write_history
from maxbench.miniature.corpus import render_corpus
from maxbench.miniature.style import FILE, TOKENS, ImagePrompt, IPAdapter, _view, text_attention, views_of
from maxbench.miniature.training import Recipe
from maxbench.models.image_prompt import install_image_prompt

SCENES, WIDTH = 5, 8  # of the small suite's image encoder


@pytest.fixture(scope="module")
def shop(small_suite, tmp_path_factory):
    """A workshop in which the small suite's parts are finished."""
    folder = tmp_path_factory.mktemp("shop")
    weights = shutil.copytree(small_suite, folder / "weights")
    for part in ("vae", "image_encoder"):
        write_history(weights, part, {"key": "known", "part": {"recipe": {"steps": 3}}})
    corpus = render_corpus(SCENES, 3, 64, folder)
    return TrainingContext(corpus, folder, weights, torch.device("cpu"), "style", "key")


def small_unet(small_suite):
    return UNet2DConditionModel.from_pretrained(small_suite / "unet").eval()


def test_a_view_of_all_is_the_picture_or_its_mirror_image(shop):
    picture, generator = shop.corpus.images[0], np.random.default_rng(0)
    views = [_view(picture, generator, 1.0) for _ in range(20)]
    mirrored = [np.array_equal(view, picture[:, :, ::-1]) for view in views]
    assert all(turned or np.array_equal(view, picture) for view, turned in zip(views, mirrored, strict=True))
    assert 0 < sum(mirrored) < 20


def test_a_view_is_a_crop_at_full_size(shop):
    size = 64
    ramp = np.broadcast_to(np.arange(size, dtype=np.uint8) * 4, (3, size, size))  # its level says how far right
    generator = np.random.default_rng(1)
    for _ in range(20):
        view = _view(ramp, generator, 0.6)
        assert view.shape == (3, size, size) and view.dtype == np.uint8
        assert 0.6 * size - 2 <= np.ptp(view.astype(int)) / 4 <= size


def test_views_are_drawn_once_and_always_the_same(shop, tmp_path):
    views = views_of(shop, 0.6)
    assert views.shape == (SCENES, 2, WIDTH) and views.dtype == np.float16 and np.isfinite(views).all()
    assert not np.array_equal(views[:, 0], views[:, 1])  # two crops of a picture
    assert np.array_equal(views_of(shop, 0.6), views)
    elsewhere = TrainingContext(shop.corpus, tmp_path, shop.weights, torch.device("cpu"), "style", "key")
    assert np.array_equal(views_of(elsewhere, 0.6), views)
    assert not np.array_equal(views_of(elsewhere, 0.9), views)
    assert len(list((tmp_path / "arrays").iterdir())) == 2


def test_a_state_has_the_hub_s_names(small_suite):
    unet = small_unet(small_suite)
    layers = text_attention(unet)
    state = IPAdapter.from_unet(unet, WIDTH).state()
    expected = {f"image_proj.{name}" for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")}
    expected |= {f"ip_adapter.{2 * n + 1}.to_{kind}_ip.weight" for n in range(len(layers)) for kind in ("k", "v")}
    assert set(state) == expected and len(layers) == 4
    width = unet.config.cross_attention_dim
    assert state["image_proj.proj.weight"].shape == (TOKENS * width, WIDTH)
    assert state["image_proj.norm.weight"].shape == (width,)
    for number, name in enumerate(layers):  # a picture begins by being read as a text is
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for kind in ("k", "v"):
            own = state[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"]
            assert torch.equal(own, getattr(attention, f"to_{kind}").weight)


def test_a_saved_adapter_is_installed_with_the_same_weights(small_suite, tmp_path):
    saved = IPAdapter.from_unet(small_unet(small_suite), WIDTH)
    for parameter in saved.parameters():
        torch.nn.init.normal_(parameter)
    saved.save_pretrained(tmp_path / "adapter")
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == [FILE]
    unet = small_unet(small_suite)
    install_image_prompt(unet, tmp_path / "adapter" / FILE)
    names = text_attention(unet)
    assert len(names) == len(saved.attention) == 4
    for name, processor in zip(names, saved.attention, strict=True):
        installed = unet.attn_processors[name].state_dict()
        assert installed.keys() == processor.state_dict().keys() and len(installed) == 2
        assert all(torch.equal(installed[key], value) for key, value in processor.state_dict().items())
    (projection,) = unet.encoder_hid_proj.image_projection_layers
    for key, value in saved.projection.state_dict().items():
        assert torch.equal(projection.state_dict()[key], value)
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    again = IPAdapter(projection, [unet.attn_processors[name] for name in names]).state()
    file = load_file(tmp_path / "adapter" / FILE)
    assert again.keys() == file.keys() and all(torch.equal(again[key], file[key]) for key in file)


def test_a_prompt_learns_and_nothing_else_does(shop, small_suite):
    part = ImagePrompt(Recipe(steps=3, batch=2, lr=1e-2, warmup=1), 3, "ip_adapter", 0.4, 0.1, 0.6)
    trained, history = part.train(shop)
    assert len(history["loss"]) == 1 and np.isfinite(history["loss"]).all()
    begun, learned = IPAdapter.from_unet(small_unet(small_suite), WIDTH).state(), trained.state()
    assert all(torch.isfinite(each).all() for each in learned.values())
    for name in begun:
        if "_ip" in name:  # it began from the text's
            assert not torch.equal(learned[name], begun[name])
    own = {name.rsplit(".", 2)[0] for name, _ in trained.attention.named_parameters()}
    assert own == {f"{number}.to_{kind}_ip" for number in range(4) for kind in ("k", "v")}  # nothing of the U-Net's


def test_at_strength_0_a_unet_with_an_adapter_is_the_unet_without(small_suite, tmp_path):
    saved = IPAdapter.from_unet(small_unet(small_suite), WIDTH)
    save_file({name: value.contiguous() for name, value in saved.state().items()}, tmp_path / FILE)
    plain, prompted = small_unet(small_suite), small_unet(small_suite)
    install_image_prompt(prompted, tmp_path / FILE)
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 5, 16, generator=generator)
    seen = {"image_embeds": [torch.randn(2, 1, WIDTH, generator=generator)]}
    outputs = []
    for scale in (0.0, 1.0):
        for processor in prompted.attn_processors.values():
            if hasattr(processor, "to_k_ip"):
                processor.scale = [scale]
        with torch.inference_mode():
            outputs.append(prompted(latents, 7, text, added_cond_kwargs=seen).sample)
    with torch.inference_mode():
        alone = plain(latents, 7, text).sample
    torch.testing.assert_close(outputs[0], alone, atol=1e-5, rtol=1e-5)
    assert (outputs[1] - alone).abs().max() > 1e-4
