"""Methods of equal strength: what is measured, what it is divided by, and what a run keeps of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from maxbench.__main__ import main
from maxbench.cli.build import build
from maxbench.cli.perform import make_generation
from maxbench.conditions.hed import HED
from maxbench.configuration.compose import CONF
from maxbench.errors import UserError
from maxbench.experiments.method import Experiment, Method
from maxbench.fusion import Average, Fusion, MaxFusion, PublishedMaxFusion, Sum
from maxbench.generation.strength import FILE, residual_norm
from maxbench.store.artefacts import Store
from maxbench.store.files import read_sealed
from maxbench.store.runfolder import RunFolder
from runs import only_run

MATCHED = [
    "fusion@methods=strength_matched", "~methods.gated_sum_matched", "samples=3", "pairing.reference=8",
    "calibration.samples=4", "calibration.data.count=12",
]  # fmt: skip


@pytest.fixture(scope="module")
def parts(small_run):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", small_run)
    suite = instantiate(cfg.suite, _convert_="all")
    pipeline = suite.pipeline(["hed", "depth"], torch.device("cpu"), torch.float32)
    return pipeline, instantiate(cfg.sampler, _convert_="all")


def measured(parts, fusion, branches=("hed", "depth"), **sampler):
    pipeline, usual = parts
    generator = torch.Generator().manual_seed(0)
    pictures, noise = torch.rand(2, 3, 64, 64, generator=generator), torch.randn(2, 4, 16, 16, generator=generator)
    hints = {name: torch.rand(2, 3, 64, 64, generator=generator) for name in ("hed", "depth")}
    control = pipeline.control({name: hints[name] for name in branches}, fusion)
    return residual_norm(pipeline, control, pictures, noise, ["a", "b"], replace(usual, **sampler))


@pytest.mark.parametrize("rule", [Sum(), MaxFusion(), PublishedMaxFusion()], ids=lambda rule: type(rule).__name__)
def test_strength_is_proportional_to_scale(parts, rule):
    once, thrice = (measured(parts, Fusion(rule, scale=scale)) for scale in (1.0, 3.0))
    assert once > 0 and thrice == pytest.approx(3 * once, rel=1e-5)


def test_the_average_of_two_is_half_as_strong_as_their_sum(parts):
    average, total = (measured(parts, Fusion(rule, sites=())) for rule in (Average(), Sum()))
    assert average == pytest.approx(total / 2, rel=1e-6)


def test_strength_is_a_mean_over_the_steps_in_which_something_is_added(parts):
    early, late, always = (
        measured(parts, Fusion(Sum(), **window))
        for window in ({"control_end": 0.5}, {"control_start": 0.5}, {})  # of two steps
    )
    assert early != pytest.approx(late, rel=1e-3)
    assert always == pytest.approx((early + late) / 2, rel=1e-5)


def test_strength_counts_both_guidance_halves_or_the_one_there_is(parts):
    both, alone = measured(parts, Fusion(Sum())), measured(parts, Fusion(Sum()), guidance_scale=1)
    assert both != alone and both == pytest.approx(alone, rel=0.5)  # the halves differ in their text alone


@pytest.mark.parametrize(
    ("fusion", "branches"), [({}, ()), ({"scale": 0.0}, ("hed",)), ({"control_end": 0.0}, ("hed", "depth"))]
)
def test_what_adds_nothing_has_no_strength(parts, fusion, branches):
    with pytest.raises(UserError, match="adds nothing to the U-Net"):
        measured(parts, Fusion(Sum(), **fusion), branches)


# --- a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matched_run(small_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("matched")
    assert main(["run", *small_run, *MATCHED, f"output_dir={output}"]) == 0
    return only_run(output)


def scales(folder):
    return pd.read_csv(folder / "metrics.csv").query("metric == 'control_scale'").set_index("method").value


def pictures(folder, method):
    paths = sorted((folder / "images" / method).glob("*.png"))
    return np.stack([np.asarray(Image.open(path), int) for path in paths])


def test_the_average_at_the_strength_of_the_sum_is_the_sum(matched_run):
    scale = scales(matched_run)
    assert scale["average_matched"] == pytest.approx(2 * scale["sum"], rel=1e-5)
    assert np.abs(pictures(matched_run, "average_matched") - pictures(matched_run, "sum")).max() <= 1
    assert np.abs(pictures(matched_run, "average") - pictures(matched_run, "sum")).max() > 1


def test_each_strength_is_measured_once_and_kept(matched_run):
    strengths = read_sealed(matched_run / FILE)
    assert len(strengths) == 7  # sum, average, two singles, three rules
    assert all(norm > 0 for norm in strengths.values())


def test_matched_methods_are_as_strong_as_what_they_are_matched_with(matched_run, small_run):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*small_run, *MATCHED]))
    generation = make_generation(job, RunFolder(matched_run, Store(matched_run.parent / "store")))
    training = generation.norms.training
    training.inputs.make()
    samples, scale = training.inputs.samples, scales(matched_run)
    networks = training.executor.networks
    assert len(samples) == 4

    def strength(method):
        batch = training.batch(samples, [0] * len(samples), method.branches)
        scaled = replace(method, scale=scale[method.name])
        return residual_norm(
            networks.pipeline,
            batch.control(networks.pipeline, networks.conditions, scaled),
            training.inputs.real([sample.sources["depth"] for sample in samples]),
            batch.start(training.networks.latents()),
            [sample.prompt for sample in samples],
            training.sampler,
        )

    strengths = {method.name: strength(method) for method in job.experiment.methods if method.branches}
    matched = {name: value for name, value in strengths.items() if "_matched" in name}
    assert len(matched) == 6
    assert matched == pytest.approx(dict.fromkeys(matched, strengths["sum"]), rel=1e-3)
    assert strengths["maxfusion"] != pytest.approx(strengths["sum"], rel=0.05)


@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_run_reads_its_strengths_or_measures_the_same_again(matched_run, small_run, tmp_path, capsys, kept):
    shutil.copytree(matched_run.parent, tmp_path, dirs_exist_ok=True)
    copy = tmp_path / matched_run.name
    lost = sorted((copy / "images" / "maxfusion_matched").glob("*.png"))[1]
    before = lost.read_bytes()
    lost.write_bytes(b"")
    (copy / FILE).write_text("{")
    if not kept:
        shutil.rmtree(tmp_path / "store" / "norm")
    assert main(["run", *small_run, *MATCHED, f"output_dir={tmp_path}"]) == 0
    assert lost.read_bytes() == before
    measured = capsys.readouterr().err.count("measuring the residual norm")
    assert measured == (0 if kept else 7)
    if kept:
        assert (copy / FILE).read_bytes() == (matched_run / FILE).read_bytes()


@pytest.mark.parametrize("target", ["nobody", "none", "sum_matched", "itself"])
def test_a_method_is_matched_with_one_that_has_a_strength_of_its_own(target):
    methods = (
        Method(Sum(), name="sum", branches=("hed",)),
        Method(Sum(), name="none", branches=()),
        Method(Sum(), name="sum_matched", branches=("hed",), match="sum"),
        Method(Average(), name="itself", branches=("hed",), match=target),
    )
    with pytest.raises(UserError, match=rf"methods\.itself\.match is '{target}'; take one .* of its own: sum\."):
        Experiment("x", {"hed": HED()}, methods, (), (), baselines=("sum",))


def test_a_match_that_cannot_be_is_one_sentence_and_code_2(small_run, tmp_path, capsys):
    for target in ("nobody", "none"):
        assert main_exit(["run", *small_run, f"+methods.maxfusion.match={target}", f"output_dir={tmp_path}"]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"maxbench: methods.maxfusion.match is '{target}'") and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def main_exit(arguments) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code
