"""The parts that look: annotators, which draw condition maps, and scorers, which measure pictures.

Both learn the same exact maps of the world, each with draws of its own, in a network of another make, from pictures
that are disturbed in another way and with another loss, so that a picture that fools the one need not fool the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from maxbench.miniature import world
from maxbench.miniature.autoencoder import reconstructions_of
from maxbench.miniature.context import TrainingContext
from maxbench.miniature.dilated import DilatedNet
from maxbench.miniature.training import History, Recipe, pick

HEADS = {"depth": slice(0, 1), "hed": slice(1, 2), "seg": slice(2, 2 + len(world.CLASSES))}
"""Channels of a map network's output: depth in [0, 1], logits of a soft edge, logits of the classes."""
OUTPUTS = HEADS["seg"].stop


def observing_loss(
    output: Tensor, depth: Tensor, edges: Tensor, segmentation: Tensor, solids: float = 1.0, squared: bool = False
) -> Tensor:
    """How far maps (B, OUTPUTS, S, S) are from the exact ones, (B, S, S) uint8 each.

    solids: how much more a pixel of a solid counts for the classes than one of the scene. squared: take the squared
    error of depth and not the absolute one.
    """
    away = output[:, HEADS["depth"]][:, 0] - depth.float() / 255
    near = 80 * away.square().mean() if squared else 8 * away.abs().mean()
    edge = F.binary_cross_entropy_with_logits(output[:, HEADS["hed"]][:, 0], edges.float() / 255)
    weight = torch.ones(len(world.CLASSES), device=output.device)
    weight[world.SOLIDS] = solids
    kind = F.cross_entropy(output[:, HEADS["seg"]], segmentation.long(), weight)
    return near + edge + kind


def disturbed(images: Tensor, generator: torch.Generator, noise: float, blur: float, colour: float) -> Tensor:
    """Pictures (B, 3, S, S) in [-1, 1], blurred, changed in colour and with noise; each by another amount.

    noise: largest standard deviation of noise that is added. blur: the standard deviation of a Gaussian blur of five
    pixels a side is up to this and 0.1 pixels more; 0 for none. colour: largest change of a channel's gain (1 is none)
    and of its offset (0 is none).
    """
    device, draws = images.device, torch.rand(8, len(images), generator=generator)
    if blur:
        sigma = (0.1 + blur * draws[0])[:, None]
        line = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma) ** 2)  # (B, 5)
        line = (line / line.sum(1, keepdim=True)).repeat_interleave(3, 0).to(device)
        flat = F.pad(images.flatten(0, 1)[None], (2, 2, 2, 2), mode="replicate")
        flat = F.conv2d(flat, line[:, None, None, :], groups=len(line))
        images = F.conv2d(flat, line[:, None, :, None], groups=len(line))[0].unflatten(0, images.shape[:2])
    if colour:
        gain, offset = (colour * (2 * each - 1).T[:, :, None, None].to(device) for each in (draws[1:4], draws[4:7]))
        images = images * (1 + gain) + offset
    if noise:
        images = images + (noise * draws[7])[:, None, None, None].to(device) * torch.randn(
            images.shape, generator=generator
        ).to(device)
    return images


@dataclass(frozen=True)
class Observer:
    """Learns on renderings and on their VAE reconstructions alike, since both are what it will look at.

    reconstructions: scenes whose VAE reconstruction it sees. noise, blur, colour: how far its pictures are disturbed,
    see :func:`disturbed`. solids, squared: of its loss, see :func:`observing_loss`.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    channels: Sequence[int]
    reconstructions: int
    noise: float = 0.0
    blur: float = 0.0
    colour: float = 0.0
    solids: float = 1.0
    squared: bool = False

    needs = ("decoder",)

    def train(self, shop: TrainingContext) -> tuple[nn.Module, History]:
        net = shop.quick(self.build(shop.corpus.size).to(shop.device))
        corpus = shop.corpus
        decoded = torch.from_numpy(reconstructions_of(shop, min(self.reconstructions, len(corpus))))

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            half = batch // 2
            seen = pick(generator, batch - half, len(decoded))
            index = torch.cat([pick(generator, half, len(corpus)), seen])
            images = shop.images(index)
            images[half:] = decoded[seen].to(shop.device).float() / 127.5 - 1
            planes = (corpus.depth, corpus.edges, corpus.segmentation)
            truth = (torch.from_numpy(plane[index.numpy()]).to(shop.device) for plane in planes)
            output = self.look(net, disturbed(images, generator, self.noise, self.blur, self.colour)).float()
            return observing_loss(output, *truth, self.solids, self.squared)

        return net, shop.fit(self, [{"params": net.parameters()}], loss_of)


class Annotator(Observer):
    """A small U-Net; one for all conditions."""

    def build(self, size: int) -> UNet2DModel:
        return UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=OUTPUTS,
            layers_per_block=1,
            block_out_channels=tuple(self.channels),
            down_block_types=("DownBlock2D",) * len(self.channels),
            up_block_types=("UpBlock2D",) * len(self.channels),
            norm_num_groups=8,
            add_attention=False,
        )

    @staticmethod
    def look(net: UNet2DModel, images: Tensor) -> Tensor:
        return net(images, 0).sample


class MapScorer(Observer):
    """A dilated residual network."""

    def build(self, size: int) -> DilatedNet:
        (width,) = set(self.channels)
        return DilatedNet(OUTPUTS, width)

    @staticmethod
    def look(net: DilatedNet, images: Tensor) -> Tensor:
        return net(images)


def annotated_maps(shop: TrainingContext, condition: str) -> np.ndarray:
    """What the shipped annotator draws of every training scene, (N, S, S) uint8: levels, or classes for seg."""

    def draw() -> np.ndarray:
        net = shop.load(UNet2DModel, "annotators")
        maps = np.empty((len(HEADS), *shop.corpus.depth.shape), np.uint8)
        with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
            for index in torch.arange(len(shop.corpus)).split(64):
                output = net(shop.images(index), 0).sample.float().cpu()
                depth, edges = output[:, HEADS["depth"]].clamp(0, 1), output[:, HEADS["hed"]].sigmoid()
                levels = ((plane[:, 0] * 255).round().byte() for plane in (depth, edges))
                maps[:, index] = torch.stack([*levels, output[:, HEADS["seg"]].argmax(1).byte()]).numpy()
        return maps

    return shop.once("annotated", "annotator", draw)[list(HEADS).index(condition)]
