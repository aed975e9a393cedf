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
    items: Iterable[T], what: str, total: int, unit: str, size=lambda item: 1, brief: bool = False
) -> Iterator[T]:
    """Pass items on, counting `size(item)` of `total` units for each: rate and time left go to stderr.

    brief: of a part of longer work, leaves nothing behind when it is done.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=f" {unit}", leave=not brief) as bar:
            for item in items:
                yield item
                bar.update(size(item))
        return
    start = said = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        if (done >= total and not brief) or now - said >= EVERY:
            rate = done / max(now - start, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if done < total else ""
            say(f"{what}: {done}/{total} {unit}, {rate:.1f} {unit}/s{left}")
            said = now
