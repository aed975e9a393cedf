"""The data sets this installation knows, and where they lie."""

from __future__ import annotations

import contextlib
from pathlib import Path

from maxbench.configuration.schema import nearest
from maxbench.errors import UserError
from maxbench.miniature.dataset import SEEDS, WORLD_VERSION, miniature_images
from maxbench.report.tables import plain_table

NAMES = ("miniature", "coco", "preview", "store", "prune")  # what can follow `data`


def report(name: str | None, split: str, count: int, data_dir: str) -> int:
    """`maxbench data`: prepare the data set `name`, or list what there is; returns the exit code."""
    if name is not None:
        if name != "miniature":
            raise UserError(f"There is no data set '{name}' to prepare; {nearest(name, NAMES)}")
        images = miniature_images(data_dir, split, count)
        print(f"{len(images)} images in {images.root}")
        return 0
    rows = [[path.name, state(path), megabytes(path), str(path)] for path in prepared(data_dir)]
    if rows:
        print(plain_table(["data set", "images", "size", "folder"], rows))
    else:
        print(f"No data set in {data_dir}/ yet; a run prepares what it needs.")
    print(f"\nprepare one: python -m maxbench data miniature --split {'|'.join(SEEDS)} --count N")
    print("             python -m maxbench data coco [data.root=DIR]")
    return 0


def prepared(data_dir: str) -> list[Path]:
    """Folders of finished data sets."""
    patterns = (f"miniature-{WORLD_VERSION}-*/annotations", "coco/annotations")
    return sorted(path.parent for pattern in patterns for path in Path(data_dir).glob(pattern))


def state(folder: Path) -> str:
    """How many images a data set has, or that it is damaged and what to do about it."""
    images = sum(1 for suffix in ("png", "jpg") for _ in folder.glob(f"*/*.{suffix}"))
    annotations = [path for kind in ("instances", "captions") for path in folder.glob(f"annotations/{kind}_*.json")]
    if images == 0 or len(annotations) < 2:
        missing = "images" if images == 0 else "annotations"
        command = "`python -m maxbench data coco`" if folder.name == "coco" else "a run"
        return f"damaged, it has no {missing}: delete the folder, {command} prepares it anew"
    return f"{images} images"


def megabytes(folder: Path) -> str:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone since, or not ours to look at
            total += path.stat().st_size if path.is_file() else 0
    return f"{total / 1e6:.1f} MB"
