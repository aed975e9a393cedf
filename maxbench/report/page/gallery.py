"""A run's samples -> what the gallery of the page shows, in parts that are loaded when they are looked at.

A browser lets a page on disk load no data but scripts. So every part is a script that hands one value to the page:

    <run>/run.js          the rows, metrics and conditions
    <run>/samples.js      id, prompt and group of every sample
    <run>/values-<k>.js   the k-th metric: a list for each row, image after image (sample, then replicate)
    <run>/part-<k>.js     pictures, maps and all values of PART samples
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from maxbench.progress import Progress
from maxbench.report.columns import ARROWS, column, column_name
from maxbench.report.page.pictures import Pictures, painted_error, stamp
from maxbench.report.pictures import given_map, masks_of, outline, painted
from maxbench.report.runs import Results
from maxbench.report.tables import BY_ANNOTATOR, ENTERED
from maxbench.store.runfolder import image_file, mask_file, picture_name, source_file

MASKS = ("control_masks", "evaluation_masks")
PART = 16  # samples in one file
DIGITS = 5  # significant, of a number in the gallery
FIRST = ("joint", "q", "q_mean", "share_both")
"""Metrics that are listed before the others."""

LOWER = ("defect", "seconds")
"""Metrics of single images of which less is better, though no table says so."""

FINE = 448  # pixels: outlines of small pictures are drawn larger, so that they hide little

MOST = {"depth": 0.25, "hed": 0.5}
"""Share of the largest possible error that is drawn as the lightest colour; 1 for conditions that are not named."""

THREADS = 8  # that read, draw and wait for the disk beside each other


class SeenFiles(NamedTuple):
    """Where the map lies that a scorer sees in a picture, and how far it is from the given one."""

    measured: Path
    error: Path


SeenMaps = Mapping[tuple[str, str, int, str], SeenFiles]
"""(row, sample, replicate, condition) -> the maps that are seen there."""


class Metric(NamedTuple):
    """A number of single images: its name for people, its digits, and whether more is better."""

    metric: str
    condition: str
    name: str
    digits: int
    higher: bool

    @property
    def plain(self) -> str:
        """Its name without the arrow that says which way is better."""
        return self.name.removesuffix(ARROWS["higher" if self.higher else "lower"])


class PictureRow(NamedTuple):
    """A row of pictures: its name, its role, and where its pictures lie in the run folder."""

    name: str
    role: str
    place: str

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.name} ({ENTERED})" if self.role == ENTERED else self.name


@dataclass(frozen=True)
class Gallery:
    """The gallery of one run. results: with samples and a manifest; see :func:`why_not`."""

    results: Results
    _palettes: dict[str, str] = field(default_factory=dict, repr=False)

    # --- what there is ----------------------------------------------------------------------------------------

    @cached_property
    def conditions(self) -> list[str]:
        return list(self.results.config.get("conditions", {}))

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        return self.results.manifest["samples"]

    @cached_property
    def replicates(self) -> int:
        return int(self.results.samples.replicate.max()) + 1

    @cached_property
    def rows(self) -> list[PictureRow]:
        return picture_rows(self.results)

    @cached_property
    def metrics(self) -> list[Metric]:
        """Every number that single images have, the joint score first."""
        table = self.results.samples
        own = table[table.method.isin([row.name for row in self.rows])]
        found = list(dict.fromkeys(zip(own.metric, own.condition.fillna(""), strict=True)))
        ordered = [*(key for name in FIRST for key in found if key[0] == name)]
        ordered += [key for key in found if key not in ordered]
        return [_metric(*key) for key in ordered]

    @cached_property
    def values(self) -> np.ndarray:
        """(metric, row, sample, replicate), NaN for what was not measured."""
        table = self.results.samples
        places = {
            "metric": {(each.metric, each.condition): place for place, each in enumerate(self.metrics)},
            "row": {row.name: place for place, row in enumerate(self.rows)},
            "sample": {sample["id"]: place for place, sample in enumerate(self.samples)},
        }
        keys = pd.Series(list(zip(table.metric, table.condition.fillna(""), strict=True)), index=table.index)
        metric, row = keys.map(places["metric"].get), table.method.map(places["row"])
        sample = table["sample"].map(places["sample"])
        known = metric.notna() & row.notna() & sample.notna() & table.value.notna()
        shape = (len(self.metrics), len(self.rows), len(self.samples), self.replicates)
        values = np.full(shape, np.nan)
        at = tuple(each[known].to_numpy(int) for each in (metric, row, sample, table.replicate))
        values[at] = table.value[known].to_numpy(float)
        return values

    @cached_property
    def conflict(self) -> dict[str, float]:
        """Sample -> the degree of its conflict, where that was measured."""
        table = self.results.samples
        own = table[table.metric == "conflict"].dropna(subset=["value"])
        return dict(zip(own["sample"], own.value.astype(float), strict=True))

    @property
    def has_masks(self) -> bool:
        """Whether any condition is given or scored in a part of the picture."""
        return any((self.results.folder / kind).is_dir() for kind in MASKS)

    def chosen(self, count: int, rule: str, baseline: str) -> list[str]:
        """The samples of which a few maps say most: those where two rows differ most, half of them at each end."""
        ids = [sample["id"] for sample in self.samples]
        rows = {row.name: place for place, row in enumerate(self.rows)}
        if count >= len(ids) or rule not in rows or baseline not in rows or not self.metrics:
            return ids[:count]
        sign = 1 if self.metrics[0].higher else -1
        change = sign * (self.values[0, rows[rule]] - self.values[0, rows[baseline]]).mean(-1)
        change = np.where(np.isnan(change), 0, change)
        order = np.argsort(-change, kind="stable")
        first, last = math.ceil(count / 2), count // 2
        return [ids[place] for place in [*order[:first], *(order[-last:] if last else [])]]

    # --- as files -----------------------------------------------------------------------------------------------

    def about(self, rule: str, baseline: str, note: str) -> dict[str, Any]:
        """What the page must know before any sample is shown. note: which samples have maps, and why not all."""
        return {
            "title": f"{self.results.experiment} on {self.results.suite}",
            "conditions": self.conditions,
            "rows": [
                {"name": row.name, "role": row.role, "label": row.label}
                for row in self.rows
            ],
            "metrics": [
                {"name": each.name, "plain": each.plain, "digits": each.digits, "higher": each.higher,
                 "metric": each.metric, "condition": each.condition}
                for each in self.metrics
            ],
            "samples": len(self.samples),
            "replicates": self.replicates,
            "part": PART,
            "rule": rule,
            "baseline": baseline,
            "note": note,
            "sources": len(self._sharing),
            "outlines": self.has_masks,
        }  # fmt: skip

    def parts(self, pictures: Pictures, seen: SeenMaps) -> Iterator[tuple[str, Any]]:
        """(name of a file, its value), of everything but :meth:`about`."""
        yield (
            "samples",
            [
                [
                    sample["id"],
                    sample["prompt"],
                    sample.get("group", sample["id"]),
                    _short(self.conflict.get(sample["id"])),
                ]
                for sample in self.samples
            ],
        )
        for place in range(len(self.metrics)):
            yield f"values-{place}", [_plain(row.ravel()) for row in self.values[place]]
        with (
            ThreadPoolExecutor(THREADS) as workers,
            Progress("pictures of the page", len(self.samples), "samples") as done,
        ):
            for start in range(0, len(self.samples), PART):
                places = range(start, min(start + PART, len(self.samples)))
                yield f"part-{start // PART}", list(workers.map(lambda at: self._sample(at, pictures, seen), places))
                done.add(len(places))

    def _sample(self, place: int, pictures: Pictures, seen: SeenMaps) -> dict[str, Any]:
        sample, folder = self.samples[place], self.results.folder
        sources = [folder / source_file("real", sample["sources"][names[0]]) for names in self._sharing]
        files = [
            [folder / row.place / picture_name(sample["id"], replicate) for row in self.rows]
            for replicate in range(self.replicates)
        ]
        strips = [pictures.strip([*sources, *own]) for own in files]
        given = []
        for names, source in zip(self._sharing, sources, strict=True):
            given.append({"of": names, "file": self._whole(source, pictures), "source": True})
            given += [{"of": [name], "file": self._given(name, sample, pictures)} for name in names]
        return {
            "given": given,
            "outline": self._outline(sample, pictures),
            "strips": strips,
            "pictures": [[self._whole(path, pictures) for path in own] for own in files],
            "damaged": [[path in pictures.damaged for path in own] for own in files],
            "seen": self._seen_in(sample["id"], pictures, seen),
            "values": [[_plain(row[place]) for row in metric] for metric in self.values],
        }  # fmt: skip

    def _whole(self, path: Path, pictures: Pictures) -> str | None:
        return None if path in pictures.damaged else pictures.take(path)

    @cached_property
    def _sharing(self) -> list[list[str]]:
        """The conditions, those together that always share their picture."""
        sharing: dict[tuple, list[str]] = {}
        for name in self.conditions:
            sharing.setdefault(tuple(sample["sources"][name] for sample in self.samples), []).append(name)
        return list(sharing.values())

    def _given(self, name: str, sample: dict, pictures: Pictures) -> str | None:
        """The map as a person sees it: in the palette's colours, dark blue where it says nothing."""
        folder = self.results.folder
        path = folder / source_file(f"conditions/{name}", sample["sources"][name])
        mask = folder / mask_file("control_masks", name, sample["id"])
        if stamp(path) is None:
            return None
        if not self._palette(name) and not mask.exists():
            return pictures.take(path)
        parts = ["given", path, mask, self._palette(name)]
        return pictures.draw(parts, lambda: given_map(folder, self.results.config, name, sample))

    def _seen_in(self, sample: str, pictures: Pictures, seen: SeenMaps) -> list | None:
        """What is seen in every picture of a sample: by replicate, row and condition; None where no map was made."""
        found = [
            [[seen.get((row.name, sample, replicate, name)) for name in self.conditions] for row in self.rows]
            for replicate in range(self.replicates)
        ]
        if not any(each for own in found for row in own for each in row):
            return None
        return [
            [[self._seen(each, name, pictures) for each, name in zip(row, self.conditions, strict=True)] for row in own]
            for own in found
        ]

    def _seen(self, found: SeenFiles | None, name: str, pictures: Pictures) -> list[str | None] | None:
        """The map that is seen in a picture, and its error, as a person sees them."""
        if found is None:
            return None
        palette = self._palette(name)
        measured = (
            pictures.draw(["seen", found.measured, palette], lambda: painted(found.measured, json.loads(palette)))
            if palette
            else pictures.take(found.measured)
        )
        most = MOST.get(name, 1.0)
        error = pictures.draw(["error", found.error, str(most)], lambda: painted_error(found.error, most))
        return [measured, error]

    def _palette(self, name: str) -> str:
        """Of a condition whose maps are labels, as text; empty for levels."""
        if name not in self._palettes:
            entry = self.results.config["conditions"][name]
            palette = entry.get("palette") if isinstance(entry, dict) else None
            self._palettes[name] = json.dumps(palette) if palette else ""
        return self._palettes[name]

    def _outline(self, sample: dict, pictures: Pictures) -> str | None:
        """The borders of what is controlled, to lie over pictures; of what is scored, if only that is limited."""
        folder = self.results.folder
        paths = [folder / mask_file(kind, name, sample["id"]) for kind in MASKS for name in self.conditions]
        if not any(path.exists() for path in paths):
            return None

        def lines() -> Image.Image | None:
            masks = masks_of(folder, sample, self.conditions)
            scale = max(1, round(FINE / masks[0].width)) if masks else 1
            return outline((scale * masks[0].width, scale * masks[0].height), masks) if masks else None

        return pictures.draw(["outline", *paths], lines)


def why_not(results: Results) -> str | None:
    """Why a result has no gallery, in a sentence; None where it can have one."""
    if results.is_pooled:
        return (
            "There is no gallery: a pooled result has no pictures of its own; name the runs that it is made of as well."
        )
    if results.manifest is None or results.samples is None:
        return "There is no gallery: this result was kept without its pictures."
    if not isinstance(results.manifest.get("samples"), list) or not picture_rows(results):
        return "There is no gallery: the pictures of this run are not there."
    return None


def picture_rows(results: Results) -> list[PictureRow]:
    """Every method that has pictures, then the rows whose pictures were made elsewhere."""
    folder, manifest = results.folder, results.manifest or {}
    made = [
        PictureRow(each["name"], each.get("role", "fusion"), Path(image_file(each["name"], "", 0)).parent.as_posix())
        for each in manifest.get("methods", [])
        if (folder / "images" / each["name"]).is_dir()
    ]
    listed = folder / "records" / ENTERED
    names = sorted(path.relative_to(listed).with_suffix("").as_posix() for path in listed.rglob("*.json"))
    return [*made, *(PictureRow(name, ENTERED, f"{ENTERED}/{name}") for name in names)]


def error_scale(conditions: Sequence[str], masked: bool) -> str:
    """What the colours of error maps mean, in sentences. masked: whether conditions are scored in parts of pictures."""
    said = [
        f"{name} {100 * MOST[name]:.0f}% of the range of levels or more" if name in MOST else f"{name} wrong"
        for name in conditions
    ]
    blank = " Where a condition is not scored, both maps are blank." if masked else ""
    return f"Error maps are dark where there is no error; the lightest colour means: {'; '.join(said)}.{blank}"


def _metric(metric: str, condition: str) -> Metric:
    plain = metric.removesuffix(BY_ANNOTATOR)
    known = column(plain)
    name = column_name(plain, condition) + (" by annotator" if plain != metric else "")
    higher = known.better == "higher" if known.better else plain not in LOWER
    return Metric(metric, condition, name + ARROWS["higher" if higher else "lower"], max(known.digits, 2), higher)


def _plain(values: np.ndarray) -> list[float | None]:
    """Numbers with a few digits, null for what is none."""
    return [_short(value) for value in np.asarray(values, float).tolist()]


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
