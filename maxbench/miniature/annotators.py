"""The parts that look: annotators, which draw condition maps, and scorers, which measure pictures.

Both learn the same exact maps of the world, each with draws of its own and in a network of another make, so that a
picture that fools the one need not fool the other.
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


def observing_loss(output: Tensor, depth: Tensor, edges: Tensor, segmentation: Tensor) -> Tensor:
    """How far maps (B, OUTPUTS, S, S) are from the exact ones, (B, S, S) uint8 each."""
    near = (output[:, HEADS["depth"]][:, 0] - depth.float() / 255).abs().mean()
    edge = F.binary_cross_entropy_with_logits(output[:, HEADS["hed"]][:, 0], edges.float() / 255)
    kind = F.cross_entropy(output[:, HEADS["seg"]], segmentation.long())
    return 8 * near + edge + kind


@dataclass(frozen=True)
class Observer:
    """Learns on renderings and on their VAE reconstructions alike, since both are what it will look at.

    reconstructions: scenes whose VAE reconstruction it sees.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    channels: Sequence[int]
    reconstructions: int

    needs = ("vae",)

    def train(self, shop: TrainingContext) -> tuple[nn.Module, History]:
        net = self.build(shop.corpus.size).to(shop.device)
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
            return observing_loss(self.look(net, images).float(), *truth)

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
