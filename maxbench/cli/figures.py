"""The verb `figures`: the figures of finished runs, as PDF and PNG of the size that they have in print."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from maxbench.cli.failures import say_failure
from maxbench.errors import UserError
from maxbench.report import conflict, intervals, maps, sheet
from maxbench.report.base import FORMATS, NotThere, save
from maxbench.report.curves import write_curves
from maxbench.report.pictures import Album, Shown
from maxbench.report.runs import Results, find
from maxbench.store.files import write_atomically

FOLDER = "figures"
"""Within a run's folder."""
SAMPLES = 8
CURVES = "curves"

MAKERS: dict[str, Callable[[Album, Shown], dict[str, Figure]]] = {
    "contact_sheet": sheet.contact_sheets,
    "conditioning": sheet.conditioning,
    "settings": sheet.settings,
    "variance_maps": maps.variance_maps,
    "winner_maps": maps.winner_maps,
    "fusion_curves": maps.fusion_curves,
    "intervals": lambda album, shown: intervals.intervals(album.results, shown),
    "differences": lambda album, shown: intervals.differences(album.results, shown),
    "conflict": lambda album, shown: conflict.conflict(album.results, shown),
}
"""Name of a figure -> what draws it: one figure, or several with names that begin with its name."""
NAMES = (*MAKERS, CURVES)


@dataclass(frozen=True)
class Wanted:
    """What to draw. only: names of figures, all if none. formats: endings."""

    shown: Shown = field(default_factory=Shown)
    only: Sequence[str] = ()
    formats: Sequence[str] = FORMATS

    @classmethod
    def read(cls, options: argparse.Namespace) -> Wanted:
        """From the words of a command; a UserError says which of them is wrong."""
        formats = _listed(options.format, "--format", FORMATS)
        if not formats:
            raise UserError(f"--format names no format; there are {' and '.join(FORMATS)}.")
        if options.samples is not None and options.sample:
            raise UserError("--samples counts the first samples and --sample names some; give one of the two.")
        for name in ("samples", "replicates"):
            if getattr(options, name) is not None and getattr(options, name) < 1:
                raise UserError(f"--{name} is {getattr(options, name)}; it counts from 1.")
        shown = Shown(
            _listed(options.methods, "--methods"), options.samples or SAMPLES, tuple(options.sample), options.replicates
        )
        return cls(shown, _listed(options.only, "--only", NAMES), formats)


def figures(names: Sequence[str], output_dir: str, output: str | None, wanted: Wanted) -> int:
    """Draw the figures of the runs that are meant and print where they are; one that fails stops no other."""
    folders = find(names, output_dir)
    failed = 0
    for folder in folders:
        try:
            if output is None:
                place = folder / FOLDER
            else:
                place = Path(output) / Results(folder).id if len(folders) > 1 else Path(output)
            failed = max(failed, draw(folder, place, wanted))
        except UserError as error:
            if len(folders) == 1:
                raise
            failed = say_failure(error)
    return failed


def draw(folder: Path, place: Path, wanted: Wanted) -> int:
    """Draw one run's figures into a folder; returns the exit code.

    What the run has no files for is said and is no failure, unless it was asked for by name or nothing is left.
    """
    results = Results(folder)
    _ = results.metrics  # a folder that is no finished run is said to be none, once
    album = Album(results)
    _require(album, wanted.shown)
    made, failed, missing = [], 0, []
    for name in wanted.only or NAMES:
        try:
            if name == CURVES:
                paths = _curves(folder, place, wanted.formats)
            else:
                drawn = MAKERS[name](album, wanted.shown)
                paths = [
                    path for each, figure in drawn.items() for path in _saved(figure, place / each, wanted.formats)
                ]
        except NotThere as error:
            missing.append((name, str(error)))
            failed = 2 if name in wanted.only else failed
            continue
        except UserError as error:
            failed = say_failure(error)
            continue
        made += paths
        print(f"{name + ':':17}{' '.join(str(path) for path in paths)}", flush=True)
    for name, why in missing:
        print(f"{name + ':':17}not drawn: {why.rstrip('.')}.")
    if not made and not failed:
        raise UserError(f"{folder} has nothing to draw; run its experiment again.")
    return failed


def _require(album: Album, shown: Shown) -> None:
    """That what is asked for by name is there: a mistake in it is one sentence and not one for each figure."""
    try:
        known = {each.name for each in album.methods}
    except NotThere:
        known = set()
    known |= set(album.results.metrics.method)
    for name in shown.methods:
        if name not in known:
            raise UserError(f"{album.results.id} has no method '{name}'; it has {', '.join(sorted(known))}.")
    if len(set(shown.methods)) < len(shown.methods):
        raise UserError("--methods names a method twice; name each once.")
    if shown.ids:
        album.sampled(shown)


def _saved(figure: Figure, place: Path, formats: Sequence[str]) -> list[Path]:
    try:
        return save(figure, place, formats)
    except OSError as error:
        raise UserError(
            f"{place.parent} cannot be written ({error.strerror}); name another folder with --output."
        ) from error


def _curves(folder: Path, place: Path, formats: Sequence[str]) -> list[Path]:
    """Curves over what methods vary. They are drawn beside the tables they are of: here beside links to those."""
    with tempfile.TemporaryDirectory() as beside:
        for path in folder.iterdir():
            if path.stem != CURVES and path.name != FOLDER:
                (Path(beside) / path.name).symlink_to(path.resolve())
        if Results(folder).manifest is None or write_curves(Path(beside)) is None:
            raise NotThere("no method of it varies a number")
        paths = []
        for kind in formats:
            drawn = Path(beside) / f"{CURVES}.{kind}"
            if drawn.exists():
                target = place / drawn.name
                try:
                    write_atomically(target, drawn.read_bytes())
                except OSError as error:
                    raise UserError(
                        f"{place} cannot be written ({error.strerror}); name another folder with --output."
                    ) from error
                paths.append(target)
        return paths


def _listed(words: str, option: str, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Names between commas."""
    names = tuple(name.strip() for name in words.split(",") if name.strip())
    for name in names:
        if known and name not in known:
            raise UserError(f"{option} has '{name}'; there are {', '.join(known)}.")
    return names
