"""The training command on a family of toys: order, keys, resumption, mistakes."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel, UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.miniature.context import keys_of, read_history, train, world_of, write_history
from maxbench.miniature.corpus import render_corpus
from maxbench.miniature.dilated import DilatedNet
from maxbench.models.control import ImagePrompt

DATA = {"scenes": 12, "size": 64, "seed": 3}


def family():
    """The shipped family's recipes, with networks of a few channels and two steps each."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parts = instantiate(compose("training", ["seed=3"]).parts, _convert_="all")
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = {
        "vae": {"channels": [8, 8, 8]},
        "unet": {"channels": [16, 32, 32]},
        "annotator": {"channels": [8, 8], "reconstructions": 8},
        "scorer": {"channels": [8], "reconstructions": 8},
        "text_encoder": {"text": tower, "vision": {**tower, "patch_size": 32}},
        "clip": {"text": tower, "vision": {**tower, "patch_size": 32}},
        "image_encoder": {"text": tower, "vision": {**tower, "patch_size": 32}, "projection": 8},
        "style": {"smallest_crop": 0.9},
    }
    embedding = {name: {"embedding": [8, 8, 8]} for name in parts if name.startswith("controlnet")}
    return {
        name: replace(
            part, recipe=replace(part.recipe, steps=2, batch=2, warmup=1), **{**small, **embedding}.get(name, {})
        )
        for name, part in parts.items()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    names = [name for name in family() if not name.endswith(("canny", "seg"))]
    train(family(), names, weights=root / "weights", folder=root / "work", device="cpu", **DATA)
    return root


def test_every_part_ends_where_the_suite_looks_for_it(trained):
    weights = trained / "weights"
    for kind, subfolder in (
        (AutoencoderKL, "vae"), (UNet2DConditionModel, "unet"), (ControlNetModel, "controlnet_hed"),
        (T2IAdapter, "t2iadapter_depth"), (UNet2DModel, "annotators"), (DilatedNet, "scorers/maps"),
    ):  # fmt: skip
        net = kind.from_pretrained(weights / subfolder, torch_dtype=torch.float16)
        assert all(torch.isfinite(parameter).all() for parameter in net.parameters())
    with initialize_config_dir(str(CONF), version_base="1.3"):
        suite = instantiate(compose("main", ["experiment=hed_depth", f"suite.root={weights}"]).suite, _convert_="all")
    assert not suite.missing(["hed", "depth", "style"])


def test_the_style_s_parts_end_where_the_suite_looks_for_them(trained):
    weights = trained / "weights"
    encoder = CLIPVisionModelWithProjection.from_pretrained(weights / "image_encoder")
    assert encoder.config.projection_dim == 8 and encoder.visual_projection.weight.shape == (8, 32)
    state = load_file(weights / "ip_adapter" / "ip_adapter.safetensors")
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in state.values())
    unet = UNet2DConditionModel.from_pretrained(weights / "unet")
    assert not any("_ip" in name for name in unet.state_dict())  # the base model is as it was
    with initialize_config_dir(str(CONF), version_base="1.3"):
        suite = instantiate(compose("main", ["experiment=style", f"suite.root={weights}"]).suite, _convert_="all")
    pipeline = suite.pipeline(["hed", "style"], torch.device("cpu"), torch.float32)
    prompt = pipeline.controls["style"]
    assert isinstance(prompt, ImagePrompt) and prompt.unet is pipeline.unet
    assert prompt.encoder(torch.rand(2, 3, 64, 64)).shape == (2, 8)
    assert {"image_encoder", "style"} <= {path.stem for path in (weights / "histories").iterdir()}


def test_a_control_does_something_and_its_branch_starts_from_the_unet(trained):
    weights = trained / "weights"
    control = ControlNetModel.from_pretrained(weights / "controlnet_depth")
    unet = UNet2DConditionModel.from_pretrained(weights / "unet")
    own, base = control.conv_in.weight, unet.conv_in.weight
    assert not torch.equal(own, base)  # it has learned
    assert (own - base).norm() < 0.1 * base.norm()  # from there
    assert any(conv.weight.any() for conv in control.controlnet_down_blocks)


def test_what_is_finished_is_not_trained_again_and_a_seed_is_one_override(trained, capsys):
    times = {path: path.stat().st_mtime_ns for path in (trained / "weights").rglob("*.safetensors")}
    parts = family()
    parts["controlnet_hed"] = replace(parts["controlnet_hed"], seed=99)
    train(parts, ["unet", "controlnet_hed"], weights=trained / "weights", folder=trained / "work", device="cpu", **DATA)
    said = capsys.readouterr().out
    assert "unet: already trained" in said and "controlnet_hed: already" not in said
    changed = {path.parent.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"controlnet_hed"}
    assert read_history(trained / "weights", "controlnet_hed")["part"]["seed"] == 99
    train(parts, ["controlnet_hed"], weights=trained / "weights", folder=trained / "work", device="cpu", **DATA)
    assert "controlnet_hed: already trained" in capsys.readouterr().out


def test_a_key_changes_with_what_the_weights_depend_on_and_with_nothing_else():
    parts, data = family(), [12, 64, 3]
    keys = keys_of(parts, data)
    assert keys == keys_of(family(), data) and len(set(keys.values())) == len(keys)
    longer = {**parts, "unet": replace(parts["unet"], recipe=replace(parts["unet"].recipe, steps=9))}
    assert keys_of(longer, data) == keys  # a training may be prolonged
    other = keys_of({**parts, "unet": replace(parts["unet"], seed=9)}, data)
    changed = {name for name in keys if keys[name] != other[name]}
    assert changed == {"unet", "style", *(name for name in keys if name.startswith(("controlnet", "adapter")))}
    other = keys_of({**parts, "image_encoder": replace(parts["image_encoder"], projection=4)}, data)
    assert {name for name in keys if keys[name] != other[name]} == {"image_encoder", "style"}
    assert all(one != two for one, two in zip(keys.values(), keys_of(parts, [13, 64, 3]).values(), strict=True))


def test_a_family_knows_one_version_of_the_world(tmp_path):
    parts, data = {"text_encoder": family()["text_encoder"]}, [12, 64, 3]
    one, two = (keys_of(parts, data, version) for version in (2, 3))
    assert one != two and keys_of(parts, data) == one
    places = {"weights": tmp_path / "weights", "folder": tmp_path / "work", "device": "cpu"}
    train(parts, ["text_encoder"], **places, **DATA, version=3)
    said = read_history(tmp_path / "weights", "text_encoder")
    assert said["key"] == two["text_encoder"] and said["data"] == {"world": 3, "scenes": 12, "size": 64, "seed": 3}
    assert world_of(tmp_path / "weights") == 3 and world_of(tmp_path / "none") == 2
    assert [path.name for path in (tmp_path / "work").glob("corpus-*")] == ["corpus-3-3-64-12"]
    with pytest.raises(UserError, match="know version 3 of the world, not 2; leave out world="):
        train(parts, ["text_encoder"], **places, **DATA, version=2)
    write_history(tmp_path / "weights", "vae", {"data": {"world": 2}})
    with pytest.raises(UserError, match="has parts of the versions 2 and 3 of the world"):
        world_of(tmp_path / "weights")


def test_no_part_needs_two_conditions():
    parts = family()
    for name, part in parts.items():
        if name.startswith(("controlnet", "adapter")):
            assert set(part.needs) <= {"unet", "annotator"}
            assert part.condition == name.split("_")[1]


def test_mistakes_are_sentences(tmp_path):
    places = {"weights": tmp_path / "weights", "folder": tmp_path / "work", "device": "cpu"}
    with pytest.raises(UserError, match="no part 'vea'; the parts are vae, "):
        train(family(), ["vea"], **places, **DATA)
    with pytest.raises(UserError, match="'vae' must be trained first, for unet"):
        train(family(), ["unet"], **places, **DATA)
    assert not (tmp_path / "work").exists()


def test_a_corpus_is_rendered_once_and_grows_without_changing(tmp_path):
    short, long = (render_corpus(count, 5, 32, tmp_path) for count in (3, 6))
    assert short.size == 32 and len(short) == 3
    for name in ("images", "depth", "segmentation", "edges"):
        assert (getattr(long, name)[:3] == getattr(short, name)).all()
    assert long.captions[:3] == short.captions and short.name != long.name
    assert json.loads((tmp_path / short.name / "captions.json").read_text()) == short.captions
