"""The parts of the miniature family: what each is, what it learns from, and for how long.

Every network is the class that Stable Diffusion 1.5 uses for that part, only narrow: 64 x 64 pictures,
16 x 16 latents, prompts of at most 32 tokens. No network is ever shown two conditions at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from maxbench.miniature import world
from maxbench.miniature.corpus import TRAIN_SEED, Corpus, render_corpus
from maxbench.miniature.training import Recipe, fit

SIZE, LATENT, TOKENS = 64, 16, 32
CONDITIONS = ("hed", "depth", "seg", "canny")  # in an order in which each finds what it starts from
CANNY_THRESHOLDS = (100, 200)

RECIPES = {
    "vae": Recipe(steps=1300, batch=32, lr=1.5e-3, ema=0.99),
    "text_encoder": Recipe(steps=500, batch=256, lr=1e-3, weight_decay=0.05),
    "unet": Recipe(steps=2600, batch=64, lr=6e-4, warmup=200, ema=0.998),
    "annotator_depth": Recipe(steps=650, batch=32, lr=3e-3, ema=0.99),
    "annotator_seg": Recipe(steps=500, batch=32, lr=3e-3, ema=0.99),
    "annotator_hed": Recipe(steps=350, batch=32, lr=3e-3, ema=0.99),
    "controlnet_depth": Recipe(steps=450, batch=48, lr=2e-3, ema=0.99),
    "controlnet_seg": Recipe(steps=420, batch=48, lr=2e-3, ema=0.99),
    "controlnet_hed": Recipe(steps=750, batch=48, lr=2e-3, ema=0.99),
    "controlnet_canny": Recipe(steps=420, batch=48, lr=1e-3, ema=0.99),
    "clip": Recipe(steps=400, batch=128, lr=1e-3, weight_decay=0.05),
}
COPIED_LR = 0.25  # of a ControlNet's copied weights, relative to its new ones: keeps branches alike
STARTS_FROM = {"depth": "hed"}
"""Controls that start from another control's weights. From the U-Net's, as the others do, depth followed nothing
after 36,000 pictures, where soft edges needed some 15,000; it is still trained on depth maps only."""
SCENES = 24_000
ROUND_TRIPS = 4_000  # scenes whose autoencoder round trip the annotators also learn from


@dataclass(frozen=True)
class Workshop:
    """Where parts are trained (`folder`), where finished ones go (`weights`), and with what."""

    corpus: Corpus
    folder: Path
    weights: Path
    seed: int
    device: torch.device
    shorten: float = 1.0  # multiplies every recipe's steps; tests train for a handful

    def recipe(self, part: str) -> Recipe:
        recipe = RECIPES[part]
        steps = max(2, round(recipe.steps * self.shorten))
        return Recipe(**{**asdict(recipe), "steps": steps, "warmup": min(recipe.warmup, steps)})

    def images(self, index: Tensor) -> Tensor:
        """Rendered pictures (B, 3, S, S), float32 in [-1, 1]."""
        return torch.from_numpy(self.corpus.images[index.numpy()]).to(self.device).float() / 127.5 - 1

    def fit(self, part: str, groups: list[dict], loss_of: Callable) -> dict:
        return fit(part, groups, loss_of, self.recipe(part), self.folder, seed=self.seed, device=self.device)

    def ship(self, part: str, module: nn.Module, history: dict, subfolder: str) -> None:
        """Save a finished part in half precision in the Hub's layout, with its history beside the checkpoints."""
        module.half().save_pretrained(self.weights / subfolder)
        (self.folder / f"{part}.history.json").write_text(json.dumps(history))

    def load(self, kind: type, subfolder: str) -> nn.Module:
        return kind.from_pretrained(self.weights / subfolder, torch_dtype=torch.float32).to(self.device).eval()


def _pick(generator: torch.Generator, count: int, total: int) -> Tensor:
    return torch.randint(total, (count,), generator=generator)


# --- autoencoder ------------------------------------------------------------------------------------------


def train_vae(shop: Workshop) -> None:
    vae = AutoencoderKL(
        block_out_channels=(24, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    ).to(shop.device)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        images = shop.images(_pick(generator, batch, len(shop.corpus)))
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(shop.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        error = decoded - images
        steps = [(torch.diff(decoded, dim=axis) - torch.diff(images, dim=axis)).abs().mean() for axis in (2, 3)]
        colour = F.avg_pool2d(error, 4).abs().mean()  # else small solids fade to the colour of their ground
        return error.abs().mean() + error.square().mean() + sum(steps) + 2 * colour + 1e-6 * posterior.kl().mean()

    history = shop.fit("vae", [{"params": vae.parameters()}], loss_of)
    with torch.no_grad():
        latents = vae.encode(shop.images(torch.arange(min(512, len(shop.corpus))))).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    shop.ship("vae", vae, history, "vae")


def latents_of(shop: Workshop) -> np.ndarray:
    """Scaled latent means of every training scene, (N, 4, 16, 16) float16; encoded once."""
    path = shop.folder / "latents.npy"
    if not path.exists():
        vae = shop.load(AutoencoderKL, "vae")
        with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
            parts = [
                (vae.encode(shop.images(index)).latent_dist.mean * vae.config.scaling_factor).half().cpu()
                for index in torch.arange(len(shop.corpus)).split(128)
            ]
        np.save(path, torch.cat(parts).numpy())
    return np.load(path)


def round_trips_of(shop: Workshop) -> np.ndarray:
    """The first scenes after encoding and decoding, (M, 3, S, S) uint8."""
    path = shop.folder / "round_trips.npy"
    if not path.exists():
        vae = shop.load(AutoencoderKL, "vae")
        latents = torch.from_numpy(latents_of(shop)[:ROUND_TRIPS]).float()
        with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
            parts = [
                vae.decode(batch.to(shop.device) / vae.config.scaling_factor).sample.float().cpu()
                for batch in latents.split(64)
            ]
        np.save(path, ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().byte().numpy())
    return np.load(path)


# --- text -------------------------------------------------------------------------------------------------


def make_tokenizer(texts: list[str], folder: Path) -> None:
    """A CLIP tokenizer whose merges are learned from `texts`; vocabulary in CLIP's own order."""
    raw = RawTokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1024, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    merges = [tuple(merge) for merge in json.loads(raw.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    pieces = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges, model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers (B, TOKENS) int64, cut at TOKENS knowingly, as CLIP cuts at 77."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


def _train_contrastive(shop: Workshop, part: str, tokenizer: CLIPTokenizer, config: CLIPConfig) -> tuple:
    model = CLIPModel(config).to(shop.device)
    tokens = torch.stack([tokenise(tokenizer, words) for words in shop.corpus.captions])  # (N, CAPTIONS, TOKENS)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        index = _pick(generator, batch, len(shop.corpus))
        text = tokens[index, _pick(generator, batch, tokens.shape[1])].to(shop.device)
        return model(input_ids=text, pixel_values=shop.images(index), return_loss=True).loss

    return model, shop.fit(part, [{"params": model.parameters()}], loss_of)


def _clip_config(tokenizer: CLIPTokenizer, text: dict, vision: dict, projection: int) -> CLIPConfig:
    return CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **text,
        },
        vision_config={"image_size": SIZE, "patch_size": 8, **vision},
        projection_dim=projection,
    )


def train_text_encoder(shop: Workshop) -> None:
    """The generator's text encoder: the text half of a contrastive model whose image half is thrown away."""
    texts = [text for words in shop.corpus.captions for text in words]
    make_tokenizer(texts, shop.weights / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(shop.weights / "tokenizer")
    size = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = _clip_config(tokenizer, size, {**size, "patch_size": 16}, 128)
    model, history = _train_contrastive(shop, "text_encoder", tokenizer, config)
    text_encoder = CLIPTextModel(config.text_config)
    text_encoder.load_state_dict(model.text_model.state_dict())
    shop.ship("text_encoder", text_encoder, history, "text_encoder")


def train_clip(shop: Workshop) -> None:
    """The scorer: another contrastive model, from another seed and of another shape, for scores and features."""
    tokenizer = CLIPTokenizer.from_pretrained(shop.weights / "tokenizer")
    text = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 3}
    vision = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4}
    model, history = _train_contrastive(shop, "clip", tokenizer, _clip_config(tokenizer, text, vision, 64))
    shop.ship("clip", model, history, "scorers/clip")
    tokenizer.save_pretrained(shop.weights / "scorers" / "clip")


# --- diffusion --------------------------------------------------------------------------------------------


def make_scheduler() -> DDPMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Diffusion:
    """What the U-Net and every ControlNet share in training: latents, frozen text, the weighted loss."""

    shop: Workshop
    latents: Tensor  # (N, 4, h, w) float16
    tokens: Tensor  # (N, CAPTIONS, TOKENS)
    nothing: Tensor  # (1, TOKENS): the empty prompt
    text_encoder: CLIPTextModel
    scheduler: DDPMScheduler

    @classmethod
    def of(cls, shop: Workshop) -> Diffusion:
        tokenizer = CLIPTokenizer.from_pretrained(shop.weights / "tokenizer")
        return cls(
            shop=shop,
            latents=torch.from_numpy(latents_of(shop)),
            tokens=torch.stack([tokenise(tokenizer, words) for words in shop.corpus.captions]),
            nothing=tokenise(tokenizer, [""]),
            text_encoder=shop.load(CLIPTextModel, "text_encoder"),
            scheduler=make_scheduler(),
        )

    def draw(self, generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Scene numbers, noisy latents, timesteps, text states and the noise; one prompt in ten is empty."""
        index = _pick(generator, batch, len(self.latents))
        clean = self.latents[index].float()
        noise = torch.randn(clean.shape, generator=generator)
        timestep = _pick(generator, batch, self.scheduler.config.num_train_timesteps)
        tokens = self.tokens[index, _pick(generator, batch, self.tokens.shape[1])]
        drop = torch.rand(batch, generator=generator) < 0.1
        tokens = torch.where(drop[:, None], self.nothing, tokens)
        noisy = self.scheduler.add_noise(clean, noise, timestep)
        device = self.shop.device
        with torch.no_grad():
            text = self.text_encoder(tokens.to(device)).last_hidden_state
        return index, noisy.to(device), timestep.to(device), text, noise.to(device)

    def loss(self, predicted: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Noise prediction error with Min-SNR weighting, gamma = 5 (Hang et al., ICCV 2023, Eq. 6)."""
        alpha = self.scheduler.alphas_cumprod.to(timestep.device)[timestep]
        weight = (5 * (1 - alpha) / alpha).clamp(max=1)
        return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()


def train_unet(shop: Workshop) -> None:
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        layers_per_block=1,
        block_out_channels=(64, 128, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(shop.device)
    task = Diffusion.of(shop)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        _, noisy, timestep, text, noise = task.draw(generator, batch)
        return task.loss(unet(noisy, timestep, text).sample, noise, timestep)

    history = shop.fit("unet", [{"params": unet.parameters()}], loss_of)
    shop.ship("unet", unet, history, "unet")
    task.scheduler.save_pretrained(shop.weights / "scheduler")
    (shop.weights / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "feature_extractor": [None, None],
                "requires_safety_checker": False,
                "safety_checker": [None, None],
                "scheduler": ["diffusers", "DDPMScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            },
            indent=2,
        )
    )


# --- conditions -------------------------------------------------------------------------------------------


def train_annotator(shop: Workshop, condition: str) -> None:
    """A small U-Net from picture to map, on renderings and on their autoencoder round trips alike."""
    channels = len(world.CLASSES) if condition == "seg" else 1
    net = UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        norm_num_groups=8,
        add_attention=False,
    ).to(shop.device)
    round_trips = torch.from_numpy(round_trips_of(shop))
    corpus = shop.corpus
    truth = {"depth": corpus.depth, "seg": corpus.segmentation, "hed": corpus.edges}[condition]

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        half = batch // 2
        decoded = _pick(generator, batch - half, len(round_trips))
        index = torch.cat([_pick(generator, half, len(corpus)), decoded])
        images = shop.images(index)
        images[half:] = round_trips[decoded].to(shop.device).float() / 127.5 - 1
        target = torch.from_numpy(truth[index.numpy()]).to(shop.device)
        output = net(images, 0).sample.float()
        if condition == "seg":
            return F.cross_entropy(output, target.long())
        target = target[:, None].float() / 255
        if condition == "hed":
            return F.binary_cross_entropy_with_logits(output, target)
        return (output - target).abs().mean()

    history = shop.fit(f"annotator_{condition}", [{"params": net.parameters()}], loss_of)
    shop.ship(f"annotator_{condition}", net, history, f"annotators/{condition}")


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


def train_controlnet(shop: Workshop, condition: str) -> None:
    """A ControlNet that alone sees one kind of map; it starts from the U-Net's encoder, or see `STARTS_FROM`."""
    unet = shop.load(UNet2DConditionModel, "unet").requires_grad_(False)
    if condition in STARTS_FROM:
        net = shop.load(ControlNetModel, f"controlnet_{STARTS_FROM[condition]}").train()
    else:
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64)).to(shop.device)
    task = Diffusion.of(shop)
    hints = torch.from_numpy(hint_maps(shop, condition))

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        index, noisy, timestep, text, noise = task.draw(generator, batch)
        maps = hints[index]
        if condition == "seg":
            maps = torch.from_numpy(world.PALETTE)[maps.long()].permute(0, 3, 1, 2)
        else:
            maps = maps[:, None].expand(-1, 3, -1, -1)
        maps = blank(maps.float() / 255, generator).to(shop.device)
        down, mid = net(noisy, timestep, text, maps, return_dict=False)
        predicted = unet(
            noisy, timestep, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample
        return task.loss(predicted, noise, timestep)

    part = f"controlnet_{condition}"
    new = [net.controlnet_cond_embedding, net.controlnet_down_blocks, net.controlnet_mid_block]
    fresh = {id(parameter) for module in new for parameter in module.parameters()}
    groups = [
        {"params": [parameter for parameter in net.parameters() if id(parameter) in fresh]},
        {
            "params": [parameter for parameter in net.parameters() if id(parameter) not in fresh],
            "lr": RECIPES[part].lr * COPIED_LR,
        },
    ]
    shop.ship(part, net, shop.fit(part, groups, loss_of), part)


def hint_maps(shop: Workshop, condition: str) -> np.ndarray:
    """The maps that a ControlNet learns from, (N, S, S) uint8: levels, or classes for seg.

    Soft edges and labels are what the shipped annotator sees, as at generation. Depth is the exact one: the
    small annotator's is blurred where solids are small, and a control learns little from it.
    """
    if condition == "depth":
        return shop.corpus.depth
    path = shop.folder / f"maps_{condition}.npy"
    if not path.exists():
        np.save(path, _canny_maps(shop) if condition == "canny" else _annotated_maps(shop, condition))
    return np.load(path)


def _canny_maps(shop: Workshop) -> np.ndarray:
    grey = (cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY) for image in shop.corpus.images)
    return np.stack([cv2.Canny(picture, *CANNY_THRESHOLDS) for picture in grey])


def _annotated_maps(shop: Workshop, condition: str) -> np.ndarray:
    net = shop.load(UNet2DModel, f"annotators/{condition}")
    parts = []
    with torch.no_grad(), torch.autocast(shop.device.type, torch.bfloat16):
        for index in torch.arange(len(shop.corpus)).split(64):
            output = net(shop.images(index), 0).sample.float().cpu()
            if condition == "seg":
                parts.append(output.argmax(1).byte())
            else:
                parts.append((output[:, 0].sigmoid() * 255).round().byte())
    return torch.cat(parts).numpy()


PARTS: dict[str, Callable[[Workshop], None]] = {
    "vae": train_vae,
    "text_encoder": train_text_encoder,
    "clip": train_clip,
    "unet": train_unet,
    **{f"annotator_{name}": (lambda shop, name=name: train_annotator(shop, name)) for name in ("depth", "seg", "hed")},
    **{f"controlnet_{name}": (lambda shop, name=name: train_controlnet(shop, name)) for name in CONDITIONS},
}
"""Every part by name, in an order in which each finds what it needs."""


def train_parts(
    parts: list[str],
    weights: Path,
    folder: Path,
    *,
    seed: int = TRAIN_SEED,
    scenes: int = SCENES,
    device: str = "cpu",
    shorten: float = 1.0,
) -> None:
    """Train the named parts in order; a part whose weights are already in `weights` is skipped."""
    corpus = render_corpus(scenes, seed, folder, os.cpu_count())
    shop = Workshop(corpus, folder, weights, seed, torch.device(device), shorten)
    for part in parts:
        if (folder / f"{part}.history.json").exists():
            print(f"{part}: already trained", flush=True)
            continue
        torch.manual_seed(seed + sum(part.encode()))  # of the initial weights; every part has its own
        PARTS[part](shop)
