"""A tracker: hears how far a run is, and is given its results. One that fails never ends a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxbench.progress import Snapshot, listening, say

NONE, WANDB = "none", "wandb"
"""Kinds of trackers."""
RUN, POOLED, SWEEP = "run", "pooled", "sweep"
"""Kinds of what is tracked."""


@dataclass(frozen=True)
class Subject:
    """What is tracked.

    folder: of the run, of a pooled result, or of a sweep's ledger; it is known by its name, in every invocation.
    kind: RUN, POOLED or SWEEP. group: what it belongs to. config: resolved, plain values.
    """

    folder: Path
    kind: str
    group: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Tracker:
    """Tells nobody anything; others extend it."""

    def heard(self, news: Snapshot | str) -> None:
        """How far the work is, or a plain line that was said."""

    def results(self) -> None:
        """The subject's folder holds its results now; what was told of the very same ones before is not told again."""

    def close(self, failed: bool) -> None:
        """Nothing more will come."""


@contextlib.contextmanager
def tracking(settings: Mapping[str, Any], subject: Subject) -> Iterator[Tracker]:
    """Within it a tracker hears what a run says. settings: `tracking` of the configuration."""
    tracker = _Careful(_made(settings, subject))
    failed = True
    try:
        with listening(tracker.heard) if tracker.inner is not None else contextlib.nullcontext():
            yield tracker
        failed = False
    finally:
        tracker.close(failed)


def _made(settings: Mapping[str, Any], subject: Subject) -> Tracker | None:
    """The tracker that is asked for; None for nobody, and where it cannot begin, which is said."""
    if settings.get("kind", NONE) == NONE:
        return None
    try:
        from maxbench.tracking.wandb_run import WandbTracker  # loads wandb, which only those need who use it

        return WandbTracker(settings, subject)
    except Exception as error:
        say(f"note: W&B cannot begin ({_short(error)}); the run goes on without it")
        return None


class _Careful(Tracker):
    """A tracker whose first failure is said and whose further work is left out."""

    def __init__(self, inner: Tracker | None):
        self.inner = inner

    def _do(self, what: str, *arguments: Any) -> None:
        if self.inner is None:
            return
        try:
            getattr(self.inner, what)(*arguments)
        except Exception as error:
            inner, self.inner = self.inner, None  # before anything is said: it would hear that
            say(f"note: W&B failed ({_short(error)}); the run goes on without it")
            with contextlib.suppress(Exception):
                if what != "close":
                    inner.close(True)

    def heard(self, news: Snapshot | str) -> None:
        self._do("heard", news)

    def results(self) -> None:
        self._do("results")

    def close(self, failed: bool) -> None:
        self._do("close", failed)


def _short(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}"[:200]
