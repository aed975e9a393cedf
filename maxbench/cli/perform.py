"""One run: build, generate, evaluate, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maxbench.cli.build import Run, build
from maxbench.cli.config import CONF
from maxbench.cli.doctor import slow_dtype
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.evaluation.runner import Evaluation
from maxbench.evaluation.scoring import SCORING, Scorers
from maxbench.experiments.method import Method
from maxbench.generation.inputs import CONTROL, DRAWING, EVALUATION, READING, Annotators, ControlInputs, source_key
from maxbench.generation.runner import Generation
from maxbench.generation.sampling import ENGINE, Networks, Sampling
from maxbench.generation.strength import ResidualNorms
from maxbench.progress import say
from maxbench.report.curves import write_curves
from maxbench.report.maps import write_maps
from maxbench.report.sheet import write_sheet
from maxbench.report.tables import write_tables
from maxbench.store.artefacts import Store
from maxbench.store.identity import identity
from maxbench.store.runfolder import RunFolder, run_name
from maxbench.store.stamp import made_by, write_stamp

# Settings that say where and how fast, not what. Where weights and pictures lie is one of them: what they are is in the
# run's identity by their digests.
INDIFFERENT = {
    "calibration", "data", "data_dir", "diagnostics", "output_dir", "runtime.device", "runtime.threads", "store_dir",
    "suite.megabytes", "suite.root",
}  # fmt: skip


def perform(cfg: DictConfig) -> Path:
    """One run from its configuration to its tables; returns its folder."""
    chosen = OmegaConf.select(cfg, "suite.name")
    print(f"suite: {chosen} (change it with suite=; available: {', '.join(_choices('suite'))})", flush=True)
    job = build(cfg)
    if job.threads:
        torch.set_num_threads(job.threads)
    torch.backends.cudnn.allow_tf32 = False  # else "float32" convolutions keep 10 bits, while products keep 23
    if warning := slow_dtype(str(job.dtype).removeprefix("torch."), job.device.type):
        say(f"note: {warning}")
    folder = open_folder(job)
    print(f"run folder: {folder.path}", flush=True)
    changed = write_stamp(folder, job.device)
    if changed:
        say(f"note: since this run was begun these have changed: {', '.join(changed)} (see stamp.json)")
    generation = make_generation(job, folder)
    evaluation = make_evaluation(job, folder, generation.sampling.inputs)
    generation.run(scored=evaluation.references())
    evaluated = evaluation.run()
    require_same_weights(job)
    folder.summarise()
    table = write_tables(folder.path)
    sheet = write_sheet(folder.path)
    curves, maps = write_curves(folder.path), write_maps(folder.path) if job.tracing.samples else []
    images, scores = folder.count("image"), folder.count("score")
    if not evaluated and not images.made and not scores.made:
        say("nothing to do: every image and every metric is there already")
    print(f"\n{table}\n")
    print(f"images: {images.made} made, {images.found} found; scores: {scores.made} made, {scores.found} found")
    for label, file in (
        ("table", "table.md"), ("contact sheet", sheet.name), ("metrics", "metrics.csv"),
        ("differences", "differences.csv"), ("per sample", "samples.parquet"), ("images", "images"),
        ("configuration", "config.yaml"), ("environment", "stamp.json"),
        *(("curves", path.name) for path in [curves] if path), *(("maps", path.name) for path in maps),
    ):  # fmt: skip
        print(f"{label + ':':15}{folder.path / file}")
    return folder.path


def open_folder(job: Run) -> RunFolder:
    """The run's folder, with its resolved configuration and manifest in it."""
    said = run_identity(job)
    folder = RunFolder.open(
        job.output_dir, run_name(job.experiment.name, job.suite.name, said), said, Store.open(job.store_dir)
    )
    folder.write("config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.config)))
    manifest = {
        "samples": [_row(sample) for sample in job.experiment.samples],
        "reference": list(job.experiment.reference),
        "methods": [_method(method) for method in job.experiment.methods],
    }
    folder.write("manifest.json", json.dumps(manifest, indent=1))
    return folder


def run_identity(job: Run) -> Any:
    """Everything that a run's numbers depend on: another value of it is another run, in another folder."""
    pictures = {image: job.image_set for image in (*job.experiment.sources, *job.experiment.reference)}
    resolution = job.suite.resolution
    rules = {method.entry: [identity(method.rule), identity(method.otherwise)] for method in job.experiment.methods}
    said = {
        "versions": {"engine": ENGINE, "drawing": DRAWING, "reading": READING, "scoring": SCORING},
        "config": _without(job.config, INDIFFERENT),
        "device": job.device.type,
        "weights": job.weights,
        "rules": rules,
        "conditions": {name: identity(condition) for name, condition in job.experiment.conditions.items()},
        "samples": [_row(sample) for sample in job.experiment.samples],
        "regions": [_regions(job, sample) for sample in job.experiment.samples],
        "pictures": {str(image): source_key(images, image, resolution) for image, images in pictures.items()},
    }
    if job.calibration is not None:
        said["calibration"] = [[sample.id, sample.prompt] for sample in job.calibration.samples]
    return json.loads(json.dumps(said))


def make_generation(job: Run, folder: RunFolder) -> Generation:
    conditions = list(job.experiment.conditions)
    inputs = ControlInputs(
        conditions=job.experiment.conditions,
        samples=job.experiment.samples,
        folder=folder,
        image_set=job.image_set,
        resolution=job.suite.resolution,
        batch_size=job.batch_size,
        annotators=Annotators(
            load=cache(_unchanged(job, partial(job.suite.annotator, device=job.device))),
            identity=cache(job.suite.annotator_identity),
            device=job.device.type,
        ),
    )
    sampling = Sampling(
        inputs=inputs,
        sampler=job.sampler,
        networks=Networks(
            load=_unchanged(job, partial(job.suite.pipeline, conditions, job.device, job.dtype)),
            base=job.suite.base_identity(),
            control=cache(job.suite.control_identity),
            dtype=job.dtype,
            device=job.device,
        ),
        seed=job.experiment.seed,
        batch_size=job.batch_size,
    )
    return Generation(
        experiment=job.experiment,
        folder=folder,
        sampling=sampling,
        norms=ResidualNorms(job.experiment.methods, folder, _training(job, sampling)),
        tracing=job.tracing,
        made_by=made_by(job.device),
    )


def _training(job: Run, sampling: Sampling) -> Sampling | None:
    """The run's sampling on the scenes of its calibration, with the same networks."""
    if job.calibration is None:
        return None
    inputs = sampling.inputs
    training = ControlInputs(
        inputs.conditions, job.calibration.samples, inputs.folder, job.calibration.image_set, inputs.resolution,
        inputs.batch_size, inputs.annotators,
    )  # fmt: skip
    return Sampling(training, sampling.sampler, sampling.networks, job.config["calibration"]["seed"], job.batch_size)


def make_evaluation(job: Run, folder: RunFolder, inputs: ControlInputs) -> Evaluation:
    suite, conditions = job.suite, list(job.experiment.conditions)
    annotator_names = suite.annotator_names(conditions)
    return Evaluation(
        experiment=job.experiment,
        folder=folder,
        inputs=inputs,
        image_set=job.image_set,
        batch_size=job.batch_size,
        scorers=Scorers(
            load_clip=_unchanged(job, partial(suite.clip_scorer, job.device)),
            load_features=cache(_unchanged(job, partial(suite.feature_network, device=job.device))),
            load_map=cache(_unchanged(job, partial(suite.scorer, device=job.device))),
            load_annotator=cache(_unchanged(job, partial(suite.self_consistency, device=job.device))),
            features=suite.feature_names,
            identity=cache(suite.scorer_identity),
            device=job.device.type,
        ),
        with_annotators=frozenset(annotator_names),
        scorer_names=suite.scorer_names(conditions),
        annotator_names=annotator_names,
        suite=suite.name,
        notes=suite.feature_notes,
        resamples=job.resamples,
        level=job.level,
    )


def _unchanged(job: Run, load: Callable[..., Any]) -> Callable[..., Any]:
    """A loader after which the weights are still those that the run began with, and that its keys are made of."""

    def loading(*arguments: Any) -> Any:
        network = load(*arguments)
        require_same_weights(job)
        return network

    return loading


def require_same_weights(job: Run) -> None:
    """UserError if a part of the suite is not what it was when the run began."""
    now = job.suite.fingerprint(list(job.experiment.conditions))
    changed = [part for part, digest in now.items() if job.weights.get(part) != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)} of the suite '{job.suite.name}' changed while the run was going on; run again when "
            "the weights are at rest."
        )


def _row(sample: Sample) -> dict:
    masks = {
        kind: {name: str(region) for name, region in getattr(sample, kind).items()}
        for kind in (CONTROL, EVALUATION)
        if getattr(sample, kind)
    }
    return {"id": sample.id, "prompt": sample.prompt, "sources": sample.sources, **masks}


def _regions(job: Run, sample: Sample) -> list:
    return [
        [kind, name, region.identity(job.image_set)]
        for kind in (CONTROL, EVALUATION)
        for name, region in getattr(sample, kind).items()
    ]


def _method(method: Method) -> dict:
    return {
        "name": method.name, "entry": method.entry, "series": method.series, "role": method.role,
        "branches": list(method.branches), "parameter": method.parameter, "setting": method.setting,
    }  # fmt: skip


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _without(config: dict[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    """A nested configuration without these dotted keys."""
    return {
        key: _without(inner, keys, f"{prefix}{key}.") if isinstance(inner, dict) else inner
        for key, inner in config.items()
        if f"{prefix}{key}" not in keys
    }
