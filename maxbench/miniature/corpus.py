"""Scenes of the miniature, rendered once into arrays and kept beside the checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from maxbench.errors import UserError
from maxbench.miniature import words, world
from maxbench.miniature.render import render
from maxbench.progress import track

TRAIN_SEED, VALIDATION_SEED = 2404, 9977  # disjoint streams: no validation scene is ever trained on
WORLD_VERSION = 2  # of the shipped weights and of data sets
DROPS = (0.0, 0.0, 0.25, 0.5)  # chance that a clause is left out, of every wording of a training scene
PLANES = ("images", "depth", "segmentation", "edges")


@dataclass(frozen=True)
class Corpus:
    """Rendered scenes; array i of every field belongs to scene i. Arrays are read from disk as they are used."""

    images: np.ndarray  # (N, 3, S, S) uint8 RGB
    depth: np.ndarray  # (N, S, S) uint8, 255 = near
    segmentation: np.ndarray  # (N, S, S) uint8 class
    edges: np.ndarray  # (N, S, S) uint8, 255 = certain edge
    captions: list[list[str]]  # N x len(DROPS)
    name: str  # says the seed, size and number of the scenes

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        return self.images.shape[-1]


def scene_generator(seed: int, index: int) -> np.random.Generator:
    """The generator of one scene: scene `index` of a seed is the same however many are rendered."""
    return np.random.default_rng([seed, index])


def _render_one(seed: int, index: int, size: int, version: int) -> tuple:
    rng = scene_generator(seed, index)
    scene = world.sample_scene(rng, world.FRAMINGS[version])
    rendering = render(scene, size)
    seen = world.visible(scene, rendering.instances)
    captions = [words.caption(seen, rng, drop) for drop in DROPS]
    depth, edges = ((plane * 255 + 0.5).astype(np.uint8) for plane in (rendering.depth, rendering.edges))
    return rendering.image.transpose(2, 0, 1), depth, rendering.segmentation, edges, captions


def render_corpus(count: int, seed: int, size: int, folder: Path, version: int = WORLD_VERSION) -> Corpus:
    """Render `count` scenes of `seed`, or read them back where an earlier call kept them in `folder`.

    version: of the world.
    """
    if version not in world.FRAMINGS:
        raise UserError(f"There is no version {version} of the world; there are {', '.join(map(str, world.FRAMINGS))}.")
    place = folder / f"corpus-{version}-{seed}-{size}-{count}"
    if not place.exists():
        partial = place.with_name(f".{place.name}-{os.getpid()}")
        partial.mkdir(parents=True)
        shapes = ((count, 3, size, size), *((count, size, size),) * 3)
        planes = [
            open_memmap(partial / f"{name}.npy", "w+", np.uint8, shape)
            for name, shape in zip(PLANES, shapes, strict=True)
        ]
        captions = []
        with ProcessPoolExecutor() as pool:
            scenes = pool.map(
                _render_one, repeat(seed), range(count), repeat(size, count), repeat(version, count), chunksize=100
            )
            for index, (*drawn, said) in enumerate(track(scenes, "rendering", count, "scenes")):
                captions.append(said)
                for plane, values in zip(planes, drawn, strict=True):
                    plane[index] = values
        for plane in planes:
            plane.flush()
        (partial / "captions.json").write_text(json.dumps(captions))
        try:
            partial.rename(place)
        except OSError:  # another process was first: its scenes are the same
            shutil.rmtree(partial)
    return Corpus(
        *(np.load(place / f"{name}.npy", mmap_mode="r") for name in PLANES),
        json.loads((place / "captions.json").read_text()),
        place.name,
    )
