"""The style branch: an encoder of pictures, and an IP-Adapter that lets the U-Net attend to what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from maxbench.miniature.context import TrainingContext
from maxbench.miniature.diffusion import Denoising, plain_attention
from maxbench.miniature.language import Contrastive
from maxbench.miniature.training import History, Recipe

TOKENS = 4  # of a picture; what diffusers takes an IP-Adapter of the plain kind to have
FILE = "ip_adapter.safetensors"


class ImageEncoder(Contrastive):
    """The picture half of a contrastive model of its own, so that no scorer judges what it has prompted."""

    needs = ("text_encoder",)  # for its tokenizer alone

    def train(self, shop: TrainingContext) -> tuple[CLIPVisionModelWithProjection, History]:
        model, history = self.fit(shop)
        config = model.config.vision_config
        config.projection_dim = self.projection
        encoder = CLIPVisionModelWithProjection(config)
        encoder.vision_model.load_state_dict(model.vision_model.state_dict())
        encoder.visual_projection.load_state_dict(model.visual_projection.state_dict())
        return encoder, history


@dataclass(frozen=True)
class ImagePrompt:
    """An IP-Adapter (Ye et al., arXiv 2308.06721): new keys and values for a picture in every text attention.

    It is shown a flipped crop of the very picture whose noise it helps to predict, so that it learns what a picture
    is made of and not where things stand. text_drop, image_drop: shares of empty prompts and of silent pictures.
    """

    recipe: Recipe
    seed: int
    subfolder: str
    text_drop: float
    image_drop: float
    smallest_crop: float

    needs = ("unet", "image_encoder")

    def train(self, shop: TrainingContext) -> tuple[nn.Module, History]:
        task, unet = Denoising.of(shop), plain_attention(shop.load(UNet2DConditionModel, "unet"))
        views = torch.from_numpy(views_of(shop, self.smallest_crop))  # (N, views, D)
        prompt = IPAdapter.from_unet(unet, views.shape[-1]).to(shop.device)
        shop.quick(unet)
        with torch.no_grad():
            silence = task.text_encoder(task.nothing.to(shop.device)).last_hidden_state

        def loss_of(generator: torch.Generator, batch: int) -> Tensor:
            index, noisy, timestep, text, target = task.draw(generator, batch, early=True)
            view = torch.randint(views.shape[1], (batch,), generator=generator)
            unprompted, unseen = torch.rand(2, batch, generator=generator)
            text = torch.where((unprompted < self.text_drop)[:, None, None].to(shop.device), silence, text)
            seen = views[index, view].float() * (unseen >= self.image_drop)[:, None]
            predicted = unet(
                noisy, timestep, text, added_cond_kwargs={"image_embeds": [seen[:, None].to(shop.device)]}
            ).sample
            return task.loss(predicted, target, timestep, index)

        return prompt, shop.fit(self, [{"params": prompt.parameters()}], loss_of)


class IPAdapter(nn.Module):
    """What an IP-Adapter adds to a U-Net, installed there by diffusers itself and saved in the Hub's format."""

    def __init__(self, projection: nn.Module, attention: list[nn.Module]):
        super().__init__()
        self.projection, self.attention = projection, nn.ModuleList(attention)

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, image_width: int) -> IPAdapter:
        """Untrained: keys and values start from those of the text, the tokens of a picture at random."""
        width = unet.config.cross_attention_dim
        linear, norm = nn.Linear(image_width, TOKENS * width), nn.LayerNorm(width)
        image_proj = {"proj.weight": linear.weight, "proj.bias": linear.bias, "norm.weight": norm.weight}
        state = {"image_proj": {**image_proj, "norm.bias": norm.bias}, "ip_adapter": {}}
        layers = [unet.get_submodule(name.removesuffix(".processor")) for name in text_attention(unet)]
        for number, layer in enumerate(layers):
            for kind in ("k", "v"):
                weight = getattr(layer, f"to_{kind}").weight.detach().clone()
                state["ip_adapter"][f"{2 * number + 1}.to_{kind}_ip.weight"] = weight
        detached = {group: {key: value.detach() for key, value in each.items()} for group, each in state.items()}
        unet._load_ip_adapter_weights([detached])  # what StableDiffusionPipeline.load_ip_adapter does with a file
        if unet.device.type == "cpu":
            unet.set_attn_processor({name: _plain(processor, unet) for name, processor in unet.attn_processors.items()})
        attention = [unet.attn_processors[name].requires_grad_(True) for name in text_attention(unet)]
        return cls(unet.encoder_hid_proj.image_projection_layers[0].requires_grad_(True), attention)

    def state(self) -> dict[str, Tensor]:
        """By the names of the files on the Hub."""
        own = {f"image_proj.{name.replace('image_embeds', 'proj')}": value for name, value in
               self.projection.state_dict().items()}  # fmt: skip
        for number, processor in enumerate(self.attention):
            for name, value in processor.state_dict().items():
                own[f"ip_adapter.{2 * number + 1}.{name.replace('.0.', '.')}"] = value
        return own

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in self.state().items()}, folder / FILE)


def text_attention(unet: UNet2DConditionModel) -> list[str]:
    """Names of the attention processors that read the text, in the order in which diffusers numbers them."""
    return [name for name in unet.attn_processors if name.endswith("attn2.processor")]


def _plain(processor: nn.Module, unet: UNet2DConditionModel) -> nn.Module:
    """An attention processor without fused attention, whose backward pass is the slower one on a CPU."""
    if not hasattr(processor, "to_k_ip"):
        return processor
    plain = IPAdapterAttnProcessor(processor.hidden_size, processor.cross_attention_dim, processor.num_tokens)
    plain.load_state_dict(processor.state_dict())
    return plain.to(unet.device, unet.dtype)


def views_of(shop: TrainingContext, smallest: float, count: int = 2) -> np.ndarray:
    """Embeddings of `count` flipped crops of every training scene, (N, count, D) float16; made once."""

    def embed() -> np.ndarray:
        encoder = shop.load(CLIPVisionModelWithProjection, "image_encoder")
        generator = np.random.default_rng(0)
        rows = []
        for start in range(0, len(shop.corpus), 128):
            pictures = shop.corpus.images[start : start + 128]
            views = np.stack([_view(each, generator, smallest) for each in pictures for _ in range(count)])
            pixels = torch.from_numpy(views).to(shop.device).float() / 127.5 - 1
            with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
                rows.append(encoder(pixels).image_embeds.float().cpu().half().view(len(pictures), count, -1))
        return torch.cat(rows).numpy()

    return shop.once(f"views-{smallest:g}-{count}", "image_encoder", embed)


def _view(picture: np.ndarray, generator: np.random.Generator, smallest: float) -> np.ndarray:
    """A crop of `smallest` or more of each side at full size, half of them mirrored, (3, S, S) uint8."""
    size = picture.shape[-1]
    side = round(size * generator.uniform(smallest, 1))
    top, left = generator.integers(0, size - side + 1, 2)
    crop = picture[:, top : top + side, left : left + side].transpose(1, 2, 0)
    resized = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_LINEAR)
    return (resized[:, ::-1] if generator.random() < 0.5 else resized).transpose(2, 0, 1).copy()
