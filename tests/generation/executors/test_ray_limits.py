"""Workers that die too often, and more workers than cores: executors of their own, one after the other."""

from pathlib import Path

import pytest
from work import Deadly, Square

from maxbench.errors import Incomplete
from maxbench.generation.networks import Networks

pytestmark = pytest.mark.ray
pytest.importorskip("ray", reason="Ray is not installed: pip install 'maxbench[ray]'")

from maxbench.generation.executors.ray import RayExecutor  # noqa: E402


def test_workers_that_always_die_are_given_up(tmp_path):
    executor = RayExecutor(Networks(), workers=1, threads=1, restarts=1)
    try:
        tasks = [Deadly(number, notes=str(tmp_path / f"{number}"), times=99) for number in range(4)]
        with pytest.raises(Incomplete, match="Every worker has died 2 times; what is finished is kept"):
            executor.run(tasks, lambda task, made: None)
        assert executor.died == 2 and not executor.members
    finally:
        executor.close()


def test_three_workers_on_uneven_tasks():
    executor = RayExecutor(Networks(), workers=3, threads=1)
    try:
        found = []
        tasks = [Square(number, seconds=3.0 if number == 0 else 0.02) for number in range(31)]
        executor.run(tasks, lambda task, made: found.append(task.number))
        assert sorted(found) == list(range(31))
        place = Path(executor.place)
        assert place.is_dir()
    finally:
        executor.close()
    assert not place.exists()  # nothing of Ray is left lying
