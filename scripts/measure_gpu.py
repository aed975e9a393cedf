"""Everything that a rented GPU should be asked, in one command that can be stopped and run again.

    python scripts/measure_gpu.py --minutes 10            the true shapes; run it again to go on where it stopped
    python scripts/measure_gpu.py --tiny --device cpu --output /tmp/gpu

Networks of Stable Diffusion 1.5's own shapes with random weights, so nothing is fetched: how far the first step's
prediction in each precision is from float32, the tests marked `gpu`, then seconds a picture, peak memory and defective
pictures by method, precision and batch. Every answer is kept in <output>/<card>/measured.json as soon as it is there,
and table.md beside it is made of that. What would not end in time is not begun.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from maxbench import images as im
from maxbench.bench.shapes import SD15, TINY, Shapes, pipeline
from maxbench.errors import UserError
from maxbench.fusion import SITES, Average, Fusion, MaxFusion, Sum
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.models.precision import Precision, forbid_tf32
from maxbench.report.tables import markdown_table
from maxbench.store.files import write_atomically
from maxbench.store.stamp import code_version, environment

ROOT = Path(__file__).parents[1]
GUIDANCE = 7.5
BRANCHES = ("hed", "depth")


class Way(NamedTuple):
    """A method: how branches are fused, and how many of them there are."""

    fusion: Fusion
    branches: int


METHODS = {
    "maxfusion": Way(Fusion(MaxFusion(), SITES), 2),
    "sum": Way(Fusion(Sum(), ()), 2),
    "single": Way(Fusion(Sum(), ()), 1),
    "none": Way(Fusion(Sum(), ()), 0),
    "average": Way(Fusion(Average(), ()), 2),
    "outputs_only": Way(Fusion(MaxFusion(), ()), 2),
}
FIRST = ("maxfusion", "sum", "single", "none")
"""What is measured before all else."""

FAMILIES = ("controlnet", "adapter")


PRECISIONS = {
    "bfloat16": Precision(torch.bfloat16),
    "float16": Precision(torch.float16),
    "TF32": Precision(torch.float32, tf32=True),
    "float32": Precision(torch.float32),
    "bfloat16, channels last": Precision(torch.bfloat16, channels_last=True),
}
TESTS = "tests"


class Cell(NamedTuple):
    """One question. batch: pictures at once; 0 for the agreement of the first step with float32."""

    family: str
    method: str
    precision: str
    batch: int

    @property
    def key(self) -> str:
        return "/".join(map(str, self))


def cells(batches: Sequence[int], precisions: Sequence[str], methods: Sequence[str] = tuple(METHODS)) -> list[Cell]:
    """All questions, the important ones first, and those of one precision together: its networks are made once."""
    usual = sorted(batches, key=lambda batch: (batch != 8, batch))
    every = [
        Cell(family, method, precision, batch)
        for family, method, precision, batch in product(FAMILIES, methods, precisions, (0, *usual))
        if not (family == "adapter" and method == "none")  # that is the same as without ControlNets
    ]

    def place(cell: Cell) -> tuple:
        first = cell.family == "controlnet" and cell.method in FIRST and cell.batch == usual[0]
        rank = 0 if cell.batch == 0 else 1 if first else 2
        made = list(precisions).index(cell.precision), FAMILIES.index(cell.family)
        return rank, *made, usual.index(cell.batch) if cell.batch else 0

    return sorted(every, key=place)


# --- what is kept -------------------------------------------------------------------------------------------


@dataclass
class Book:
    """What has been answered, and by which code and card; written whole after every answer."""

    path: Path
    said: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any], stamp: Mapping[str, Any]) -> Book:
        """The book of a folder, or a new one; UserError where it was begun with other settings."""
        path = folder / "measured.json"
        said = json.loads(path.read_text()) if path.exists() else {"settings": settings, "stamps": [], "answers": {}}
        if said["settings"] != settings:
            raise UserError(f"{path} was measured with {said['settings']}, not {settings}; give another --output.")
        if not said["stamps"] or said["stamps"][-1] != stamp:
            said["stamps"].append(stamp)
        return cls(path, said)

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        return self.said["answers"]

    def write(self, key: str, answer: Mapping[str, Any]) -> None:
        self.answers[key] = {**answer, "stamp": len(self.said["stamps"]) - 1}
        write_atomically(self.path, json.dumps(self.said, indent=1).encode() + b"\n")
        print(f"{key}: {answer}", flush=True)


# --- asking -------------------------------------------------------------------------------------------------


class _Prediction:
    """In the place of a scheduler: one step near the beginning, which gives what the U-Net predicts."""

    init_noise_sigma = 1.0

    def set_timesteps(self, steps: int, device: torch.device) -> None:
        self.timesteps = torch.tensor([981], device=device)

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (prediction,)


def sampler(steps: int) -> Sampler:
    return Sampler(UniPCMultistepScheduler.from_config, steps=steps, guidance_scale=GUIDANCE)


@dataclass
class Bench:
    """Asks a card. The networks of one precision are there at a time, and only one family of controls."""

    shapes: Shapes
    device: torch.device
    steps: int
    ends: float  # by time.monotonic()
    references: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _made: tuple[str, str] | None = None
    _pipe: Pipeline | None = None

    def left(self) -> float:
        return self.ends - time.monotonic()

    def drop(self) -> None:
        """Let go of the networks."""
        self._made = self._pipe = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def networks(self, family: str, precision: str) -> Pipeline:
        asked = PRECISIONS[precision]
        if self._made != (family, precision):
            self.drop()
            controls = dict.fromkeys(BRANCHES, family)
            made = pipeline(self.shapes, controls, self.device, asked.dtype)
            # as a run of these precisions has it; how the autoencoder takes a batch depends on the batch
            self._pipe, self._made = made.computing(asked, 1, self.shapes.resolution), (family, precision)
        return self._pipe

    def prediction(self, family: str, method: str, precision: str) -> Tensor:
        """The guided prediction of the first step, for one picture."""
        asked = Sampler(lambda config: _Prediction(), steps=1, guidance_scale=GUIDANCE)
        return self._latents(self.networks(family, precision), method, 1, asked).cpu()

    def agreement(self, cell: Cell) -> dict[str, float]:
        """Relative deviation of the first prediction from float32's, over a picture and at the worst location."""
        known = (cell.family, cell.method)
        if known not in self.references:  # all of a family at once, or the networks would be made again and again
            for method in METHODS:
                self.references[cell.family, method] = self.prediction(cell.family, method, "float32")
        own, reference = self.prediction(*cell[:3]), self.references[known]
        apart, size = own - reference, reference.norm()
        worst = (apart.norm(dim=1) / reference.norm(dim=1)).max()
        return {"deviation": float(apart.norm() / size), "worst": float(worst)}

    def time(self, cell: Cell) -> dict[str, Any] | None:
        """Seconds a picture and what else it takes; None where it would not end in time."""
        asked = PRECISIONS[cell.precision]
        pipe = self.networks(cell.family, cell.precision).computing(asked, cell.batch, self.shapes.resolution)
        warm = 2
        begun = time.monotonic()
        self._pictures(pipe, cell, warm)
        if (time.monotonic() - begun) / warm * self.steps > self.left():  # too much by what warming up takes
            return None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        begun = time.perf_counter()
        pictures = self._pictures(pipe, cell, self.steps)
        seconds = time.perf_counter() - begun
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        defects = sum(im.defect(picture) is not None for picture in pictures)
        return {"seconds": seconds / cell.batch, "peak_memory": peak, "defective": defects / cell.batch}

    def _pictures(self, pipe: Pipeline, cell: Cell, steps: int) -> Tensor:
        return pipe.decode(self._latents(pipe, cell.method, cell.batch, sampler(steps))).cpu()  # waits for the device

    def _latents(self, pipe: Pipeline, method: str, batch: int, asked: Sampler) -> Tensor:
        way, generator = METHODS[method], torch.Generator().manual_seed(0)
        noise = torch.randn(batch, *self.shapes.latents, generator=generator)
        maps = {
            name: torch.rand(batch, 3, self.shapes.resolution, self.shapes.resolution, generator=generator)
            for name in BRANCHES[: way.branches]
        }
        text, negative = pipe.encode_text(["a red sphere on grass"] * batch), pipe.encode_text([""])
        return pipe.denoise(noise, text, negative.expand_as(text), pipe.control(maps, way.fusion), asked)


def run_tests(seconds: float) -> dict[str, Any]:
    """The tests marked `gpu`, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "gpu", "tests"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"ended": False, "said": f"not ended after {seconds:.0f} s"}
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"ended": True, "passed": done.returncode == 0, "said": lines[-1].strip("= "), "failed": failed}


def ask_all(bench: Bench, book: Book, wanted: Sequence[Cell], tests: bool) -> Iterator[Cell]:
    """Answer what is not yet; gives what there was no time for."""
    for cell in wanted:
        if tests and cell.batch and TESTS not in book.answers:
            bench.drop()
            if (answer := run_tests(max(bench.left(), 1)))["ended"]:
                book.write(TESTS, answer)
            tests = False
        if cell.key in book.answers:
            continue
        if bench.left() <= 0:
            yield cell
            continue
        answer = _answered(bench.time if cell.batch else bench.agreement, cell, bench)
        if answer is None:
            yield cell
        else:
            book.write(cell.key, answer)


def _answered(ask: Callable[[Cell], dict | None], cell: Cell, bench: Bench) -> dict | None:
    """An answer, or why there can be none on this card."""
    try:
        return ask(cell)
    except torch.OutOfMemoryError:
        error = "out of memory"
    except UserError as said:  # a branch that overflows is refused on a processor
        error = str(said)
    bench.drop()
    return {"error": error}


# --- tables -------------------------------------------------------------------------------------------------


def report(book: Book, card: str) -> str:
    settings, answers = book.said["settings"], book.answers
    found = {key: (Cell(*key.split("/")), answer) for key, answer in answers.items() if key != TESTS}
    precisions = [name for name in PRECISIONS if any(cell.precision == name for cell, _ in found.values())]

    def table(timed: bool, first: Sequence[str], text: Callable[[Mapping], str]) -> str:
        lines: dict[tuple, dict[str, str]] = {}
        for cell, answer in found.values():
            if (cell.batch != "0") == timed:
                own = lines.setdefault((cell.family, cell.method, *([cell.batch] if timed else [])), {})
                own[cell.precision] = answer.get("error") or text(answer)
        order = sorted(
            lines, key=lambda line: (FAMILIES.index(line[0]), list(METHODS).index(line[1]), *map(int, line[2:]))
        )
        return markdown_table(
            [*first, *precisions], [[*line, *(lines[line].get(each, "-") for each in precisions)] for line in order]
        )

    def cost(answer: Mapping[str, Any]) -> str:
        memory = "" if answer["peak_memory"] is None else f", {answer['peak_memory'] / 1e9:.1f} GB"
        return f"{answer['seconds']:.3f} s{memory}" + (
            f", {answer['defective']:.0%} defective" * (answer["defective"] > 0)
        )

    tests = answers.get(TESTS, {"said": "not run"})
    stamps = "; ".join(f"{code_version(each)}, PyTorch {each['packages']['torch']}" for each in book.said["stamps"])
    return f"""# {card}

Made by `scripts/measure_gpu.py` ({stamps}): {settings["shapes"]} with random weights, {settings["resolution"]} pixels,
{settings["steps"]} steps of UniPC, guidance {GUIDANCE:g}, two controls. Trained weights take the same time and memory;
which of their pictures are defective in half precision, random weights cannot say. The autoencoder is float32
throughout.

Tests marked `gpu`: {tests["said"]}.

## The first step's prediction against float32

Relative deviation over the picture, and at the worst location.

{table(False, ["controls", "method"], lambda answer: f"{answer['deviation']:.1e}, {answer['worst']:.1e}")}

## Seconds a picture, peak memory

{table(True, ["controls", "method", "batch"], cost)}
"""


def slug(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="what would end later is left for the next call")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests marked gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="narrow networks, to try the script itself")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "gpu")
    chosen = parser.parse_args()
    device, shapes = torch.device(chosen.device), TINY if chosen.tiny else SD15
    if device.type == "cuda" and not torch.cuda.is_available():
        print("measure_gpu: no CUDA device is visible; --tiny --device cpu tries the script.", file=sys.stderr)
        return 2
    ends = time.monotonic() + 60 * chosen.minutes
    forbid_tf32()  # as a run does; a pipeline allows it to its own networks
    stamp = environment(device)
    card = stamp["device"] if device.type == "cuda" else stamp["processor"]
    folder = chosen.output / slug(card)
    settings = {"shapes": shapes.name, "resolution": shapes.resolution, "steps": chosen.steps}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        book = Book.open(folder, settings, stamp)
    except UserError as error:
        print(f"measure_gpu: {error}", file=sys.stderr)
        return 2
    bench, wanted = Bench(shapes, device, chosen.steps, ends), cells(chosen.batches, chosen.precisions, chosen.methods)
    left = list(ask_all(bench, book, wanted, not chosen.no_tests))
    write_atomically(folder / "table.md", report(book, card).encode())
    print((folder / "table.md").read_text())
    if left:
        print(f"{len(left)} of {len(wanted)} cells had no time; run it again to go on.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
