"""What tests ask of the folders that runs leave."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LEFT_OUT = ("single_tuned", "tuned_sum", "scheduled_sum", "random_blobs", "gated_sum", "maxfusion_tuned")
"""Of the methods that experiments compare by default: random networks cannot be tuned, and fewer are faster."""


def all_runs(output: Path) -> list[Path]:
    """Run folders below an output folder; the store lies beside them."""
    return sorted(path.parent for path in Path(output).glob("*/maxbench-run.json"))


def only_run(output: Path) -> Path:
    (folder,) = all_runs(output)
    return folder


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
