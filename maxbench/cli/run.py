"""The verb `run`: one run, or a sweep of runs, from the command to their results."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from omegaconf import DictConfig

from maxbench.cli.command import Command, jobs, parse, read_overrides, write
from maxbench.cli.config import MAIN, check_all, compose, hydra_on, plain, sentences
from maxbench.cli.failures import say_failure


def run(arguments: Sequence[str], debug: bool) -> int:
    """`maxbench run`: one run, or with -m a sweep of runs; returns the exit code."""
    command = parse(arguments)
    with hydra_on(command.config_dir) as hydra:
        with sentences(hydra, command.overrides):
            overrides = read_overrides(command, hydra.config_loader)
        if command.by_hydra and command.multirun:
            return _hand_over(hydra, [write(each) for each in overrides])
        members = jobs(overrides)
        if command.seeds:
            members = [[*members[0], f"seed={seed}"] for seed in command.seeds]
        if command.dry_run:
            return _foreseen(hydra, members, debug)
        if command.seeds:
            return _pooled(hydra, members, debug)
        if command.multirun:
            return _sweep(hydra, members, debug, _perform)[0]
        if command.cfg:
            return _show(hydra, command, members[0])
        _perform(compose(hydra, members[0]))
    return 0


def _show(hydra: Hydra, command: Command, overrides: Sequence[str]) -> int:
    """Print the composed configuration, also one that cannot run."""
    with sentences(hydra, overrides):
        hydra.show_cfg(MAIN, list(overrides), command.cfg, command.package, command.resolve)
    return 0


def _perform(cfg: DictConfig) -> Path:
    """Make what a checked configuration asks for; returns the run's folder."""
    from maxbench.cli.perform import perform  # torch and all that is heavy, once there is something to do

    return perform(cfg)


def _foreseen(hydra: Hydra, members: Sequence[Sequence[str]], debug: bool) -> int:
    """What every run would make and find; what several of them share is counted in each."""
    from maxbench.cli.perform import foresee

    if len(members) == 1:
        foresee(compose(hydra, members[0]))
        return 0
    return _sweep(hydra, members, debug, foresee)[0]


def _pooled(hydra: Hydra, members: Sequence[Sequence[str]], debug: bool) -> int:
    """The same run with several seeds, then their results as one; nothing is pooled where one of them failed."""
    for overrides in members:
        compose(hydra, overrides)  # a mistake in the command is one sentence, not one for each seed
    code, folders = _sweep(hydra, members, debug, _perform)
    if code:
        print(
            "maxbench: nothing is pooled; run the same command again to finish the seeds that failed.", file=sys.stderr
        )
        return code
    from maxbench.cli.pool import pool

    return pool(folders)


def _sweep(
    hydra: Hydra, members: Sequence[Sequence[str]], debug: bool, task: Callable[[DictConfig], Any]
) -> tuple[int, list[Any]]:
    """Every member in turn, in this process; one that fails says why and does not stop the others.

    Returns the exit code and what the task returned, of those that ended well: of runs their folders.
    """
    failed, results = [], []
    for number, overrides in enumerate(members, start=1):
        name = f"job {number} of {len(members)}: {' '.join(each.removeprefix('++') for each in overrides)}"
        print(name, flush=True)
        try:
            results.append(task(compose(hydra, overrides)))
        except BrokenPipeError:  # nobody reads on
            raise
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            say_failure(error)
            failed.append(name)
    if failed:
        print(f"maxbench: {len(failed)} of {len(members)} jobs failed:", *failed, sep="\n  ", file=sys.stderr)
    return (2 if failed else 0), results


def _hand_over(hydra: Hydra, overrides: Sequence[str]) -> int:
    """A sweep by another launcher or sweeper of Hydra's: it decides where runs happen, and what a failure stops."""
    with sentences(hydra, overrides):
        hydra.multirun(config_name=MAIN, task_function=_checked, overrides=list(overrides))
    return 0


def _checked(cfg: DictConfig) -> None:
    """The task of another launcher, at the top of its module so that it can be sent to another process."""
    check_all(plain(cfg))
    _perform(cfg)
