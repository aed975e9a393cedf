"""The files of a network's folder, and of a tokenizer's and a scheduler's: what they are and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import zipfile
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

ALSO_READ = {TOKENIZER_CONFIG: ("tokenizer.json", "added_tokens.json", "special_tokens_map.json")}
"""File of a part -> what the library reads beside it if it is there, in the place of the vocabulary or besides it."""


STATE_DICTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf"}
"""Kinds of files that hold weights, also those that are never read here."""

PICKLED = (".bin", ".pt", ".pth")

CHOICE = ((".safetensors", ""), (".safetensors", ".fp16"), (".bin", ""), (".bin", ".fp16"), (".pt", ""))
"""Which of several state dicts of a folder is read, by suffix and variant: the first that is there."""


def readable_files(part: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Every file of a part that its loader could read, in the order of their names.

    They are its state dicts, see :func:`weights_of`, and all other files below the folder but hidden ones, Markdown
    and PNG. A part may be a single file.

    names: of the files beside the state dicts; null for all. What the library takes without being told counts too.
    """
    if part.is_file():
        return [part]
    if names is not None:
        taken = (*names, *(also for name in names for also in ALSO_READ.get(name, ())))
        beside = [part / name for name in taken if (part / name).is_file()]
    else:
        beside = [path for path in part.rglob("*") if path.is_file() and not _is_passed_over(path, part)]
    return sorted({*beside, *weights_of(part)})


def _is_passed_over(path: Path, part: Path) -> bool:
    hidden = any(name.startswith(".") for name in path.relative_to(part).parts)
    return hidden or path.suffix.lower() in BESIDE | STATE_DICTS


def weights_of(part: Path) -> list[Path]:
    """The state dicts that are read of a part: safetensors, or where there are none pickled ones, or TorchScript.

    Of each kind full precision comes before half. A state dict of several files is all of them.
    """
    if part.is_file():
        return [part]
    for suffix, variant in CHOICE:
        if found := sorted(path for path in part.glob(f"*{suffix}") if variant_of(path) == variant):
            return found
    return []


def variant_of(state_dict: Path) -> str:
    """What a file's name says between its stem and its suffix: ".fp16" of `model.fp16.safetensors`."""
    return "".join(state_dict.suffixes[:-1])


def digest_of(part: Path, names: Sequence[str] | None = None) -> str:
    """SHA-256 over every file of a part that its loader could read, by relative name and content.

    names: of the files beside the state dicts; null for all.
    """
    total = hashlib.sha256()
    try:
        for path in readable_files(part, names):
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


def faults(part: Path, needed: Sequence[str], names: Sequence[str] | None = None) -> Iterator[tuple[Path, str]]:
    """What is missing or damaged in a part, with what is wrong: its `needed` files, all JSON and all state dicts.

    Of safetensors only the header is read, which knows how long the file must be, of pickled ones only the end.
    """
    for name in needed:
        if not (part / name).is_file():
            yield part / name, "is missing"
    for path in readable_files(part, names):
        if said := file_fault(path):
            plain = path.suffix == ".json"
            yield (path if plain else part), f"cannot be loaded ({'' if plain else f'{path.name}: '}{said})"


def file_fault(path: Path) -> str | None:
    """What is wrong with a file that is there, as far as can be told without reading all of it."""
    checks = {".json": _json_fault, ".safetensors": _safetensors_fault} | dict.fromkeys(PICKLED, _pickle_fault)
    return checks[path.suffix](path) if path.suffix in checks else None


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


def _pickle_fault(path: Path) -> str | None:
    """torch writes a zip file, whose list of contents is at its end; what is older is not looked into."""
    try:
        with path.open("rb") as file:
            begins = file.read(4)
        return None if begins != b"PK\x03\x04" or zipfile.is_zipfile(path) else "it is cut off"
    except OSError as error:
        return f"{type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Files without which the library makes an empty tokenizer in silence, or one of endless length."""
    vocabulary = next((each for each in VOCABULARIES if (folder / each[0]).is_file()), VOCABULARIES[0])
    return (TOKENIZER_CONFIG, *vocabulary)
