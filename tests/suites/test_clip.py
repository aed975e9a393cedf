"""The CLIP scorer on a model as it is published, against the library's own processor and tokenizer."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from maxbench.suites.scorers import ClipScorer
from suites.tiny import write_tiny_clip

CPU = torch.device("cpu")
TEXTS = ["a cat on the mat", "A photo of the dog!", "", "the dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"), size=56)


@pytest.fixture(scope="module")
def scorer(folder):
    return ClipScorer.load(folder, CPU, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD)


def photographs(side):
    """8-bit squares; the last is full of edges between black and white, over which a bicubic shoots."""
    chess = np.kron(np.indices((20, 20)).sum(0) % 2, np.ones((20, 20)))[..., None] * np.full(3, 255)
    squares = [data.astronaut()[:320, 100:420], data.coffee()[:400, 100:500], chess.astype(np.uint8)]
    return [Image.fromarray(each).resize((side, side), Image.Resampling.NEAREST) for each in squares]


def tensor_of(pictures):
    return torch.from_numpy(np.stack([np.asarray(each) for each in pictures])).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("side", [512, 144, 56, 40])
def test_pictures_are_read_as_the_library_reads_them(folder, scorer, side):
    """Smaller, larger and equal to what the network takes."""
    wanted = CLIPImageProcessorPil.from_pretrained(folder)(images=photographs(side), return_tensors="pt").pixel_values
    seen = []
    hook = scorer.model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    features = scorer.images(tensor_of(photographs(side)))
    hook.remove()
    level = 1 / 255 / min(OPENAI_CLIP_STD)
    assert seen[0].shape == wanted.shape and (seen[0] - wanted).abs().max() <= 1.01 * level
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder).eval().get_image_features(pixel_values=wanted).pooler_output
    assert features.shape == (3, 8) and features.dtype == torch.float32
    assert (torch.nn.functional.cosine_similarity(features, expected) > 0.9999).all()


def test_texts_are_read_as_the_library_reads_them(folder, scorer):
    tokens = CLIPTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder).eval().get_text_features(**tokens).pooler_output
    torch.testing.assert_close(scorer.texts(TEXTS), expected, rtol=1e-5, atol=1e-6)


def test_tokens_are_those_of_vocab_and_merges(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    words = tokenizer.convert_ids_to_tokens(tokenizer("A Cat on  the xy").input_ids)
    assert words == ["<|startoftext|>", "a</w>", "cat</w>", "on</w>", "the</w>", "x", "y</w>", "<|endoftext|>"]


def test_a_text_is_cut_at_77_tokens_and_still_ended(scorer):
    """75 words and the two ends; what follows is not read."""
    whole, cut = " ".join(["cat"] * 75), " ".join(["cat"] * 75 + ["dog"] * 40)
    shorter = " ".join(["cat"] * 74 + ["dog"])
    features = scorer.texts([whole, cut, shorter])
    assert torch.equal(features[0], features[1]) and not torch.allclose(features[0], features[2])


def test_an_empty_text_and_its_company_change_nothing(scorer):
    torch.testing.assert_close(scorer.texts(TEXTS)[3:], scorer.texts(TEXTS[3:]), rtol=1e-5, atol=1e-6)
