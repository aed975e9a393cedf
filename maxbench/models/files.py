"""The files of a network's folder, and of a tokenizer's and a scheduler's: what they are and whether they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maxbench.errors import UserError
from maxbench.names import leaves_folder

BESIDE = {".md", ".png"}  # what people read
CONFIG = "config.json"
SCHEDULER_CONFIG = "scheduler_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Of a tokenizer: the files of one of these."""


def readable_files(part: Path) -> list[Path]:
    """Every file of a part that a loader could read, in the order of their names.

    They are all files below the folder but hidden ones, Markdown and PNG, and but a state dict in the pickle format
    that lies beside the same one as safetensors, which is taken in its place. A part may be a single file.
    """
    if part.is_file():
        return [part]
    return sorted(path for path in part.rglob("*") if path.is_file() and not _is_passed_over(path, part))


def _is_passed_over(path: Path, part: Path) -> bool:
    hidden = any(name.startswith(".") for name in path.relative_to(part).parts)
    superseded = path.suffix == ".bin" and path.with_suffix(".safetensors").is_file()
    return hidden or superseded or path.suffix.lower() in BESIDE


def weights_of(part: Path) -> list[Path]:
    """The state dicts of a part: safetensors, or where there are none pickled ones, or a TorchScript file."""
    if part.is_file():
        return [part]
    return sorted(part.glob("*.safetensors")) or sorted(part.glob("*.bin")) or sorted(part.glob("*.pt"))


def digest_of(part: Path) -> str:
    """SHA-256 over every file of a part that its loader could read, by relative name and content."""
    total = hashlib.sha256()
    try:
        for path in readable_files(part):
            said = path.stat()
            content = _sha256(path, said.st_mtime_ns, said.st_size)
            total.update(f"{content}  {path.relative_to(part).as_posix()}\n".encode())
    except OSError as error:
        raise UserError(f"{error.filename or part} cannot be read ({error.strerror}); make it readable.") from error
    return total.hexdigest()


@cache
def _sha256(path: Path, modified: int, size: int) -> str:
    """Of a file's content. Time and size stand in the key of the cache alone."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def faults(part: Path, needed: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """What is missing or damaged in a part, with what is wrong: its `needed` files, all JSON and all safetensors.

    Of safetensors only the header is read, which knows how long the file must be.
    """
    for name in needed:
        if not (part / name).is_file():
            yield part / name, "is missing"
    for path in readable_files(part):
        if path.suffix == ".json" and (said := _json_fault(path)):
            yield path, f"cannot be loaded ({said})"
        if path.suffix == ".safetensors" and (said := _safetensors_fault(path)):
            yield part, f"cannot be loaded ({path.name}: {said})"


def _json_fault(path: Path) -> str | None:
    try:
        parsed = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {_line(error)}"
    if path.name in (CONFIG, SCHEDULER_CONFIG, TOKENIZER_CONFIG) and not isinstance(parsed, dict):
        return "it holds no mapping"
    return _index_fault(path.parent, parsed) if path.name.endswith(".index.json") else None


def _index_fault(folder: Path, index: Any) -> str | None:
    """Of the index of a state dict in several files."""
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        return "it holds no weight_map"
    for name in sorted(set(files.values())):
        if leaves_folder(name) or not (folder / name).is_file():
            return f"its file {name} is not there"
    return None


def _safetensors_fault(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt"):
            return None
    except (OSError, SafetensorError) as error:
        return f"{type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Files without which the library makes an empty tokenizer in silence, or one of endless length."""
    vocabulary = next((each for each in VOCABULARIES if (folder / each[0]).is_file()), VOCABULARIES[0])
    return (TOKENIZER_CONFIG, *vocabulary)
