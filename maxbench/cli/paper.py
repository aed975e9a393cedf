"""The verb `paper`: which of the paper's tables and figures are there, the commands of the rest, and the tables."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, OmegaConf

from maxbench.cli.command import Command, config_folder, jobs, parser_of, read_overrides
from maxbench.cli.failures import say_failure
from maxbench.cli.output import output_folder, write_output
from maxbench.configuration.choice import with_suite
from maxbench.configuration.compose import MAIN, compose, hydra_on, plain, sentences
from maxbench.configuration.schema import check
from maxbench.errors import UserError
from maxbench.report.formats import plain_table
from maxbench.report.paper import ITEMS, ORIENTATION, Cell, Item, PaperTable, Published, read_published
from maxbench.report.runs import METRICS, Results, begun, flat, written
from maxbench.store.settings import is_place

OWN = ("experiment", "name")
"""What every cell has its own of."""
MATCHED = (
    "A run is a cell's if every setting of its command is the run's, except for places, devices and workers. Whether "
    "weights, pictures and code are still the same is looked at by --run, which makes nothing twice."
)


@dataclass(frozen=True)
class Place:
    """A cell, the command that makes it, and what is there of it.

    impossible: why it cannot be made with these settings; empty if it can. run: a finished one. unfinished: one that is
    begun. near: a finished run of the same name, and a setting in which it differs.
    """

    item: Item
    cell: Cell
    words: tuple[str, ...] = ()
    cfg: DictConfig | None = None
    impossible: str = ""
    run: Path | None = None
    unfinished: Path | None = None
    near: tuple[Path, str] | None = None

    @property
    def state(self) -> str:
        if self.run is not None:
            return self.run.name
        if self.impossible:
            return f"cannot be made: {self.impossible}"
        if self.unfinished is not None:
            return f"begun: {self.unfinished.name}"
        return "missing"

    @property
    def command(self) -> str:
        return f"python -m maxbench run {shlex.join(self.words)}"


def paper(arguments: Sequence[str], debug: bool = False) -> int:
    """`maxbench paper [key=value ...] [--run] [...]`; returns the exit code."""
    parser = parser_of("paper")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--no-adapters", action="store_true")
    parser.add_argument("--published", type=Path)
    parser.add_argument("--orientation", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--latex", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    found = parser.parse_intermixed_args(arguments)
    items = _items(found.only)
    if found.output is not None:
        output_folder(found.output)
    published = [] if found.published is None else read_published(found.published)
    command = Command(tuple(found.overrides), config_dir=config_folder(found.config_dir))
    with hydra_on(command.config_dir) as hydra:
        places = places_of(hydra, command, items, adapters=not found.no_adapters)
        suite = next(str(each.cfg.suite.name) for each in places if each.cfg is not None)
        print(f"suite: {suite} (change it with suite=); every table is of this one suite\n", flush=True)
        code = 0
        if found.run:
            places, code = _run(places, debug)
        print(_status(places))
        tables = _tables(places, items, published)
        if tables:
            _write(tables, places, found.output or _output(places, suite), suite, found.latex, found.orientation)
        elif published or found.output:
            print("\nno table is written, for no run of it is there")
    return code


def _items(only: str | None) -> list[Item]:
    if only is None:
        return list(ITEMS)
    known = {item.key: item for item in ITEMS}
    wanted = [each.strip() for each in only.split(",")]
    for name in wanted:
        if name not in known:
            raise UserError(f"--only is '{only}'; name some of {', '.join(known)}, with commas between them.")
    return [item for item in ITEMS if item.key in wanted]


# --- cells and runs -----------------------------------------------------------------------------------------------


def places_of(hydra: Hydra, command: Command, items: Sequence[Item], adapters: bool) -> list[Place]:
    """Every cell with its command under the user's settings, and the run of it."""
    with sentences(hydra, command.overrides):
        more = tuple(each.removeprefix("++") for each in jobs(read_overrides(command, hydra.config_loader))[0])
    for each in more:
        key = each.lstrip("+~").partition("=")[0]
        if key in OWN:
            raise UserError(f"{key}= is another one in every table; leave it out, or choose tables with --only.")
    first = compose(hydra, [*ITEMS[0].cells[0].words, *more])  # a mistake in the settings is one sentence, said once
    if not any(each.lstrip("+").startswith("suite=") for each in more):
        suite = with_suite(hydra, [*ITEMS[0].cells[0].words, *more], MAIN)[-1]
        more = (suite, *more)
    runs = _read(begun(Path(first.output_dir)))
    return [
        _place(hydra, item, cell, (*cell.words, *more), first, runs)
        for item in items
        for cell in item.cells
        if adapters or not cell.adapters
    ]


def _place(
    hydra: Hydra, item: Item, cell: Cell, words: tuple[str, ...], first: DictConfig, runs: Mapping[Path, dict[str, Any]]
) -> Place:
    if cell.adapters and (lacking := _without_adapter(cell, first)):
        return Place(item, cell, words, impossible=lacking)
    try:
        cfg = compose(hydra, words)
    except UserError as error:
        return Place(item, cell, words, impossible=str(error))
    wanted = settings_of(plain(cfg))
    same = [folder for folder, said in runs.items() if _differs(wanted, said) is None]
    done = [folder for folder in same if (folder / METRICS).is_file()]
    begun_only = [folder for folder in same if folder not in done]
    near = [
        (folder, different)
        for folder, said in runs.items()
        if said.get("name") == wanted["name"] and said.get("suite.name") == wanted["suite.name"]
        and (folder / METRICS).is_file() and (different := _differs(wanted, said)) is not None
    ]  # fmt: skip
    return Place(
        item, cell, words, cfg, run=_latest(done), unfinished=_latest(begun_only), near=near[-1] if near else None
    )


def _without_adapter(cell: Cell, cfg: DictConfig) -> str:
    """Which T2I-Adapter of a cell a suite does not have."""
    known = OmegaConf.to_container(cfg.suite, resolve=True).get("adapters") or {}
    pair = cell.words[0].removeprefix("experiment=adapters_").split("_")
    lacking = [name for name in pair if known.get(name) is None]
    return f"it has no T2I-Adapter for {' and '.join(lacking)}" if lacking else ""


def _read(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """The settings of every run that can be read, those that change nothing left out."""
    found = {}
    for folder in folders:
        try:
            results = Results(folder)
            if not results.is_pooled:
                found[folder] = settings_of(results.config)
        except UserError:
            continue  # `list` says what is wrong with it
    return found


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration by dotted keys as a run of it would keep it, without what changes nothing."""
    if isinstance(config.get("runtime"), dict):
        with contextlib.suppress(UserError):  # of an older version
            config = {**config, "runtime": check(config).runtime.model_dump()}  # one name for each dtype
    said = {key: value for key, value in flat(config).items() if not is_place(key)}
    methods = config.get("methods") or {}
    if not any(isinstance(each, dict) and (each.get("tune") or each.get("match")) for each in methods.values()):
        said = {key: value for key, value in said.items() if not key.startswith("calibration.")}  # which nothing uses
    return {key: value for key, value in said.items() if value not in (None, {}, [])}


def _differs(wanted: Mapping[str, Any], said: Mapping[str, Any]) -> str | None:
    """A setting in which a run is not the wanted one, with both values: the first that a command would have said."""
    keys = sorted({*wanted, *said}, key=lambda key: (key.count("."), key))
    for key in keys:
        if key == "runtime.batch_size" and wanted.get(key) == "auto":  # a run keeps the number that it was
            continue
        if wanted.get(key) != said.get(key):
            return f"{key} is {written(said.get(key))}, not {written(wanted.get(key))}"
    return None


def _latest(folders: Sequence[Path]) -> Path | None:
    """Of runs with the same settings, whose weights, pictures or code differ, the one that was touched last."""
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


# --- what is there ------------------------------------------------------------------------------------------------


def _status(places: Sequence[Place]) -> str:
    rows = [[each.item.title.partition(":")[0], each.cell.label, each.state] for each in places]
    parts = [plain_table(["in the paper", "conditions", "run"], rows)]
    missing = [each for each in places if each.run is None and not each.impossible]
    if missing:
        lines = [f"{len(missing)} of {len(places)} are missing; `--run` makes them all, or each by itself:"]
        for each in missing:
            lines.append(each.command)
            if each.near is not None:
                lines.append(f"  # {each.near[0].name} is no such run: its {each.near[1]}")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, MATCHED])


# --- making them --------------------------------------------------------------------------------------------------


def _run(places: Sequence[Place], debug: bool) -> tuple[list[Place], int]:
    """Make every cell that the suite can make, after saying how long that will take; one that fails stops no other."""
    from maxbench.cli.forecast import say_hours  # torch and all that is heavy, once there is something to do
    from maxbench.cli.perform import perform

    able = [each for each in places if each.cfg is not None]
    say_hours([each.cfg for each in able])
    made: dict[str, Path] = {}
    failed = []
    for number, each in enumerate(able, start=1):
        print(
            f"\n{number} of {len(able)}, {each.item.title.partition(':')[0]}, {each.cell.label}: {each.command}",
            flush=True,
        )
        try:
            made[each.cell.key] = perform(each.cfg)
        except BrokenPipeError:  # nobody reads on
            raise
        except Exception as error:
            if debug:
                raise
            say_failure(error)
            failed.append(each)
    if failed:
        print(f"\nmaxbench: {len(failed)} of {len(able)} runs failed:", *(each.command for each in failed),
              "the same command goes on where they were", sep="\n  ", file=sys.stderr)  # fmt: skip
    print()
    return [replace(each, run=made.get(each.cell.key, each.run)) for each in places], (2 if failed else 0)


# --- the tables -----------------------------------------------------------------------------------------------------


def _tables(places: Sequence[Place], items: Sequence[Item], published: Sequence[Published]) -> list[PaperTable]:
    """The tables of which a run is there; a run that is damaged is named and left out."""
    runs: dict[str, Results] = {}
    for each in places:
        if each.run is None:
            continue
        results = Results(each.run)
        try:
            _ = results.metrics, results.differences
        except UserError as error:
            print(f"\nnote: {each.cell.label} is left out: {error}")
            continue
        runs[each.cell.key] = results
    tables = [PaperTable(item, runs, published) for item in items]
    return [table for table in tables if not table.is_empty]


def _output(places: Sequence[Place], suite: str) -> Path:
    return Path(next(each.cfg.output_dir for each in places if each.cfg is not None)) / f"paper-{suite}"


def _write(
    tables: Sequence[PaperTable], places: Sequence[Place], output: Path, suite: str, latex: bool, orientation: bool
) -> None:
    """Leave the tables in a folder, as Markdown, CSV and LaTeX, and print them."""
    cfg = next(each.cfg for each in places if each.cfg is not None)
    about = (
        f"{suite}, {cfg.samples} samples x {cfg.replicates}, seed {cfg.seed}, {cfg.sampler.steps} steps, guidance "
        f"{cfg.sampler.guidance_scale:g}; {100 * cfg.metrics.level:g}% intervals."
    )
    given = any(table.published for table in tables)
    numbers = "Columns `published` are what the user gave." if given else (
        "The numbers printed in the paper are not known here; give them with --published."
    )  # fmt: skip
    said = [
        f"# MaxFusion's tables on {suite}",
        f"{about} Rows and columns are the paper's, then the harness's own. {numbers}",
        *(table.markdown() for table in tables),
        *([ORIENTATION.rstrip()] if orientation else []),
    ]
    files = {
        "paper.md": "\n\n".join(said) + "\n",
        "paper.csv": pd.DataFrame([row for table in tables for row in table.tidy()]).to_csv(index=False),
        **{f"{table.item.key}.tex": table.latex(about) + "\n" for table in tables},
    }
    for name, content in files.items():
        write_output(output / name, content)
    print()
    for table in tables:
        print((files[f"{table.item.key}.tex"] if latex else table.markdown()) + "\n")
    if orientation and not latex:
        print(ORIENTATION)
    for name in files:
        print(output / name)
