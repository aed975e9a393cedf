"""A run on disk: named by what changes its numbers, written atomically, resumed batch by batch."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxbench.errors import UserError

MARK = "maxbench-run.json"
"""The file by which a run folder is known as ours."""

STRAY = 600
"""Seconds after which a half-written file is nobody's."""


def digest(value: bytes | str) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def fingerprint(parts: dict[str, Any]) -> str:
    """SHA-256 of a JSON-like value; the order of keys does not matter."""
    return digest(json.dumps(parts, sort_keys=True, default=str))


def code_fingerprint(sources: Iterable[Path]) -> str:
    """SHA-256 of what Python files do: comments, docstrings and layout leave it as it is."""
    total = hashlib.sha256()
    for path in sorted(sources, key=str):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        total.update(path.name.encode() + ast.unparse(tree).encode())
    return total.hexdigest()


def source_of(thing: object) -> Path | None:
    """The Python file that defines an object's class, None where there is none (a class typed at a prompt)."""
    with contextlib.suppress(TypeError):
        return Path(inspect.getfile(type(thing)))
    return None


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file that appears whole or not at all, and stays there after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True)
class Record:
    """One finished file of a run and how it came to be."""

    file: str  # relative to the run folder
    sha256: str
    defect: str | None = None  # "nan" or "black"
    seconds: float | None = None  # per image
    unet_evaluations: int = 0  # per image
    control_evaluations: int = 0  # per image
    control_scale: float | None = None  # the strength that was used; None without control
    peak_memory: int | None = None  # bytes on the accelerator


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    `records/<product>/<batch>.json` lists the files of a finished batch with their digests. It is written
    after them, so what it lists was whole once; a batch any file of which has changed since is made again.
    """

    path: Path

    @classmethod
    def open(cls, output_dir: Path, name: str, identity: dict[str, Any]) -> RunFolder:
        """Create or reopen `output_dir/name`; a folder that is not this run's own is refused untouched."""
        path = output_dir / name
        mark = path / MARK
        try:
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; set output_dir= to another folder.")
            if mark.exists():
                if json.loads(mark.read_text()) != json.loads(json.dumps(identity, default=str)):
                    raise UserError(f"{path} holds another run; move it away or set output_dir= to another folder.")
            elif path.exists() and any(entry for entry in path.iterdir() if not entry.name.endswith(".partial")):
                raise UserError(f"{path} is not a run folder of maxbench; move it away or set output_dir= elsewhere.")
            else:
                path.mkdir(parents=True, exist_ok=True)
                write_atomically(mark, json.dumps(identity, indent=2, default=str))
            if not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except json.JSONDecodeError as error:
            raise UserError(f"{mark} is damaged; delete it and run again if the folder is yours.") from error
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"Cannot write to {path}: {reason}; set output_dir= to a folder you can write to."
            ) from error
        for stray in path.rglob(".*.partial"):  # left by a killed run, if no other worker is writing it now
            with contextlib.suppress(OSError):
                if time.time() - stray.stat().st_mtime > STRAY:
                    stray.unlink()
        return cls(path)

    def _record_file(self, product: str, batch: int) -> Path:
        return self.path / "records" / product / f"{batch:05d}.json"

    def finished(self, product: str, batch: int, files: list[str]) -> list[Record] | None:
        """The records of a batch if each of its files is there, as it was written; else None."""
        try:
            rows = json.loads(self._record_file(product, batch).read_text())
            records = [Record(**row) for row in rows]
            if [record.file for record in records] != files:
                return None
            intact = all(digest((self.path / record.file).read_bytes()) == record.sha256 for record in records)
        except (OSError, json.JSONDecodeError, TypeError):
            return None
        return records if intact else None

    def commit(self, product: str, batch: int, files: dict[str, bytes], details: list[dict] | None = None) -> None:
        """Write the files of a batch, then the record that calls it finished."""
        details = details or [{} for _ in files]
        rows = []
        for (file, content), detail in zip(files.items(), details, strict=True):
            write_atomically(self.path / file, content)
            rows.append({"file": file, "sha256": digest(content), **detail})
        write_atomically(self._record_file(product, batch), json.dumps(rows, indent=1))

    def records(self, product: str) -> list[Record]:
        """All records of a product in the order of its batches."""
        paths = sorted((self.path / "records" / product).glob("*.json"))
        return [Record(**row) for path in paths for row in json.loads(path.read_text())]
