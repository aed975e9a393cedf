"""What a run was made with: versions, commit, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maxbench import __version__
from maxbench.store.runfolder import RunFolder

STAMP = "stamp.json"
PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "safetensors", "hydra-core", "torchmetrics", "clean-fid",
    "pycocotools", "opencv-python-headless", "numpy", "scipy", "pandas", "pillow",
)  # fmt: skip


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def environment(device: torch.device) -> dict:
    """Everything about the machine and the installation that could change a number."""
    return {
        "maxbench": __version__,
        "git": _git(),
        "python": platform.python_version(),
        "packages": {**{name: package_version(name) for name in PACKAGES}, "torch": torch.__version__},
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
    }


def made_by(device: torch.device) -> dict[str, str]:
    """Of every artefact's record: the code and the machine that made it, briefly."""
    now = environment(device)
    libraries = {name: now["packages"][name] for name in ("torch", "diffusers", "transformers", "pillow")}
    machine = now["processor"] if now["device"] == "cpu" else now["device"]
    return {"code": code_version(now), "machine": machine, **libraries}


def write_stamp(folder: RunFolder, device: torch.device, weights: Mapping[str, Any] | None = None) -> list[str]:
    """Add this environment to the run's stamps unless the last is the same; say what has changed since.

    weights: where they come from, by part of the suite; empty for those that no repository publishes.
    """
    stamps, now = _stamps(folder.path / STAMP), environment(device) | ({"weights": dict(weights)} if weights else {})
    last = {key: value for key, value in stamps[-1].items() if key != "date"} if stamps else None
    if last == now:
        return []
    stamps.append({"date": datetime.now(UTC).isoformat(timespec="seconds"), **now})
    folder.write(STAMP, json.dumps(stamps, indent=1))
    return [key for key in now if last is not None and last.get(key) != now[key]]


def _stamps(path: Path) -> list[dict]:
    """A run's stamps so far; none where the file is missing or damaged: it says nothing that a number depends on."""
    try:
        stamps = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return stamps if isinstance(stamps, list) and all(isinstance(each, dict) for each in stamps) else []


def code_version(stamp: dict) -> str:
    """The code that a stamp stands for, for people: a commit, and whether something was changed since."""
    git = stamp["git"]
    return f"commit {git['commit'][:10]}{', dirty' * git['dirty']}" if git else f"maxbench {stamp['maxbench']}"


def origin(folder: Path) -> str:
    """A finished run's name and the code that it was made by."""
    return f"{folder.name} ({code_version(json.loads((folder / 'stamp.json').read_text())[-1])})"


def _git() -> dict | None:
    """Commit and dirty flag of the checkout that this package runs from; None for an installed copy."""
    here = Path(__file__).parent

    def ask(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        tracked = ask("ls-files", "--error-unmatch", Path(__file__).name)
        if not tracked:
            return None
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.TimeoutExpired):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()} x {os.cpu_count()}"
