"""Training scenes of the miniature, rendered once into arrays and kept beside the checkpoints."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maxbench.miniature import world
from maxbench.miniature.render import render

TRAIN_SEED, VALIDATION_SEED = 2404, 9977  # disjoint streams: no validation scene is ever trained on
CAPTIONS = 4  # wordings of each training scene


@dataclass(frozen=True)
class Corpus:
    """Rendered training scenes; array i of every field belongs to scene i."""

    images: np.ndarray  # (N, 3, S, S) uint8 RGB
    depth: np.ndarray  # (N, S, S) uint8, 255 = near
    segmentation: np.ndarray  # (N, S, S) uint8 class
    edges: np.ndarray  # (N, S, S) uint8, 255 = certain edge
    captions: list[list[str]]  # N x CAPTIONS

    def __len__(self) -> int:
        return len(self.images)


def scene_generator(seed: int, index: int) -> np.random.Generator:
    """The generator of one scene: scene `index` of a seed is the same however many are rendered."""
    return np.random.default_rng([seed, index])


def _render_one(task: tuple[int, int]) -> tuple:
    seed, index = task
    rng = scene_generator(seed, index)
    scene = world.sample_scene(rng)
    rendering = render(scene)
    seen = world.visible(scene, rendering.instances)
    captions = [world.caption(seen, rng, drop) for drop in (0.0, 0.0, 0.25, 0.5)]
    as_byte = [(plane * 255 + 0.5).astype(np.uint8) for plane in (rendering.depth, rendering.edges)]
    return rendering.image.transpose(2, 0, 1), as_byte[0], rendering.segmentation, as_byte[1], captions


def render_corpus(count: int, seed: int, folder: Path, workers: int | None = None) -> Corpus:
    """Render `count` scenes of `seed`, or read them back where an earlier call kept them in `folder`."""
    arrays, words = folder / f"corpus-{seed}-{count}.npz", folder / f"corpus-{seed}-{count}.json"
    if not (arrays.exists() and words.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(workers) as pool:
            tasks = ((seed, index) for index in range(count))
            *planes, captions = zip(*pool.map(_render_one, tasks, chunksize=100), strict=True)
        images, depth, segmentation, edges = (np.stack(plane) for plane in planes)
        np.savez(arrays, images=images, depth=depth, segmentation=segmentation, edges=edges)
        words.write_text(json.dumps(captions))
    with np.load(arrays) as stored:
        return Corpus(
            *(stored[name] for name in ("images", "depth", "segmentation", "edges")),
            json.loads(words.read_text()),
        )
