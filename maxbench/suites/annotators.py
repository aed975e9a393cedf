"""Annotators and scorers from transformers: relative depth, and the 150 classes of ADE20K.

Each reads pictures as its own `preprocessor_config.json` says, through the library's processor: 8-bit pictures,
squeezed to the network's size, and the maps back. Pictures are not cropped. They are prepared on the CPU, where
torchvision resizes 8 bits as Pillow does, to a level; elsewhere it does not. Networks see a batch on their device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    DepthAnythingForDepthEstimation,
    DPTForDepthEstimation,
    Mask2FormerForUniversalSegmentation,
    UperNetForSemanticSegmentation,
)

from maxbench.conditions.base import Images
from maxbench.errors import UserError
from maxbench.models.loading import load_network, readable

PREPROCESSOR = "preprocessor_config.json"
DEPTH = {"dpt": DPTForDepthEstimation, "depth_anything": DepthAnythingForDepthEstimation}
SEGMENTATION = {"upernet": UperNetForSemanticSegmentation, "mask2former": Mask2FormerForUniversalSegmentation}
UNREAD = ("neck.fusion_stage.layers.0.residual_layer1.",)
"""Tensors of a DPT that its first fusion has no second input for; `Intel/dpt-large` comes without them."""
ROUNDING = 1e-5
"""Share of a depth by which interpolation in float32 may change what is the same everywhere."""
MASK2FORMER_SIDE = 384
"""Pixels to which Mask2Former's masks are brought before they are weighed, whatever it read pictures at."""


@dataclass(frozen=True)
class DepthEstimator:
    """Relative inverse depth, near = bright.

    The networks' own output is inverse depth up to scale and shift (Ranftl et al., TPAMI 2020). It is resized to the
    picture by bicubic interpolation, then brought to [0, 1] by its own least and greatest value; where it is the same
    everywhere, the map is 0. ControlNet's own tool normalises MiDaS at the resolution at which it detects, without the
    network's resizing to 384 pixels: the maps differ a little.
    """

    model: nn.Module
    processor: Any

    version: ClassVar[int] = 1

    @classmethod
    def load(cls, folder: Path, device: torch.device, kind: str = "dpt") -> DepthEstimator:
        """From a folder in the Hub's layout.

        kind: "dpt" for `Intel/dpt-hybrid-midas` and `Intel/dpt-large` (Ranftl et al., ICCV 2021), "depth_anything" for
            `depth-anything/Depth-Anything-V2-Small-hf` (Yang et al., NeurIPS 2024).
        """
        model = load_network(_known(DEPTH, kind, "depth estimator"), Path(folder), device, unread=UNREAD)
        if getattr(model.config, "depth_estimation_type", "relative") != "relative":
            raise UserError(f"{folder} estimates depth in metres, where far is bright; take a relative model.")
        return cls(model, _processor(folder))

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch 1 height width"]:
        depth = self.model(pixel_values=_pixels(self, images)).predicted_depth[:, None]  # (B, 1, h, w)
        depth = F.interpolate(depth.float(), images.shape[-2:], mode="bicubic", align_corners=False)
        low, high = depth.amin((1, 2, 3), keepdim=True), depth.amax((1, 2, 3), keepdim=True)
        flat = high - low <= ROUNDING * torch.maximum(low.abs(), high.abs())
        return ((depth - low) / (high - low)).masked_fill(flat, 0)


@dataclass(frozen=True)
class SegmentationModel:
    """Scores of "nothing said" and ADE20K's 150 classes, in its own order: channel 0 is never the greatest, channel
    k + 1 is class k."""

    model: nn.Module
    processor: Any

    version: ClassVar[int] = 1

    @classmethod
    def load(cls, folder: Path, device: torch.device, kind: str, classes: int = 150) -> SegmentationModel:
        """From a folder in the Hub's layout.

        kind: "upernet" for `openmmlab/upernet-convnext-small` (Xiao et al., ECCV 2018), "mask2former" for
            `facebook/mask2former-swin-large-ade-semantic` (Cheng et al., CVPR 2022).
        classes: how many it must know.
        """
        model = load_network(_known(SEGMENTATION, kind, "segmentation"), Path(folder), device)
        if model.config.num_labels != classes:
            raise UserError(
                f"{folder} knows {model.config.num_labels} classes, but the suite's segmentation has {classes} and "
                '"nothing"; take a network of the suite\'s classes.'
            )
        return cls(model, _processor(folder))

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch classes height width"]:
        output = self.model(pixel_values=_pixels(self, images))
        scores = output.logits if hasattr(output, "logits") else mask2former_scores(output)
        scores = F.interpolate(scores.float(), images.shape[-2:], mode="bilinear", align_corners=False)
        return F.pad(scores, (0, 0, 0, 0, 1, 0), value=-torch.inf)  # (B, 1 + classes, H, W)


def mask2former_scores(output: Any) -> Float[Tensor, "batch classes 384 384"]:
    """For every class the sum over queries of its probability times the query's mask: Cheng et al., NeurIPS 2021,
    Sec. 3.4, at the size and in the order in which transformers computes it."""
    masks = F.interpolate(
        output.masks_queries_logits.float(), (MASK2FORMER_SIDE,) * 2, mode="bilinear", align_corners=False
    ).sigmoid()  # (B, Q, h, w)
    chances = output.class_queries_logits.float().softmax(-1)[..., :-1]  # (B, Q, C), without "no object"
    return torch.einsum("bqc, bqhw -> bchw", chances, masks)


def _known(kinds: dict[str, type], kind: str, what: str) -> type:
    if kind not in kinds:
        raise UserError(f"There is no {what} of the kind '{kind}'; known are {', '.join(kinds)}.")
    return kinds[kind]


def _processor(folder: Path) -> Any:
    """What the library prepares pictures with, as the folder says; never one that leaves out a part of them."""
    file = Path(folder) / PREPROCESSOR
    if not file.is_file():
        raise UserError(f"{file} is missing, which says how the network reads pictures; fetch it from the same place.")
    with readable(Path(folder)):
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    if getattr(processor, "do_center_crop", False):
        raise UserError(f"{file} crops pictures, so that its maps would not lie on them; set do_center_crop to false.")
    return processor


def _pixels(network: DepthEstimator | SegmentationModel, images: Images) -> Float[Tensor, "batch 3 height width"]:
    """What a network is given of pictures, on its device."""
    levels = (images.cpu() * 255).round().to(torch.uint8)
    read = network.processor(images=list(levels), input_data_format="channels_first", return_tensors="pt")
    return read["pixel_values"].to(network.model.device)
