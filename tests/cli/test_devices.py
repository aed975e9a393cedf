"""Which executor a run gets, by the devices that are visible. No GPU is needed: they are only counted."""

from dataclasses import replace

import pytest
import torch

from maxbench.cli import assemble
from maxbench.cli.assemble import make_executor
from maxbench.cli.build import build
from maxbench.cli.command import compose_one
from maxbench.errors import UserError
from maxbench.generation.executors.local import LocalExecutor


@pytest.fixture(scope="module")
def job(small_run):
    return build(compose_one(small_run, None))


@pytest.fixture
def on_gpus(job, monkeypatch):
    """The job on a machine with so many GPUs, with Ray or without."""

    def on(count, device="cuda", ray=True, **changes):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(assemble, "find_spec", lambda name: object() if ray else None)
        return replace(job, device=torch.device(device), **changes)

    return on


def test_every_visible_gpu_is_a_worker(on_gpus):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'maxbench[ray]'")
    executor = make_executor(on_gpus(3))
    assert type(executor).__name__ == "RayExecutor" and executor.planned == 3  # nothing is started yet
    assert make_executor(on_gpus(3, workers=2)).planned == 2


def test_one_device_is_this_process(on_gpus, capsys):
    assert isinstance(make_executor(on_gpus(1)), LocalExecutor)
    assert isinstance(make_executor(on_gpus(3, "cuda:1")), LocalExecutor)
    assert isinstance(make_executor(on_gpus(0, "cpu")), LocalExecutor)
    assert capsys.readouterr().err == ""


def test_without_ray_one_gpu_is_used_and_it_is_said(on_gpus, capsys):
    assert isinstance(make_executor(on_gpus(4, ray=False)), LocalExecutor)
    said = capsys.readouterr().err
    assert "4 GPUs are visible and one is used" in said and "pip install 'maxbench[ray]'" in said


@pytest.mark.parametrize(
    ("count", "changes", "sentence"),
    [
        (2, {"workers": 4}, "runtime.workers=4, but 2 GPUs are visible"),
        (2, {"workers": 2, "device": "cuda:1"}, "runtime.device=cuda:1 names one GPU"),
        (2, {"workers": 10_000, "device": "cpu"}, "runtime.workers=10000, but this process may use"),
    ],
)
def test_more_workers_than_there_is_room_for_are_refused(on_gpus, count, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make_executor(on_gpus(count, **changes))
