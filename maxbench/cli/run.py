"""The verbs `run` and `tables`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from maxbench.cli.config import CONF, explain
from maxbench.errors import UserError
from maxbench.report.tables import write_tables


def run(arguments: Sequence[str], debug: bool) -> int:
    """`maxbench run`: one run, or with -m a Hydra sweep of runs; returns the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; we say them in a sentence
    finished: list[Path] = []

    from maxbench.cli.perform import perform

    def task(cfg: DictConfig) -> None:
        try:
            finished.append(perform(cfg))
        except UserError as error:
            if debug:
                raise
            print(f"maxbench: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    program = sys.argv
    sys.argv = ["maxbench run", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="main")(task)()
    except Exception as error:
        sentence = None if debug else explain(error, list(arguments))
        if sentence is None:
            raise
        print(f"maxbench: {sentence}", file=sys.stderr)
        return 2
    finally:
        sys.argv = program
        GlobalHydra.instance().clear()  # a failed run leaves it behind
    return 0


def tables(folders: Sequence[str], output_dir: str = "runs") -> int:
    """`maxbench tables`: print the tables of finished runs again, from their metrics.csv."""
    paths = [Path(folder) for folder in folders] or sorted(
        path.parent for path in Path(output_dir).glob("*/metrics.csv")
    )
    if not paths:
        raise UserError(f"There is no finished run in {output_dir}/; run one, or name its folder.")
    for path in paths:
        print(f"{write_tables(path)}\n\n{path / 'table.md'}\n")
    return 0
