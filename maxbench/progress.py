"""What long work says while it runs: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 20.0  # seconds between two lines of a log
OFTEN = 2.0  # and between two snapshots


Listener = Callable[["Snapshot | str"], None]
_listeners: list[Listener] = []


class Status(NamedTuple):
    """Who does long work: the workers that there are, how many of them compute, and how often one has died."""

    workers: int = 1
    busy: int = 1
    failures: int = 0

    @property
    def said(self) -> str:
        """In a few words; nothing where there is one worker, and nothing has gone wrong."""
        parts = []
        if self.workers > 1:  # when the last batch has come back none is busy, which is nothing to say
            parts = [f"{self.busy} of {self.workers} workers busy" if self.busy else f"{self.workers} workers"]
        return ", ".join([*parts, *([f"{self.failures} died"] if self.failures else [])])


class Snapshot(NamedTuple):
    """Long work at a moment.

    rate: units a second. left: seconds until it is done, 0 at its end. status: of who does it.
    """

    what: str
    done: float
    total: float
    unit: str
    rate: float
    left: float
    status: Status = Status()

    @property
    def figures(self) -> dict[str, float]:
        """What programs are told of it, wherever they are told."""
        return {
            "done": self.done, "total": self.total, "per_second": round(self.rate, 3),
            "seconds_left": round(self.left), **self.status._asdict(),
        }  # fmt: skip

    @property
    def line(self) -> str:
        left = f", {self.left:.0f} s left" if self.done < self.total - 1e-9 else ""
        said = f"{self.what}: {self.done:.0f}/{self.total:.0f} {self.unit}, {self.rate:.1f} {self.unit}/s{left}"
        return said + (f", {self.status.said}" if self.status.said else "")


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within it a listener hears every plain line that is said, and now and then a snapshot of long work."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _tell(news: Snapshot | str) -> None:
    for listener in tuple(_listeners):
        listener(news)


def say(line: str) -> None:
    """A plain line among the progress, on standard error."""
    tqdm.write(line, file=sys.stderr)
    _tell(line)


class Progress:
    """How far long work is: a bar on a terminal, a plain line now and then in a log, snapshots for listeners.

    total: in units; a float, as of megabytes, is no whole number. brief: of a part of longer work, leaves nothing
    behind when it is done. done: units that were done before. status: of who does it, when it is asked.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str,
        brief: bool = False,
        done: float = 0,
        status: Callable[[], Status] = Status,
    ):
        self.what, self.total, self.unit, self.brief, self.status = what, total, unit, brief, status
        self.before = self.done = done
        self.begun = self.said = self.told = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            scaled = isinstance(total, float)
            self.bar = tqdm(
                total=total, desc=what, unit=f" {unit}", leave=not brief, initial=done, unit_scale=scaled
            )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: float = 1) -> None:
        """So many units more are done."""
        self.done += count
        now = time.monotonic()
        ended = self.done >= self.total - 1e-9
        snapshot = self._at(now)
        if self.bar is not None:
            self.bar.set_postfix_str(snapshot.status.said, refresh=False)
            self.bar.update(count)
        elif (ended and not self.brief) or now - self.said >= EVERY:
            tqdm.write(snapshot.line, file=sys.stderr)
            self.said = now
        if ended or now - self.told >= OFTEN:
            self.told = now
            _tell(snapshot)

    def _at(self, now: float) -> Snapshot:
        rate = (self.done - self.before) / max(now - self.begun, 1e-9)
        left = max(self.total - self.done, 0) / rate if rate else 0.0
        return Snapshot(self.what, self.done, self.total, self.unit, rate, left, self.status())


def track(
    items: Iterable[T],
    what: str,
    total: float,
    unit: str,
    size: Callable[[T], float] = lambda item: 1,
    brief: bool = False,
    done: float = 0,
) -> Iterator[T]:
    """Pass items on, each counted as `size(item)` of `total` units when the next is asked for."""
    with Progress(what, total, unit, brief, done) as progress:
        for item in items:
            yield item
            progress.add(size(item))


FIRST, AGAIN, SHORT = 3, 600.0, 60.0
"""Batches of every worker after which the time of a whole run is said, seconds until it is said again, and what is not
worth saying."""


class Work(NamedTuple):
    """Images, and what they cost in any one unit."""

    images: int = 0
    cost: float = 0.0

    def plus(self, images: int, cost: float) -> Work:
        return Work(self.images + images, self.cost + cost)


NO_WORK = Work()


@dataclass
class Outlook:
    """How long all images of a run will take, its training included: said after the first batches, and now and then.

    Time is taken to be proportional to cost. The first batch of every worker does not count: it loads networks.
    left: stage of the run -> what is still to be made in it, as was planned; a stage that begins says it exactly.
    workers: how many there are, asked when it is needed: a cluster says it when it is joined.
    """

    left: dict[str, Work]
    workers: Callable[[], int] = lambda: 1
    done: Work = NO_WORK
    seconds: float = 0.0
    batches: int = 0
    said: float = field(default=0.0, repr=False)  # on the clock

    def begin(self, stage: str, work: Work) -> None:
        self.left[stage] = work

    def set_aside(self, stage: str, share: float) -> None:
        """A share of what is planned of a stage is of a later part of it, which begins by itself: 0 when it does."""
        planned = self.left.get(stage, NO_WORK)
        self.left[f"{stage}, later"] = Work(round(share * planned.images), share * planned.cost)

    def batch(self, stage: str, images: int, cost: float, seconds: float) -> None:
        """Count a batch of a stage, made within `seconds` of the one before; say what is left where it is time to."""
        self.left[stage] = self.left.get(stage, NO_WORK).plus(-images, -cost)
        self.batches += 1
        workers = self.workers()
        if self.batches > workers:
            self.done = self.done.plus(images, cost)
            self.seconds += seconds
        now = time.monotonic()
        first = FIRST * workers
        if self.batches == first or (self.batches > first and now - self.said >= AGAIN):
            self.said = now
            if line := self.line():
                say(line)

    def line(self) -> str:
        """How long it will take, in a sentence; empty where there is little left or nothing is known yet."""
        images, cost = (sum(each) for each in zip(*self.left.values(), strict=True)) if self.left else (0, 0.0)
        if self.done.cost <= 0 or images <= 0:
            return ""
        seconds = cost * self.seconds / self.done.cost
        if seconds < SHORT:
            return ""
        rate = images / seconds
        return f"about {duration(seconds)} for {images:,} images at {rate:.3g} images/s, without scoring"


def duration(seconds: float) -> str:
    """In the unit that fits: minutes below an hour and a half, days from two on."""
    for unit, size, most in (("minutes", 60, 90), ("hours", 3600, 48)):
        if seconds / size < most:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"
