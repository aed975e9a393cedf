"""Suites, ids and folders become pipelines; importing the package loads nothing heavy; mistakes get sentences."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import maxbench
from maxbench import UserError


def test_importing_loads_nothing_heavy():
    heavy = {"torch", "numpy", "hydra", "pandas", "PIL"}
    check = f"import sys, maxbench; dir(maxbench); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_described():
    for name in maxbench.__all__:
        assert name == "__version__" or getattr(maxbench, name).__doc__
    assert set(maxbench.__all__) == set(dir(maxbench))
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        maxbench.laod  # noqa: B018


def test_controls_may_be_parts_and_folders(small_suite, tmp_path):
    shutil.copytree(small_suite / "controlnet_depth", tmp_path / "mine")
    maps = {"depth": Image.new("L", (64, 64), 200)}

    def made(controls):
        pipe = maxbench.load(small_suite, controls, suite="miniature", device="cpu", settings=["sampler.steps=1"])
        return np.asarray(pipe("a box", maps, seed=0).images[0])

    usual = made(["depth"])
    assert np.array_equal(made({"depth": "controlnet_depth"}), usual)
    assert np.array_equal(made({"depth": tmp_path / "mine"}), usual)
    assert not np.array_equal(made({"depth": "t2iadapter_depth"}), usual)
    assert not np.array_equal(made({"depth": small_suite / "controlnet_seg"}), usual)


def test_published_models_are_read_where_they_lie(small_suite, tmp_path):
    """As `hf download --local-dir` leaves them: a base model and a control by their ids, and no scorer anywhere."""
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(small_suite / part, tmp_path / "weights" / "some" / "base" / part)
    shutil.copytree(small_suite / "controlnet_depth", tmp_path / "weights" / "some" / "control")
    settings = ["suite.resolution=64", "sampler.steps=1"]

    def load(base="some/base", control="some/control"):
        return maxbench.load(
            base, {"depth": control}, weights_dir=tmp_path / "weights", device="cpu", settings=settings
        )

    own = maxbench.load(small_suite, ["depth"], suite="miniature", device="cpu", settings=["sampler.steps=1"])
    usual = own.suite.control_scale
    picture = load()("a box", {"depth": Image.new("L", (64, 64), 200)}, seed=0, controlnet_conditioning_scale=usual,
                     guidance_scale=3.0, negative_prompt="").images[0]  # fmt: skip
    assert np.array_equal(picture, own("a box", {"depth": Image.new("L", (64, 64), 200)}, seed=0).images[0])
    with pytest.raises(UserError, match=r"other/control is not on this machine .* fetch it with `hf download other/co"):
        load(control="other/control@0123456789")
    with pytest.raises(UserError, match="other/base is not on this machine"):
        load(base="other/base")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "minature"}, "did you mean 'miniature'"),
        ({"model": "nowhere/at/all"}, "is no suite, no folder and no id of the Hub"),
        ({"suite": "sd3"}, "There is no suite 'sd3'"),
        ({"suite": "sd15"}, "leave one of them out"),
        ({"controls": "depth"}, "give a list of conditions"),
        ({"controls": []}, "give a list of conditions"),
        ({"controls": ["depth", "depth"]}, "names a condition twice"),
        ({"controls": ["dpeth"]}, "no condition 'dpeth'; did you mean 'depth'"),
        ({"controls": ["a b"]}, "a condition is a name"),
        ({"controls": {"depth": "nothing"}}, "no part of the suite, no folder and no id"),
        ({"sampler": "dimd"}, "no sampler 'dimd'; did you mean 'ddim'"),
        ({"device": "tpu"}, "runtime.device is 'tpu'"),
        ({"dtype": "int8"}, "runtime.dtype is 'int8'"),
        ({"batch_size": 0}, "runtime.batch_size is 0"),
        ({"batch_size": "auto"}, "batch_size is a number"),
        ({"config_dir": "nowhere"}, "which is no folder"),
        ({"settings": ["suite.stpes=3"]}, "no setting 'suite.stpes'; did you mean 'suite.steps'"),
        ({"settings": ["nonsense"]}, "write key=value"),
        ({"weights_dir": __file__}, "which is a file; name a folder"),
        ({"model": "sd15", "weights_dir": "nowhere"}, "lacks .*fetch what is missing with `python -m maxbench data"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,  # others print differently in every process
)  # fmt: skip
def test_a_mistake_is_a_sentence(arguments, said):
    with pytest.raises(UserError, match=said):
        maxbench.load(**arguments)


def test_a_folder_says_what_it_lacks(small_suite, tmp_path):
    with pytest.raises(UserError, match=r"reads text of width 16 and not 768.*suite='miniature'"):
        maxbench.load(small_suite, ["depth"])
    with pytest.raises(UserError, match="no base model in the Hub's layout"):
        maxbench.load(tmp_path, ["depth"])
    with pytest.raises(UserError, match="holds no weights"):
        maxbench.load(small_suite, {"depth": tmp_path}, suite="miniature")
    shutil.copytree(small_suite, tmp_path / "suite")
    shutil.rmtree(tmp_path / "suite" / "controlnet_depth")
    with pytest.raises(UserError, match="lacks the weights of controlnet_depth"):
        maxbench.load(tmp_path / "suite", ["depth"], suite="miniature")
    shutil.rmtree(tmp_path / "suite" / "annotators")  # is needed by what reads, and by nothing else
    pipe = maxbench.load(tmp_path / "suite", ["hed"], suite="miniature", device="cpu")
    with pytest.raises(UserError, match="lacks the weights of annotators"):
        pipe.annotate(Image.new("RGB", (64, 64)), "hed")
    config = tmp_path / "suite" / "unet" / "config.json"
    config.write_text(config.read_text()[:20])
    with pytest.raises(UserError, match="cannot be loaded"):
        maxbench.load(tmp_path / "suite", ["hed"], suite="miniature")


def test_functions_keep_their_networks_and_take_a_pipeline(small_suite):
    picture = Image.new("RGB", (80, 64), (200, 30, 30))
    own = maxbench.load(small_suite, ["depth"], suite="miniature", device="cpu")
    depth = maxbench.annotate(picture, "depth", own)
    assert depth.mode == "L" and depth.size == (64, 64)
    found = maxbench.score(picture, {"depth": depth}, "a box", suite=own)
    assert set(found.metric) == {"depth_rmse", "depth_mse", "depth_rmse_controlnetpp", "clip_score"}
    with pytest.raises(UserError, match="device were said when"):
        maxbench.annotate(picture, "depth", own, device="cpu")
    with pytest.raises(UserError, match=r"no setting 'wieghts_dir' .* did you mean 'weights_dir'"):
        maxbench.annotate(picture, "depth", wieghts_dir="x")
    with pytest.raises(UserError, match="no condition 'dpeth'"):
        maxbench.annotate(picture, "dpeth")


def test_hydra_of_the_calling_program_is_not_disturbed(tmp_path):
    from hydra import compose, initialize_config_dir

    (tmp_path / "own.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        maxbench.load("miniature", ["depth"], device="cpu")
        assert compose("own").a == 1


def test_the_embedded_suite_follows_its_maps():
    """On the real weights: of several pictures those made under a map are nearer to it."""
    pipe = maxbench.load("miniature", ["depth"], device="cpu")
    examples = [maxbench.example(number) for number in range(2)]
    maps = {"depth": maxbench.annotate([each.picture for each in examples], "depth", pipe)}
    prompts = [each.prompt for each in examples]
    under, free = (pipe(prompts, given, seed=0).images for given in (maps, None))
    errors = [maxbench.score(images, maps, prompts, suite=pipe) for images in (under, free)]
    nearer, farther = (each[each.metric == "depth_rmse"].value.mean() for each in errors)
    assert nearer < farther / 2
    assert "miniature, depth, 64 x 64, float32 on cpu" in repr(pipe)


def test_an_example_is_a_picture_of_the_data_set(data_dir):
    from maxbench.miniature.dataset import folder_name

    with Image.open(data_dir / folder_name("val", 24) / "val" / f"{3:012d}.png") as kept:
        assert np.array_equal(kept, maxbench.example(3).picture)
    with pytest.raises(UserError, match="number is -1"):
        maxbench.example(-1)
