"""What an executor is: it takes tasks, which are data, to networks, and brings back what they make.

A run's arithmetic is in its tasks, its files are the driver's alone: it reads what a task needs and writes what comes
back. So it does not matter to a result where, in which order or how often a task was done.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch

from maxbench.generation.networks import Networks
from maxbench.progress import Status


def usable_cores() -> int:
    """Of this machine, as many as this process may use: a job of a cluster has its own share."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Task(ABC):
    """Work that any process which has the networks can do; everything that it needs travels with it.

    size: how many images. group: tasks of one group share what they compute first, and go to one worker while it has
    time; None for no group. label: what it is, for the message about a task that cannot be done.
    """

    size: int = 1
    group: str | None = None
    label: str = "a task"

    @abstractmethod
    def run(self, networks: Networks) -> Any:
        """The part that needs the device: of a worker's tasks one at a time, all in one thread after the other."""

    def pack(self, found: Any) -> Any:
        """The part that does not, of what :meth:`run` found; done while the next task runs."""
        return found


Keep = Callable[[Any, Any], None]
"""What is called with a task and what it made, one call at a time; it writes."""


class Executor(ABC):
    """Does tasks in some order, on one device or on many."""

    @property
    @abstractmethod
    def status(self) -> Status:
        """How it is now."""

    @abstractmethod
    def run(self, tasks: Iterable[Task], keep: Keep) -> None:
        """Do all tasks and have each result kept; raises what a task or `keep` raises, with nothing left running.

        tasks: taken one after the other as there is room for them, so that they need not all be in memory; reading the
        next one may happen in another thread.
        """

    def do(self, task: Task) -> Any:
        """One task, and what it made."""
        made: list[Any] = []
        self.run([task], lambda _, result: made.append(result))
        return made[0]

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds; a process that ends does so, too."""


def compute_with(threads: int) -> None:
    """Let the calling thread compute with so many threads of the processor.

    A thread that has computed nothing yet would take over the number that was set last in any thread, after this.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)
