"""The verb `export`: what the pictures of an experiment are made from, for programs other than this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maxbench.cli.command import compose_one, parser_of
from maxbench.errors import UserError


def export(arguments: Sequence[str]) -> int:
    """`maxbench export EXPERIMENT [key=value ...] --output DIR`; returns the exit code."""
    parser = parser_of("export")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--output", type=Path)
    parser.add_argument("-cd", "--config-dir", type=Path)
    found = parser.parse_intermixed_args(arguments)
    if found.output is None:
        raise UserError("Say where to: --output DIR, a new folder.")
    return _write(compose_one(_overrides(found.overrides), found.config_dir), found.output)


def _overrides(words: Sequence[str]) -> tuple[str, ...]:
    """The words of the command, of which the first without a sign is the experiment's name."""
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    if len(names) > 1:
        raise UserError(f"There are several experiments, {' and '.join(names)}; export one at a time.")
    return tuple(f"experiment={word}" if word in names else word for word in words)


def _write(cfg, output: Path) -> int:
    from maxbench import __version__
    from maxbench.cli.assemble import make_generation  # torch and all that is heavy, once there is something to do
    from maxbench.cli.batch import settled
    from maxbench.cli.build import build
    from maxbench.cli.perform import open_folder
    from maxbench.generation.export import MANIFEST, write_export

    job = build(settled(cfg))
    folder = open_folder(job)
    sampling = make_generation(replace(job, calibration=None), folder).sampling
    sampling.inputs.make()
    sampling.inputs.place()
    folder.refer(sampling.inputs.artefacts)
    config = {**job.config, "runtime": {**job.config["runtime"], "device": job.device.type}}
    about = {"suite": job.suite.name, "run": folder.path.name, "maxbench": __version__}
    written = write_export(output, job.experiment, sampling, about, config)
    count = len(job.experiment.images)
    print(f"{output}: {count} images to make" if written else f"{output}: there already, {count} images to make")
    print(f"score them: python -m maxbench evaluate --images FOLDER --manifest {output / MANIFEST} --name NAME")
    return 0
