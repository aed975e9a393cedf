"""The loader, on small random models in the Hub's layout."""

import json
import os
import shutil
from functools import lru_cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.miniature.readers import MapReader
from maxbench.models.files import digest_of
from maxbench.suites.folder import Weights


@lru_cache
def configuration():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("main", ["experiment=hed_depth"]).suite


def suite_at(root, **settings):
    config = configuration().copy()
    for key, value in {"root": str(root), **settings}.items():
        OmegaConf.update(config, key, value)
    return instantiate(config, _convert_="all")


def test_only_what_an_experiment_needs_is_asked_for(small_suite, tmp_path):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    shutil.rmtree(root / "controlnet_seg")
    suite = suite_at(root)
    suite.require(["hed", "depth"])
    with pytest.raises(UserError, match=r"lacks the weights of controlnet_seg under .* MB"):
        suite.require(["seg", "depth"])
    with pytest.raises(UserError, match="no control for 'pose'; it has depth, seg, hed, hed_safe, canny"):
        suite.require(["pose"])


def test_networks_come_frozen_and_in_the_dtype_asked_for(small_suite):
    pipeline = suite_at(small_suite).pipeline(["depth"], torch.device("cpu"), torch.bfloat16)
    nets = (pipeline.unet, pipeline.text_encoder, pipeline.controls["depth"])
    assert all(net.dtype == torch.bfloat16 for net in nets) and pipeline.vae.dtype == torch.float32
    for net in (*nets, pipeline.vae):
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())


def test_blocks_are_those_of_the_networks(small_suite):
    """As they are counted by the configurations alone."""
    suite = suite_at(small_suite, **{"controls.seg": "t2iadapter_seg"})
    nets = suite.pipeline(["depth", "seg"], torch.device("cpu"), torch.float32).controls
    control, levels = nets["depth"], nets["seg"].adapter.body
    assert suite.blocks("depth") == (len(control.down_blocks), len(control.controlnet_down_blocks) + 1)
    assert suite.blocks("seg") == (len(levels), len(levels)) and suite.blocks("style") is None


def test_scorers_are_named_with_their_revision(small_suite):
    suite = suite_at(small_suite)
    names, annotators = suite.scorer_names(["hed", "canny"]), suite.annotator_names(["hed", "canny"])
    assert set(names) == {"clip", "hed"} and set(annotators) == {"hed"}  # canny is arithmetic
    assert names["hed"] == f"miniature/scorers/maps@{suite.digest('scorers/maps')[:8]}"
    assert names["clip"] == f"miniature/scorers/clip@{suite.digest('scorers/clip')[:8]}"
    assert annotators["hed"] == f"miniature/annotators@{suite.digest('annotators')[:8]}"


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


def test_the_clip_scorer_sees_pictures_and_texts_in_one_space(small_suite):
    scorer = suite_at(small_suite).clip_scorer(torch.device("cpu"))
    images = torch.rand(3, 3, 64, 64)
    features = scorer.images(images)
    assert features.shape == scorer.texts(["a", "b", "a red sphere " * 30]).shape == (3, 8)
    torch.testing.assert_close(scorer.images(images[1:2]), features[1:2], atol=1e-5, rtol=1e-4)
    assert scorer.images(torch.rand(1, 3, 100, 100)).shape == (1, 8)


# --- what is there ----------------------------------------------------------------------------------------

FAULTS = [
    ("vae/config.json", None, "is missing"),
    ("vae/config.json", b"{", r"cannot be loaded \(JSONDecodeError"),
    ("vae/config.json", b"[]", r"cannot be loaded \(it holds no mapping"),
    ("unet/config.json", b"\xff", r"cannot be loaded \("),
    ("controlnet_hed/config.json", None, "is missing"),
    ("scheduler/scheduler_config.json", None, "is missing"),
    ("scheduler/scheduler_config.json", b"", "cannot be loaded"),
    ("tokenizer/tokenizer.json", None, "is missing"),
    ("tokenizer/tokenizer.json", b"{", "cannot be loaded"),
    ("tokenizer/tokenizer_config.json", None, "is missing"),
    ("scorers/clip/tokenizer.json", None, "is missing"),
    ("scorers/maps/config.json", None, "is missing"),
    ("annotators/config.json", b"{]", "cannot be loaded"),
    ("unet/x.safetensors.index.json", b"{}", r"cannot be loaded \(it holds no weight_map"),
    ("unet/x.safetensors.index.json", b'{"weight_map": {"a": "../vae/x"}}', r"\(its file \.\./vae/x is not there"),
]


@pytest.mark.parametrize(("file", "content", "sentence"), FAULTS)
def test_a_missing_or_damaged_file_is_named_before_anything_is_loaded(small_suite, tmp_path, file, content, sentence):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    (root / file).unlink() if content is None else (root / file).write_bytes(content)
    suite = suite_at(root)
    assert suite.missing(["hed", "depth"]) == [root / file]
    with pytest.raises(UserError, match=f"{file} .*{sentence}.*; restore it") as caught:
        suite.require(["hed", "depth"])
    assert "\n" not in str(caught.value)


def test_weights_that_are_cut_off_are_named_before_anything_is_loaded(small_suite, tmp_path):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    for part, name in (("scorers/clip", "model"), ("ip_adapter", "ip_adapter")):
        file = root / part / f"{name}.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    suite = suite_at(root)
    damaged = {root / "scorers/clip", root / "ip_adapter/ip_adapter.safetensors"}
    assert set(suite.missing(["hed", "style"])) == damaged
    with pytest.raises(UserError, match=r"cannot be loaded \(.*\.safetensors: SafetensorError.*; restore it"):
        suite.require(["hed", "style"])


@pytest.mark.parametrize("name", ["../../x", "/x", "a/../../x", "..\\x", "C:\\x"])
def test_a_part_that_leads_out_of_the_suite_is_refused(small_suite, name):
    for key in ("controls.hed", "adapters.hed", "annotators.hed.folder", "text_scorer.folder", "image_encoder.folder"):
        with pytest.raises(InstantiationException) as caught:
            suite_at(small_suite, **{key: name})
        assert isinstance(caught.value.__cause__, UserError)
        assert f"suite.{key} is '{name}', which leads out of the suite's folder" in str(caught.value.__cause__)
    with pytest.raises(UserError, match=r"has no '\.\./x'"):
        suite_at(small_suite).digest("../x")


def test_a_part_without_a_name_is_refused(small_suite):
    with pytest.raises(InstantiationException, match=r"suite\.controls\.hed is None"):
        suite_at(small_suite, **{"controls.hed": None})


# --- what it is -------------------------------------------------------------------------------------------

CHANGES = [
    ("vae/config.json", "vae"),
    ("scheduler/scheduler_config.json", "scheduler"),
    ("tokenizer/tokenizer.json", "tokenizer"),
    ("tokenizer/tokenizer_config.json", "tokenizer"),
    ("tokenizer/merges.txt", "tokenizer"),
    ("controlnet_hed/config.json", "controlnet_hed"),
    ("controlnet_hed/diffusion_pytorch_model.safetensors", "controlnet_hed"),
    ("text_encoder/model.safetensors", "text_encoder"),
    ("unet/config.json", "unet"),
    ("annotators/config.json", "annotators"),
    ("scorers/maps/diffusion_pytorch_model.safetensors", "scorers/maps"),
    ("scorers/clip/tokenizer.json", "scorers/clip"),
    ("image_encoder/config.json", "image_encoder"),
    ("ip_adapter/ip_adapter.safetensors", "ip_adapter/ip_adapter.safetensors"),
]
CONDITIONS = ["hed", "depth", "style"]


@pytest.mark.parametrize(("file", "part"), CHANGES)
def test_a_changed_file_changes_the_digest_of_its_part_alone(small_suite, tmp_path, file, part):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    suite = suite_at(root)
    before = suite.fingerprint(CONDITIONS)
    assert before == suite_at(small_suite).fingerprint(CONDITIONS)  # wherever it lies
    assert set(before) == set(suite.parts(CONDITIONS))
    with (root / file).open("ab") as opened:
        opened.write(b"\n")
    after = {each: suite.digest(each) for each in before}
    assert {each for each in before if before[each] != after[each]} == {part}
    assert suite.digest("controlnet_seg") == suite_at(small_suite).digest("controlnet_seg")


@pytest.mark.parametrize(
    "file",
    [
        "vae/README.md",
        "vae/sample.png",
        "vae/.cache/x.json",
        "vae/.x",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.non_ema.safetensors",
        "vae/tf_model.h5",
        "controlnet_depth/pytorch_model.bin",
    ],
)
def test_a_file_that_no_loader_reads_changes_no_digest(small_suite, tmp_path, file):
    root = shutil.copytree(small_suite, tmp_path / "suite")
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_bytes(b"no pickle")  # what lies beside full precision as safetensors is not read
    suite = suite_at(root)
    assert suite.fingerprint(CONDITIONS) == suite_at(small_suite).fingerprint(CONDITIONS)
    suite.pipeline(["depth"], torch.device("cpu"), torch.float32)


def test_a_digest_is_of_names_and_contents(tmp_path):
    for folder, names in (("one", "ab"), ("two", "ba"), ("three", "ab")):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, ("first", "second"), strict=True):
            (tmp_path / folder / name).write_text(content)
    one, two, three = (digest_of(tmp_path / each) for each in ("one", "two", "three"))
    assert one == three != two
    before = os.stat(tmp_path / "one" / "a")
    (tmp_path / "one" / "a").write_text("thirst")  # longer: the cache of contents goes by time and size
    os.utime(tmp_path / "one" / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(tmp_path / "one") != one


def test_what_a_network_is_says_its_weights_and_how_they_are_read(small_suite):
    suite = suite_at(small_suite)
    depth, hed = (suite.network_identity(suite.annotators[name]) for name in ("depth", "hed"))
    assert depth["weights"] == hed["weights"] == suite.digest("annotators")
    assert depth["load"] != hed["load"]  # other channels of the same network
    scorer = suite.network_identity(suite.scorers["depth"])
    assert scorer["weights"] != depth["weights"] and "MapReader.dilated" in json.dumps(scorer["load"])
    assert json.loads(json.dumps(depth)) == depth == suite.annotator_identity("depth")
    plain = suite.network_identity(Weights("scorers/maps", MapReader.dilated))
    assert plain["load"] != scorer["load"] and plain["weights"] == scorer["weights"]
