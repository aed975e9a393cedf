"""One device, in this process: the next task is read and the last one written while this one runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from maxbench.generation.executors.base import Executor, Keep, Task, compute_with
from maxbench.generation.networks import Networks
from maxbench.progress import Status

WAITING = 2
"""Results that may wait to be written before the device has to wait for the disk."""


@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Runs tasks in the calling thread; two more read ahead and write behind."""

    networks: Networks

    @property
    def status(self) -> Status:
        return Status()

    def run(self, tasks: Iterable[Task], keep: Keep) -> None:
        coming = iter(tasks)

        def save(task: Task, found: object) -> None:
            keep(task, task.pack(found))

        with ThreadPoolExecutor(1, "reading") as reading, ThreadPoolExecutor(1, "writing") as writing:
            _compute_alone(reading, writing)
            saved: deque[Future] = deque()
            ahead = reading.submit(_next, coming)
            while (task := ahead.result()) is not None:
                ahead = reading.submit(_next, coming)
                found = task.run(self.networks)
                saved.append(writing.submit(save, task, found))
                while saved and (len(saved) > WAITING or saved[0].done()):
                    saved.popleft().result()  # what writing raises is raised here
            for each in saved:
                each.result()

    def close(self) -> None:
        self.networks.held.clear()


def _compute_alone(*pools: ThreadPoolExecutor) -> None:
    """Let these threads compute alone.

    Each would otherwise keep processor threads of its own, which wait for it. Where threads are more than cores, OpenMP
    lets all of them sleep between two operations, and on a processor what denoises takes up to twice its time.
    """
    threads = torch.get_num_threads()
    for pool in pools:
        pool.submit(compute_with, 1).result()
    torch.set_num_threads(threads)  # what was said last, in whatever thread, is what threads of later begin with


def _next(tasks: Iterator[Task]) -> Task | None:
    return next(tasks, None)
