"""The verb `run`: one run, or a sweep of runs, from the command to their results."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from maxbench.cli.command import Command, jobs, parse, read_overrides, write
from maxbench.cli.failures import explain, say_failure
from maxbench.configuration.choice import with_suite
from maxbench.configuration.compose import MAIN, check_all, compose, hydra_on, plain, sentences
from maxbench.errors import Incomplete, UserError

if TYPE_CHECKING:
    from maxbench.cli.sweep import Sweep  # pandas, which a mistake in a command does not wait for


def run(arguments: Sequence[str], debug: bool) -> int:
    """`maxbench run`: one run, or with -m a sweep of runs; returns the exit code."""
    command = parse(arguments)
    with hydra_on(command.config_dir) as hydra:
        with sentences(hydra, command.overrides):
            overrides = read_overrides(command, hydra.config_loader)
        if command.by_hydra and command.multirun:
            return _hand_over(hydra, overrides, debug)
        members = jobs(overrides)
        if command.seeds:
            members = [[*members[0], f"seed={seed}"] for seed in command.seeds]
        if command.dry_run:
            return _foreseen(hydra, members, debug)
        if command.seeds:
            return _pooled(hydra, members, debug)
        if command.multirun:
            return _kept(hydra, members, debug)
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
    """What every run would make and find, what several of them share counted in each; and how long all of it takes."""
    from maxbench.cli.forecast import hours, say_hours
    from maxbench.cli.perform import foresee

    if len(members) == 1:
        code, (job, plan) = 0, foresee(compose(hydra, members[0]))
        if sentence := hours(plan.work.values(), job):
            print(sentence)
    else:  # what they share is counted in each of the plans, and once in the sum

        def look(cfg: DictConfig) -> DictConfig:
            foresee(cfg)
            return cfg

        code, planned = _sweep(hydra, members, debug, look)
        say_hours(planned)
    print("nothing was made; leave out --dry-run to begin")
    return code


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


def _kept(hydra: Hydra, members: Sequence[Sequence[str]], debug: bool) -> int:
    """A sweep whose ledger is kept while it goes on, and that ends in a summary, also where it is stopped."""
    sweep = _opened(hydra, members)
    try:
        return _sweep(hydra, members, debug, _perform, sweep)[0]
    finally:
        sweep.end()


def _opened(hydra: Hydra, members: Sequence[Sequence[str]], name: str = "") -> Sweep:
    """The ledger of a sweep, in the output folder of the first member that says one; none where no member does."""
    from maxbench.cli.sweep import Sweep, sweep_name

    for overrides in members:
        try:
            cfg = hydra.compose_config(
                MAIN, list(overrides), RunMode.RUN, from_shell=False, with_log_configuration=False
            )
            place = Path(str(OmegaConf.select(cfg, "output_dir"))) / (name or sweep_name(members))
            told = OmegaConf.to_container(cfg.tracking, resolve=True)
        except (HydraException, OmegaConfBaseException, MarkedYAMLError, UnicodeDecodeError):
            continue  # it is said when it is the member's turn
        sweep = Sweep(place, [] if name else [list(each) for each in members], told)
        sweep.begin()
        return sweep
    return Sweep(None, [])


def _grouped(cfg: DictConfig, sweep: str | None) -> DictConfig:
    """A member's configuration, by whose tracking it belongs to its sweep, unless it says a group itself."""
    if sweep and OmegaConf.select(cfg, "tracking.kind") == "wandb" and cfg.tracking.group is None:
        cfg.tracking.group = sweep
    return cfg


def _sweep(
    hydra: Hydra,
    members: Sequence[Sequence[str]],
    debug: bool,
    task: Callable[[DictConfig], Any],
    sweep: Sweep | None = None,
) -> tuple[int, list[Any]]:
    """Every member in turn, in this process; one that fails says why and does not stop the others.

    Returns the exit code and what the task returned, of those that ended well: of runs their folders.
    """
    failed, results, group = [], [], sweep and sweep.name
    for number, overrides in enumerate(members, start=1):
        name = f"job {number} of {len(members)}: {' '.join(each.removeprefix('++') for each in overrides)}"
        print(name, flush=True)
        try:
            with sweep.job(number, overrides) if sweep else contextlib.nullcontext([]) as found:
                found.append(task(_grouped(compose(hydra, overrides), group)))
            results += found
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


def _hand_over(hydra: Hydra, read: Sequence[Override], debug: bool) -> int:
    """A sweep by another launcher or sweeper of Hydra's, which decides where runs happen.

    A launcher's jobs may be processes of other machines: what became of each is told here when all have ended. With
    another sweeper, whose next runs depend on results, the first failure ends the sweep.
    """
    overrides, first = [write(each) for each in read], _first(read)
    overrides += with_suite(hydra, first, MAIN)[len(first) :]
    with sentences(hydra, overrides):
        cfg = hydra.compose_config(
            MAIN, overrides, RunMode.MULTIRUN, from_shell=False, with_log_configuration=False,
            validate_sweep_overrides=False,
        )  # fmt: skip
        if folder := OmegaConf.select(cfg, "hydra.launcher.submitit_folder"):
            print(f"sweep: handed to submitit; what each job says is in {Path(folder).parent}/<job>/", flush=True)
        sweep = _opened_elsewhere(hydra, read, overrides)
        folder = sweep.folder and sweep.folder.absolute()
        try:
            with sweep.watched():
                if not cfg.hydra.sweeper._target_.endswith(".BasicSweeper"):
                    hydra.multirun(config_name=MAIN, task_function=partial(_checked, sweep=folder), overrides=overrides)
                    return 0
                task = partial(_outcome, debug=debug, sweep=folder)
                returned = hydra.multirun(config_name=MAIN, task_function=task, overrides=overrides)
                code = _told([job for batch in returned for job in batch])
        except RuntimeError as error:
            if type(error).__name__ not in LOST:
                raise
            raise Incomplete(_lost(error)) from error
        finally:
            sweep.end()
    return code


def _opened_elsewhere(hydra: Hydra, read: Sequence[Override], overrides: Sequence[str]) -> Sweep:
    """The ledger of a sweep whose members another process runs, by the numbers that Hydra gives them.

    Members of a sweeper that chooses as it goes are not known yet: they are listed as they begin.
    """
    from maxbench.cli.sweep import sweep_name

    try:
        return _opened(hydra, jobs(read))
    except UserError:
        return _opened(hydra, [_first(read)], sweep_name([list(overrides)]))


LOST = (
    "UncompletedJobError", "FailedJobError", "FailedSubmissionError", "TerminatedWorkerError", "BrokenProcessPool",
)  # fmt: skip
"""What submitit and joblib raise of a job that was not sent or did not come back; both are optional."""


def _lost(error: Exception) -> str:
    said = " ".join(str(error).splitlines()[:2])  # what follows is the job's log
    return (
        f"A job of the sweep did not come back ({said}); others may be going on. What is finished is kept: when they "
        "have ended, run the same command again."
    )


def _first(read: Sequence[Override]) -> list[str]:
    """The overrides of the first member, without those that have no values to name."""
    return jobs([each for each in read if not each.is_sweep_override() or each.is_discrete_sweep()])[0]


def _told(ended: Sequence[JobReturn]) -> int:
    """Say of every job where its results are, or why there are none; the exit code."""
    failed = 0
    for number, job in enumerate(ended, start=1):
        name = f"job {number} of {len(ended)}: {' '.join(each.removeprefix('++') for each in job.overrides)}"
        outcome: Outcome = job.return_value
        if outcome.failure is None:
            print(f"{name}\n  {outcome.folder}", flush=True)
        else:
            failed += 1
            print(f"{name}\n  {outcome.failure}", file=sys.stderr, flush=True)
    if failed:
        print(f"maxbench: {failed} of {len(ended)} jobs failed.", file=sys.stderr)
    return 2 if failed else 0


class Outcome(NamedTuple):
    """How a job of another launcher's ended: the run's folder, or the sentence of its failure."""

    folder: Path | None
    failure: str | None = None


def _outcome(cfg: DictConfig, debug: bool = False, sweep: Path | None = None) -> Outcome:
    """The task of another launcher, at the top of its module so that it can be sent to another process.

    A failure is a result, so that it stops no other job; it is said here, for the job's own log, and by :func:`_told`.
    sweep: the folder of the ledger.
    """
    try:
        return Outcome(_checked(cfg, sweep))
    except BrokenPipeError:  # nobody reads on
        raise
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        say_failure(error)
        return Outcome(None, explain(error)[0])


def _checked(cfg: DictConfig, sweep: Path | None = None) -> Path:
    """The task of another sweeper: what is wrong is raised there. The member says in the ledger how it goes."""
    from maxbench.cli.sweep import recorded

    own = HydraConfig.get()
    with recorded(sweep, int(own.job.num) + 1, list(own.overrides.task)) as found:
        check_all(plain(cfg))
        found.append(_perform(_grouped(cfg, sweep and sweep.name)))
    return found[0]
