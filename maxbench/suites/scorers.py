"""A text-image model as a scorer of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from maxbench.conditions.base import Images
from maxbench.models.libraries import transformers
from maxbench.models.loading import load_network, load_tokenizer


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP model as scorer: embeddings for the CLIP score, and image features for distances between sets.

    Pictures are squares, of 8 bits; they are resized to the model's size on the CPU, by the bicubic filter that Pillow
    has, to 8 bits again, as the model's own processor does. In floating point a bicubic would shoot over white and
    black.

    mean, std: of the pixel normalisation the model was trained with.
    """

    model: transformers.CLIPModel
    tokenizer: transformers.CLIPTokenizer
    mean: Sequence[float]
    std: Sequence[float]

    version: ClassVar[int] = 2

    @classmethod
    def load(cls, folder: Path, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> ClipScorer:
        """From a folder that holds the model and its tokenizer."""
        model = load_network(transformers.CLIPModel, folder, device)
        return cls(model, load_tokenizer(folder, model.config.text_config.vocab_size), mean, std)

    @torch.inference_mode()
    def images(self, images: Images) -> Float[Tensor, "batch feature"]:
        """Projected image embeddings, float32, not normalised."""
        size, levels = self.model.config.vision_config.image_size, (images.cpu() * 255).round().to(torch.uint8)
        if images.shape[-2:] != (size, size):
            levels = F.interpolate(levels, (size, size), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(list(values)).view(1, 3, 1, 1) for values in (self.mean, self.std))
        pixels = ((levels / 255 - mean) / std).to(self.model.device)
        return self.model.get_image_features(pixel_values=pixels).pooler_output.float().cpu()

    def __call__(self, images: Images) -> Float[Tensor, "batch feature"]:
        """As the scorer of a style: what it sees in pictures."""
        return self.images(images)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Projected text embeddings; a text longer than the model's context is cut, knowingly."""
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        )
        output = self.model.get_text_features(input_ids=tokens.input_ids.to(self.model.device))
        return output.pooler_output.float().cpu()
