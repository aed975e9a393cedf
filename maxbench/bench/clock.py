"""Times that a slow moment of the machine does not turn: cases take turns, and are compared within a turn."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from maxbench.progress import track


class Summary(NamedTuple):
    """Of the same thing measured several times: median, quartiles and ends."""

    median: float
    lower: float
    upper: float
    least: float
    most: float


def summary(values: Sequence[float]) -> Summary:
    """Quartiles are interpolated linearly between neighbours."""
    lower, median, upper = np.percentile(values, (25, 50, 75))
    return Summary(float(median), float(lower), float(upper), float(min(values)), float(max(values)))


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """One case's times over another's, turn by turn."""
    return [one / other for one, other in zip(of, to, strict=True)]


def wait_for(device: torch.device) -> None:
    """Until everything that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """From an idle device to an idle device."""
    wait_for(device)
    begun = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - begun


def take_turns(
    calls: Mapping[str, Callable[[], Any]], turns: int, device: torch.device, brief: bool = False
) -> dict[str, list[float]]:
    """Seconds of every call in every turn. Each turn begins with the next call, so that none always follows the same.

    brief: leaves no line of its progress behind.
    """
    names = list(calls)
    order = [name for turn in range(turns) for name in names[turn % len(names) :] + names[: turn % len(names)]]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in track(order, "timing", len(order), "calls", brief=brief):
        seconds[name].append(seconds_of(calls[name], device))
    return seconds


class Stopwatch:
    """How long named parts of a computation take together; on CUDA by its own events, so that nobody waits."""

    def __init__(self, device: torch.device):
        self.device = device
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._open: dict[str, list[Any]] = defaultdict(list)

    def begin(self, part: str) -> None:
        self._open[part].append(self._now())

    def end(self, part: str) -> None:
        self._spans[part].append((self._open[part].pop(), self._now()))

    @contextlib.contextmanager
    def on(self, part: str) -> Iterator[None]:
        self.begin(part)
        yield
        self.end(part)

    def take(self) -> dict[str, float]:
        """Seconds by part since it was last asked."""
        wait_for(self.device)
        seconds = {part: sum(self._length(*span) for span in spans) for part, spans in self._spans.items()}
        self._spans.clear()
        return seconds

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _length(self, begun: Any, ended: Any) -> float:
        return begun.elapsed_time(ended) / 1000 if self.device.type == "cuda" else ended - begun
