"""The weights that are shipped: what they weigh, and that they do what a suite is for."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from transformers import CLIPTokenizer

from maxbench import images as im
from maxbench.configuration.compose import CONF
from maxbench.fusion import Fusion, Sum
from maxbench.images import read_images
from maxbench.miniature.dataset import miniature_images
from maxbench.miniature.world import CLASSES, PALETTE
from maxbench.seeds import noise_for

CONDITIONS = ["depth", "seg", "hed", "canny"]


@pytest.fixture(scope="module")
def config():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        extra = [f"+condition@conditions.{name}={name}" for name in ("seg", "canny")]
        return compose("main", ["experiment=hed_depth", *extra])


@pytest.fixture(scope="module")
def suite(config):
    return instantiate(config.suite, _convert_="all")


def test_all_weights_are_there_in_the_safe_format_and_within_bounds(suite):
    assert not suite.missing(CONDITIONS)
    assert all(list((suite.folder / adapter).glob("*.safetensors")) for adapter in suite.adapters.values())
    files = [path for path in suite.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}
    assert not any(
        "/" in json.loads(path.read_text()).get("_name_or_path", "") for path in files if path.name == "config.json"
    )
    weights = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
    assert max(weights) < 16e6 and sum(weights) < 48e6
    assert abs(sum(weights) / 1e6 - suite.megabytes) < 2  # what a user is told


def test_a_model_card_lies_beside_them(suite):
    card = (suite.folder / "README.md").read_text()
    for word in ("Data", "steps", "loss", "Hardware", "Date", "PSNR", "mIoU"):
        assert word in card


def test_the_suite_and_the_world_agree_on_colours(config):
    assert np.array_equal(np.array(config.suite.palette), PALETTE)
    assert len(PALETTE) == len(CLASSES)


def test_few_prompts_are_cut(suite, data_dir):
    image_set = miniature_images(data_dir, "val", 24)
    tokenizer = CLIPTokenizer.from_pretrained(suite.folder / "tokenizer")
    captions = [image_set.picture(image).captions[0] for image in image_set.ids]
    lengths = np.array([len(tokenizer(caption).input_ids) for caption in captions])
    assert np.mean(lengths > tokenizer.model_max_length) < 0.1


@pytest.fixture(scope="module")
def scenes(data_dir):
    image_set = miniature_images(data_dir, "val", 24)
    pictures = [image_set.picture(image) for image in image_set.ids[:12]]
    return [picture.captions[0] for picture in pictures], read_images([picture.path for picture in pictures], 64)


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_control_is_followed(name, config, suite, scenes):
    """A single control brings its condition nearer than text alone, on scenes never trained on."""
    prompts, pictures = scenes
    condition = instantiate(config.conditions[name], _convert_="all")
    annotator = suite.annotator(name, torch.device("cpu"))
    sampler = instantiate(config.sampler, _convert_="all", steps=8)
    pipeline = suite.pipeline([name], torch.device("cpu"), torch.float32)
    maps = condition.draw(pictures, annotator)
    noise = torch.stack([noise_for(0, str(number), 0, pipeline.latent_shape(64)) for number in range(len(prompts))])
    text, negative = pipeline.encode_text(prompts), pipeline.encode_text([""] * len(prompts))

    def fidelity(hints: dict) -> np.ndarray:
        control = pipeline.control(hints, Fusion(Sum()))
        made = pipeline.decode(pipeline.denoise(noise, text, negative, control, sampler))
        assert all(im.defect(picture) is None for picture in made)
        measured = condition.draw(im.from_bytes(im.to_bytes(made)), annotator)
        ruler = condition.rulers[0]
        sign = 1 if ruler.higher_is_better else -1
        return sign * ruler.score(ruler.compare(maps, measured))

    gain = fidelity({name: condition.hint(maps)}) - fidelity({})
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain)), f"gain {gain.mean():.3g} +- {gain.std():.3g}"
    assert (gain > 0).mean() > 0.7


def test_the_clip_scorer_prefers_the_right_caption(suite, scenes):
    prompts, pictures = scenes
    scorer = suite.clip_scorer(torch.device("cpu"))
    seen = torch.nn.functional.normalize(scorer.images(pictures))
    read = torch.nn.functional.normalize(scorer.texts(prompts))
    scores = seen @ read.T
    assert (scores.argmax(1) == torch.arange(len(prompts))).float().mean() > 0.6
