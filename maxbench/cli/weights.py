"""The verb `data weights`: have what a suite's experiments read, from the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from maxbench.cli.command import parser_of
from maxbench.cli.config import compose, hydra_on, plain
from maxbench.errors import UserError

ANY = "hed_depth"
"""The experiment that a configuration is composed with where none is asked for."""


def weights(words: Sequence[str]) -> int:
    """`maxbench data weights suite=NAME [experiment=NAME] [settings]`: show what there is, and fetch the rest.

    Without an experiment these are all parts of the suite, else those that it can use. Returns the exit code.
    """
    parser = parser_of("data")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--config-dir", type=Path)
    parser.add_argument("--list", action="store_true")
    found = parser.parse_intermixed_args(words)
    chosen = [each for each in found.settings if each.startswith("experiment=")]
    settings = found.settings if chosen else [*found.settings, f"experiment={ANY}"]
    with hydra_on(found.config_dir.absolute() if found.config_dir else None) as hydra:
        config = plain(compose(hydra, settings))
    from maxbench.cli.component import component  # torch, once the command is known to be right

    suite = component(config["suite"], "suite")
    names = suite.published_parts(list(config["conditions"]) if chosen else None)
    if not names:
        raise UserError(f"The suite '{suite.name}' fetches nothing: its weights lie in {suite.folder}.")
    return _have(suite, names, found.list)


def _have(suite, names: Sequence[str], only_list: bool) -> int:
    from maxbench.report.tables import plain_table
    from maxbench.suites.fetch import fetch, look_up, require_space
    from maxbench.suites.hub import megabytes

    shelf, parts = suite.shelf, {name: suite.published[name] for name in names}
    absent = {name: part for name, part in parts.items() if shelf.find(part) is None or _is_cut_off(suite, name)}
    rows = [
        [name, part.id, _revision(suite, name), megabytes(part.size) if part.size else "", _state(suite, name, absent)]
        for name, part in parts.items()
    ]
    print(plain_table(["part", "from", "revision", "size", "state"], rows))
    if not absent or only_list:
        print("\neverything is there" if not absent else f"\n{len(absent)} of {len(parts)} parts are missing")
        return 0 if not absent else 1
    wanted = look_up(list(absent.values()))
    free = require_space(wanted, shelf)
    total = sum(each.size for each in wanted)
    where = shelf.weights_dir or "the Hub's cache"
    print(f"\n{len(wanted)} files, {megabytes(total)}, into {where} ({megabytes(free)} free)", flush=True)
    fetch(wanted, shelf)
    for name, part in absent.items():
        if shelf.find(part) is None:
            raise UserError(f"{name} was fetched and is not found at {shelf.place(part)}; correct suite.hub.{name}.")
    print(f"fetched: {', '.join(absent)}")
    return 0


def _is_cut_off(suite, name: str) -> bool:
    """Whether a part that is there lacks one of its files, or has a damaged one."""
    from maxbench.models.files import faults

    part = suite.published[name]
    return next(faults(suite.place(name), part.beside, part.beside), None) is not None


def _revision(suite, name: str) -> str:
    """The commit that is there or asked for, and whether it is certain."""
    part = suite.published[name]
    there = suite.shelf.revision(part)
    if part.is_pinned or part.address:
        return (part.revision or part.sha256 or "not pinned")[:8]
    return f"{(there or part.revision or 'newest')[:8]}, not pinned"


def _state(suite, name: str, absent) -> str:
    if name not in absent:
        return f"in {os.path.relpath(suite.place(name)) if suite.weights_dir else suite.place(name)}"
    return "missing" if suite.shelf.find(suite.published[name]) is None else "not whole"
