"""`maxbench data store` and `maxbench data prune`: how much lies where, and removing what no run refers to."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from maxbench.errors import UserError
from maxbench.report.tables import plain_table
from maxbench.store import prune as pruning
from maxbench.store.artefacts import Store
from maxbench.store.files import sweep

STRAYS = "*/??/.*.partial"
"""Where killed runs leave half-written files in a store."""


def show(store_dir: str) -> int:
    """Print what a store holds, by kind, and which runs use it."""
    store = _existing(store_dir)
    runs = pruning.runs_of(store)
    print(plain_table(["kind", "files", "MB", "files no run needs", "MB no run needs"], _rows(_files(store))))
    print(f"\n{len(runs)} runs use {store.path}:")
    for run in runs:
        print(f"  {run}")
    print("\nremove what no run needs: python -m maxbench data prune")
    return 0


def prune(store_dir: str, yes: bool) -> int:
    """Remove what no run refers to, after asking."""
    store = _existing(store_dir)
    files = _files(store)
    unused = [each for each in files if not each.needed]
    if not unused:
        print(f"Every file in {store.path} is needed by a run.")
        return 0
    print(plain_table(["kind", "files", "MB", "files no run needs", "MB no run needs"], _rows(files)))
    question = f"\nRemove {len(unused)} files, {_megabytes(unused)} MB, from {store.path}? [y/N] "
    if not yes and not _agreed(question):
        print("Nothing was removed.")
        return 0
    files = _files(store)  # again: a run may have begun while the question stood
    unused = [each for each in files if not each.needed]
    freed = pruning.prune(files)
    sweep(store.path, STRAYS)
    print(f"{len(unused)} files removed, {freed / 1e6:.1f} MB freed.")
    return 0


def _existing(store_dir: str) -> Store:
    path = Path(store_dir)
    if not (path / pruning.RUNS).is_dir():  # the first thing that a run leaves in a store
        raise UserError(f"There is no store {path}; a run makes one, or name another with --store-dir.")
    return Store(path)


def _files(store: Store) -> list[pruning.Stored]:
    return list(pruning.stored(store))


def _rows(files: list[pruning.Stored]) -> list[list[str]]:
    counts = Counter(each.kind for each in files)
    rows = []
    for kind in sorted(counts):
        own = [each for each in files if each.kind == kind]
        unused = [each for each in own if not each.needed]
        rows.append([kind, str(len(own)), _megabytes(own), str(len(unused)), _megabytes(unused)])
    unused = [each for each in files if not each.needed]
    return [*rows, ["all", str(len(files)), _megabytes(files), str(len(unused)), _megabytes(unused)]]


def _megabytes(files: list[pruning.Stored]) -> str:
    return f"{sum(each.size for each in files) / 1e6:.1f}"


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UserError("Nobody is there to be asked; add --yes to remove the files.")
    return input(question).strip().lower() in ("y", "yes")
