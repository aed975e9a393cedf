"""The loader, on small random models in the Hub's layout."""

import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from maxbench.cli.config import CONF
from maxbench.errors import UserError


def suite_at(root):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=hed_depth", f"suite.root={root}"])
    return instantiate(cfg.suite, _convert_="all")


def test_only_what_an_experiment_needs_is_asked_for(small_suite, tmp_path):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    shutil.rmtree(root / "controlnet_seg")
    suite = suite_at(root)
    suite.require(["hed", "depth"])
    with pytest.raises(UserError, match=r"lacks the weights of controlnet_seg under .* MB"):
        suite.require(["seg", "depth"])
    with pytest.raises(UserError, match="no control for 'pose'; it has depth, seg, hed, canny"):
        suite.require(["pose"])


def test_the_fingerprint_is_of_the_weights_not_of_their_place(small_suite, tmp_path):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    conditions = ["hed", "depth"]
    before = suite_at(small_suite).fingerprint(conditions)
    assert suite_at(root).fingerprint(conditions) == before
    weights = next((root / "controlnet_hed").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    changed = suite_at(root).fingerprint(conditions)
    assert {name for name in before if before[name] != changed[name]} == {f"controlnet_hed/{weights.name}"}


def test_networks_come_frozen_and_in_the_dtype_asked_for(small_suite):
    pipeline = suite_at(small_suite).pipeline(["depth"], torch.device("cpu"), torch.bfloat16)
    nets = (pipeline.unet, pipeline.text_encoder, pipeline.controls["depth"])
    assert all(net.dtype == torch.bfloat16 for net in nets) and pipeline.vae.dtype == torch.float32
    for net in (*nets, pipeline.vae):
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())


def test_scorers_are_named_with_their_revision(small_suite):
    suite = suite_at(small_suite)
    names, annotators = suite.scorer_names(["hed", "canny"]), suite.annotator_names(["hed", "canny"])
    assert set(names) == {"clip", "hed"} and set(annotators) == {"hed"}  # canny is arithmetic
    assert names["hed"].startswith("miniature/scorers/maps@")
    assert annotators["hed"].startswith("miniature/annotators@")


def test_the_scorer_is_not_the_annotator(small_suite):
    suite, images = suite_at(small_suite), torch.rand(2, 3, 64, 64)
    for condition, channels in (("depth", 1), ("hed", 1), ("seg", 11)):
        drawn = suite.annotator(condition, torch.device("cpu"))(images)
        measured = suite.scorer(condition, torch.device("cpu"))(images)
        assert drawn.shape == measured.shape == (2, channels, 64, 64)
        assert not torch.allclose(drawn, measured)
        again = suite.self_consistency(condition, torch.device("cpu"))(images)
        torch.testing.assert_close(again, drawn)
    assert suite.scorer("canny", torch.device("cpu")) is None


def test_conditions_share_a_network_and_its_last_look(small_suite):
    suite, device = suite_at(small_suite), torch.device("cpu")
    depth, hed = suite.annotator("depth", device), suite.annotator("hed", device)
    assert depth.network is hed.network
    looks = []
    inner = depth.network.look
    depth.network.look = lambda pixels: looks.append(1) or inner(pixels)
    try:
        images = torch.rand(2, 3, 64, 64)
        first = depth(images)
        hed(images)
        assert len(looks) == 1
        assert not torch.equal(depth(torch.rand(2, 3, 64, 64)), first) and len(looks) == 2
        assert torch.equal(depth(images), first)  # other pictures since: looked at anew
    finally:
        depth.network.look = inner


def test_the_judge_sees_pictures_and_texts_in_one_space(small_suite):
    judge = suite_at(small_suite).judge(torch.device("cpu"))
    images = torch.rand(3, 3, 64, 64)
    features = judge.images(images)
    assert features.shape == judge.texts(["a", "b", "a red sphere " * 30]).shape == (3, 8)
    torch.testing.assert_close(judge.images(images[1:2]), features[1:2], atol=1e-5, rtol=1e-4)
    assert judge.images(torch.rand(1, 3, 100, 100)).shape == (1, 8)
