"""The rendered world as a data set on disk, in COCO's own layout."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from maxbench.data.coco import CocoImages
from maxbench.errors import UserError
from maxbench.miniature import words, world
from maxbench.miniature.corpus import TRAIN_SEED, VALIDATION_SEED, WORLD_VERSION, scene_generator
from maxbench.miniature.render import Rendering, render

SEEDS = {"train": TRAIN_SEED, "val": VALIDATION_SEED}
ANNOTATIONS = 2  # raise it when the same pictures come with other annotations
ABOUT = "the rendered miniature world, not about photographs"
CATEGORIES = {shape: number for number, shape in enumerate(world.SHAPES, start=1)}


def miniature_images(root: str | Path, split: str = "val", count: int = 768) -> CocoImages:
    """The first `count` scenes of a split, rendered into `root` on first use and read from there after."""
    folder = Path(root) / folder_name(split, count)
    if not folder.exists():
        write_dataset(folder, split, count)
    return CocoImages(folder, split, f"miniature {split} ({count} rendered scenes)", ABOUT)


def folder_name(split: str, count: int) -> str:
    """Of the first `count` scenes of a split; another one for other pictures and for other annotations."""
    return f"miniature-{WORLD_VERSION}-{split}-{count}-a{ANNOTATIONS}"


def write_dataset(folder: Path, split: str, count: int) -> None:
    """Render a split into `folder`, which appears whole or not at all."""
    if split not in SEEDS:
        raise UserError(f"The miniature has no split '{split}'; take one of {', '.join(SEEDS)}.")
    if count < 1:
        raise UserError(f"A data set of {count} scenes cannot be rendered; ask for at least 1.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"Cannot write the miniature's pictures to {folder.parent} ({error}); set data_dir=."
        ) from error
    try:
        (partial / split).mkdir()
        (partial / "annotations").mkdir()
        with ProcessPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            tasks = [(SEEDS[split], index, str(partial / split)) for index in range(count)]
            scenes = list(pool.map(_write_scene, tasks, chunksize=32))
        images = [
            {"id": index, "file_name": f"{index:012d}.png", "width": size, "height": size}
            for index, (size, _, _) in enumerate(scenes)
        ]
        captions = [
            {"image_id": index, "caption": caption} for index, scene in enumerate(scenes) for caption in scene[1]
        ]
        instances = [
            {"image_id": index, "iscrowd": 0, **instance} for index, scene in enumerate(scenes) for instance in scene[2]
        ]
        _write_json(partial / "annotations" / f"captions_{split}.json", images, captions)
        categories = [{"id": number, "name": name, "supercategory": "solid"} for name, number in CATEGORIES.items()]
        _write_json(partial / "annotations" / f"instances_{split}.json", images, instances, categories=categories)
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # another process was first: its pictures are the same
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_json(path: Path, images: list[dict], annotations: list[dict], **more: list[dict]) -> None:
    info = {"description": "maxbench miniature world", "version": str(WORLD_VERSION)}
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    path.write_text(json.dumps({"info": info, "licenses": [], "images": images, "annotations": numbered, **more}))


def _write_scene(task: tuple[int, int, str]) -> tuple[int, list[str], list[dict]]:
    """Render one scene to its PNG; return its size, captions and instance annotations."""
    seed, index, folder = task
    scene, rendering, captions = _draw_scene(seed, index)
    Image.fromarray(rendering.image).save(Path(folder) / f"{index:012d}.png")
    return len(rendering.image), captions, list(_instances(scene, rendering))


def _draw_scene(seed: int, index: int) -> tuple[world.Scene, Rendering, list[str]]:
    """A scene, what it looks like, and its captions, of which the first says most."""
    rng = scene_generator(seed, index)
    scene = world.sample_scene(rng, world.FRAMINGS[WORLD_VERSION])
    rendering = render(scene)
    seen = world.visible(scene, rendering.instances)
    return scene, rendering, [words.caption(seen, rng, drop) for drop in (0.0, 0.25, 0.5)]


class Example(NamedTuple):
    """A picture, and a prompt that says what it shows."""

    picture: Image.Image
    prompt: str


def example(number: int = 0) -> Example:
    """A rendered scene that no part of the miniature was trained on, and its caption: a picture to try things with.

    number: 0 or more; scenes of one number are the same everywhere, and those of a run's data set.
    """
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise UserError(f"number is {number!r}; give a whole number, 0 or more.")
    _, rendering, captions = _draw_scene(VALIDATION_SEED, number)
    return Example(Image.fromarray(rendering.image), captions[0])


def _instances(scene: world.Scene, rendering: Rendering):
    for number, solid in enumerate(scene.solids, start=1):
        mask = rendering.instances == number
        if mask.any():
            counts = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            yield {
                "category_id": CATEGORIES[solid.shape],
                "phrase": words.phrase(solid),
                "area": float(mask.sum()),
                "bbox": [float(value) for value in rle.toBbox(counts)],
                "segmentation": {"size": counts["size"], "counts": counts["counts"].decode()},
            }
