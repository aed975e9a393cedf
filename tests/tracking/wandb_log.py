"""Reads a `.wandb` file: LevelDB's log format, of W&B's own protobuf messages. W&B ships no reader in Python."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> list[Record]:
    """Every record of a finished run, in order."""
    found = []
    for content in _contents(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        found.append(record)
    return found


def _contents(data: bytes) -> Iterator[bytes]:
    """Blocks of 32 KiB; in them pieces behind headers of checksum (4 bytes), length (2, little-endian) and type (1)."""
    assert data[:4] == b":W&B"
    place, parts = HEADER, []
    while place < len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too little for another header: filled up with zeros
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        parts.append(data[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if place > len(data):  # it is being written
            return
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def _ended(path: Path) -> list[Record]:
    """The records of a run that has ended: W&B's own process may still be writing the last ones."""
    for _ in range(200):
        found = records(path)
        if any(each.HasField("exit") for each in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} does not end")


class Log:
    """What a run told W&B. run: its first record. config, history, summary: plain values. lines: of its log."""

    def __init__(self, folder: Path):
        (path,) = folder.glob("*.wandb")
        self.all = _ended(path)
        self.run = next(each.run for each in self.all if each.HasField("run"))
        self.config = {each.key: json.loads(each.value_json) for each in self.run.config.update}
        self.history = [_values(each.history.item) for each in self.all if each.HasField("history")]
        self.summary: dict[str, Any] = {}
        for each in self.all:
            if each.HasField("summary"):
                self.summary |= _values(each.summary.update)
        self.lines = [each.output_logger.line.rstrip() for each in self.all if each.HasField("output_logger")]
        self.exits = [each.exit.exit_code for each in self.all if each.HasField("exit")]
        self.files = folder / "files"

    def told(self, name: str) -> dict[str, Any]:
        """The last value of a key."""
        return next(each[name] for each in reversed(self.history) if name in each)

    def picture(self, name: str) -> Path:
        """A picture that was told."""
        return self.files / self.told(name)["path"]

    def artifact(self, name: str) -> dict[str, Path]:
        """The files of an artifact, where they wait to be sent: their paths in it -> where they lie."""
        own = f"run-{self.run.run_id}-{name}"
        (found,) = [each.artifact for each in self.all if each.HasField("artifact") and each.artifact.name == own]
        return {each.path: Path(each.local_path) for each in found.manifest.contents}

    def table(self, name: str) -> dict[str, Any]:
        """A table that was told. The cell of a picture has its `path` in the table's artifact."""
        table = json.loads(self.artifact(name)[f"{name}.table.json"].read_text())
        brief = json.loads((self.files / self.told(name)["path"]).read_text())  # the same, with "Image" for a picture
        assert brief["columns"] == table["columns"] and len(brief["data"]) == len(table["data"])
        return table


def _values(items: Any) -> dict[str, Any]:
    """Items of a record as a dictionary, nested where their keys are."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return found
