"""Runs that differ in their seed alone, as one result: from what they have measured, without touching a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from omegaconf import OmegaConf

from maxbench.cli.perform import INDIFFERENT, without
from maxbench.configuration.component import CONDITION, component
from maxbench.configuration.schema import dotted, shown
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.runner import METRICS, STATE, SUMMARY, write_results
from maxbench.evaluation.state import State, merge
from maxbench.report.runs import TUNING, Results
from maxbench.report.tables import write_tables
from maxbench.store.artefacts import Store
from maxbench.store.files import file_digest, fingerprint, read_sealed
from maxbench.store.runfolder import MARK, RunFolder
from maxbench.store.stamp import write_stamp
from maxbench.tracking import POOLED, Subject, tracking

AGAIN = "run the experiment again, which makes it anew."
OF_A_SEED = ("samples", "regions", "pictures")
"""Of what a run is: what follows from its seed."""


def pool(runs: Sequence[Path], output: Path | None = None) -> int:
    """Write one result of several finished runs into a folder of its own, and print its table."""
    if len(runs) < 2:
        raise UserError("There is nothing to pool; name the folders of two runs or more.")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("A run is named twice; name each once.")
    runs, configs, state, tables = merged(runs)
    names = [run.resolve().name for run in runs]
    tried = what_was_tried(runs, state.seeds)
    folder = _open(output, runs[0], state, names)
    run = called(state, names)  # also where it is written under another name
    folder.write(
        "config.yaml", OmegaConf.to_yaml(OmegaConf.create({**configs[0], "seed": state.seeds, "pooled": names}))
    )
    write_stamp(folder, torch.device("cpu"))
    if tried:
        folder.write(TUNING, tried)
    write_results(folder, tables(), fingerprint({"pooled": sorted(names)}), run)
    table = write_tables(folder.path)
    with tracking(
        configs[0].get("tracking", {}), Subject(folder.path, POOLED, state.experiment, configs[0])
    ) as tracker:
        tracker.results()
    print(f"\npooled: {', '.join(names)}\n\n{table}\n")
    for label, file in (("table", "table.md"), ("metrics", METRICS), ("differences", "differences.csv")):
        print(f"{label + ':':15}{folder.path / file}")
    return 0


class Merged(NamedTuple):
    """Runs in their order, their configurations, all that they have measured, and baselines -> the tables of that."""

    runs: list[Path]
    configs: list[dict[str, Any]]
    state: State
    tables: Callable[..., Tables]


def merged(runs: Sequence[Path]) -> Merged:
    """What several runs have measured as one; UserError where they differ in more than the seed."""
    states = {run: read_state(run) for run in runs}
    runs = sorted(runs, key=lambda run: (states[run].seeds, run.resolve().name))  # one result, however they are named
    configs = [read_config(run) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if "pooled" in config:
            raise UserError(
                f"{run} is pooled already; name the runs that it is made of: {', '.join(config['pooled'])}."
            )
    _check_alike(runs, configs)
    state = merge([states[run] for run in runs])
    return Merged(runs, configs, state, lambda baselines=None: tables_of(state, configs[0], baselines))


def tables_of(
    state: State, config: Mapping[str, Any], baselines: Sequence[str] | None = None, family: int = 0
) -> Tables:
    """The tables of a state with the conditions and intervals of a run's configuration; family: see :class:`Tables`."""
    try:
        conditions = {
            name: component(entry, f"conditions.{name}", CONDITION) for name, entry in config["conditions"].items()
        }
        return Tables(state, conditions, config["metrics"]["resamples"], config["metrics"]["level"], baselines, family)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"config.yaml is no configuration of a run; {AGAIN}") from error


def what_was_tried(runs: Sequence[Path], seeds: Sequence[int]) -> bytes:
    """What the runs' tuned methods were chosen from, as one table of their own kind; empty where nothing was tuned.

    As a rule all have chosen on the same training scenes and have one table; where they have not, it says the seeds.
    """
    files = [(run / TUNING).read_bytes() if (run / TUNING).exists() else b"" for run in runs]
    if len(set(files)) == 1:
        return files[0]
    tables = [
        (seed, table) for run, seed in zip(runs, seeds, strict=True) if (table := Results(run).tuning) is not None
    ]
    return pd.concat([table.assign(seed=seed) for seed, table in tables]).to_csv(index=False).encode()


def read_state(run: Path) -> State:
    """What was measured in a run."""
    path = run / STATE
    try:
        own = file_digest(path)
        if _written(run).get(STATE, own) != own:  # as of another run, which reads well
            raise ValueError("it is not what the run has written")
        return State.read(path)
    except OSError as error:
        raise UserError(
            f"{run} has no {STATE}: it is no finished run, or one of an older version; name another or run it again."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged; {AGAIN}") from error


def _written(run: Path) -> dict[str, str]:
    """File to digest, as the run's summary says; empty where it says nothing."""
    said = read_sealed(run / SUMMARY)
    files = said.get("files") if isinstance(said, dict) else None
    return files if isinstance(files, dict) else {}


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run was made with."""
    path = run / "config.yaml"
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
    except Exception as error:  # YAML's and OmegaConf's errors have no common base
        raise UserError(f"{path} is damaged; {AGAIN}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged; {AGAIN}")
    return config


def _check_alike(runs: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    """UserError for runs that differ in anything but the seed and what follows from it."""
    first = _about(runs[0], configs[0])
    for run, config in zip(runs[1:], configs[1:], strict=True):
        for place, one, other in _differences(first, _about(run, config)):
            raise UserError(
                f"{runs[0].name} and {run.name} differ in {dotted(place)} ({shown(one)} and {shown(other)}); pool runs "
                "that differ in their seed alone."
            )


def _about(run: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same: the configuration, and what else the run says that its numbers depend on."""
    said = read_sealed(run / MARK)
    rest = said if isinstance(said, dict) else {}
    rest = {key: value for key, value in rest.items() if key not in (*OF_A_SEED, "config")}
    return {**rest, **without(dict(config), {*INDIFFERENT, "seed"})}


def _differences(one: Any, other: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any, Any]]:
    """(place, value, other value) of everything in which two nested values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _differences(one.get(key), other.get(key), (*place, key))
    elif one != other:
        yield place, one, other


def called(state: State, names: Sequence[str]) -> str:
    """The name of a pooled result, which its experiment, suite and runs decide."""
    return f"{state.experiment}-{state.suite}-pooled-{fingerprint({'pooled': sorted(names)})[:10]}"


def _open(output: Path | None, first: Path, state: State, names: Sequence[str]) -> RunFolder:
    """The folder of a pooled result: by default beside the first run, under a name that its runs decide."""
    said = {"pooled": sorted(names)}
    if output is None:
        output = first.resolve().parent / called(state, names)
    place = output.absolute()
    try:
        return RunFolder.open(place.parent, place.name, said, Store(place.parent / "store"))
    except UserError as error:
        raise UserError(str(error).replace("output_dir=", "--output")) from error
