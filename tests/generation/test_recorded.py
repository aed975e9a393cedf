"""The engine has a version: recorded pictures of every kind of method, so that a change of it does not pass unnoticed.

After a change of the arithmetic that is meant, raise `maxbench.generation.sampling.ENGINE` and record anew; after new
weights, record anew: `python tests/generation/test_recorded.py`.
"""

from __future__ import annotations

import json
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from maxbench.cli.build import build
from maxbench.cli.config import CONF
from maxbench.cli.perform import make_generation
from maxbench.generation.sampling import ENGINE
from maxbench.images import to_bytes
from maxbench.store.artefacts import Store
from maxbench.store.files import fingerprint
from maxbench.store.runfolder import RunFolder

RECORD = Path(__file__).parent / "recorded.npz"
MEAN, MOST = 0.15, 4  # grey levels by which processors may differ; the least of two methods' differences is above
SMALL = ["samples=2", "sampler.steps=3", "pairing.reference=2", "data.count=12", "runtime.batch_size=2"]
KINDS = {
    "controlnets and an image prompt": [
        "experiment=style",
        *(f"+fusion@methods.{name}={name}" for name in ("softmax", "largest_norm", "random")),
        "+fusion@methods.windowed=maxfusion",
        "+methods.windowed.control_end={hed: 0.7}",
        "+methods.windowed.fusion_start=0.3",
        "+fusion@methods.scaled=sum",
        "+methods.scaled.branch_scale={hed: 0.5}",
    ],
    "adapters": ["experiment=adapters_hed_depth"],
    "by regions": ["experiment=contradictory_hed_depth", "data.count=48"],
}


def pictures(kind: str, folder: Path, data_dir: Path) -> tuple[dict[str, np.ndarray], str]:
    """Method -> two pictures (2, 64, 64, 3) uint8 of the shipped weights; and the digest of those."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*KINDS[kind][:1], f"data_dir={data_dir}", *SMALL, *KINDS[kind][1:]]))
    generation = make_generation(job, RunFolder(folder, Store.open(folder / "store")))
    generation.sampling.inputs.make()
    samples = job.experiment.samples
    made = {
        method.name: to_bytes(generation.sampling.pictures(method, samples, [0] * len(samples)))
        for method in job.experiment.methods
    }
    return made, fingerprint(job.suite.fingerprint(list(job.experiment.conditions)))


def record(data_dir: Path) -> dict[str, np.ndarray]:
    """Everything that is recorded, by name."""
    found: dict[str, np.ndarray] = {}
    weights = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            made, weights[kind] = pictures(kind, Path(folder), data_dir)
        found |= {f"{kind}/{method}": each for method, each in made.items()}
    return {**found, "about": np.array(json.dumps({"engine": ENGINE, "weights": weights}))}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORD) as archive:
        return dict(archive)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_makes_the_pictures_that_its_version_made(kind, recorded, tmp_path):
    about = json.loads(str(recorded["about"]))
    made, weights = pictures(kind, tmp_path / "run", tmp_path / "data")
    assert about["weights"][kind] == weights, "the weights are others than were recorded with: record anew"
    assert about["engine"] == ENGINE, "the engine has another version than was recorded with: record anew"
    assert {f"{kind}/{method}" for method in made} == {name for name in recorded if name.startswith(f"{kind}/")}
    for method, each in made.items():
        change = np.abs(each.astype(int) - recorded[f"{kind}/{method}"].astype(int))
        assert change.mean() <= MEAN and change.max() <= MOST, (
            f"'{method}' makes other pictures (mean difference {change.mean():.2f} levels, most {change.max()}): "
            "if that is meant, raise ENGINE in maxbench/generation/sampling.py and record anew"
        )


def test_the_tolerance_tells_methods_apart(recorded):
    same = {("average", "multi_t2i_adapter")}  # by arithmetic
    for kind in KINDS:
        prefix = f"{kind}/"
        own = {
            name.removeprefix(prefix): each.astype(int) for name, each in recorded.items() if name.startswith(prefix)
        }
        for one, other in combinations(own, 2):
            if (one, other) not in same and (other, one) not in same:
                assert np.abs(own[one] - own[other]).mean() > MEAN, (kind, one, other)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as data:
        np.savez_compressed(RECORD, **record(Path(data)))
    print(f"{RECORD}: {RECORD.stat().st_size / 1e3:.0f} kB")
