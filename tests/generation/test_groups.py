"""Samples of one group start from the same noise and are pictures of their own."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from maxbench.cli.build import build
from maxbench.cli.perform import make_generation
from maxbench.configuration.compose import CONF
from maxbench.data.pairing import Sample
from maxbench.store.artefacts import Store
from maxbench.store.runfolder import RunFolder


@pytest.fixture(scope="module")
def sampling(small_run, tmp_path_factory):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*small_run, "pairing=half_split", "samples=2"]))
    folder = tmp_path_factory.mktemp("groups")
    made = make_generation(job, RunFolder(folder, Store.open(folder / "store"))).sampling
    made.inputs.make()
    return job.experiment, made


def noise(made, samples, replicates):
    return made.batch(samples, replicates, ()).start(made.networks.latents())


def test_the_two_arrangements_of_a_picture_share_their_noise_and_no_others_do(sampling):
    experiment, made = sampling
    assert len(experiment.samples) == 4
    one, swapped, other, _ = noise(made, experiment.samples, [0] * 4)
    assert torch.equal(one, swapped) and not torch.equal(one, other)
    assert not torch.equal(one, noise(made, experiment.samples[:1], [1])[0])  # another replicate
    drawn = [torch.randn(4, generator=each) for each in made.batch(experiment.samples, [0] * 4, ()).generators]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_the_two_arrangements_are_two_pictures_except_without_controls(sampling):
    experiment, made = sampling
    methods = {method.name: method for method in experiment.methods}
    keys = made.keys(methods["average"], experiment.images)
    assert len(set(keys)) == 4
    free = made.keys(methods["none"], experiment.images)  # it sees no control: made once for both
    assert free[0] == free[1] != free[2]


def test_a_sample_of_its_own_has_the_noise_of_its_id(sampling):
    _, made = sampling
    alone, grouped = Sample("000000000007", "", {}), Sample("7-hed", "", {}, group="000000000007")
    assert torch.equal(*noise(made, [alone, grouped], [0, 0]))
