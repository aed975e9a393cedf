"""The ledger of a sweep: a folder beside the runs that says what became of every member, while they run and after.

    sweep.csv          one table of all members, with the results of those that are finished
    sweep.md           the same for people, once the sweep has ended
    jobs/<number>.json what one member says of itself

A member is run by this process, or by another on another machine that sees the folder. It writes its own file and no
other; only the process that holds the sweep makes the tables, from those files. So no two write the same file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from maxbench.progress import say
from maxbench.report.sweeps import FAILED, FINISHED, RUNNING, STOPPED, Entry, ledger, page, summary, varied
from maxbench.store.files import fingerprint, write_atomically
from maxbench.store.settings import PLACES
from maxbench.tracking import SWEEP, Subject, tracking

TABLE, PAGE, JOBS = "sweep.csv", "sweep.md", "jobs"
EVERY = 5.0  # seconds between two versions of a table whose members run elsewhere
ELSEWHERE = (*(each for each in PLACES if each not in ("data.root", "suite.weights_dir")), "hydra")
"""Settings that say where members run and what they leave there: the sweep is the same with others."""


def sweep_name(members: Sequence[Sequence[str]]) -> str:
    """The name of a sweep's folder, which its members decide: the same command goes on with the same ledger."""
    told = [[each.removeprefix("++") for each in own] for own in members]
    many = {key for key in {_key(each) for own in told for each in own} if _differs(told, key)}
    said = [sorted(each for each in own if _key(each) in many or not _is_elsewhere(each)) for own in told]
    experiments = dict.fromkeys(
        each.partition("=")[2] for own in told for each in own if each.startswith("experiment=")
    )
    words = "+".join(experiments) if len(experiments) < 3 else f"{len(experiments)}-experiments"
    return "-".join(["sweep", *([words[:60]] if words else []), fingerprint(said)[:10]])


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _differs(members: Sequence[Sequence[str]], key: str) -> bool:
    return len({tuple(each for each in own if _key(each) == key) for own in members}) > 1


def _is_elsewhere(override: str) -> bool:
    key = _key(override)
    return any(key == each or key.startswith((f"{each}.", f"{each}/")) for each in ELSEWHERE)


@dataclass
class Sweep:
    """A sweep's members and their ledger. folder: None for a sweep that keeps none. tracker: whom to tell of it, as the
    configuration's `tracking`.

    A disk that does not take the ledger is said once and ends nothing: the runs are what matters.
    """

    folder: Path | None
    members: list[list[str]]
    tracker: Mapping[str, Any] = field(default_factory=dict)
    complained: bool = field(default=False, repr=False)
    heard: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)  # of members that run here, by number

    @property
    def name(self) -> str | None:
        """By which members know that they belong together."""
        return None if self.folder is None else self.folder.name

    def begin(self) -> None:
        """Open the ledger: what was finished before stays so until it is looked at again, all else waits."""
        if self.folder is None:
            return
        with self._complaining():
            finished = 0
            for path in (self.folder / JOBS).glob("*.json"):
                if _read(path).get("state") == FINISHED and path.stem in {f"{number:04d}" for number in self._numbers}:
                    finished += 1
                else:
                    path.unlink(missing_ok=True)
            before = f"; {finished} of {len(self.members)} jobs were finished before" if finished else ""
            self.write()
            print(f"sweep: {self.folder / TABLE}{before}", flush=True)

    @property
    def _numbers(self) -> range:
        return range(1, len(self.members) + 1)

    @contextlib.contextmanager
    def job(self, number: int, overrides: Sequence[str]) -> Iterator[list[Any]]:
        """Within it a member runs, here; what is put into the list is its run's folder. How it ends is written down."""

        def changed(said: dict[str, Any]) -> None:
            self.heard[f"{number:04d}"] = said
            self.write()

        with recorded(self.folder, number, overrides, changed) as found:
            yield found

    def write(self) -> None:
        """Make `sweep.csv` anew from what the members say."""
        if self.folder is not None:
            with self._complaining():
                write_atomically(self.folder / TABLE, ledger(self.entries()).to_csv(index=False))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within it members run elsewhere, and the ledger is kept by what they write."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(EVERY):
                self.write()

        watcher = threading.Thread(target=watch, daemon=True, name="ledger of the sweep")
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def end(self) -> None:
        """Leave `sweep.csv` and `sweep.md`, and print the summary."""
        if self.folder is None:
            return
        entries = self.entries()
        if not entries:
            return
        table, keys = ledger(entries), varied(entries)
        self.write()
        with self._complaining():
            write_atomically(self.folder / PAGE, page(table, keys, self.folder.name))
        print(f"\n{summary(table, keys)}\n", flush=True)
        if self.complained:
            return
        with tracking(self.tracker, Subject(self.folder, SWEEP, self.folder.name)) as tracker:
            tracker.results()
        print(f"{'sweep:':15}{self.folder / TABLE}\n{'as a page:':15}{self.folder / PAGE}", flush=True)

    def entries(self) -> list[Entry]:
        """Every member as it says of itself; of a sweeper that decides as it goes, those that have begun."""
        files = sorted(path for path in (self.folder / JOBS).glob("[0-9]" * 4 + "*.json") if path.stem.isdigit())
        said = {path.stem: _read(path) for path in files} | self.heard
        known = {f"{number:04d}": own for number, own in zip(self._numbers, self.members, strict=True)}
        found = []
        for stem in sorted({*known, *said}):
            own = said.get(stem, {})
            overrides = known.get(stem) or own.get("overrides", [])
            more = {key: str(own[key]) for key in ("state", "folder", "why", "begun", "ended") if own.get(key)}
            found.append(Entry(int(stem), [each.removeprefix("++") for each in overrides], **more))
        return found

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.complained:
                self.complained = True
                say(f"note: the sweep's ledger cannot be written to {self.folder} ({error.strerror}); its runs go on")


@contextlib.contextmanager
def recorded(
    folder: Path | None,
    number: int,
    overrides: Sequence[str],
    changed: Callable[[dict[str, Any]], None] = lambda said: None,
) -> Iterator[list[Any]]:
    """Within it one member runs, in this process; it says so in its own file. changed: is told what it says, too."""
    from maxbench.cli.failures import explain

    about = {
        "overrides": list(overrides), "begun": _now(), "host": socket.gethostname(), "process": os.getpid(),
    }  # fmt: skip

    def tell(state: str, **more: str) -> None:
        said = {"state": state, **about, **more}
        if folder is not None:
            with contextlib.suppress(OSError):  # who makes the tables says it
                write_atomically(folder / JOBS / f"{number:04d}.json", json.dumps(said))
        changed(said)

    before = {} if folder is None else _read(folder / JOBS / f"{number:04d}.json")
    if before.get("state") == FINISHED:  # it stays so while it is looked at again
        tell(FINISHED, folder=before.get("folder", ""), ended=before.get("ended", ""))
    else:
        tell(RUNNING)
    found: list[Any] = []
    try:
        yield found
    except Exception as error:
        tell(FAILED, why=explain(error)[0], ended=_now())
        raise
    except BaseException:
        tell(STOPPED, ended=_now())
        raise
    tell(FINISHED, folder=str(found[0]) if found and found[0] else "", ended=_now())


def _read(path: Path) -> dict[str, Any]:
    """What a member says of itself; nothing where that cannot be read."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
