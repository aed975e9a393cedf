"""The CLIP score on vectors whose angle is known."""

import pytest
import torch

from maxbench.metrics.text import clip_score


def test_known_angles():
    images = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [3.0, 4.0], [1.0, 0.0]])
    texts = torch.tensor([[5.0, 0.0], [1.0, 0.0], [7.0, 0.0], [4.0, 3.0], [-1.0, 0.0]])
    expected = torch.tensor([100, 50 * 2**0.5, 0, 96, -100], dtype=torch.float64)
    scores = clip_score(images, texts)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)


def test_lengths_do_not_matter_and_samples_do_not_meet():
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(9, 32, generator=generator) for _ in range(2))
    scores = clip_score(images, texts)
    torch.testing.assert_close(clip_score(8 * images, texts / 4), scores, rtol=1e-12, atol=1e-12)
    alone = torch.cat([clip_score(images[i : i + 1], texts[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(alone, scores, rtol=1e-12, atol=1e-12)
    order = torch.randperm(9, generator=generator)
    torch.testing.assert_close(clip_score(images[order], texts[order]), scores[order], rtol=1e-12, atol=1e-12)


def test_half_precision_embeddings_are_scored_in_double():
    generator = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(4, 512, generator=generator).half() for _ in range(2))
    assert torch.equal(clip_score(images, texts), clip_score(images.double(), texts.double()))


def test_mistakes_are_named():
    ones = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"\(3, 4\) and text embeddings \(1, 4\)"):
        clip_score(ones, ones[:1])  # one text for all would broadcast
    with pytest.raises(ValueError, match=r"image embeddings must be .* got \(4,\)"):
        clip_score(ones[0], ones)
    broken = ones.clone()
    broken[2, 1] = float("nan")
    with pytest.raises(ValueError, match="text embedding of row 2 is zero or not finite"):
        clip_score(ones, broken)
    with pytest.raises(ValueError, match="image embedding of row 0 is zero or not finite"):
        clip_score(torch.zeros(3, 4), ones)
