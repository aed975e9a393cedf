"""Which picture size suits a machine: python scripts/compare_resolutions.py [--seconds 600].

Two autoencoders with the same 16 x 16 x 4 latents (4x at 64 pixels, 8x at 128, so that the U-Net costs the same)
learn for the same wall time, one thread each and side by side; then both are measured on scenes neither has seen,
together with what a picture of each size costs. The table is printed and written to results/miniature/resolution.md.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from maxbench.miniature import world
from maxbench.miniature.corpus import TRAIN_SEED, VALIDATION_SEED, WORLD_VERSION, scene_generator
from maxbench.miniature.render import render

CHANNELS = {64: (24, 48, 96), 128: (16, 32, 64, 96)}
COLUMNS = ("size", "trained on", "PSNR, dB", "SSIM", "PSNR at 64", "SSIM at 64", "rendered/s", "decoded/s")


def pictures(size: int, seed: int, count: int) -> torch.Tensor:
    scenes = (world.sample_scene(scene_generator(seed, index), world.FRAMINGS[WORLD_VERSION]) for index in range(count))
    images = np.stack([render(scene, size).image for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def learn(size: int, seconds: float, scenes: int) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(size)
    blocks = len(CHANNELS[size])
    net = AutoencoderKL(
        block_out_channels=CHANNELS[size],
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    begun = time.monotonic()
    corpus = pictures(size, TRAIN_SEED, scenes)
    rendered = scenes / (time.monotonic() - begun)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1.5e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    begun, shown = time.monotonic(), 0
    while (spent := time.monotonic() - begun) < seconds:
        for group in optimiser.param_groups:  # a rate that falls with the time left, so that both sizes end annealed
            group["lr"] = 1.5e-3 * min(1, (shown + 1) / 1600) * (1.03 - spent / seconds)
        images = corpus[torch.randint(scenes, (32,))].float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            decoded = net(images, sample_posterior=True).sample.float()
        error = decoded - images
        detail = sum((torch.diff(decoded, dim=axis) - torch.diff(images, dim=axis)).abs().mean() for axis in (2, 3))
        colour = F.avg_pool2d(error, 4).abs().mean()
        loss = error.abs().mean() + error.square().mean() + detail + 2 * colour
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        shown += len(images)
    unseen = pictures(size, VALIDATION_SEED, 256).float() / 255
    with torch.inference_mode():
        latents = [net.encode(batch * 2 - 1).latent_dist.mode() for batch in unseen.split(32)]
        begun = time.monotonic()
        decoded = torch.cat([net.decode(latent).sample for latent in latents]).div(2).add(0.5).clamp(0, 1)
        speed = len(unseen) / (time.monotonic() - begun)
    both = F.interpolate(decoded, (64, 64), mode="area"), F.interpolate(unseen, (64, 64), mode="area")
    values = (
        float(measure(*pair, data_range=1.0))
        for pair in ((decoded, unseen), both)
        for measure in (peak_signal_noise_ratio, structural_similarity_index_measure)
    )
    return dict(zip(COLUMNS, (size, shown, *values, rendered, speed), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("results/miniature/resolution.md"))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        rows = pool.starmap(learn, [(size, chosen.seconds, chosen.scenes) for size in CHANNELS])
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(f"{row[name]:.4g}" for name in COLUMNS) + " |" for row in rows]
    heading = (
        f"Autoencoders after {chosen.seconds:.0f} s of training on one thread each (torch {torch.__version__}).\n\n"
    )
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(heading + "\n".join(lines) + "\n")
    print(json.dumps(rows), heading + "\n".join(lines), sep="\n")
