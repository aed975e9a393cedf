"""How much lies in a store, and what no run refers to any more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maxbench.errors import UserError
from maxbench.store.artefacts import RECORD, Store
from maxbench.store.files import read_sealed
from maxbench.store.runfolder import REFERENCES, references

RUNS = "runs"
SCORES = "scores"
ALWAYS_KEPT = ("norm",)
"""Kinds that are so small, and so long in the making, that they are never pruned."""


@dataclass(frozen=True)
class Stored:
    """A file of a store: its kind, its size in bytes, and whether any run refers to it."""

    kind: str
    path: Path
    size: int
    needed: bool


def runs_of(store: Store) -> list[Path]:
    """The folders of the runs that use a store, those that are still there."""
    places = (read_sealed(mark) for mark in sorted((store.path / RUNS).glob("*.json")))
    return [Path(place) for place in places if isinstance(place, str) and Path(place).is_dir()]


def stored(store: Store) -> Iterator[Stored]:
    """Every file of a store; UserError where a run does not say what it needs: nothing can be called unused then."""
    artefacts, scored = _needed(store)
    for kind, key, path in store.files():
        if kind == RUNS:
            continue
        needed = kind in ALWAYS_KEPT or (key in scored if kind == SCORES else (kind, key) in artefacts)
        with contextlib.suppress(FileNotFoundError):  # another process may prune as well
            yield Stored(kind, path, path.stat().st_size, needed)


def _needed(store: Store) -> tuple[set[tuple[str, str]], set[str]]:
    """The artefacts (kind, key) that runs refer to, and the pictures (digest) whose scores they need."""
    artefacts: set[tuple[str, str]] = set()
    scored: set[str] = set()
    for run in runs_of(store):
        needed = references(run)
        if needed is None:
            raise UserError(
                f"{run / REFERENCES} is missing or damaged, so that nobody knows what that run needs; run it again, or "
                "remove its folder."
            )
        artefacts |= needed[0]
        scored |= needed[1]
    for kind, key, path in store.files():
        if path.suffix == RECORD and (kind, key) in artefacts and (record := read_sealed(path)) is not None:
            scored.add(record["sha256"])
    return artefacts, scored


def prune(files: list[Stored]) -> int:
    """Remove what no run needs; returns the bytes that are free now. Records go first: what has none is not found."""
    unused = sorted((each for each in files if not each.needed), key=lambda each: each.path.suffix != RECORD)
    freed = 0
    for each in unused:
        with contextlib.suppress(FileNotFoundError):
            links = each.path.stat().st_nlink
            each.path.unlink()
            freed += each.size if links == 1 else 0
    return freed
