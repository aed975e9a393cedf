"""What a U-Net of the family is worth before any control is trained on it: for short trials of recipes.

Families whose U-Nets were trained differently are held against each other on the same held-out scenes, prompts and
noise. Nothing of a run is needed, so that a trial costs minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from maxbench.errors import UserError
from maxbench.images import to_bytes
from maxbench.metrics.statistics import bootstrap_mean
from maxbench.miniature import world
from maxbench.miniature.context import TrainingContext, read_history
from maxbench.miniature.corpus import Corpus
from maxbench.miniature.diffusion import Denoising, prediction_of
from maxbench.miniature.generated import DRAWS, FLOOR, RECOGNISED, equal_size, frechet_draws, recognised, spread
from maxbench.miniature.language import tokenise
from maxbench.miniature.quality import BATCH, SEED, Look, Measure, batches, signed
from maxbench.miniature.training import step_generator
from maxbench.miniature.words import lone_kind
from maxbench.progress import track

NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
LOSS_BATCHES = 64  # of held-out latents
WRONG_DRAWS = 10
FOLLOWING = dict(zip(world.SHAPES, (*world.SHAPES[1:], world.SHAPES[0]), strict=True))
"""Kind -> the wrong one that is put in its place."""


@dataclass(frozen=True)
class Sampling:
    """How the trial's pictures are drawn: DDIM with classifier-free guidance."""

    steps: int
    guidance: float
    seed: int = 0


def require_generator(weights: Path) -> None:
    """Refuse a folder that cannot draw pictures from text, or does not say how its U-Net was trained."""
    missing = [part for part in NEEDED if not (weights / part).is_dir()]
    missing += [f"history of its {part}" for part in ("vae", "unet") if not read_history(weights, part)]
    if missing:
        raise UserError(
            f"{weights} has no {', no '.join(missing)}; name a folder in which `python scripts/train_miniature.py` has "
            "trained the U-Net."
        )


def require_judges(maps: Path, clip: Path) -> None:
    """Refuse folders without the networks that judge: a family's map networks, and a CLIP model."""
    for folder in (maps / "annotators", maps / "scorers" / "maps", clip):
        if not any(folder.glob("*.safetensors")):
            raise UserError(
                f"{folder} has no weights; name a family with map networks by --scorer, and CLIP by --clip."
            )


def recipe_of(weights: Path) -> dict[str, Any]:
    """What a U-Net is and how it was trained, from its history."""
    history = read_history(weights, "unet")
    part, recipe = history["part"], history["part"]["recipe"]
    return {
        "channels": " ".join(map(str, part.get("channels", ()))),
        "prediction": prediction_of(history),
        "pictures seen": recipe["steps"] * recipe["batch"],
        "batch": recipe["batch"],
        "learning rate": recipe["lr"],
        "average": recipe["ema"],
        "weight floor": part.get("weight_floor", 0.0),
        "near solids": part.get("solids", 1.0),
        "seed": part.get("seed", ""),
    }


def held_out_loss(weights: Path, corpus: Corpus, folder: Path) -> Tensor:
    """The plain loss on held-out scenes, (batches,) means of BATCH draws each; the same draws for every family.

    It weighs the error of the clean latents by min(SNR, 5), whatever a U-Net predicts and was trained with, and so is
    one quantity for all.
    folder: where the latents of the corpus are kept; of this corpus alone.
    """
    shop = TrainingContext(corpus, folder, weights, torch.device("cpu"))
    task, unet = Denoising.of(shop), shop.load(UNet2DConditionModel, "unet")
    losses = []
    with torch.inference_mode():
        for number in track(range(LOSS_BATCHES), f"loss of {weights.name}", LOSS_BATCHES, "batches"):
            index, noisy, timestep, text, target = task.draw(step_generator(SEED, "held-out", number), BATCH)
            losses.append(task.loss(unet(noisy, timestep, text).sample, target, timestep, index))
    return torch.stack(losses).double()


def wrong_kind(weights: Path, corpus: Corpus, folder: Path) -> np.ndarray:
    """By how much the loss of a scene with one solid grows where its prompt names another kind, (scenes,).

    Prompt and wrong prompt are read with the same noise, at WRONG_DRAWS noise levels of every scene: how much of what
    the prompt says of the kind a U-Net uses, long before its pictures show a kind that can be recognised.
    """
    shop = TrainingContext(corpus, folder, weights, torch.device("cpu"))
    task, unet = Denoising.of(shop), shop.load(UNet2DConditionModel, "unet")
    lone = [number for number, captions in enumerate(corpus.captions) if lone_kind(captions[0])]
    right = [corpus.captions[number][0] for number in lone]
    wrong = [text.replace(kind, FOLLOWING[kind]) for text in right if (kind := lone_kind(text))]
    tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")
    steps, size = task.scheduler.config.num_train_timesteps, len(lone)
    grown = []
    with torch.inference_mode():
        read = [task.text_encoder(tokenise(tokenizer, texts)).last_hidden_state for texts in (right, wrong)]
        for number in track(range(WRONG_DRAWS), f"wrong kinds of {weights.name}", WRONG_DRAWS, "draws"):
            clean = task.latents[torch.tensor(lone)].float()
            noise = torch.randn(clean.shape, generator=step_generator(SEED, "wrong kind", number))
            timestep = torch.full((size,), round((number + 0.5) / WRONG_DRAWS * steps))
            target = task.target(clean, noise, timestep)
            noisy = task.scheduler.add_noise(clean, noise, timestep)
            one, two = (
                task.losses(unet(noisy, timestep, text).sample, target, timestep, torch.tensor(lone)) for text in read
            )
            grown.append(two - one)
    return torch.stack(grown).mean(0).double().numpy()


@torch.inference_mode()
def draw_pictures(weights: Path, prompts: Sequence[str], sampling: Sampling) -> Tensor:
    """Pictures of prompts by a family without any control, (N, 3, S, S) uint8; noise depends on the seed alone."""
    unet = UNet2DConditionModel.from_pretrained(weights / "unet", torch_dtype=torch.float32).eval()
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).eval(),
        text_encoder=CLIPTextModel.from_pretrained(weights / "text_encoder", dtype=torch.float32).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(weights / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(weights / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    size = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noise = torch.randn(len(prompts), *size, generator=torch.Generator().manual_seed(sampling.seed))
    drawn = []
    for index in batches(torch.arange(len(prompts)), f"pictures of {weights.name}"):
        images = pipe(
            [prompts[number] for number in index.tolist()],
            latents=noise[index],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            output_type="pt",
        ).images
        drawn.append(torch.from_numpy(to_bytes(images)).permute(0, 3, 1, 2))
    return torch.cat(drawn)


@torch.inference_mode()
def clip_features(folder: Path, pictures: Tensor, what: str) -> np.ndarray:
    """Image features (N, D) by the CLIP model in a folder, of pictures (N, 3, S, S) uint8."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    seen = [model.get_image_features(pixel_values=signed(batch)).pooler_output for batch in batches(pictures, what)]
    return torch.cat(seen).double().numpy()


def compare_generators(
    families: Mapping[str, Path], corpus: Corpus, look: Look, clip: Path, sampling: Sampling, folder: Path
) -> list[Measure]:
    """Held-out loss, FD-CLIP and text fidelity of every family, beside those of the real pictures.

    families: name -> weights. look: the scorer of maps, of all. clip: the CLIP model of all. folder: for latents.
    """
    prompts = [captions[0] for captions in corpus.captions]
    lone = [number for number, prompt in enumerate(prompts) if lone_kind(prompt)]
    if not lone:
        raise UserError(f"None of the {len(prompts)} prompts names one solid; take more scenes.")
    kinds = [lone_kind(prompts[number]) for number in lone]
    rows = {FLOOR: torch.from_numpy(np.array(corpus.images))}
    measures = []
    for name, weights in families.items():
        loss = held_out_loss(weights, corpus, folder).numpy()
        measures.append(Measure(name, "held-out loss x1000", "", bootstrap_mean(1000 * loss, seed=SEED), "lower"))
        grown = 1000 * wrong_kind(weights, corpus, folder)
        measures.append(Measure(name, "a wrong kind adds x1000", "", bootstrap_mean(grown, seed=SEED), "higher"))
        rows[name] = draw_pictures(weights, prompts, sampling)
    features = {name: clip_features(clip, pictures, f"features of {name}") for name, pictures in rows.items()}
    size = equal_size(len(corpus), 0)
    for name, drawn in frechet_draws(features, np.empty((0, features[FLOOR].shape[1])), DRAWS).items():
        measures.append(Measure(name, f"FD-CLIP at N = {size}", "", spread(drawn.mean(), drawn, size), "lower"))
    for name, pictures in rows.items():
        hits = 100 * recognised(look, pictures[lone], kinds, f"kinds in {name}").astype(float)
        measures.append(Measure(name, RECOGNISED, "", bootstrap_mean(hits, seed=SEED), "higher"))
    return measures
