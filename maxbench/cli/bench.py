"""The verb `bench`: how fast pictures are made, beside diffusers' own pipeline."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxbench.cli.command import compose_one, parser_of
from maxbench.configuration.compose import plain
from maxbench.configuration.schema import check
from maxbench.errors import UserError

if TYPE_CHECKING:
    from maxbench.bench.shapes import Shapes

ANY = "hed_depth"
"""The experiment where none is asked for."""

LARGE = "sd15"
"""The suite that random weights have the shapes of."""

HELP = """\
usage: maxbench bench [suite=NAME] [experiment=NAME] [key=value ...] [--turns 9] [--methods sum,maxfusion]
                      [--compiled] [--random-weights] [--output DIR]

Time the same pictures by this package with each rule and by diffusers' pipeline with the same ControlNets, in one
process and in turns. Whether the pictures are the same is checked first.

  python -m maxbench bench suite=miniature
  python -m maxbench bench suite=sd15 data.root=DIR runtime.dtype=bf16 runtime.batch_size=4 --compiled
  python -m maxbench bench --random-weights runtime.dtype=fp16

  suite=, experiment=, sampler=, runtime.device=, dtype=, batch_size=, threads=, tf32=, channels_last=  as of `run`
  --turns 9          how often everything is timed
  --methods A,B      of the experiment; without it sum, maxfusion, maxfusion_published, average and none
  --compiled         both sides also compiled
  --random-weights   Stable Diffusion 1.5's shapes with random weights: nothing is fetched, and maps are noise
  --output DIR       also write <machine>-<suite>-<dtype>-batch<size>.md and .csv into it, as in results/bench
  --config-dir DIR   a folder with configuration of your own
"""


def bench(words: Sequence[str]) -> int:
    """`maxbench bench [settings] [options]`; returns the exit code."""
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    parser = parser_of("bench")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--methods")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--output", type=Path)
    found = parser.parse_intermixed_args(words)
    if found.turns < 1:
        raise UserError(f"--turns is {found.turns}; everything is timed at least once.")
    settings = list(found.settings)
    if not any(each.startswith("experiment=") for each in settings):
        settings.append(f"experiment={ANY}")
    if found.random_weights:
        if not any(each.startswith("suite=") for each in settings):
            settings.append(f"suite={LARGE}")
        if not any(each.startswith(f"suite={LARGE}") for each in settings):
            raise UserError(f"--random-weights has Stable Diffusion's shapes; leave out suite=, or take suite={LARGE}.")
    cfg = compose_one(settings, found.config_dir)
    names = None if found.methods is None else [each.strip() for each in found.methods.split(",")]
    command = shlex.join(["maxbench", "bench", *words])
    return measured(cfg, names, found.turns, found.compiled, found.output, command, _shapes(found.random_weights))


def _shapes(random: bool) -> Shapes | None:
    if not random:
        return None
    from maxbench.bench.shapes import SD15

    return SD15


def measured(
    cfg: Any,
    names: Sequence[str] | None,
    turns: int,
    compiled: bool,
    output: Path | None,
    command: str,
    shapes: Shapes | None = None,
) -> int:
    """Measure a composed configuration and print the tables. shapes: of random weights in the place of the suite's."""
    import torch

    from maxbench.bench.runner import measure
    from maxbench.bench.table import card_of, text, write
    from maxbench.cli.subject import random_subject, subject_of
    from maxbench.models.precision import forbid_tf32
    from maxbench.store.stamp import environment

    if output is not None:
        require_writable(output)
    config = plain(cfg)
    runtime = check(config).runtime
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    forbid_tf32()  # as a run does; a pipeline allows it to its own networks
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subject = (
            subject_of(cfg, names, compiled, folder)
            if shapes is None
            else random_subject(config, names, compiled, folder, shapes)
        )
        result = measure(subject, turns, folder)
    stamp = environment(subject.pipeline.device)
    suite = config["suite"]["name"] if shapes is None else f"{shapes.name}, random weights"
    settings = {
        "suite": suite,
        "steps": subject.sampler.steps,
        "guidance_scale": subject.sampler.guidance_scale,
        "dtype": runtime.dtype + (", TF32" if runtime.tf32 else "") + (", channels last" * runtime.channels_last),
    }
    print(f"\n{text(result, settings, stamp)}")
    if output is not None:
        kinds = [card_of(stamp), suite, runtime.dtype, f"batch{result.size}", *(["compiled"] if compiled else [])]
        page = write(result, settings, stamp, output, "-".join(slug(each) for each in kinds), command)
        print(f"\ntables: {page} and {page.with_suffix('.csv').name}")
    return 0


def require_writable(folder: Path) -> None:
    """UserError now, and not after everything has been measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"--output is {folder}, where nothing can be written ({error.strerror}); give another."
        ) from error


def slug(name: str) -> str:
    """As part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
