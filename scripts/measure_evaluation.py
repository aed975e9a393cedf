"""What evaluation costs as a run grows: python scripts/measure_evaluation.py --output results/scale/evaluation.md

Seconds and peak memory of every part of an evaluation, at several numbers of images: scoring by each metric, the
tables, each distance with its influences, the file of what was measured. Every number is of a process of its own.

Pictures are smooth noise, made here. The networks that look at them are stubs, functions of a few lines: what is
measured is the harness, and the time of real networks comes on top. The width of features and the number of classes are
real. Sizes are those of `--resolution`; `--large` measures the costs that grow with the number of pixels once more, per
picture.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from maxbench import images as im
from maxbench.conditions.base import Condition
from maxbench.conditions.canny import Canny
from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.conditions.seg import Segmentation
from maxbench.data.pairing import Sample
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.columns import DISTANCES, LARGE, SPLITS
from maxbench.evaluation.scoring import CLIP, Asked, Measuring, Scorers, Scoring, Target
from maxbench.evaluation.state import Image, Row, State, features_label, fidelity_label
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.networks import Networks
from maxbench.report.tables import markdown_table
from maxbench.store.artefacts import Artefact
from maxbench.store.files import file_digest, write_atomically
from maxbench.store.scores import Scores
from maxbench.store.stamp import code_version, environment

BATCH = 8
CLIP_WIDTH = 768
METRICS = {
    "depth_rmse": "depth", "hed_ssim": "hed", "hed_ms_ssim": "hed", "canny_f1": "canny", "seg_miou": "seg",
    "clip_score": "", "features": "",
}  # fmt: skip
"""What is scored, and the condition whose maps it needs."""
OF_NETWORK = {"fid": "inception", "kid": "inception", "fid_infinity": "inception", "cmmd": "cmmd"}
COMPARED = 3
"""Methods whose distances are measured at every number of images; the costs of a method are those of any other."""
PARTS = (*(f"score {name}" for name in METRICS), "tables", *(f"distance {name}" for name in OF_NETWORK), "state")
ALL = "distance fid of all methods"
OF_PICTURES = ("decode", "decode a map", "digest", *(f"score {name}" for name in METRICS))
"""Parts whose cost grows with the number of pixels."""
OF_FILES = ("score", "decode", "digest")


@dataclass(frozen=True)
class Size:
    """Of a run: images, methods, pixels a side, the width of Inception's features, classes, bootstrap draws."""

    samples: int
    methods: int
    resolution: int
    width: int
    classes: int
    resamples: int


# --- what is measured: pictures and networks --------------------------------------------------------------------------


def picture(number: int, size: int) -> np.ndarray:
    """(S, S, 3) uint8: coloured noise of 16 x 16 points, drawn large, with a little grain, so that a PNG is no smaller
    than that of a photograph."""
    generator = np.random.default_rng(number)
    smooth = cv2.resize(generator.random((16, 16, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = generator.integers(-4, 5, (size, size, 1))
    return (255 * smooth + grain).clip(0, 255).astype(np.uint8)


def levels(images: torch.Tensor) -> torch.Tensor:
    return images.mean(1, keepdim=True)


def edges(images: torch.Tensor) -> torch.Tensor:
    grey = F.avg_pool2d(levels(images), 5, 1, 2)
    across, down = (F.pad(grey.diff(dim=side).abs(), pad) for side, pad in ((-1, (0, 1)), (-2, (0, 0, 0, 1))))
    return (8 * (across + down)).clamp(0, 1)


def labels(classes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Logits of the class that a level stands for, about a dozen to a picture; a quarter of the picture a side."""

    def network(images: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(levels(images), 4)
        steps = (12 * small).long() * 11 + (100 * images.mean((1, 2, 3), keepdim=True)).long()
        return torch.zeros(len(images), classes, *small.shape[2:]).scatter_(1, steps % classes, 1.0)

    return network


class Projection:
    """Features: a picture of 16 x 16 points, times fixed random numbers."""

    def __init__(self, width: int):
        self.matrix = torch.randn(768, width, generator=torch.Generator().manual_seed(width)) / 28

    def images(self, images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(images, 16).flatten(1) @ self.matrix

    def texts(self, prompts: list[str]) -> torch.Tensor:
        seeds = [int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") for prompt in prompts]
        rows = [torch.randn(self.matrix.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows)


def conditions_of(classes: int) -> dict[str, Condition]:
    palette = np.random.default_rng(0).integers(256, size=(classes, 3)).tolist()
    return {each.name: each for each in (Depth(), HED(), Canny(), Segmentation(palette))}


def network_of(condition: str, classes: int) -> Callable[[torch.Tensor], torch.Tensor] | None:
    return {"depth": levels, "hed": edges, "canny": None, "seg": labels(classes)}[condition]


# --- parts ------------------------------------------------------------------------------------------------------------


def written(folder: Path, size: Size, shift: int) -> list[Path]:
    """The pictures of a method, from the seeds `shift` on."""
    paths = [folder / "pictures" / f"{size.resolution}-{number + shift}.png" for number in range(size.samples)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(im.encode_png(picture(number + shift, size.resolution)))
    return paths


def drawn(folder: Path, size: Size, condition: Condition) -> list[Path]:
    """The maps of the pictures that stand for the samples' own."""
    paths = [folder / condition.name / f"{size.resolution}-{number}.png" for number in range(size.samples)]
    network = network_of(condition.name, size.classes)
    for source, path in zip(written(folder, size, 0), paths, strict=True):
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            own = condition.draw(im.read_images([source], size.resolution), network)[0].numpy()
            times = size.resolution // len(own)  # labels lie on disk at the picture's size
            path.write_bytes(im.encode_png(own.repeat(times, 0).repeat(times, 1)))
    return paths


def prepared(folder: Path, size: Size, part: str) -> Callable[[], object]:
    """What a part does, with everything made that it needs."""
    kind, _, name = part.partition(" ")
    if kind == "score":
        return scoring(folder, size, name)
    if kind == "tables":
        tables = Tables(state(size, {}), conditions(size), size.resamples, 0.95)
        return lambda: [len(each()) for each in (tables.metrics, tables.differences, tables.samples)]
    if kind == "distance":
        return distance(size, name.split()[0], every=part == ALL)
    if kind == "state":
        return packing(folder, state(size, {"inception": size.width, "cmmd": CLIP_WIDTH}))
    paths = drawn(folder, size, Depth()) if name else written(folder, size, 10**6)
    readers = {"decode": lambda path: im.read_images([path], size.resolution), "digest": file_digest}
    read = (lambda path: im.read_maps([path])) if name else readers[kind]

    def look() -> None:
        for path in paths:
            read(path)

    return look


def scoring(folder: Path, size: Size, metric: str) -> Callable[[], object]:
    """One method's pictures, by one metric."""
    every, condition = conditions_of(size.classes), METRICS[metric]
    used = {condition: every[condition]} if condition else {}
    networks = {CLIP: Projection(CLIP_WIDTH), "inception": Projection(size.width)}
    shutil.rmtree(folder / "scores", ignore_errors=True)
    executor = LocalExecutor(
        Networks(
            used,
            load_clip=lambda: networks[CLIP],
            load_features=networks.get,
            load_scorer=lambda name: network_of(name, size.classes),
        )
    )
    measuring = Measuring(
        used,
        Scorers(
            features=("inception",) if metric == "features" else (), identity=lambda kind, name: [kind, name],
            device="cpu",
        ),
        frozenset(), Scores(folder), BATCH, executor,
    )  # fmt: skip
    targets = {
        name: [
            Target(
                lambda path=path: im.read_maps([path])[0], None,
                [ruler for ruler in each.rulers if ruler.metric == metric], [name, str(path)],
            )
            for path in drawn(folder, size, each)
        ]
        for name, each in used.items()
    }  # fmt: skip
    samples = [Sample(f"s{number:05d}", f"picture {number}", {}) for number in range(size.samples)]
    files = [Artefact(path.name, file_digest(path), path) for path in written(folder, size, 10**6)]
    score = Scoring(measuring, [(sample, 0) for sample in samples], targets, size.resolution)
    asked = {"a method": [Asked(list(used), files, whole=not used)]}
    return lambda: len(score.measure(asked))


def conditions(size: Size) -> dict[str, Condition]:
    """Those of the state below."""
    every = conditions_of(size.classes)
    return {name: every[name] for name in ("depth", "seg")}


def state(size: Size, features: dict[str, int]) -> State:
    """As a run of depth and segmentation leaves it, of random numbers: none, two singles, fusions, real pictures."""
    generator = np.random.default_rng(0)
    names = [("none", ()), ("single/depth", ("depth",)), ("single/seg", ("seg",))]
    names += [(f"fusion{number}", ("depth", "seg")) for number in range(size.methods - len(names))]
    rows = [Row(name, "reference", same=True) for name in ("real", "vae_reconstruction", "shuffled")]
    rows += [
        Row(name, ("none", "single", "fusion")[len(branches)], branches, same=True, is_unit=True)
        for name, branches in names
    ]
    measured = {}
    for row in rows:
        follows = {"none": 0.0, "shuffled": 0.0, "single": 1.0}.get(row.role if row.branches else row.name, 0.6)
        own = {
            fidelity_label("depth", metric): 60 - 20 * follows + generator.normal(size=size.samples)
            for metric in ("depth_rmse", "depth_mse", "depth_rmse_controlnetpp")
        }
        counts = _counts(generator, size, follows)
        own |= {fidelity_label("seg", "seg_miou"): counts, fidelity_label("seg", "seg_accuracy"): counts.sum(-1)}
        if row.name != "shuffled":
            own |= {"clip_score": 25 + generator.normal(size=size.samples), "defect": np.zeros(size.samples)}
            own |= {
                features_label(name): generator.standard_normal((size.samples, width), np.float32)
                for name, width in features.items()
            }
        measured[row.name] = own
    return State(
        experiment="made", suite="stubs", baselines=("fusion0", "fusion1"),
        images=tuple(Image(0, f"s{number:05d}", f"s{number:05d}", 0) for number in range(size.samples)),
        rows=tuple(rows), measured=measured,
        reference={
            name: generator.standard_normal((size.samples, width), np.float32) for name, width in features.items()
        },
        scorers={"clip": "stub", "depth": "stub", "seg": "stub", **dict.fromkeys(features, "stub")}, annotators={},
    )  # fmt: skip


def _counts(generator: np.random.Generator, size: Size, follows: float) -> np.ndarray:
    """(N, 3, C) pixels of a dozen classes a picture: intersection, given, measured."""
    counts = np.zeros((size.samples, 3, size.classes), np.int64)
    for own in counts:
        classes = generator.choice(size.classes, 12, replace=False)
        given = generator.integers(200, 3000, 12)
        own[1, classes] = given
        own[2, classes] = generator.permutation(given)
        own[0, classes] = np.minimum(own[1, classes], own[2, classes]) * (0.3 + 0.5 * follows)
    return counts


def distance(size: Size, name: str, every: bool) -> Callable[[], object]:
    """Of some methods, with their intervals and their paired differences to two baselines, as tables have them."""
    width = CLIP_WIDTH if OF_NETWORK[name] == "cmmd" else size.width
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((size.samples, width), np.float32)
    methods = size.methods if every else {"fid_infinity": 1}.get(name, COMPARED)
    noise = generator.standard_normal((size.samples, width), np.float32)
    made = State(
        "made", "stubs", ("m0", "m1")[:methods], tuple(Image(0, f"s{n}", f"s{n}", 0) for n in range(size.samples)),
        tuple(Row(f"m{number}", "fusion", ("depth", "seg"), same=True) for number in range(methods)),
        {
            f"m{number}": {features_label("only"): (1 + 0.02 * number) * noise + np.float32(0.01 * number)}
            for number in range(methods)
        },
        {"only": reference}, {"only": "stub"}, {},
    )  # fmt: skip
    DISTANCES["only"] = {name: DISTANCES[OF_NETWORK[name]][name]}
    tables = Tables(made, {}, size.resamples, 0.95)

    def distances() -> None:
        (column,) = tables.columns.distances
        for own in column.distances.values():
            own.error(made.groups)
            for baseline in made.baselines:
                own.minus(column.distances[baseline]).error(made.groups)

    return distances


def packing(folder: Path, made: State) -> Callable[[], object]:
    """A state as it is written, and read again."""
    path = folder / "state.npz"

    def write_and_read() -> int:
        write_atomically(path, made.write)
        return len(State.read(path).measured)

    return write_and_read


# --- measuring --------------------------------------------------------------------------------------------------------


def peak() -> float:
    """MiB of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_here(part: str, size: Size, folder: Path) -> dict[str, float]:
    """Seconds of processor and of the wall clock, and memory before and at the peak."""
    torch.set_num_threads(1)
    work, before = prepared(folder, size, part), peak()
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "wall": time.perf_counter() - clock, "processor": time.process_time() - processor, "before": before,
        "peak": peak(),
    }  # fmt: skip


def measure(part: str, size: Size, folder: Path) -> dict[str, float]:
    """The same in a process of its own; the files that it needs are made before, in another."""
    with ProcessPoolExecutor(1, get_context("fork")) as process:
        process.submit(files_of, part, size, folder).result()
    with ProcessPoolExecutor(1, get_context("fork")) as process:
        found = process.submit(measure_here, part, size, folder).result()
    print(f"{part}, {size.samples} images: {found}", file=sys.stderr, flush=True)
    return found


def files_of(part: str, size: Size, folder: Path) -> None:
    """Make the pictures and maps of a part."""
    kind, _, name = part.partition(" ")
    if kind in OF_FILES:
        written(folder, size, 10**6)
        for condition in conditions_of(size.classes).values():
            if condition.name == METRICS.get(name) or (part, condition.name) == ("decode a map", "depth"):
                drawn(folder, size, condition)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[500, 1000, 5000])
    parser.add_argument("--methods", type=int, default=15)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--width", type=int, default=2048, help="of Inception's features")
    parser.add_argument("--classes", type=int, default=151)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--large", type=int, default=512, help="pixels a side for costs per picture; 0 for none")
    parser.add_argument("--large-samples", type=int, default=64)
    parser.add_argument("--output", type=Path, help="where the Markdown goes; printed if left out")
    chosen = parser.parse_args()
    sizes = [
        Size(samples, chosen.methods, chosen.resolution, chosen.width, chosen.classes, chosen.resamples)
        for samples in chosen.samples
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = {(part, size): measure(part, size, Path(folder)) for part in chosen.parts for size in sizes}
        if "distance fid" in chosen.parts:
            found[ALL, sizes[-1]] = measure(ALL, sizes[-1], Path(folder))
        large = {}
        if chosen.large:
            size = Size(chosen.large_samples, 1, chosen.large, chosen.width, chosen.classes, chosen.resamples)
            large = {part: measure(part, size, Path(folder)) for part in OF_PICTURES}
    text = report(chosen, sizes, found, large)
    if chosen.output is None:
        print(text)
    else:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    return 0


def report(
    chosen: argparse.Namespace,
    sizes: list[Size],
    found: dict[tuple[str, Size], dict[str, float]],
    large: dict[str, dict[str, float]],
) -> str:
    now = environment(torch.device("cpu"))
    packages = ", ".join(f"{name} {now['packages'][name]}" for name in ("torch", "numpy", "scipy", "pandas", "pillow"))
    last, before = sizes[-1], min(each["before"] for each in found.values())
    rows = []
    for part in dict.fromkeys(part for part, _ in found):
        cells = [found.get((part, size)) for size in sizes]
        seconds = [_seconds(each["processor"]) if each else "-" for each in cells]
        memory = [f"{each['peak']:.0f}" if each else "-" for each in cells]
        rows.append([_name(part, chosen), *seconds, *memory])
    headings = ["part", *(f"{unit} at {size.samples:,}" for unit in ("s", "MiB") for size in sizes)]
    kept, side = 4 * (last.width + CLIP_WIDTH) / 1024, last.resolution
    parts = [
        f"""# What evaluation costs

One thread; every number of a process of its own. Seconds are of the processor, since other work shared it; MiB is the
most that the process held (`ru_maxrss`), {before:.0f} of them the imports. Pictures are smooth noise of {side} x {side}
pixels, features {last.width} wide (CMMD's {CLIP_WIDTH}), {last.classes} classes, {last.resamples} bootstrap draws. The
networks that look at pictures are stubs of a few lines: this is what the harness takes, and the time of real networks
comes on top.

- score: one method's pictures by one metric, decoding and the store's files included.
- tables: {last.methods} methods and 3 reference rows, depth and segmentation: intervals, q and the joint score, the
  differences of {last.methods - 1} methods to two baselines with sign-flip tests and Holm's correction, the table of
  samples. What was measured is in memory before.
- distance: {COMPARED} methods (FD-infinity: one) with intervals and their paired differences to two baselines, what
  the reference needs included. Below {LARGE:,} images {SPLITS} random halves sharpen every interval.
- state: `state.npz` of {last.methods} methods and 3 reference rows with features of {last.width} and {CLIP_WIDTH},
  written and read again. Features are kept for every image, so that runs can be pooled: {kept:.0f} KiB an image and
  method, which is what grows.""",
        markdown_table(headings, rows),
    ]
    if large:
        each = [
            [_name(part, chosen), f"{1000 * own['processor'] / chosen.large_samples:.1f}"]
            for part, own in large.items()
        ]
        parts += [
            f"Of a picture of {chosen.large} x {chosen.large} pixels, on {chosen.large_samples}:",
            markdown_table(["part", "ms an image"], each),
        ]
    parts.append(
        f"Made by `python scripts/measure_evaluation.py` ({code_version(now)}), {now['processor']}, "
        f"Python {now['python']}, {packages}."
    )
    return "\n\n".join(parts) + "\n"


def _name(part: str, chosen: argparse.Namespace) -> str:
    return part.replace("all methods", f"{chosen.methods} methods")


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
