"""How far a run is, in its folder: for whoever looks from another terminal, a login node or a script.

run.log   every line that is said, with its time; now and then how far the work is
run.json  `status`: the same figures as data, and whether the run goes on, ended or failed
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from maxbench.progress import Snapshot, listening
from maxbench.store.runfolder import RunFolder

LOG = "run.log"
LINES, FIGURES = 20.0, 5.0
"""Seconds between two lines on the same work, and between two versions of its figures."""


@dataclass
class Journal:
    """Listens to a run's progress and writes it down."""

    folder: RunFolder
    begun: str = field(default_factory=lambda: _now())
    logged: float = 0.0
    written: float = 0.0
    last: Snapshot | None = None

    def __call__(self, news: Snapshot | str) -> None:
        if isinstance(news, str):
            self.log(news)
            return
        now, ended = time.monotonic(), news.done >= news.total
        another = self.last is None or self.last.what != news.what
        self.last = news
        if another or ended or now - self.logged >= LINES:
            self.logged = now
            self.log(news.line)
        if another or ended or now - self.written >= FIGURES:
            self.written = now
            self.say("running")

    def log(self, line: str) -> None:
        with open(self.folder.path / LOG, "a", encoding="utf-8") as file:
            file.write(f"{_now()} {line}\n")

    def say(self, state: str, **more: Any) -> None:
        """Write the figures. state: running, finished, stopped or failed."""
        status: dict[str, Any] = {
            "state": state, "begun": self.begun, "at": _now(), "host": socket.gethostname(), "process": os.getpid(),
        }  # fmt: skip
        if self.last is not None and state != "finished":
            work = self.last
            status |= {"work": work.what, "unit": work.unit, **work.figures}
        self.folder.summarise(status={**status, **more})


@contextlib.contextmanager
def journal(folder: RunFolder) -> Iterator[None]:
    """Within it the run folder says how far the run is, and after it how it ended."""
    own = Journal(folder)
    own.log("begun")
    own.say("running")
    try:
        with listening(own):
            yield
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        with contextlib.suppress(OSError):  # what happened matters more, and may be that the disk is full
            own.say("stopped" if stopped else "failed", why=said)
        with contextlib.suppress(OSError):
            own.log("stopped" if stopped else f"failed: {said}")
        raise
    own.log("finished")
    own.say("finished")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
