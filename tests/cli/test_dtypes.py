"""How a run computes, from the command to the keys of its pictures."""

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from maxbench.cli.build import build
from maxbench.cli.perform import make_generation, run_identity
from maxbench.configuration.compose import CONF
from maxbench.models.precision import Precision
from maxbench.store.artefacts import Store
from maxbench.store.runfolder import RunFolder, run_name

SHARED = {"engine", "networks", "sampler", "resolution", "dtype", "device", "batch"}


@pytest.fixture
def known(small_run, tmp_path):
    """Settings -> (the run's name, what all its pictures share, a key of a reconstruction)."""

    def of(*settings):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            job = build(compose("main", [*small_run, "samples=2", "pairing.reference=4", *settings]))
        generation = make_generation(job, RunFolder(tmp_path, Store.open(tmp_path / "store")))
        generation.sampling.inputs.make()
        name = run_name(job.experiment.name, job.suite.name, run_identity(job))
        return name, generation.sampling._identity, min(generation.reconstruction_keys().values())

    return of


def test_the_default_is_in_the_key_as_it_always_was(known):
    _, shared, _ = known()
    assert shared.keys() == SHARED and shared["dtype"] == "torch.float32"
    usual = ["runtime.tf32=false", "runtime.channels_last=false", "runtime.vae_slices=null", "runtime.vae_tiling=false"]
    usual += ["runtime.compile=false"]
    assert known(*usual) == known("runtime.vae_slices=false") == known("runtime.dtype=fp32") == known()


def test_an_older_configuration_that_does_not_name_the_new_settings_is_the_same_run(small_run):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg, older = (compose("main", small_run) for _ in range(2))
    with open_dict(older):
        for name in ("tf32", "channels_last", "vae_slices", "vae_tiling", "compile"):
            del older.runtime[name]
    assert "tf32" not in older.runtime
    one, other = build(cfg), build(older)
    assert run_identity(one) == run_identity(other) and one.precision == other.precision == Precision()
    assert one.config["runtime"] == other.config["runtime"]


@pytest.mark.parametrize(("short", "long"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_a_dtype_has_one_name(known, short, long):
    assert known(f"runtime.dtype={short}") == known(f"runtime.dtype={long}")
    assert known(f"runtime.dtype={short}")[1]["dtype"] == f"torch.{long}"


@pytest.mark.parametrize(
    ("setting", "said", "remakes_reconstructions"),
    [
        ("runtime.tf32=true", {"tf32": True}, False),
        ("runtime.channels_last=true", {"channels_last": True}, False),
        ("runtime.compile=true", {"compile": True}, False),
        ("runtime.vae_slices=true", {"vae_slices": True}, True),
        ("runtime.vae_tiling=true", {"vae_tiling": True}, True),
    ],
)
def test_what_changes_bits_is_in_the_key_and_nothing_else_is(known, setting, said, remakes_reconstructions):
    usual, other = known(), known(setting)
    assert other[0] != usual[0]
    assert {key: value for key, value in other[1].items() if key not in SHARED} == said
    assert {key: value for key, value in other[1].items() if key in SHARED} == usual[1]
    assert (other[2] != usual[2]) == remakes_reconstructions


def test_reconstructions_are_float32_in_every_run(known):
    assert known("runtime.dtype=fp16")[2] == known("runtime.dtype=fp32")[2]


def test_the_pipeline_computes_as_the_run_says(small_run, tmp_path):
    settings = ["runtime.dtype=bf16", "runtime.tf32=true", "runtime.channels_last=true", "runtime.vae_slices=true"]
    settings += ["runtime.compile=true"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*small_run, *settings]))
    assert yaml.safe_load(yaml.safe_dump(job.config))["runtime"]["dtype"] == "bfloat16"
    torch.backends.cudnn.allow_tf32 = True
    sampling = make_generation(job, RunFolder(tmp_path, Store.open(tmp_path / "store"))).sampling
    assert not torch.backends.cudnn.allow_tf32  # annotators and scorers are exact
    networks = sampling.executor.networks
    assert networks.exact_bytes == 0
    for pipeline, dtype, allowed in (
        (networks.pipeline, torch.bfloat16, True),
        (networks.exact, torch.float32, False),
    ):
        assert (pipeline.graphs is not None) == (pipeline is networks.pipeline)
        assert (pipeline.dtype, pipeline.vae.dtype, pipeline.allow_tf32) == (dtype, torch.float32, allowed)
        assert pipeline.vae.use_slicing and not pipeline.vae.use_tiling
        assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert networks.exact_bytes == networks.exact.bytes > networks.pipeline.bytes
    own, exact = (each.unet.conv_in.weight for each in (networks.pipeline, networks.exact))
    assert torch.equal(exact.bfloat16(), own) and not torch.equal(exact, own.float())  # from the files, not from these
    assert networks.exact is networks.exact  # loaded once
