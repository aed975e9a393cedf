"""What long work says while it runs: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 20.0  # seconds between two lines of a log


def say(line: str) -> None:
    """A plain line among the progress, on standard error."""
    tqdm.write(line, file=sys.stderr)


def track(
    items: Iterable[T],
    what: str,
    total: float,
    unit: str,
    size=lambda item: 1,
    brief: bool = False,
    done: float = 0,
) -> Iterator[T]:
    """Pass items on, counting `size(item)` of `total` units for each: rate and time left go to stderr.

    brief: of a part of longer work, leaves nothing behind when it is done. done: units that were done before.
    """
    if sys.stderr.isatty():
        scaled = isinstance(total, float)  # as of megabytes, which are no whole numbers
        with tqdm(total=total, desc=what, unit=f" {unit}", leave=not brief, initial=done, unit_scale=scaled) as bar:
            for item in items:
                yield item
                bar.update(size(item))
        return
    start = said = time.monotonic()
    before = done
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        ended = done >= total - 1e-9
        if (ended and not brief) or now - said >= EVERY:
            rate = (done - before) / max(now - start, 1e-9)
            left = "" if ended else f", {(total - done) / rate:.0f} s left"
            say(f"{what}: {done:.0f}/{total:.0f} {unit}, {rate:.1f} {unit}/s{left}")
            said = now


FIRST, AGAIN, SHORT = 3, 600.0, 60.0
"""Batches after which the time of a whole run is said, seconds until it is said again, and what is not worth saying."""


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

    Time is taken to be proportional to cost. The first batch of a process does not count: it loads networks.
    left: stage of the run -> what is still to be made in it, as was planned; a stage that begins says it exactly.
    """

    left: dict[str, Work]
    done: Work = NO_WORK
    seconds: float = 0.0
    batches: int = 0
    said: float = field(default=0.0, repr=False)  # on the clock

    def begin(self, stage: str, work: Work) -> None:
        self.left[stage] = work

    def batch(self, stage: str, images: int, cost: float, seconds: float) -> None:
        """Count a batch of a stage, and say what is left where it is time to."""
        self.left[stage] = self.left.get(stage, NO_WORK).plus(-images, -cost)
        self.batches += 1
        if self.batches > 1:
            self.done = self.done.plus(images, cost)
            self.seconds += seconds
        now = time.monotonic()
        if self.batches == FIRST or (self.batches > FIRST and now - self.said >= AGAIN):
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
