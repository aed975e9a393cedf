"""The data sets this installation knows, and where they lie."""

from __future__ import annotations

from pathlib import Path

from maxbench.cli.config import nearest
from maxbench.errors import UserError
from maxbench.miniature.dataset import SEEDS, WORLD_VERSION, miniature_images
from maxbench.report.tables import plain_table


def report(name: str | None, split: str, count: int, data_dir: str) -> int:
    """`maxbench data`: prepare the data set `name`, or list what there is; returns the exit code."""
    if name is not None:
        if name != "miniature":
            raise UserError(f"There is no data set '{name}' to prepare; {nearest(name, ['miniature'])}")
        images = miniature_images(data_dir, split, count)
        print(f"{len(images)} images in {images.root}")
        return 0
    rows = [[path.name, str(count_images(path)), megabytes(path), str(path)] for path in prepared(data_dir)]
    if rows:
        print(plain_table(["data set", "images", "size", "folder"], rows))
    else:
        print(f"No data set in {data_dir}/ yet; a run prepares what it needs.")
    print(f"\nprepare one: python -m maxbench data miniature --split {'|'.join(SEEDS)} --count N")
    return 0


def prepared(data_dir: str) -> list[Path]:
    """Folders of finished data sets."""
    return sorted(path.parent for path in Path(data_dir).glob(f"miniature-{WORLD_VERSION}-*/annotations"))


def count_images(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/*.png"))


def megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB"
