"""Style: another picture, as an image prompt beside spatial conditions (MaxFusion, Fig. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from maxbench.conditions.base import Annotator, Images
from maxbench.conditions.ruler import Ruler, Valid
from maxbench.errors import UserError
from maxbench.images import to_bytes

Pictures = UInt8[Tensor, "batch height width 3"]
Embeddings = Float[Tensor, "batch width"]


class ImageCosine(Ruler):
    """CLIP-I, the cosine of image embeddings.

    It is what image prompts are commonly measured by (Ye et al., arXiv 2308.06721, Sec. 4). It sees content as well as
    style: `none` and `shuffled` say what it is worth. The scorer should not be the prompt's own image encoder.
    """

    metric = sample_metric = "style_clip_i"
    protocol = "100 x cosine of image embeddings"
    higher_is_better, best = True, 100.0

    def compare(self, given: Embeddings, measured: Embeddings, valid: Valid = None) -> np.ndarray:
        return (100 * F.cosine_similarity(given.float(), measured.float(), dim=1)).numpy()


@dataclass(frozen=True)
class Style:
    """The map is the picture itself; pictures are compared by what a network sees in them."""

    name = "style"
    version = 1
    annotator = None
    null_value = 0
    is_spatial = False
    knows_objects = False
    rulers = object_rulers = (ImageCosine(),)

    def draw(self, images: Images, annotator: Annotator | None) -> Pictures | Embeddings:
        """Without a network the pictures as bytes; with the scorer what it sees in them."""
        return torch.from_numpy(to_bytes(images)) if annotator is None else annotator(images)

    def hint(self, maps: Pictures) -> Images:
        return maps.permute(0, 3, 1, 2).float() / 255

    def as_measured(self, given: Pictures, scorer: Annotator | None) -> Embeddings:
        if scorer is None:
            raise UserError("A style is compared by what a network sees in pictures; set suite.scorers.style.")
        return scorer(self.hint(given))
