"""The networks whose features distances between sets of pictures are made of: Inception, DINOv2 and CLIP.

Each reads pictures as the publication of its distance does, resizing and quantisation included, and gives features
(B, D), float32 on the CPU. Folders are local; nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPVisionModelWithProjection, Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from maxbench.conditions.base import Images
from maxbench.errors import UserError
from maxbench.models.loading import load_network, readable

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + INCEPTION_FILE
DINOV2_SIZE = 224  # pixels; the network itself was trained at 518


@dataclass(frozen=True)
class InceptionFeatures:
    """Inception's pooled features (B, 2048), read as clean-fid does in its mode "clean": the features of FID and KID.

    Parmar et al., On aliased resizing and surprising subtleties in GAN evaluation, CVPR 2022: 8-bit pictures, each
    channel resized to 299 pixels by Pillow's bicubic in float, not rounded after.
    """

    model: InceptionV3W

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> InceptionFeatures:
        """From a folder that holds `inception-2015-12-05.pt`, a TorchScript file, which may run code: take it from
        its publisher alone."""
        file = Path(folder) / INCEPTION_FILE
        if not file.is_file():
            raise UserError(f"{file} is missing: fetch it from {INCEPTION_ADDRESS} and put it into {folder}.")
        with readable(file):
            model = InceptionV3W(str(folder), download=False)
        return cls(model.to(device).eval().requires_grad_(False))

    @torch.inference_mode()
    def images(self, pictures: Images) -> Float[Tensor, "batch 2048"]:
        resize = build_resizer("clean")
        resized = np.stack([resize(picture) for picture in _levels(pictures)])  # (B, 299, 299, 3), 0 to 255
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(device)
        return self.model(pixels).float().cpu()


@dataclass(frozen=True)
class DinoFeatures:
    """DINOv2's class token (B, D), the features of FD-DINOv2.

    Stein et al., Exposing flaws of generative model evaluation metrics, NeurIPS 2023: ViT-L/14 (D = 1024), pictures
    resized to 224 pixels by Pillow's bicubic, ImageNet's normalisation. transformers interpolates the position
    embeddings from 518 to 224 pixels by their number, the authors' code by a factor with an offset: features, and
    distances, agree closely but not to the last digit.
    """

    model: Dinov2Model

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> DinoFeatures:
        """From a folder of a Dinov2Model in the Hub's layout."""
        _require_model(folder, "facebook/dinov2-large")
        return cls(load_network(Dinov2Model, Path(folder), device))

    @torch.inference_mode()
    def images(self, pictures: Images) -> Float[Tensor, "batch features"]:
        pixels = _normalised(pictures, DINOV2_SIZE, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        tokens = self.model(pixel_values=pixels.to(self.model.device)).last_hidden_state  # (B, 1 + patches, D)
        return tokens[:, 0].float().cpu()


@dataclass(frozen=True)
class ClipFeatures:
    """CLIP's projected image embeddings (B, D), not scaled to length 1, which CMMD does itself.

    Jayasumana et al., Rethinking FID, CVPR 2024: ViT-L/14 at 336 pixels (D = 768), pictures resized to the network's
    size by Pillow's bicubic, CLIP's own normalisation.
    """

    model: CLIPModel | CLIPVisionModelWithProjection

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> ClipFeatures:
        """From a folder of a whole CLIPModel, as it is published, or of its CLIPVisionModelWithProjection alone."""
        config = _require_model(folder, "openai/clip-vit-large-patch14-336")
        kind = CLIPModel if config.get("model_type") == "clip" else CLIPVisionModelWithProjection
        return cls(load_network(kind, Path(folder), device))

    @torch.inference_mode()
    def images(self, pictures: Images) -> Float[Tensor, "batch features"]:
        whole = isinstance(self.model, CLIPModel)
        size = (self.model.config.vision_config if whole else self.model.config).image_size
        pixels = _normalised(pictures, size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD).to(self.model.device)
        if whole:
            return self.model.get_image_features(pixel_values=pixels).pooler_output.float().cpu()
        return self.model(pixel_values=pixels).image_embeds.float().cpu()


def _require_model(folder: Path, name: str) -> dict:
    """The configuration of a model's folder; without one, a UserError that says what to fetch."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise UserError(
            f"{file} is missing: fetch {name} from the Hugging Face Hub "
            f"and put its files (config.json and the weights) into {folder}."
        )
    with readable(file):
        return dict(json.loads(file.read_text()))


def _levels(pictures: Images) -> UInt8[NDArray, "batch height width 3"]:
    """Pictures in [0, 1] as the 8-bit pictures of a file."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3] or len(pictures) == 0:
        raise ValueError(f"pictures must be (batch, 3, size, size), got {tuple(pictures.shape)}")
    low, high = pictures.aminmax()
    if not (low >= 0 and high <= 1):  # so written that NaN is refused too
        raise ValueError(f"pictures must lie in [0, 1], got values from {low.item():.4g} to {high.item():.4g}")
    return (255 * pictures.detach().double().cpu()).round().byte().permute(0, 2, 3, 1).numpy()


def _normalised(
    pictures: Images, size: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "batch 3 size size"]:
    """8-bit pictures through Pillow's bicubic to 8 bits again, (x - mean) / std."""
    resized = np.stack(
        [
            np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
            for picture in _levels(pictures)
        ]
    )
    mean, std = (torch.tensor(list(values)).view(1, 3, 1, 1) for values in (mean, std))
    return (torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255 - mean) / std
