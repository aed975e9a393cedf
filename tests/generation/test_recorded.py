"""What makes artefacts has versions: recorded pictures of every kind of method, maps and scores.

After a change of the arithmetic that is meant, raise the version that the message names and record anew; after new
weights, record anew: `python tests/generation/test_recorded.py`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from maxbench.cli.build import Run, build
from maxbench.cli.perform import make_evaluation, make_generation
from maxbench.configuration.compose import CONF
from maxbench.data.pairing import Sample
from maxbench.evaluation.scoring import SCORING, Subject
from maxbench.experiments.method import Method
from maxbench.generation.inputs import DRAWING, READING, ControlInputs
from maxbench.generation.sampling import ENGINE, Sampling
from maxbench.images import to_bytes
from maxbench.store.artefacts import Store
from maxbench.store.files import fingerprint
from maxbench.store.runfolder import RunFolder

RECORD = Path(__file__).parent / "recorded.npz"
MEAN, MOST = 0.15, 4  # grey levels by which processors may differ; the least of two methods' differences is above
SMALL = [
    "samples=2", "sampler.steps=3", "pairing.reference=2", "data.count=12", "runtime.batch_size=2",
    # not tuned here, and then the same as their plain methods
    "~methods.single_tuned", "~methods.tuned_sum", "~methods.scheduled_sum", "~methods.maxfusion_tuned",
]  # fmt: skip
KINDS = {
    "controlnets and an image prompt": [
        "experiment=style",
        *(
            f"+fusion@methods.{name}={name}"
            for name in ("softmax", "largest_norm", "random", "pixfusion", "channelfusion", "channelfusion_published")
        ),
        "+fusion@methods.windowed=maxfusion",
        "+methods.windowed.control_end={hed: 0.7}",
        "+methods.windowed.fusion_start=0.3",
        "+fusion@methods.scaled=sum",
        "+methods.scaled.branch_scale={hed: 0.5}",
    ],
    "adapters": ["experiment=adapters_hed_depth"],
    "by regions": ["experiment=contradictory_hed_depth", "data.count=48"],
}


VERSIONS = {"ENGINE": ENGINE, "DRAWING": DRAWING, "READING": READING, "SCORING": SCORING}


def make(kind: str, folder: Path, data_dir: Path) -> tuple[dict[str, np.ndarray], str]:
    """What the shipped weights make of two samples, by name; and the digest of those weights.

    `images/<method>` (2, 64, 64, 3) and `maps/<condition>` (2, 64, 64) uint8; `scores/<label>` of the real pictures.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*KINDS[kind][:1], f"data_dir={data_dir}", *SMALL, *KINDS[kind][1:]]))
    run = RunFolder(folder, Store.open(folder / "store"))
    sampling = make_generation(job, run).sampling
    inputs, samples = sampling.inputs, job.experiment.samples
    inputs.make()
    made = {f"images/{method.name}": to_bytes(pictures(sampling, method, samples)) for method in job.experiment.methods}
    made |= {f"maps/{name}": inputs.condition_maps(name, samples).numpy() for name in inputs.conditions}
    made |= {f"scores/{label}": values for label, values in scores(job, run, inputs).items()}
    return made, fingerprint(job.suite.fingerprint(list(job.experiment.conditions)))


def pictures(sampling: Sampling, method: Method, samples: Sequence[Sample]) -> Tensor:
    """A method's pictures of samples, (B, 3, H, W)."""
    batch, networks = sampling.batch(samples, [0] * len(samples), method.branches), sampling.executor.networks
    return batch.pictures(networks.pipeline, networks.conditions, method, sampling.sampler)


def scores(job: Run, run: RunFolder, inputs: ControlInputs) -> dict[str, np.ndarray]:
    """What every scorer measures in the samples' own pictures."""
    evaluation = make_evaluation(job, run, inputs)
    targets = evaluation.targets()
    subjects = [
        Subject(
            digest=inputs.sources[next(iter(sample.sources.values()))].sha256,
            read=lambda sample=sample: inputs.real([next(iter(sample.sources.values()))]),
            targets={name: targets[name][place] for name in targets},
            prompt=sample.prompt,
            features=True,
        )
        for place, sample in enumerate(job.experiment.samples)
    ]
    values = evaluation.measuring().measure(subjects, "scoring")
    return {label: np.stack([np.asarray(each[label], float) for each in values]) for label in values[0]}


def record(data_dir: Path) -> dict[str, np.ndarray]:
    """Everything that is recorded, by name."""
    found: dict[str, np.ndarray] = {}
    weights = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            made, weights[kind] = make(kind, Path(folder), data_dir)
        found |= {f"{kind}/{name}": each for name, each in made.items()}
    return {**found, "about": np.array(json.dumps({"versions": VERSIONS, "weights": weights}))}


SAYS = {
    "images": "if that is meant, raise ENGINE in maxbench/generation/sampling.py and record anew",
    "maps": "if that is meant, raise the condition's version, DRAWING or READING, and record anew",
    "scores": "if that is meant, raise the condition's version or SCORING in maxbench/evaluation/, and record anew",
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORD) as archive:
        return dict(archive)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_is_what_its_version_made(kind, recorded, tmp_path):
    about = json.loads(str(recorded["about"]))
    made, weights = make(kind, tmp_path / "run", tmp_path / "data")
    assert about["weights"][kind] == weights, "the weights are others than were recorded with: record anew"
    assert about["versions"] == VERSIONS, "versions are others than were recorded with: record anew"
    assert {f"{kind}/{name}" for name in made} == {name for name in recorded if name.startswith(f"{kind}/")}
    for name, each in made.items():
        was = recorded[f"{kind}/{name}"]
        what = name.split("/")[0]
        if what == "scores":
            np.testing.assert_allclose(each, was, rtol=2e-3, atol=2e-3, err_msg=f"'{name}' is another: {SAYS[what]}")
            continue
        change = np.abs(each.astype(int) - was.astype(int))
        few = change.mean() <= MEAN and change.max() <= MOST
        if name == "maps/seg":  # class numbers: a pixel is of the same class or not
            few = (change > 0).mean() <= 0.002
        assert few, f"'{name}' is another (mean difference {change.mean():.2f}, most {change.max()}): {SAYS[what]}"


def test_the_tolerance_tells_methods_apart(recorded):
    same = {("average", "multi_t2i_adapter")}  # by arithmetic
    for kind in KINDS:
        prefix = f"{kind}/images/"
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
