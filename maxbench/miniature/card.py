"""The model card of a trained family: what it was made from, and how good its parts are on unseen scenes."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DModel
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from transformers import CLIPModel, CLIPTokenizer

from maxbench.miniature import world
from maxbench.miniature.corpus import VALIDATION_SEED, Corpus, render_corpus
from maxbench.miniature.recipes import COPIED_LR, RECIPES, SIZE, tokenise


@dataclass(frozen=True)
class Quality:
    """One measured number of one part."""

    part: str
    measure: str
    value: float
    better: str


@torch.inference_mode()
def measure(weights: Path, corpus: Corpus) -> list[Quality]:
    """Measure autoencoder, annotators and scorer on rendered scenes with their exact maps."""
    images = torch.from_numpy(corpus.images).float() / 255
    vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32)
    decoded = _in_parts(images, lambda batch: vae.decode(vae.encode(batch * 2 - 1).latent_dist.mode()).sample / 2 + 0.5)
    decoded = decoded.clamp(0, 1)
    rows = [
        Quality("vae", "PSNR, dB", float(peak_signal_noise_ratio(decoded, images, data_range=1.0)), "higher"),
        Quality("vae", "SSIM", float(structural_similarity_index_measure(decoded, images, data_range=1.0)), "higher"),
    ]
    for where, pictures in (("renderings", images), ("round trips", decoded)):
        rows += _annotators(weights, corpus, pictures, where)
    return [*rows, *_retrieval(weights, corpus, images)]


def _annotators(weights: Path, corpus: Corpus, pictures: torch.Tensor, where: str) -> list[Quality]:
    def look(condition: str) -> torch.Tensor:
        net = UNet2DModel.from_pretrained(weights / "annotators" / condition, torch_dtype=torch.float32)
        return _in_parts(pictures, lambda batch: net(batch * 2 - 1, 0).sample)

    depth = look("depth")[:, 0].clamp(0, 1) - torch.from_numpy(corpus.depth).float() / 255
    labels, truth = look("seg").argmax(1), torch.from_numpy(corpus.segmentation).long()
    classes = len(world.CLASSES)
    confusion = torch.bincount((truth * classes + labels).flatten(), minlength=classes**2).view(classes, classes)
    overlap = confusion.diag() / (confusion.sum(0) + confusion.sum(1) - confusion.diag())
    edges = look("hed").sigmoid(), torch.from_numpy(corpus.edges)[:, None].float() / 255
    similarity = structural_similarity_index_measure(*edges, data_range=1.0)
    return [
        Quality("annotator depth", f"RMSE on {where}, 0-255", float(255 * depth.square().mean().sqrt()), "lower"),
        Quality("annotator seg", f"mIoU on {where}", float(100 * overlap[~overlap.isnan()].mean()), "higher"),
        Quality("annotator hed", f"SSIM on {where}", float(similarity), "higher"),
    ]


def _retrieval(weights: Path, corpus: Corpus, images: torch.Tensor, among: int = 64) -> list[Quality]:
    model = CLIPModel.from_pretrained(weights / "scorers" / "clip", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(weights / "scorers" / "clip")
    tokens = tokenise(tokenizer, [captions[0] for captions in corpus.captions])
    seen = _in_parts(images * 2 - 1, lambda batch: model.get_image_features(pixel_values=batch).pooler_output)
    read = _in_parts(tokens, lambda batch: model.get_text_features(input_ids=batch).pooler_output)
    hits = []
    for start in range(0, len(images) - among + 1, among):
        scores = F.normalize(seen[start : start + among]) @ F.normalize(read[start : start + among]).T
        hits.append((scores.argmax(1) == torch.arange(among)).float().mean())
    return [Quality("scorer clip", f"caption found among {among}, %", float(100 * torch.stack(hits).mean()), "higher")]


def _in_parts(inputs: torch.Tensor, look, size: int = 64) -> torch.Tensor:
    return torch.cat([look(batch) for batch in inputs.split(size)])


CARD = """\
---
library_name: diffusers
pipeline_tag: text-to-image
---

# The maxbench miniature family

A narrow Stable Diffusion and its ControlNets that live in a rendered world of a few solids. It exists so that
the whole benchmark can be run anywhere; it knows nothing of photographs.

- **Data**: {scenes} rendered scenes of {size} x {size} pixels, training seed {seed}, with four captions each;
  measured on {held_out} scenes of seed {held_out_seed}, which no part was trained on.
- **Recipe**: `python scripts/train_miniature.py`; every part by itself, bfloat16 autocast, AdamW, cosine decay.
  A ControlNet's copied weights learn at {copied:g} of the rate of its new ones, and parts of its maps are
  blanked at random. No network is shown two conditions at once; the depth control starts from the weights of the
  soft-edge control, the others from the U-Net's encoder. Weights are stored in half precision.
- **Hardware**: {hardware}; PyTorch {torch}.
- **Date**: {date}{note}

| part | steps | batch | minutes | loss, first 100 steps | loss, last 100 steps |
|---|---|---|---|---|---|"""


def write_card(weights: Path, folder: Path, *, seed: int, scenes: int, note: str = "", held_out: int = 256) -> None:
    """Measure the family in `weights` on held-out scenes and write its README.md beside the weights.

    note: what else a reader must know, such as a departure from the recipe.
    """
    rows = measure(weights, render_corpus(held_out, VALIDATION_SEED, folder))
    lines = [
        CARD.format(
            size=SIZE,
            scenes=scenes,
            seed=seed,
            held_out=held_out,
            held_out_seed=VALIDATION_SEED,
            copied=COPIED_LR,
            hardware=_processor(),
            torch=torch.__version__,
            date=datetime.now(UTC).date().isoformat(),
            note=f"\n- **Note**: {note}" if note else "",
        )
    ]
    for part, recipe in RECIPES.items():
        history = json.loads((folder / f"{part}.history.json").read_text())
        loss, minutes = history["loss"], history["seconds"][0] / 60
        steps = history.get("steps", recipe.steps)
        lines.append(f"| {part} | {steps} | {recipe.batch} | {minutes:.1f} | {loss[0]:.3f} | {loss[-1]:.3f} |")
    lines += ["", "Losses of different parts are different quantities. Minutes are wall clock on a shared machine.", ""]
    lines += ["| part | measured | value | better |", "|---|---|---|---|"]
    lines += [f"| {row.part} | {row.measure} | {row.value:.3f} | {row.better} |" for row in rows]
    (weights / "README.md").write_text("\n".join(lines) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if (info.exists())
        else []
    )
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
