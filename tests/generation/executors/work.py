"""Tasks without networks, for executors to do: a worker imports this file."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from maxbench.errors import UserError
from maxbench.generation.executors.base import Task


@dataclass(frozen=True)
class Square(Task):
    """Gives the square of a number and who made it."""

    number: int
    group: str | None = None
    seconds: float = 0.0

    @property
    def label(self) -> str:
        return f"the square of {self.number}"

    def run(self, networks):
        time.sleep(self.seconds)
        return self.number**2

    def pack(self, found):
        return found, os.getpid()


@dataclass(frozen=True)
class Deadly(Square):
    """Ends its worker the first `times` times that it is done; a byte in `notes` for each time."""

    notes: str = ""
    times: int = 1

    def run(self, networks):
        notes = Path(self.notes)
        if (notes.stat().st_size if notes.exists() else 0) < self.times:
            with open(notes, "ab") as file:
                file.write(b".")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.number**2


@dataclass(frozen=True)
class Mistaken(Square):
    """A user's mistake, or the program's."""

    by: str = "user"

    def run(self, networks):
        raise UserError("give another number.") if self.by == "user" else ZeroDivisionError("no")


@dataclass(frozen=True)
class Looking(Square):
    """What a worker has: the threads of torch, and which networks it holds."""

    def run(self, networks):
        import torch

        networks.is_first("looking")
        return torch.get_num_threads(), len(networks.held)
