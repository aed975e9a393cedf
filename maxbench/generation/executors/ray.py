"""Several devices, of this machine or of a cluster: one Ray actor for each, which asks for tasks as it has time.

Ray starts the actors, restarts those that die, and carries tasks and results. No file system is shared with them:
weights and code every node has for itself. What is decided here is who does what next, and what to do about a task that
a worker died of.

Two facts of Ray that this builds on: an actor with a GPU sees that one alone, as cuda:0, whatever the driver sees; and
calls to an actor that is being restarted wait until it is there again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from maxbench.errors import Incomplete, UserError
from maxbench.generation.executors.base import Executor, Keep, Task, compute_with, usable_cores
from maxbench.generation.networks import Networks
from maxbench.progress import Status, say
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


def require_ray() -> None:
    """UserError where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError(
            f"Several workers need Ray, which is not installed; install it with `pip install '{PACKAGED}'`, or leave "
            "out runtime.workers= and runtime.address=."
        )


class Worker:
    """What an actor is: networks in a process of their own. It computes one task at a time, and packs beside that."""

    def __init__(self, packed: bytes, threads: int | None, paths: Sequence[str]):
        sys.path += [path for path in paths if path not in sys.path]  # rules and conditions of a user's own
        self.packed = packed
        self.device = ThreadPoolExecutor(1, "device")  # one thread: CUDA graphs belong to the thread that made them
        self.device.submit(compute_with, threads or torch.get_num_threads()).result()
        torch.set_num_threads(1)  # what other threads begin with; why is said in `local`
        self.networks: Networks | None = None

    def hello(self) -> tuple[str, str]:
        """Where it is, and a digest of its code."""
        return socket.gethostname(), own_code()

    def do(self, task: Task) -> Any:
        return task.pack(self.device.submit(self._run, task).result())

    def _run(self, task: Task) -> Any:
        if self.networks is None:
            from ray import cloudpickle

            self.networks = cloudpickle.loads(self.packed)
        return task.run(self.networks)


@cache
def own_code() -> str:
    """Digest of the code that makes results; workers must have the driver's."""
    package = Path(__file__).parents[2]
    rooms = ("conditions", "evaluation", "fusion", "generation", "metrics", "miniature", "models", "suites")
    files = sorted(file for room in rooms for file in (package / room).rglob("*.py"))
    return digest("".join(f"{file.relative_to(package)}\n{file.read_text(encoding='utf-8')}" for file in files))


@dataclass(eq=False)
class Member:
    """A worker as the driver sees it. group: of the task that it was given last. at: what it has.

    greeting: of one that has been asked whether it is there.
    """

    actor: Any
    is_ready: bool = False
    greeting: Any = None
    group: str | None = None
    at: list[Task] = field(default_factory=list)


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
    again: those whose results were lost. writing: the one thread that keeps results, so that a slow disk does not keep
    workers waiting for something to do. saved: what it was given.
    """

    queue: Queue
    writing: ThreadPoolExecutor
    flying: dict[Any, tuple[Member, Task | None]] = field(default_factory=dict)
    suspects: deque[Task] = field(default_factory=deque)
    again: deque[Task] = field(default_factory=deque)
    deaths: dict[int, int] = field(default_factory=dict)  # by the task's id()
    left_out: list[Task] = field(default_factory=list)
    saved: deque[Future] = field(default_factory=deque)

    def settle(self, most: int) -> None:
        """Let at most so many results wait to be written; what writing raises is raised here."""
        while self.saved and (len(self.saved) > most or self.saved[0].done()):
            self.saved.popleft().result()

    def hand_out(self, members: Sequence[Member]) -> None:
        """Give every worker that has room something to do."""
        for member in members:
            while member.is_ready and (task := self._next(member, members)) is not None:
                member.at.append(task)
                self.flying[member.actor.do.remote(task)] = (member, task)

    def _next(self, member: Member, members: Sequence[Member]) -> Task | None:
        if self.suspects and not member.at:
            return self.suspects.popleft()
        if any(id(task) in self.deaths for task in member.at) or len(member.at) >= SLOTS:
            return None
        if self.again:
            return self.again.popleft()
        return None if self.queue.is_empty() else self.queue.take(member, members)

    @property
    def is_done(self) -> bool:
        """A worker that is still starting is not waited for."""
        waiting = self.suspects or self.again or any(task is not None for _, task in self.flying.values())
        return not waiting and self.queue.is_empty()

    def doubt(self, task: Task) -> None:
        """A worker died while it had this task."""
        self.deaths[id(task)] = self.deaths.get(id(task), 0) + 1
        (self.left_out if self.deaths[id(task)] >= KILLS else self.suspects).append(task)


@dataclass
class RayExecutor(Executor):
    """Does tasks on Ray actors, each with networks of its own.

    workers: how many; None for one on every GPU that there is. address: of a running cluster ("auto" for the one that
    this machine belongs to); None to start Ray here and stop it at the end. threads: of every worker on the processor;
    None for an equal share of this machine's cores, or what Ray gives it in a cluster. restarts: of each worker.
    """

    networks: Networks
    workers: int | None = None
    address: str | None = None
    threads: int | None = None
    restarts: int = RESTARTS
    members: list[Member] = field(default_factory=list, repr=False)
    died: int = 0
    started: int = 0
    is_ours: bool = False
    place: str | None = None

    def __post_init__(self) -> None:
        require_ray()

    @cached_property
    def _ray(self) -> Any:
        """Ray, started or joined when there is something to do; a run that is finished does without."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do anyway, without its warning
        import ray

        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it tells of its token every time
        on_gpu, here = self.networks.device.type == "cuda", self.address is None
        count = self.planned
        cores = self.threads or max(1, usable_cores() // count)
        if not ray.is_initialized():
            self.is_ours = True
            self._begin(ray, count * cores, on_gpu)
        if not here:
            there = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else len(ray.nodes())
            count = self.workers or there
            if count < 1:
                raise UserError(f"The cluster at {self.address} has no GPU; add nodes, or set runtime.device=cpu.")
            if on_gpu and count > there:
                say(f"note: the cluster has {there} GPUs, and the other workers wait until it has more")
        kind = ray.remote(Worker).options(
            num_cpus=cores if here else self.threads or 1,
            num_gpus=1 if on_gpu else 0,
            max_restarts=self.restarts,
            max_concurrency=SLOTS + 1,  # one for hello
        )
        own = ray.cloudpickle.dumps(self.networks), cores if here else self.threads, [*map(os.path.abspath, sys.path)]
        self.members += [Member(kind.remote(*own)) for _ in range(count)]
        self.started = count
        say(f"{count} workers {'here' if here else f'in the cluster at {self.address}'}, by Ray {ray.__version__}")
        return ray

    @property
    def planned(self) -> int:
        """Workers, as far as is known before Ray is asked."""
        on_gpu = self.networks.device.type == "cuda" and self.address is None
        return self.workers or (torch.cuda.device_count() if on_gpu else 1)

    def _begin(self, ray: Any, cpus: int, on_gpu: bool) -> None:
        """Join the cluster, or start Ray here with as much as the workers need."""
        settings = {"log_to_driver": False, "configure_logging": False}
        if self.address is None:
            settings |= {"num_cpus": cpus, "object_store_memory": MEMORY, "include_dashboard": False}
            settings |= {} if on_gpu else {"num_gpus": 0}
            self.place = tempfile.mkdtemp(prefix="maxbench-ray-", dir=os.environ.get("RAY_TMPDIR"))
            settings["_temp_dir"] = self.place
        else:
            _require_somebody(self.address)
        try:
            ray.init(address=self.address or "local", **settings)
        except Exception as error:  # Ray raises nearly every kind, for nodes, sockets, tokens and folders
            said = " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(_not_begun(self.address, said)) from error
        _mind_signals()

    @property
    def status(self) -> Status:
        return Status(self.started or self.planned, sum(bool(each.at) for each in self.members), self.died)

    def run(self, tasks: Iterable[Task], keep: Keep) -> None:
        """See :class:`Executor`; Incomplete where a task was left out, or no worker is left.

        What workers compute when it raises they compute to its end, and it is lost.
        """
        ray = self._ray
        with ThreadPoolExecutor(1, "writing") as writing:
            own = Round(Queue(tasks, len(self.members)), writing)
            try:
                self._go_round(ray, own, keep)
            except Exception:  # as of a full disk, on which nothing else can be written; but not when it is stopped
                writing.shutdown(cancel_futures=True)
                raise
        if own.left_out:
            raise Incomplete(_lacking(own.left_out))

    def _go_round(self, ray: Any, own: Round, keep: Keep) -> None:
        """Hand out tasks and take what comes back, until there is no more."""
        for member in self.members:
            if not member.is_ready:
                self._greet(member, own)
        try:
            waited = 0.0
            while True:
                own.hand_out(self.members)
                if own.is_done:
                    break
                ready, _ = ray.wait(list(own.flying), num_returns=1, timeout=EVERY)
                if not ready and not any(member.is_ready for member in self.members):
                    waited = self._impatient(waited + EVERY)
                for reference in ready:
                    self._land(own, reference, keep)
                own.settle(SLOTS * len(self.members))
            own.settle(0)
        finally:
            for member in self.members:
                member.at.clear()
            for reference in (each for each, (_, task) in own.flying.items() if task is not None):
                with contextlib.suppress(ValueError, TypeError, ray.exceptions.RayError):
                    ray.cancel(reference)

    def _land(self, own: Round, reference: Any, keep: Keep) -> None:
        """Take what a worker was asked for."""
        errors = self._ray.exceptions
        member, task = own.flying.pop(reference)
        if task is None:
            member.greeting = None
        else:
            member.at = [each for each in member.at if each is not task]  # tasks hold arrays, which == cannot compare
        try:
            result = self._ray.get(reference)
        except errors.RayActorError:
            self._bury(member, task, own)
            return
        except (errors.ObjectLostError, errors.NodeDiedError):  # it was made, and its node went before it was fetched
            if task is None:
                self._greet(member, own)
            else:
                own.again.append(task)
            return
        except errors.OutOfMemoryError as error:
            raise MemoryError(f"a worker was ended by Ray: {' '.join(str(error).split())[:200]}") from error
        except errors.RaySystemError as error:
            said = str(error).strip().splitlines()
            raise UserError(
                f"A worker cannot read its work ({said[0].removeprefix('System error: ')}); what a rule or a condition "
                "of your own is made of must be importable on every node: install it there, or set PYTHONPATH."
            ) from error
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        if task is None:
            self._welcome(member, *result)
        else:
            own.deaths.pop(id(task), None)  # it was not to blame; and a number that is free is given to another task
            own.saved.append(own.writing.submit(keep, task, result))

    def _welcome(self, member: Member, host: str, code: str) -> None:
        if code != own_code():
            raise UserError(
                f"The code of maxbench on {host} is not the code here, so its results would not be; install the same "
                "version on every node."
            )
        member.is_ready = True

    def _bury(self, member: Member, task: Task | None, own: Round) -> None:
        """A worker died. Of the tasks that it had only one can be to blame; no task: it is not started again."""
        if task is None:
            self.members.remove(member)
            say(f"a worker has died {self.restarts + 1} times and is given up; {len(self.members)} are left")
        else:
            own.doubt(task)
            if member.is_ready:  # else it is the other task that it had
                member.is_ready, self.died = False, self.died + 1
                say(f"a worker died (deaths in all: {self.died}); it is started again")
                self._greet(member, own)
        if not self.members:
            raise Incomplete(
                f"Every worker has died {self.restarts + 1} times; what is finished is kept. Look for what ended them "
                "(memory: runtime.batch_size=), then run the same command again to go on."
            )

    def _greet(self, member: Member, own: Round) -> None:
        """Ask a worker for a sign of life, which comes when it has started, again or for the first time."""
        if member.greeting is None:
            member.greeting = member.actor.hello.options(max_task_retries=-1).remote()
        own.flying[member.greeting] = (member, None)

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
        vars(self).pop("_ray", None)
        if self.members or self.is_ours:  # also where starting was interrupted
            import ray

            for member in self.members:
                ray.kill(member.actor)
            self.members.clear()
            if self.is_ours:
                ray.shutdown()
                self.is_ours = False
        if self.place is not None:  # sockets and logs of a session that nobody will ask for
            shutil.rmtree(self.place, ignore_errors=True)
            self.place = None


def _require_somebody(address: str) -> None:
    """UserError where nobody answers at HOST:PORT: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", or what Ray will say something of
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Nobody answers at runtime.address={address} ({error}); start a cluster there with `ray start --head`, or "
            "correct it."
        ) from error


def _not_begun(address: str | None, said: str) -> str:
    if address is not None:
        return (
            f"Ray could not join the cluster at {address} ({said}); correct runtime.address=, or start one there with "
            "`ray start --head`."
        )
    if "AF_UNIX" in said:
        remedy = "set RAY_TMPDIR to a folder with a short name"
    elif ".ray" in said:
        remedy = "set HOME to a folder that can be written"
    else:
        remedy = "try again, or leave out runtime.workers= to compute in this process"
    return f"Ray could not start here ({said}); {remedy}."


def _mind_signals() -> None:
    """End as by Ctrl-C when told to end or left by the terminal: Ray would abort, and the run would say nothing."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)


def _lacking(tasks: Sequence[Task]) -> str:
    said, plural = "; ".join(task.label for task in tasks[:3]), "es" * (len(tasks) > 1)
    return (
        f"{len(tasks)} batch{plural} left out, for {KILLS} workers died of each: {said}. All else of this stage is "
        "made. Look for what ended them (memory: runtime.batch_size=), then run the same command again to go on."
    )
