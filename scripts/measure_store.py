"""What reuse saves: a sequence of experiments, with this code and with another checkout of it, step by step in turn.

    python scripts/measure_store.py --against ../maxbench-before --output results/store.md

Every command is a process of its own, and both codes begin with no run, no store and the same rendered pictures. Images
made are counted by what the run says, or where it says nothing (the code before the store) by the files that it wrote.
Tuned methods are left out where a code has them: what they are chosen from would be most of the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from maxbench.report.tables import markdown_table
from maxbench.store.stamp import code_version, environment

HERE = Path(__file__).parents[1]
SEQUENCE = (
    ("hed_depth", ["experiment=hed_depth"]),
    ("hed_depth and one more method", ["experiment=hed_depth", "+fusion@methods.softmax=softmax"]),
    ("seg_depth", ["experiment=seg_depth"]),
    ("hed_seg", ["experiment=hed_seg"]),
    ("threshold", ["experiment=threshold"]),
    ("hed_depth again", ["experiment=hed_depth"]),
)


def perform(checkout: Path, folder: Path, overrides: list[str]) -> tuple[float, int]:
    """Seconds that one command takes, and images that it makes."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/images/**/*.png")}
    command = [sys.executable, "-m", "maxbench", "run", *overrides]
    begun = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True, text=True
    )
    seconds = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {checkout} failed:\n{done.stderr[-2000:]}")
    said = max(folder.glob("runs/*/run.json"), key=lambda path: path.stat().st_mtime_ns, default=None)
    if said is not None:
        return seconds, json.loads(said.read_text())["images"]["made"]
    after = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/images/**/*.png")}
    return seconds, sum(before.get(path) != when for path, when in after.items())


def tuned(checkout: Path, experiment: str) -> list[str]:
    """The methods of an experiment that are tuned."""
    conf = checkout / "conf"
    text = (conf / "experiment" / f"{experiment.removeprefix('experiment=')}.yaml").read_text()
    if "fusion@methods: default" not in text or not (conf / "fusion" / "default.yaml").exists():
        return []
    names = re.findall(r"^  - (\w+)@", (conf / "fusion" / "default.yaml").read_text(), re.MULTILINE)
    return [name for name in names if "tune:" in (conf / "fusion" / f"{name}.yaml").read_text()]


def measure(checkouts: dict[str, Path], overrides: list[str], data: Path) -> list[list[str]]:
    """A row a step: what it was, then seconds and images of every code; a last row has the sums."""
    rows, totals = [], {name: [0.0, 0] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        for step, experiment in SEQUENCE:
            row = [step]
            for name, checkout in checkouts.items():
                own = Path(folder) / name.replace(" ", "_")
                own.mkdir(exist_ok=True)
                left = [f"~methods.{method}" for method in tuned(checkout, experiment[0])]
                seconds, images = perform(checkout, own, [*experiment, *left, f"data_dir={data}", *overrides])
                totals[name] = [totals[name][0] + seconds, totals[name][1] + images]
                row += [f"{seconds:.0f}", str(images)]
                print(f"{step}, {name}: {seconds:.0f} s, {images} images made", file=sys.stderr, flush=True)
            rows.append(row)
    return [*rows, ["all", *(text for seconds, images in totals.values() for text in (f"{seconds:.0f}", str(images)))]]


def commit_of(checkout: Path) -> str:
    said = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return said.stdout.strip()[:10] or "not a git checkout"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a checkout of the code to compare with")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--output", type=Path, help="where the Markdown goes; printed if left out")
    arguments = parser.parse_args()
    checkouts = {"this code": HERE}
    if arguments.against is not None:
        checkouts = {"before": arguments.against.resolve(), **checkouts}
    overrides = [f"samples={arguments.samples}", "runtime.batch_size=8", "runtime.threads=1"]
    with tempfile.TemporaryDirectory() as data:
        warm = [sys.executable, "-m", "maxbench", "data", "miniature", "--data-dir", data]
        subprocess.run(warm, check=True, cwd=data, env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True)
        rows = measure(checkouts, overrides, Path(data))
    now = environment(torch.device("cpu"))
    headings = ["step", *(f"{name}, {unit}" for name in checkouts for unit in ("seconds", "images made"))]
    commits = ", ".join(f"{name} {commit_of(path)}" for name, path in checkouts.items())
    text = f"""# What reuse saves

{arguments.samples} samples, batches of 8, one thread; every step a process of its own, both codes in turn. Seconds are
of the whole command on a machine with other work: read them as ratios. Images are exact.

{markdown_table(headings, rows)}

Commits: {commits}. Run from {code_version(now)}, {now["processor"]}, PyTorch {now["packages"]["torch"]}, Python
{now["python"]}; `python scripts/measure_store.py --against CHECKOUT --samples {arguments.samples}`.
"""
    if arguments.output is None:
        print(text)
    else:
        arguments.output.write_text(text)
