"""runtime.batch_size=auto: the largest batch that fits, found once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from maxbench.cli import batch as module
from maxbench.cli.assemble import make_executor
from maxbench.cli.batch import settled
from maxbench.cli.build import build
from maxbench.configuration.compose import CONF
from maxbench.generation.fitting import MOST, FitBatch, largest
from maxbench.generation.sampling import Batch
from maxbench.models.pipeline import Pipeline


def test_the_largest_power_of_two_that_fits():
    for limit in (1, 2, 3, 4, 7, 63, 64, 1000):
        tried = []

        def fits(count, limit=limit, tried=tried):
            tried.append(count)
            return count <= limit

        found = largest(fits)
        assert found == min(2 ** int(np.log2(limit)), MOST)
        assert len(tried) <= 7 and max(tried) <= MOST  # nothing twice as large as what failed is tried


@pytest.fixture(scope="module")
def cfg(small_run):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("main", [*small_run, "runtime.batch_size=auto"])


def test_it_stops_where_the_memory_is_full(cfg, monkeypatch):
    job, sizes = build(settled(cfg)), []
    decode = Pipeline.decode

    def full(pipeline, latents):
        sizes.append(len(latents))
        if len(latents) > 4:
            raise torch.OutOfMemoryError
        return decode(pipeline, latents)

    monkeypatch.setattr(Pipeline, "decode", full)
    method = next(each for each in job.experiment.methods if each.name == "maxfusion")
    maps = {name: np.zeros((64, 64), np.uint8) for name in job.experiment.conditions}
    assert make_executor(replace(job, batch_size=1)).do(FitBatch(method, job.sampler, maps, 64)) == 4
    assert sizes == [2, 4, 8]


@pytest.mark.parametrize(("resolution", "sliced"), [(64, [False] * 4), (512, [False, False, True, True])])
def test_the_autoencoder_takes_a_batch_as_it_will_in_the_run(cfg, monkeypatch, resolution, sliced):
    """Large batches of large pictures one at a time, which take less memory; small ones together."""
    job, seen = build(settled(cfg)), []

    def pictures(batch, pipeline, *_):
        seen.append(pipeline.vae.use_slicing)
        if len(batch.prompts) > 8:
            raise torch.OutOfMemoryError
        return torch.zeros(1)

    monkeypatch.setattr(Batch, "pictures", pictures)
    task = FitBatch(job.experiment.methods[0], job.sampler, {}, resolution)
    assert make_executor(replace(job, batch_size=MOST)).do(task) == 8 and seen == sliced


def test_a_processor_has_the_usual_one_and_a_number_is_left_alone(cfg, small_run):
    assert settled(cfg).runtime.batch_size == 8
    with initialize_config_dir(str(CONF), version_base="1.3"):
        asked = compose("main", [*small_run, "runtime.batch_size=3"])
    assert settled(asked) is asked


def test_it_is_measured_once_and_kept_in_the_store(cfg, tmp_path, monkeypatch, capsys):
    cfg = cfg.copy()
    cfg.store_dir = str(tmp_path / "store")
    measured = []
    monkeypatch.setattr(module, "build", lambda cfg: replace(build(cfg), device=torch.device("cuda")))
    monkeypatch.setattr(module, "described", lambda device: {"name": "a card", "memory": 1})
    monkeypatch.setattr(module, "_measure", lambda job: measured.append(1) or 16)
    assert settled(cfg, measure=False).runtime.batch_size == 8
    assert "not known here yet" in capsys.readouterr().err and not (tmp_path / "store").exists()
    assert [settled(cfg).runtime.batch_size for _ in range(2)] == [16, 16] and len(measured) == 1
    assert settled(cfg, measure=False).runtime.batch_size == 16
    assert "runtime.batch_size=auto is 16 on a card" in capsys.readouterr().err
    monkeypatch.setattr(module, "described", lambda device: {"name": "another card", "memory": 1})
    assert settled(cfg).runtime.batch_size == 16 and len(measured) == 2
