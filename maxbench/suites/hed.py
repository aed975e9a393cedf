"""Soft edges by a holistically-nested network (Xie & Tu, ICCV 2015), in the two forms that ControlNets were trained on.

Both are the convolutions of a VGG-16 with an output beside each of its five blocks. Their maps differ, and a control
knows only the kind that it was trained on:

- "bsds500": the authors' network, which drew the maps of ControlNet 1.0 until May 2023. It takes B, G, R minus their
  mean, and learned how to combine its five outputs. The file is `annotator/ckpts/network-bsds500.pth` of
  `lllyasviel/ControlNet`, and `network-bsds500.pth` of `lllyasviel/Annotators`.
- "apache2": the network of ControlNet 1.1. It takes R, G, B minus what it learned, and averages its outputs. The file
  is `ControlNetHED.pth` of `lllyasviel/Annotators`, in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from maxbench.conditions.base import Images
from maxbench.errors import UserError
from maxbench.models.loading import readable, refuse_misfits

BGR_MEAN = (104.00698793, 116.66876762, 122.67891434)  # of ImageNet, 0-255
DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each block of a VGG-16
FACTORS = (1, 2, 4, 8, 8)  # channels of each block, as multiples of the first's
WORDS = ("One", "Two", "Thr", "Fou", "Fiv")  # blocks as the file of "bsds500" names them

Levels255 = Float[Tensor, "batch 3 height width"]  # RGB, 0 to 255


class BSDS500(nn.Module):
    """Xie & Tu's network, by the names of `network-bsds500.pth`. width: channels of the first block, there 64."""

    first = "moduleVggOne.0.weight"

    def __init__(self, width: int = 64):
        super().__init__()
        into = 3
        for block, word in enumerate(WORDS):
            out = width * FACTORS[block]
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if block else []
            for place in range(DEPTHS[block]):
                layers += [nn.Conv2d(out if place else into, out, 3, padding=1), nn.ReLU()]
            setattr(self, f"moduleVgg{word}", nn.Sequential(*layers))
            setattr(self, f"moduleScore{word}", nn.Conv2d(out, 1, 1))
            into = out
        self.moduleCombine = nn.Sequential(nn.Conv2d(len(WORDS), 1, 1))

    def forward(self, levels: Levels255) -> Float[Tensor, "batch 1 height width"]:
        hidden = levels.flip(1) - levels.new_tensor(BGR_MEAN).view(1, 3, 1, 1)  # B, G, R
        outputs = []
        for word in WORDS:
            hidden = getattr(self, f"moduleVgg{word}")(hidden)
            outputs.append(_resized(getattr(self, f"moduleScore{word}")(hidden), levels))
        return self.moduleCombine(torch.cat(outputs, 1)).sigmoid()


class Block(nn.Module):
    """Convolutions of one width, and the output beside them."""

    def __init__(self, into: int, out: int, depth: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(out if place else into, out, 3, padding=1) for place in range(depth))
        self.projection = nn.Conv2d(out, 1, 1)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            hidden = F.relu(conv(hidden))
        return hidden, self.projection(hidden)


class Apache2(nn.Module):
    """ControlNet 1.1's network, by the names of `ControlNetHED.pth`. width: channels of the first block, there 64."""

    first = "block1.convs.0.weight"

    def __init__(self, width: int = 64):
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        into = 3
        for block, (depth, factor) in enumerate(zip(DEPTHS, FACTORS, strict=True), start=1):
            setattr(self, f"block{block}", Block(into, width * factor, depth))
            into = width * factor

    def forward(self, levels: Levels255) -> Float[Tensor, "batch 1 height width"]:
        hidden, outputs = levels - self.norm, []
        for block in range(1, len(DEPTHS) + 1):
            hidden, output = getattr(self, f"block{block}")(hidden if block == 1 else F.max_pool2d(hidden, 2))
            outputs.append(_resized(output, levels))
        return torch.cat(outputs, 1).mean(1, keepdim=True).sigmoid()


KINDS = {"bsds500": BSDS500, "apache2": Apache2}


@dataclass(frozen=True)
class HEDAnnotator:
    """Soft edges of pictures at their own resolution, whose sides are at least 16 pixels."""

    model: nn.Module

    version: ClassVar[int] = 1

    @classmethod
    def load(cls, path: Path, device: torch.device, kind: str) -> HEDAnnotator:
        """From a state dict, `.pth` or `.safetensors`, or from a folder that holds one and no other.

        kind: "bsds500" or "apache2".
        """
        if kind not in KINDS:
            raise UserError(f"There is no HED network of the kind '{kind}'; known are {', '.join(KINDS)}.")
        file = _file(Path(path))
        with readable(file):
            state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        model = _fitted(KINDS[kind], file, state)
        return cls(model.to(device).eval().requires_grad_(False))

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch 1 height width"]:
        device = next(self.model.parameters()).device
        return self.model(images.to(device, torch.float32) * 255)


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(each for each in path.iterdir() if each.suffix in (".pth", ".safetensors"))
    if len(found) != 1:
        raise UserError(
            f"{path} holds {', '.join(each.name for each in found) or 'no state dict'}; put one .pth or .safetensors "
            "there, or give its file."
        )
    return found[0]


def _fitted(kind: type[BSDS500] | type[Apache2], file: Path, state: Mapping[str, Tensor]) -> nn.Module:
    """A network with the tensors of a file, in float32. Its width is the file's, by which the other shapes follow."""
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        raise UserError(f"{file} is no state dict of tensors; restore it.")
    first = state.get(kind.first)
    model = kind() if first is None or first.ndim != 4 or not len(first) else kind(len(first))
    wanted = model.state_dict()
    shared = wanted.keys() & state.keys()
    wrong = {
        name: (state[name].shape, wanted[name].shape) for name in shared if state[name].shape != wanted[name].shape
    }
    refuse_misfits(file, f"a HED network ({kind.__name__})", wanted.keys() - shared, state.keys() - shared, wrong)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def _resized(output: Tensor, levels: Tensor) -> Tensor:
    return F.interpolate(output, levels.shape[-2:], mode="bilinear", align_corners=False)
