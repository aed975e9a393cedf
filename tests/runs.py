"""What tests ask of the folders that runs leave."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from maxbench.store.files import seal

LEFT_OUT = ("single_tuned", "tuned_sum", "scheduled_sum", "random_blobs", "gated_sum", "maxfusion_tuned")
"""Of the methods that experiments compare by default: random networks cannot be tuned, and fewer are faster."""


def all_runs(output: Path) -> list[Path]:
    """Run folders below an output folder; the store lies beside them."""
    return sorted(path.parent for path in Path(output).glob("*/maxbench-run.json"))


def only_run(output: Path) -> Path:
    (folder,) = all_runs(output)
    return folder


def as_written(folder: Path) -> None:
    """Let the files of a folder be those that its evaluation.json says, as if the run had written them so."""
    path = folder / "evaluation.json"
    said = json.loads(path.read_text())["value"]
    files = {name: folder / name for name in said["files"] if (folder / name).is_file()}
    said["files"] = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    path.write_text(seal(said))


def digests(folder: Path, pattern: str = "*.png") -> dict[str, str]:
    """Every picture of a run but those that are drawn for people, by its place."""
    drawn = ("contact_sheet.png", "curves.png", "conflict.png")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(pattern))
        if path.name not in drawn
    }


def counted(folder: Path) -> dict:
    """What the last invocation made and found."""
    return {kind: count for kind, count in json.loads((folder / "run.json").read_text()).items() if kind != "status"}
