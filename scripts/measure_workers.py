"""What a second worker is worth: python scripts/measure_workers.py [--workers 2] [--turns 5] [--output FILE].

The same batches of the miniature by one Ray worker, by several, and by this process without Ray, in turns, each with
one thread of the processor; maps and pictures travel and PNG files are written as in a run. On a machine with fewer
cores than workers nothing can be gained.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

import torch
from hydra import compose, initialize_config_dir

from maxbench.cli.assemble import make_generation, make_networks
from maxbench.cli.build import Run, build
from maxbench.configuration.compose import CONF
from maxbench.generation.executors.base import Executor
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.executors.ray import RayExecutor
from maxbench.generation.runner import MakePictures
from maxbench.progress import say
from maxbench.report.tables import markdown_table
from maxbench.store.artefacts import Store
from maxbench.store.files import write_atomically
from maxbench.store.runfolder import RunFolder
from maxbench.store.stamp import code_version, environment

METHOD = "maxfusion"


def tasks_of(job: Run, folder: Path, batches: int) -> list[MakePictures]:
    """Batches of one method, their maps drawn and read."""
    sampling = make_generation(job, RunFolder(folder, Store.open(folder / "store"))).sampling
    sampling.inputs.make()
    method = next(each for each in job.experiment.methods if each.name == METHOD)
    samples, size = job.experiment.samples, job.batch_size
    return [
        MakePictures(
            method,
            sampling.sampler,
            sampling.batch([samples[(number * size + place) % len(samples)] for place in range(size)],
                           [number] * size, method.branches),
            tuple(range(number * size, (number + 1) * size)),
        )
        for number in range(batches)
    ]  # fmt: skip


def seconds(executor: Executor, tasks: list[MakePictures], folder: Path) -> float:
    def keep(task: MakePictures, made: list) -> None:
        for place, (content, _) in zip(task.places, made, strict=True):
            write_atomically(folder / f"{place}.png", content)

    begun = time.perf_counter()
    executor.run(iter(tasks), keep)
    return time.perf_counter() - begun


@contextlib.contextmanager
def alone(executor: RayExecutor) -> Iterator[RayExecutor]:
    """With its first worker only."""
    others = executor.members[1:]
    del executor.members[1:]
    try:
        yield executor
    finally:
        executor.members += others


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with initialize_config_dir(str(CONF), version_base="1.3"), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        settings = [f"data_dir={folder}", "data.count=48", "samples=32", "pairing.reference=8", "runtime.device=cpu"]
        job = build(compose("main", ["experiment=hed_depth", *settings]))
        job = replace(job, calibration=None)
        tasks = tasks_of(job, folder, chosen.batches)
        here = LocalExecutor(make_networks(job))
        with contextlib.closing(RayExecutor(make_networks(job), chosen.workers, threads=1)) as several:
            while not several.members or not all(each.is_ready for each in several.members):
                seconds(several, tasks, folder)
            for _ in range(2):  # every worker has loaded its networks and run
                seconds(several, tasks, folder)
            seconds(here, tasks[:1], folder)
            spans: dict[str, list[float]] = {"one worker": [], f"{chosen.workers} workers": [], "no Ray": []}
            for turn in range(chosen.turns):
                with alone(several) as one:
                    spans["one worker"].append(seconds(one, tasks, folder))
                spans[f"{chosen.workers} workers"].append(seconds(several, tasks, folder))
                spans["no Ray"].append(seconds(here, tasks, folder))
                say(f"turn {turn + 1} of {chosen.turns}")
        stamp, count = environment(torch.device("cpu")), chosen.batches * job.batch_size
    text = f"""# What a second worker is worth

Made by `scripts/measure_workers.py --workers {chosen.workers} --turns {chosen.turns}` ({code_version(stamp)}) on \
{stamp["processor"]} ({os.cpu_count()} cores), PyTorch {torch.__version__}. {count} pictures of the miniature by \
`{METHOD}` in batches of {job.batch_size}, one thread for each worker, in turns; ratios are of the same turn. In \
brackets the quartiles.

{table(spans, count)}
"""
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    print(text)
    return 0


def table(spans: dict[str, list[float]], count: int) -> str:
    first = next(iter(spans.values()))
    rows = []
    for name, own in spans.items():
        ratios = [one / each for one, each in zip(first, own, strict=True)]
        rows.append([name, f"{count / median(own):.2f}", f"{median(ratios):.3f} {_quartiles(ratios)}"])
    return markdown_table(["by", "images a second", "times as fast as one worker"], rows)


def _quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"[{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
