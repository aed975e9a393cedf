"""Files that appear whole or not at all, and that know when they are damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

STRAY_SECONDS = 600
"""Age from which a half-written file belongs to nobody: no write of ours takes that long."""


class Damaged(ValueError):
    """A file of ours that is not what was written."""


def digest(content: bytes | str) -> str:
    """SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-like value; the order of keys does not matter. Anything else in it is a TypeError."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file that appears whole or not at all, and stays there after a power cut.

    content: of what is large, a function that writes it into an open file.
    """
    data = content.encode() if isinstance(content, str) else content

    def fill(partial: Path) -> None:
        with open(partial, "wb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())

    _appear(path, fill)


def link_or_copy(source: Path, target: Path) -> None:
    """Let `target` hold what `source` holds: a second name where the file system has such, else a copy."""

    def fill(partial: Path) -> None:
        partial.unlink()
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)

    _appear(target, fill)


def _appear(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a file beside `path` and rename it there; whatever stops that leaves `path` as it was and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        fill(partial)
        if partial.stat().st_nlink == 1:  # made by mkstemp for its owner alone; a link has the mode of its source
            partial.chmod(0o666 & ~_umask())
        if path.is_dir():  # a folder where a file of ours belongs: moved aside, since it may be somebody's
            path.rename(path.with_name(f"{path.name}.aside-{time.time_ns()}"))
        partial.replace(path)
    finally:  # also after a success: renaming one name of a file to another name of it leaves both
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sweep(folder: Path, pattern: str = "**/.*.partial") -> None:
    """Remove what killed processes have left half written; what another process may be writing now stays."""
    for stray in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if age(stray) > STRAY_SECONDS:
                stray.unlink()


def age(path: Path) -> float:
    """Seconds since a file got its name: the modification time of a link is its source's."""
    return time.time() - path.stat().st_ctime


def seal(value: Any) -> str:
    """A JSON-like value as text that carries its own digest; see :func:`unseal`."""
    return json.dumps(_sealed(value))


def unseal(content: bytes) -> Any:
    """The value of a sealed text; Damaged if a byte of it has changed."""
    try:
        value = json.loads(content)["value"]
        whole = _sealed(value)
        # Earlier versions gave every number a line, which takes ten times as long to write.
        intact = content == json.dumps(whole).encode() or content == json.dumps(whole, indent=1).encode()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"it is no sealed file ({type(error).__name__})") from error
    if not intact:
        raise Damaged("its content is not what its digest says")
    return value


def _sealed(value: Any) -> dict[str, Any]:
    return {"sha256": fingerprint(value), "value": value}


def read_sealed(path: Path) -> Any:
    """The value of a sealed file; None if there is none, or if it is damaged."""
    try:
        return unseal(path.read_bytes())
    except (OSError, Damaged):
        return None
