"""Everything expensive, made once and found again.

An artefact is a file with a key: the digest of everything that determines it and of nothing else (Bazel's action cache
and Nix work so). What is found is checked by its own digest; a damaged or lost file is made again. Names and order are
not inputs: an experiment, a method's name or the other methods never enter a key.

    <store>/<kind>/<first two digits>/<key>.png   the file, for instance a picture
    <store>/<kind>/<first two digits>/<key>.json  its record: its digest, and how it came to be

A record is written after its file, both whole or not at all, so that processes may share a store, also on a network
file system: whoever is last leaves the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from maxbench.errors import UserError
from maxbench.store.files import digest, fingerprint, read_sealed, seal, write_atomically

Item = TypeVar("Item")

RECORD = ".json"


@dataclass(frozen=True)
class Artefact:
    """A file of the store.

    key: what determines it, digested. sha256: of its bytes. details: how it came to be, plain values.
    """

    key: str
    sha256: str
    path: Path = field(compare=False)
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class Count:
    """How many of what was asked for had to be made, and how many were found."""

    made: int = 0
    found: int = 0

    def as_dict(self) -> dict[str, int]:
        return {"made": self.made, "found": self.found}


@dataclass(frozen=True)
class Store:
    """A folder of artefacts, shared by runs."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store in a folder, which is made if it is not there; UserError where that cannot be."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The store {path} cannot be made ({error.strerror or error}); set output_dir= or store_dir= to a "
                "folder you can write to."
            ) from error
        return cls(path)

    def _file(self, kind: str, key: str, suffix: str) -> Path:
        return self.path / kind / key[:2] / f"{key}{suffix}"

    def find(self, kind: str, key: str, suffix: str = ".png") -> Artefact | None:
        """An artefact as it was written; None if it is not there, or not whole."""
        record = read_sealed(self._file(kind, key, RECORD))
        path = self._file(kind, key, suffix)
        try:
            if record is None or record["key"] != key or digest(path.read_bytes()) != record["sha256"]:
                return None
            return Artefact(key, record["sha256"], path, record["details"])
        except (OSError, KeyError, TypeError):
            return None

    def peek(self, kind: str, key: str, suffix: str = ".png") -> Artefact | None:
        """The same by its record alone: the file is there, and whether it is whole is not looked at."""
        record = read_sealed(self._file(kind, key, RECORD))
        path = self._file(kind, key, suffix)
        try:
            known = record is not None and record["key"] == key and path.is_file()
            return Artefact(key, record["sha256"], path, record["details"]) if known else None
        except (KeyError, TypeError):
            return None

    def keep(
        self, kind: str, key: str, content: bytes, details: Mapping[str, Any] | None = None, suffix: str = ".png"
    ) -> Artefact:
        """Write an artefact, then the record that makes it one."""
        path, sha256 = self._file(kind, key, suffix), digest(content)
        write_atomically(path, content)
        record = {"key": key, "sha256": sha256, "details": dict(details or {})}
        write_atomically(self._file(kind, key, RECORD), seal(record))
        return Artefact(key, sha256, path, record["details"])

    def value(self, kind: str, parts: Any, make: Callable[[], Any]) -> Any:
        """A JSON-like value that is determined by `parts`, computed once."""
        value = self.known_value(kind, parts)
        if value is None:
            key, value = fingerprint(parts), make()
            write_atomically(self._file(kind, key, RECORD), seal({"key": key, "value": value}))
        return value

    def known_value(self, kind: str, parts: Any) -> Any:
        """The same if it has been computed before, else None."""
        key = fingerprint(parts)
        known = read_sealed(self._file(kind, key, RECORD))
        return known.get("value") if isinstance(known, dict) and known.get("key") == key else None

    # --- what lies there --------------------------------------------------------------------------------------

    def files(self) -> Iterator[tuple[str, str, Path]]:
        """(kind, key, file) of every file; what is no file of ours is left out."""
        for path in sorted(self.path.glob("*/??/*")):
            key = path.name.split(".")[0]
            if len(key) == 64 and path.parent.name == key[:2]:
                yield path.parents[1].name, key, path


def batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Cut a sequence into parts of `size`; the last may be smaller."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def padded(batch: Sequence[Item], size: int) -> list[Item]:
    """A batch filled up with its last item, so that all batches have one shape: what a network computes of a picture
    depends on the shape of the batch, in its last bits, and not on the company."""
    return [*batch, *[batch[-1]] * (size - len(batch))]
