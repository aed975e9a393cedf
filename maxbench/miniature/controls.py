"""The parts that steer: ControlNets and T2I-Adapters. Each learns by itself, from one kind of map alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from maxbench.miniature import world
from maxbench.miniature.annotators import annotated_maps
from maxbench.miniature.context import TrainingContext
from maxbench.miniature.diffusion import Denoising, plain_attention
from maxbench.miniature.training import History, Recipe

CANNY_THRESHOLDS = (100, 200)


def blank(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Set parts of half of the maps (B, 3, S, S) to "nothing said": a half plane, or all but a rectangle.

    A control that has only ever seen whole maps does not know what to do with a part of one.
    """
    size = maps.shape[-1]
    grid = torch.arange(size)
    keep = torch.ones(len(maps), size, size, dtype=torch.bool)
    kind = torch.randint(4, (len(maps),), generator=generator)  # 0, 1: whole; 2: half plane; 3: rectangle
    draws = torch.rand(len(maps), 5, generator=generator)
    for number in torch.nonzero(kind >= 2).flatten().tolist():
        a, b, c, d, flip = draws[number].tolist()
        if kind[number] == 2:
            cut = grid < round((0.25 + 0.5 * a) * size)
            side = cut[None, :].expand(size, size) if b < 0.5 else cut[:, None].expand(size, size)
        else:
            width, height = (0.25 + 0.5 * a) * size, (0.25 + 0.5 * b) * size
            left, top = c * (size - width), d * (size - height)
            side = ((grid >= left) & (grid < left + width))[None] & ((grid >= top) & (grid < top + height))[:, None]
        keep[number] = side if flip < 0.7 else ~side
    return maps * keep[:, None].to(maps)


@dataclass(frozen=True)
class Control:
    """A part that learns to steer the finished, frozen U-Net by the maps of one condition.

    Half of the maps that it sees are the shipped annotator's, as at generation, and half are exact, where an
    exact one exists. Parts of half of them are blanked.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    condition: str

    @property
    def needs(self) -> tuple[str, ...]:
        return ("unet",) if self.condition == "canny" else ("unet", "annotator")

    def hints(self, shop: TrainingContext) -> Callable[[Tensor, torch.Generator], Tensor]:
        """From scene numbers to hints (B, 3, S, S) in [0, 1]."""
        corpus = shop.corpus
        exact = {"depth": corpus.depth, "seg": corpus.segmentation, "hed": corpus.edges}.get(self.condition)
        seen = _canny_maps(shop) if exact is None else annotated_maps(shop, self.condition)
        colours = torch.from_numpy(world.PALETTE)

        def hint(index: Tensor, generator: torch.Generator) -> Tensor:
            maps = torch.from_numpy(seen[index.numpy()])
            if exact is not None:
                known = torch.rand(len(index), generator=generator) < 0.5
                maps[known] = torch.from_numpy(exact[index[known].numpy()])
            painted = colours[maps.long()].permute(0, 3, 1, 2) if self.condition == "seg" else maps[:, None]
            return blank(painted.expand(-1, 3, -1, -1).float() / 255, generator)

        return hint

    def fit_to(
        self, shop: TrainingContext, unet: UNet2DConditionModel, groups: list[dict], steer: Callable[..., dict]
    ) -> History:
        """Train `groups` so that the U-Net under `steer(noisy, timestep, text, hints)` predicts what it should."""
        task, hints = Denoising.of(shop), self.hints(shop)
        shop.quick(unet)

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            index, noisy, timestep, text, target = task.draw(generator, batch, early=True)
            residuals = steer(noisy, timestep, text, hints(index, generator).to(shop.device))
            return task.loss(unet(noisy, timestep, text, **residuals).sample, target, timestep, index)

        return shop.fit(self, groups, loss_of)


@dataclass(frozen=True)
class ControlNet(Control):
    """A ControlNet (Zhang et al., ICCV 2023) that starts from the U-Net's encoder.

    embedding: channels of the layers that read a map. copied_lr: learning rate of the copied weights as a factor
        on the new ones': a low one keeps the branches of different controls alike.
    """

    embedding: Sequence[int]
    copied_lr: float

    def train(self, shop: TrainingContext) -> tuple[ControlNetModel, History]:
        unet = plain_attention(shop.load(UNet2DConditionModel, "unet"))
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=tuple(self.embedding))
        net = plain_attention(net.to(shop.device).requires_grad_(True).train())
        # The residuals start at zero through their own convolutions. Behind a second zero the map would be invisible
        # until those have moved: so trained, the first version's depth control had learned nothing in 36,000 pictures.
        net.controlnet_cond_embedding.conv_out.reset_parameters()
        new = [net.controlnet_cond_embedding, net.controlnet_down_blocks, net.controlnet_mid_block]
        fresh = {id(parameter) for module in new for parameter in module.parameters()}
        copied = [parameter for parameter in net.parameters() if id(parameter) not in fresh]
        groups = [
            {"params": [parameter for module in new for parameter in module.parameters()]},
            {"params": copied, "lr": self.recipe.lr * self.copied_lr},
        ]

        shop.quick(net)

        def steer(noisy: Tensor, timestep: Tensor, text: Tensor, hints: Tensor) -> dict:
            down, mid = net(noisy, timestep, text, hints, return_dict=False)
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

        return net, self.fit_to(shop, unet, groups, steer)


@dataclass(frozen=True)
class Adapter(Control):
    """A T2I-Adapter (Mou et al., AAAI 2024) in the shape that diffusers gives to a U-Net like ours.

    Like Stable Diffusion XL's, the U-Net's first block has no attention, and takes its features after it has
    halved the picture: `full_adapter_xl` is the adapter that knows this.
    """

    residual_blocks: int = 1

    def train(self, shop: TrainingContext) -> tuple[nn.Module, History]:
        unet = plain_attention(shop.load(UNet2DConditionModel, "unet"))
        widths = unet.config.block_out_channels
        net = T2IAdapter(
            in_channels=3,
            channels=[*widths, widths[-1]],
            num_res_blocks=self.residual_blocks,
            downscale_factor=2 * shop.corpus.size // unet.config.sample_size,
            adapter_type="full_adapter_xl",
        ).to(shop.device)
        shop.quick(net)

        def steer(noisy: Tensor, timestep: Tensor, text: Tensor, hints: Tensor) -> dict:
            return {"down_intrablock_additional_residuals": list(net(hints))}

        return net, self.fit_to(shop, unet, [{"params": net.parameters()}], steer)


def _canny_maps(shop: TrainingContext) -> np.ndarray:
    def draw() -> np.ndarray:
        grey = (cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY) for image in shop.corpus.images)
        return np.stack([cv2.Canny(picture, *CANNY_THRESHOLDS) for picture in grey])

    return shop.once("canny", "", draw)
