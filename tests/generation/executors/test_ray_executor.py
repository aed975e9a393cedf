"""Ray's workers do what one process does, whatever dies on the way."""

import os
from collections import Counter
from itertools import count

import pytest
from work import Deadly, Looking, Mistaken, Square

from maxbench.errors import Incomplete, UserError
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.networks import Networks

pytestmark = pytest.mark.ray
pytest.importorskip("ray", reason="Ray is not installed: pip install 'maxbench[ray]'")

from maxbench.generation.executors.ray import KILLS, RayExecutor  # noqa: E402


@pytest.fixture(scope="module")
def two():
    executor = RayExecutor(Networks(), workers=2, threads=1)
    assert executor.status == (2, 0, 0) and not executor.members  # Ray is started when there is something to do
    while not executor.members or not all(member.is_ready for member in executor.members):
        executor.run([Square(number, seconds=0.1) for number in range(20)], lambda task, made: None)
    yield executor
    executor.close()


def results(executor, tasks):
    """(number, what was made of it) in the order in which they came."""
    found = []
    executor.run(tasks, lambda task, made: found.append((task.number, made)))
    return found


def test_every_task_is_done_once_and_as_in_one_process(two):
    tasks = [Square(number) for number in range(40)]
    found = results(two, iter(tasks))
    alone = results(LocalExecutor(Networks()), tasks)
    assert sorted((number, made) for number, (made, _) in found) == [(number, made) for number, (made, _) in alone]
    assert len({pid for _, (_, pid) in found}) == 2 and os.getpid() not in {pid for _, (_, pid) in found}


def test_one_task_and_nothing(two):
    assert two.do(Square(7))[0] == 49
    assert results(two, []) == []


def test_a_group_stays_with_a_worker_and_a_long_one_is_shared_in_the_end(two):
    tasks = [Square(number, group="ab"[number % 2], seconds=0.02) for number in range(20)]
    found = results(two, tasks)
    by_group = {each: {pid for number, (_, pid) in found if number % 2 == each} for each in (0, 1)}
    assert all(len(own) <= 2 for own in by_group.values())
    counts = [Counter(pid for number, (_, pid) in found if number % 2 == each).most_common(1)[0][1] for each in (0, 1)]
    assert min(counts) >= 7  # nearly all of a group in one place
    lonely = results(two, [Square(number, group="only", seconds=0.05) for number in range(12)])
    assert len({pid for _, (_, pid) in lonely}) == 2


def test_tasks_are_read_as_they_are_needed(two):
    read = count()

    def endless():
        while True:
            yield Square(next(read))

    def stop(task, made):
        if task.number == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        two.run(endless(), stop)
    assert next(read) < 40
    assert two.do(Square(3))[0] == 9  # it goes on


def test_a_users_mistake_is_the_sentence_that_it_is_in_one_process(two):
    for executor in (two, LocalExecutor(Networks())):
        with pytest.raises(UserError) as caught:
            executor.do(Mistaken(0))
        assert str(caught.value) == "give another number."
        with pytest.raises(ZeroDivisionError):
            executor.do(Mistaken(0, by="program"))


def test_what_writing_raises_is_raised(two):
    def full(task, made):
        raise OSError(28, "No space left on device")

    for executor in (two, LocalExecutor(Networks())):
        with pytest.raises(OSError, match="No space"):
            executor.run([Square(number) for number in range(5)], full)


def test_a_worker_has_the_threads_that_were_asked_for_and_networks_of_its_own(two):
    assert two.do(Looking(0))[0] == (1, 1)


def test_a_worker_that_dies_is_started_again_and_nothing_is_lost_or_doubled(two, tmp_path):
    before = two.died
    tasks = [Square(number) for number in range(10)]
    tasks[3] = Deadly(3, notes=str(tmp_path / "notes"), times=1)
    found = results(two, tasks)
    assert sorted(number for number, _ in found) == list(range(10))
    assert two.died == before + 1
    assert f"{two.died} died" in two.status.said


def test_a_task_that_kills_is_left_out_by_name_and_all_others_are_done(two, tmp_path):
    tasks = [Square(number) for number in range(20)]
    tasks[5] = Deadly(5, notes=str(tmp_path / "notes"), times=99)
    found = []
    with pytest.raises(Incomplete) as caught:
        two.run(tasks, lambda task, made: found.append(task.number))
    assert sorted(found) == [number for number in range(20) if number != 5]
    assert "the square of 5" in str(caught.value) and "run the same command again" in str(caught.value)
    assert "square of 4" not in str(caught.value)
    assert (tmp_path / "notes").stat().st_size == KILLS


def test_one_death_is_nobody_elses(two, tmp_path):
    """Tasks are told apart by id(), which is given to another when a task is gone: the blame must go with it."""
    from maxbench.generation.executors import ray as module

    rounds = []

    class Watched(module.Round):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            rounds.append(self)

    tasks = (
        Deadly(5, notes=str(tmp_path / "notes"), times=1) if number == 5 else Square(number) for number in range(120)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Round", Watched)
        found = results(two, tasks)
    assert sorted(number for number, _ in found) == list(range(120))
    assert rounds[0].deaths == {} and not rounds[0].suspects
