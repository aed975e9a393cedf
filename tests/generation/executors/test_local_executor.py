"""Which thread computes with how many of the processor."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from maxbench.generation.executors.base import Task
from maxbench.generation.executors.local import LocalExecutor
from maxbench.progress import Status


class Counted(Task):
    def run(self, networks):
        return torch.get_num_threads()

    def pack(self, found):
        return found, torch.get_num_threads()


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_what_denoises_has_all_threads_and_what_reads_and_writes_has_one(three_threads):
    read, kept = [], []

    def tasks():
        for _ in range(3):
            read.append(torch.get_num_threads())
            yield Counted()

    def keep(task, made):
        kept.append((*made, torch.get_num_threads()))

    LocalExecutor(networks=None).run(tasks(), keep)
    assert read == [1, 1, 1]
    assert kept == [(3, 1, 1)] * 3


def test_threads_of_later_begin_with_as_many_as_before(three_threads):
    LocalExecutor(networks=None).run([Counted()], lambda task, made: None)
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as another:
        assert another.submit(torch.get_num_threads).result() == 3


def test_a_status_says_what_there_is_to_say():
    assert Status().said == ""
    assert Status(2, 1).said == "1 of 2 workers busy"
    assert Status(2, 0).said == "2 workers"  # the last batch has come back
    assert Status(2, 2, 3).said == "2 of 2 workers busy, 3 died"
