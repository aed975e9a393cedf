"""`suite=sd15` end to end without a network: its parts in small, and photographs in COCO's layout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from data.photographs import write_photographs
from maxbench.__main__ import main
from maxbench.cli.build import build
from maxbench.configuration.compose import compose, hydra_on, plain
from maxbench.suites.hub import HubPart
from runs import LEFT_OUT, only_run
from suites.replica import SIZE, write_replica

COMPLEMENTARY = ["seg_depth", "hed_depth", "hed_seg"]
CONTRADICTORY = [f"contradictory_{pair}" for pair in COMPLEMENTARY]
OTHERS = ["three_conditions", "threshold", "adapters_canny_depth", "style"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """What a command says to find the weights and the pictures, and to be done in seconds."""
    folder = tmp_path_factory.mktemp("sd15")
    with hydra_on() as hydra:
        parts = plain(compose(hydra, ["suite=sd15", "experiment=hed_depth"]))["suite"]["hub"]
    write_replica(folder / "weights", {name: HubPart(**entry) for name, entry in parts.items()})
    write_photographs(folder / "coco")
    return [
        "suite=sd15",
        f"suite.weights_dir={folder / 'weights'}",
        f"suite.resolution={SIZE}",
        f"data.root={folder / 'coco'}",
        "data.calibration_share=0.4",
        f"output_dir={folder / 'runs'}",
        "samples=2",
        "pairing.reference=4",
        "calibration.samples=2",
        "sampler.steps=2",
        "metrics.resamples=100",
        "runtime.batch_size=2",
        "runtime.device=cpu",
    ]


def output_of(words) -> Path:
    return Path(next(each for each in words if each.startswith("output_dir=")).partition("=")[2])


def run(words, experiment, *more):
    """The folder of a finished run."""
    before = set(output_of(words).glob("*")) if output_of(words).exists() else set()
    assert main(["run", f"experiment={experiment}", *words, *more]) == 0
    (folder,) = {path for path in output_of(words).glob(f"{experiment}-*")} - before
    return folder


def untuned(experiment):
    with hydra_on() as hydra:
        methods = plain(compose(hydra, ["suite=sd15", f"experiment={experiment}"]))["methods"]
    return [f"~methods.{name}" for name in LEFT_OUT if name in methods]


USUAL = ("three_conditions", "contradictory_seg_depth", "adapters_canny_depth")
"""Of every kind one; the others differ in their conditions."""


@pytest.mark.parametrize(
    "experiment",
    [
        each if each in USUAL else pytest.param(each, marks=pytest.mark.slow)
        for each in (*COMPLEMENTARY, *CONTRADICTORY, *OTHERS)
    ],
)
def test_every_table_of_the_paper_is_run_on_photographs(words, experiment):
    folder = run(words, experiment, *untuned(experiment))
    metrics = pd.read_csv(folder / "metrics.csv")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"maxfusion", "none", "real"} <= {name.split("/")[0] for name in metrics.method}
    assert metrics.value.notna().all()
    for name in {each.split("/")[0] for each in metrics.metric}:
        assert name
    table = (folder / "table.md").read_text()
    assert "photographs of scikit-image" in table and "rendered" not in table
    assert len(manifest["samples"]) == 2
    scorers = " ".join(map(str, metrics.scorer))
    assert "openai/clip-vit-large-patch14@" in scorers
    if "depth" in experiment:
        assert "depth-anything/Depth-Anything-V2-Small-hf@" in scorers and "Intel/dpt-hybrid-midas@" in scorers
    if experiment in CONTRADICTORY and experiment.startswith("contradictory_seg"):
        assert any("own class" in str(each) or "object" in str(each) for each in metrics.protocol)
    stamp = json.loads((folder / "stamp.json").read_text())[-1]
    assert stamp["weights"]["unet"]["id"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_methods_are_tuned_on_pictures_that_no_result_is_measured_on(words):
    for experiment in ("hed_depth", "seg_depth"):
        with hydra_on() as hydra:
            job = build(compose(hydra, [f"experiment={experiment}", *words]))
        trained = {image for sample in job.calibration.samples for image in sample.sources.values()}
        measured = {image for sample in job.experiment.samples for image in sample.sources.values()}
        assert trained and not trained & (measured | set(job.experiment.reference))


@pytest.mark.processes
def test_it_needs_no_network(words, tmp_path):
    """In a process that may not open a connection, with the Hub declared away."""
    guard = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = refuse\n"
        "socket.create_connection = refuse\n"
        "from maxbench.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    rest = [each for each in words if not each.startswith("output_dir=")]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            guard,
            "run",
            "experiment=hed_depth",
            *rest,
            *untuned("hed_depth"),
            f"output_dir={tmp_path / 'runs'}",
        ],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (only_run(tmp_path / "runs") / "table.md").is_file()


def test_a_part_that_is_missing_is_said_before_anything_is_made(words, tmp_path, capsys):
    weights = Path(next(each for each in words if "weights_dir" in each).partition("=")[2])
    shutil.copytree(weights, tmp_path / "weights")
    shutil.rmtree(tmp_path / "weights" / "Intel")
    rest = [each for each in words if "weights_dir" not in each and "output_dir" not in each]
    more = [f"suite.weights_dir={tmp_path / 'weights'}", f"output_dir={tmp_path / 'runs'}"]
    assert main(["run", "experiment=hed_depth", *rest, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("maxbench: The suite 'sd15' lacks Intel/dpt-hybrid-midas (490 MB, revision 11eaf7a1)")
    assert "python -m maxbench data weights suite=sd15" in said and str(tmp_path / "weights" / "Intel") in said
    assert not (tmp_path / "runs").exists()
    assert main(["run", "experiment=adapters_hed_depth", *words]) == 2
    assert "has no control of this kind for 'hed'; of T2I-Adapters there are depth, canny" in capsys.readouterr().err
