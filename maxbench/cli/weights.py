"""The verb `data weights`: have what a suite's experiments read, from the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maxbench.cli.command import compose_one, parser_of
from maxbench.configuration.compose import plain
from maxbench.errors import UserError

if TYPE_CHECKING:
    from maxbench.suites.folder import FolderSuite
    from maxbench.suites.hub import HubPart

THERE = "there"
ANY = "hed_depth"
"""The experiment that a configuration is composed with where none is asked for."""

HELP = """\
usage: maxbench data weights suite=NAME [experiment=NAME] [key=value ...] [--list]

Fetch the weights that an experiment reads and that are not there yet, from the Hugging Face Hub; without an
experiment, all of the suite's. What is there, what is missing, sizes and free disk are printed first. Stopped, the same
command goes on where it was.

  suite=sd15                 Stable Diffusion 1.5 with ControlNets 1.0; sd15_v11 has 1.1
  suite.weights_dir=DIR      put them into DIR/<organisation>/<name>; without it into the Hub's cache (HF_HOME)
  '~suite.features.dinov2'   leave out a distance and its network
  --list                     only say what is there; exit code 1 if something is missing
  HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE are respected
"""


def weights(words: Sequence[str]) -> int:
    """`maxbench data weights suite=NAME [experiment=NAME] [settings]`: show what there is, and fetch the rest.

    Without an experiment these are all parts of the suite, else those that it can use. Returns the exit code.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    parser = parser_of("data weights")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("--list", action="store_true")
    found = parser.parse_intermixed_args(words)
    chosen = [each for each in found.settings if each.startswith("experiment=")]
    if not any(each.startswith("suite=") for each in found.settings):
        raise UserError("Say which suite's weights: suite=sd15, or suite=sd15_v11.")
    settings = found.settings if chosen else [*found.settings, f"experiment={ANY}"]
    config = plain(compose_one(settings, found.config_dir))
    from maxbench.configuration.component import component  # torch, once the command is known to be right

    suite = component(config["suite"], "suite")
    names = suite.published_parts(list(config["conditions"]) if chosen else None)
    if not names:
        raise UserError(f"The suite '{suite.name}' fetches nothing: its weights lie in {suite.folder}.")
    return _have(suite, names, found.list)


def _have(suite: FolderSuite, names: Sequence[str], only_list: bool) -> int:
    """Print the state of these parts and fetch what is missing or not whole."""
    from maxbench.report.tables import plain_table
    from maxbench.suites.fetch import fetch, look_up, require_space
    from maxbench.suites.hub import megabytes

    shelf, parts = suite.shelf, {name: suite.published[name] for name in names}
    states = {name: _state(suite, name) for name in names}
    absent = [part for name, part in parts.items() if states[name] != THERE]
    rows = [
        [name, part.id, _revision(suite, part), megabytes(part.size) if part.size else "", states[name]]
        for name, part in parts.items()
    ]
    print(plain_table(["part", "from", "revision", "size", "state"], rows))
    where = shelf.weights_dir or "the Hub's cache"
    if not absent:
        print(f"\neverything is there, in {where}")
        return 0
    if only_list:
        print(f"\n{len(absent)} of {len(parts)} parts are missing in {where}")
        return 1
    wanted = look_up(absent)
    free = require_space(wanted, shelf)
    total = sum(each.size for each in wanted)
    print(f"\nfetching {len(wanted)} files, {megabytes(total)}, into {where} ({megabytes(free)} free)", flush=True)
    fetch(wanted, shelf)
    left = [name for name in names if _state(suite, name) != THERE]
    if left:
        raise UserError(f"{', '.join(left)} cannot be used although fetched; see `python -m maxbench doctor`.")
    print(f"everything is there, in {where}")
    return 0


def _state(suite: FolderSuite, name: str) -> str:
    """Whether a part is there, all its files among them and none damaged."""
    from maxbench.models.files import faults

    part = suite.published[name]
    if suite.shelf.find(part) is None:
        return "missing"
    return "not whole" if next(faults(suite.place(name), part.beside, part.beside), None) else THERE


def _revision(suite: FolderSuite, part: HubPart) -> str:
    """The commit that is there or asked for, and whether it is certain."""
    asked = part.sha256 if part.address else part.revision
    known = suite.shelf.revision(part) or asked
    said = known[:8] if known else "newest"
    return said if part.is_pinned else f"{said}, not pinned"
