"""How well a picture matches its text: the CLIP score (Hessel et al., EMNLP 2021), 100 x cosine."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def clip_score(
    image_embeddings: Float[Tensor, "samples features"],
    text_embeddings: Float[Tensor, "samples features"],
) -> Float[Tensor, " samples"]:
    """100 x the cosine of every image's embedding with its own text's, float64 in [-100, 100].

    Row i of both belongs to sample i; the lengths of the vectors do not matter. Hessel et al. scale by 2.5
    and clip at zero, the field scales by 100; a negative cosine is kept here, so that a mean over samples is
    the mean of what was measured.
    Unequal shapes, a value that is not finite or a zero vector is a ValueError.
    """
    images = _embeddings(image_embeddings, "image")
    texts = _embeddings(text_embeddings, "text")
    if images.shape != texts.shape:
        raise ValueError(
            f"every image needs its own text in the same space, got image embeddings {tuple(images.shape)} "
            f"and text embeddings {tuple(texts.shape)}"
        )
    return 100 * cosine_similarity(images, texts, dim=1)


def _embeddings(embeddings: Tensor, name: str) -> Float[Tensor, "samples features"]:
    embeddings = torch.as_tensor(embeddings).to(torch.float64)
    if embeddings.ndim != 2:
        raise ValueError(f"{name} embeddings must be (samples, features), got {tuple(embeddings.shape)}")
    # A cosine with nothing is not 0 but unknown.
    usable = embeddings.isfinite().all(dim=1) & (embeddings != 0).any(dim=1)
    if not usable.all():
        raise ValueError(f"the {name} embedding of row {usable.int().argmin()} is zero or not finite")
    return embeddings
