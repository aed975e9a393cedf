"""What long work says while it runs: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
