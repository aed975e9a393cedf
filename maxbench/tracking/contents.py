"""What there is to tell of a finished result, whoever it is told to: numbers, tables, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from maxbench.report.pictures import given_map
from maxbench.report.runs import Results
from maxbench.store.runfolder import image_file, source_file

TABLES = (
    "metrics.csv", "differences.csv", "conflict.csv", "conflict_differences.csv", "tuning.csv", "curves.csv",
    "sweep.csv",
)  # fmt: skip
PICTURES = (
    "contact_sheet.png", "curves.png", "conflict.png", "variance_maps.png", "winner_maps.png", "fusion_curves.png",
)  # fmt: skip
HEADLINES = ("joint", "q_mean", "share_both", "clip_score", "fid", "fd_clip")
"""Metrics by which runs are compared at a glance."""
PER_IMAGE = ("joint", "clip_score")
"""What a row of samples says of every method's picture, where it is known."""
SIDE = 256
"""Pixels; larger pictures are made smaller, and written as JPEG: the exact ones are in the run's folder."""


def numbers(folder: Path) -> dict[str, float]:
    """<method>/<metric> -> value, of the headline metrics; nothing of a folder without metrics."""
    if not (folder / "metrics.csv").is_file():
        return {}
    metrics = Results(folder).metrics
    chosen = metrics[metrics.metric.isin(HEADLINES) & metrics.value.notna()]
    return {f"{row.method}/{row.metric}": float(row.value) for row in chosen.itertuples()}


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that a folder has, by name; empty cells are None."""
    found = {}
    for name in TABLES:
        path = folder / name
        content = path.read_text(encoding="utf-8") if path.is_file() else ""
        if content.strip():
            table = pd.read_csv(path)
            found[path.stem] = table.astype(object).where(table.notna(), None)
    return found


def files(folder: Path) -> list[Path]:
    """Those that are told of."""
    return [folder / name for name in (*TABLES, *PICTURES) if (folder / name).is_file()]


def pictures(folder: Path) -> dict[str, Path]:
    """The pictures for people that a folder has, by name."""
    return {Path(name).stem: folder / name for name in PICTURES if (folder / name).is_file()}


@dataclass(frozen=True)
class Samples:
    """The first samples of a run, a row each. Cells are texts, numbers, pictures, or None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def samples(folder: Path, count: int) -> Samples | None:
    """The first `count` samples: prompt, source pictures, maps, every method's picture, and what it scored.

    None of a result without pictures.
    """
    results = Results(folder)
    manifest, config = results.manifest, results.config
    if not count or manifest is None or not (folder / "images").is_dir():
        return None
    conditions, methods = list(config["conditions"]), [each["name"] for each in manifest["methods"]]
    scores = _scores(results)
    known = [metric for metric in PER_IMAGE if any(key[1] == metric for key in scores)]
    columns = [
        "sample",
        "prompt",
        *(f"source of {name}" for name in conditions),
        *(f"map of {name}" for name in conditions),
    ]
    columns += [column for name in methods for column in (name, *(f"{name}: {metric}" for metric in known))]
    rows = []
    for sample in manifest["samples"][:count]:
        row: list[Any] = [sample["id"], sample["prompt"]]
        row += [_opened(folder / source_file("real", sample["sources"][name])) for name in conditions]
        row += [_smaller(given_map(folder, config, name, sample)) for name in conditions]
        for name in methods:
            row.append(_opened(folder / image_file(name, sample["id"], 0)))
            row += [scores.get((name, metric, sample["id"])) for metric in known]
        rows.append(row)
    return Samples(columns, rows)


def _scores(results: Results) -> Mapping[tuple[str, str, str], float]:
    """(method, metric, sample) -> the value of its first image."""
    table = results.samples
    if table is None:
        return {}
    table = table[table.metric.isin(PER_IMAGE) & (table.replicate == 0)]
    return {(row.method, row.metric, row.sample): float(row.value) for row in table.itertuples()}


def _opened(path: Path) -> Image.Image | None:
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return _smaller(image.convert("RGB"))


def _smaller(image: Image.Image | None) -> Image.Image | None:
    if image is not None and max(image.size) > SIDE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE))
    return image
