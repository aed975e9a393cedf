"""Several devices, of this machine or of a cluster: one Ray actor for each, which asks for tasks as it has time.

Ray starts the actors, restarts those that die, and carries tasks and results. No file system is shared with them:
weights and code every node has for itself. What is decided here is who does what next, and what to do about a task that
a worker died of.

Two facts of Ray that this builds on: an actor with a GPU sees that one alone, as cuda:0, whatever the driver sees; and
calls to an actor that is being restarted wait until it is there again.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch

import maxbench
from maxbench.errors import Incomplete, UserError
from maxbench.generation.executors.base import Executor, Keep, Status, Task
from maxbench.generation.networks import Networks
from maxbench.progress import say
from maxbench.store.files import digest

SLOTS = 2
"""Tasks that a worker has at a time: one computes, the other is on its way or being packed."""

RESTARTS = 10
"""How often a worker is started again before it is given up."""

KILLS = 3
"""How many workers may die of a task before it is left out."""

PATIENCE = 600.0
"""Seconds to wait for the first worker: a cluster may be busy, a node may be starting."""

EVERY = 20.0
"""Seconds between two lines that say so."""

MEMORY = 2**30
"""Bytes for tasks and results on their way."""

PACKAGED = "maxbench[ray]"


def require_ray() -> Any:
    """The library; UserError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by itself, without its warning
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"Several workers need Ray, which is not installed; install it with `pip install '{PACKAGED}'`, or leave "
            "out runtime.workers= and runtime.address=."
        ) from error
    return ray


class Worker:
    """What an actor is: networks in a process of their own. It computes one task at a time, and packs beside that."""

    def __init__(self, packed: bytes, threads: int | None):
        if threads:
            torch.set_num_threads(threads)
        self.packed, self.device = packed, Lock()
        self.networks: Networks | None = None

    def hello(self) -> tuple[str, str]:
        """Where it is, and a digest of its code."""
        return socket.gethostname(), own_code()

    def do(self, task: Task) -> Any:
        with self.device:
            if self.networks is None:
                from ray import cloudpickle

                self.networks = cloudpickle.loads(self.packed)
            found = task.run(self.networks)
        return task.pack(found)


@cache
def own_code() -> str:
    """Digest of the code that makes results; workers must have the driver's."""
    package = Path(maxbench.__file__).parent
    rooms = ("conditions", "evaluation", "fusion", "generation", "metrics", "miniature", "models", "suites")
    files = sorted(file for room in rooms for file in (package / room).rglob("*.py"))
    return digest("".join(f"{file.relative_to(package)}\n{file.read_text(encoding='utf-8')}" for file in files))


@dataclass(eq=False)
class Member:
    """A worker as the driver sees it. group: of the task that it was given last. died: how often."""

    actor: Any
    is_ready: bool = False
    group: str | None = None
    at: list[Task] = field(default_factory=list)
    died: int = 0


class Queue:
    """Tasks by group, read as far ahead as is needed to give every worker a group of its own."""

    def __init__(self, tasks: Iterable[Task], workers: int):
        self.tasks, self.ahead = iter(tasks), workers + 1
        self.groups: dict[Any, deque[Task]] = {}
        self.ended = False

    def _read(self) -> None:
        while not self.ended and len(self.groups) < self.ahead:
            task = next(self.tasks, None)
            if task is None:
                self.ended = True
            else:
                self.groups.setdefault(id(task) if task.group is None else task.group, deque()).append(task)

    def is_empty(self) -> bool:
        self._read()
        return not self.groups

    def take(self, member: Member, others: Iterable[Member]) -> Task:
        """What a worker does next: more of its own group, a group of nobody's, or of the longest that there is."""
        taken = {other.group for other in others if other is not member and other.at}
        free = [group for group in self.groups if group not in taken]
        if member.group not in self.groups:
            member.group = free[0] if free else max(self.groups, key=lambda each: len(self.groups[each]))
        own = self.groups[member.group]
        task = own.popleft()
        if not own:
            del self.groups[member.group]
        return task


@dataclass
class Round:
    """The tasks of one call of :meth:`RayExecutor.run`, and where they are.

    flying: what a worker has been asked for; no task where it was asked whether it is there. suspects: tasks during
    which a worker died; each is given to a worker that has no other, so that there is no doubt when one dies again.
    """

    queue: Queue
    flying: dict[Any, tuple[Member, Task | None]] = field(default_factory=dict)
    suspects: deque[Task] = field(default_factory=deque)
    deaths: dict[int, int] = field(default_factory=dict)  # by the task's id()
    left_out: list[Task] = field(default_factory=list)

    def hand_out(self, members: Sequence[Member]) -> None:
        """Give every worker that has room something to do."""
        for member in members:
            while member.is_ready and (task := self._next(member, members)) is not None:
                member.at.append(task)
                self.flying[member.actor.do.remote(task)] = (member, task)

    def _next(self, member: Member, members: Sequence[Member]) -> Task | None:
        if self.suspects and not member.at:
            return self.suspects.popleft()
        if any(id(task) in self.deaths for task in member.at) or len(member.at) >= SLOTS or self.queue.is_empty():
            return None
        return self.queue.take(member, members)

    @property
    def is_done(self) -> bool:
        """A worker that is still starting is not waited for."""
        return not (any(task for _, task in self.flying.values()) or self.suspects) and self.queue.is_empty()

    def doubt(self, task: Task) -> None:
        """A worker died while it had this task."""
        self.deaths[id(task)] = self.deaths.get(id(task), 0) + 1
        (self.left_out if self.deaths[id(task)] >= KILLS else self.suspects).append(task)


@dataclass
class RayExecutor(Executor):
    """Does tasks on Ray actors, each with networks of its own.

    workers: how many; None for one on every GPU that there is. address: of a running cluster ("auto" for the one that
    this machine belongs to); None to start Ray here and stop it at the end. threads: of every worker on the processor;
    None for an equal share of this machine's cores, or what Ray gives it in a cluster.
    """

    networks: Networks
    workers: int | None = None
    address: str | None = None
    threads: int | None = None
    members: list[Member] = field(default_factory=list, repr=False)
    died: int = 0

    def __post_init__(self) -> None:
        self._ray = ray = require_ray()
        on_gpu, here = self.networks.device.type == "cuda", self.address is None
        count = self.workers or (torch.cuda.device_count() if on_gpu else 1)
        cores = self.threads or max(1, (os.cpu_count() or 1) // count)
        if begun := not ray.is_initialized():
            self._begin(count * cores, on_gpu)
        self._is_ours = begun
        if not here and self.workers is None:
            count = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else len(ray.nodes())
            if count < 1:
                raise UserError(f"The cluster at {self.address} has no GPU; add nodes, or set runtime.device=cpu.")
        self.workers = count
        kind = ray.remote(Worker).options(
            num_cpus=cores if here else self.threads or 1,
            num_gpus=1 if on_gpu else 0,
            max_restarts=RESTARTS,
            max_concurrency=SLOTS + 1,  # one for hello
        )
        packed = ray.cloudpickle.dumps(self.networks)
        self.members = [Member(kind.remote(packed, cores if here else self.threads)) for _ in range(count)]
        say(f"{count} workers {'here' if here else f'in the cluster at {self.address}'}, by Ray {ray.__version__}")

    def _begin(self, cpus: int, on_gpu: bool) -> None:
        """Join the cluster, or start Ray here with as much as the workers need."""
        settings = {"log_to_driver": False, "configure_logging": False}
        if self.address is None:
            settings |= {"num_cpus": cpus, "object_store_memory": MEMORY, "include_dashboard": False}
            settings |= {} if on_gpu else {"num_gpus": 0}
        try:
            self._ray.init(address=self.address or "local", **settings)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:300].rstrip(".")
            what = "start here" if self.address is None else f"join the cluster at {self.address}"
            raise UserError(
                f"Ray could not {what} ({said}); correct runtime.address=, start one with `ray start --head`, or leave "
                "out runtime.address= and runtime.workers=."
            ) from error

    @property
    def status(self) -> Status:
        return Status(self.workers, sum(bool(each.at) for each in self.members), self.died)

    def run(self, tasks: Iterable[Task], keep: Keep) -> None:
        """See :class:`Executor`; Incomplete where a task was left out, or no worker is left.

        What workers compute when it raises they compute to its end, and it is lost.
        """
        own = Round(Queue(tasks, len(self.members)))
        for member in self.members:
            if not member.is_ready:
                own.flying[member.actor.hello.remote()] = (member, None)
        try:
            waited = 0.0
            while True:
                own.hand_out(self.members)
                if own.is_done:
                    break
                ready, _ = self._ray.wait(list(own.flying), num_returns=1, timeout=EVERY)
                if not ready and not any(member.is_ready for member in self.members):
                    waited = self._impatient(waited + EVERY)
                for reference in ready:
                    self._land(own, reference, keep)
        finally:
            for member in self.members:
                member.at.clear()
            for reference in own.flying:
                with contextlib.suppress(ValueError, TypeError, self._ray.exceptions.RayError):
                    self._ray.cancel(reference)
        if own.left_out:
            raise Incomplete(_lacking(own.left_out))

    def _land(self, own: Round, reference: Any, keep: Keep) -> None:
        """Take what a worker was asked for."""
        errors = self._ray.exceptions
        member, task = own.flying.pop(reference)
        if task is not None:
            member.at = [each for each in member.at if each is not task]  # tasks hold arrays, which == cannot compare
        try:
            result = self._ray.get(reference)
        except errors.RayActorError:
            self._bury(member, task, own)
            return
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        if task is None:
            self._welcome(member, *result)
        else:
            keep(task, result)

    def _welcome(self, member: Member, host: str, code: str) -> None:
        if code != own_code():
            raise UserError(
                f"The code of maxbench on {host} is not the code here, so its results would not be; install the same "
                "version on every node."
            )
        member.is_ready = True

    def _bury(self, member: Member, task: Task | None, own: Round) -> None:
        """A worker died; Ray starts it again. Of the tasks that it had only one can be to blame."""
        if task is not None:
            own.doubt(task)
            if not member.is_ready:
                return  # the other task that it had
        member.is_ready = False
        member.died, self.died = member.died + 1, self.died + 1
        if member.died > RESTARTS:
            self.members.remove(member)
            say(f"a worker died ({self.died} deaths in all) and is given up, {len(self.members)} are left")
        else:
            say(f"a worker died ({self.died} deaths in all); it is started again")
            own.flying[member.actor.hello.remote()] = (member, None)
        if not self.members:
            raise Incomplete(
                f"Every worker has died {RESTARTS + 1} times; what is finished is kept. Look for what ended them "
                "(memory: runtime.batch_size=), then run the same command again to go on."
            )

    def _impatient(self, waited: float) -> float:
        """Say that nobody is there yet, at most for some minutes."""
        if waited > PATIENCE:
            raise UserError(
                f"No worker has started in {waited / 60:.0f} minutes; look at `ray status`: the cluster may have no "
                "free GPU, or lack what runtime.workers= asks for."
            )
        say(f"waiting for the first of {len(self.members)} workers to start, {waited:.0f} s")
        return waited

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        for member in self.members:
            self._ray.kill(member.actor)
        self.members.clear()
        if self._is_ours:
            self._ray.shutdown()


def _lacking(tasks: Sequence[Task]) -> str:
    said = "; ".join(task.label for task in tasks[:3])
    return (
        f"{len(tasks)} batches were left out, for {KILLS} workers died of each: {said}. Everything else is made. Look "
        "for what ended them (memory: runtime.batch_size=), then run the same command again to go on."
    )
