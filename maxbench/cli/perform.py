"""One run: build, generate, evaluate, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

import maxbench
from maxbench import images
from maxbench.cli.build import Run, build
from maxbench.cli.config import CONF
from maxbench.data.pairing import Sample
from maxbench.evaluation.scoring import Evaluation
from maxbench.generation.inputs import MASKS, ControlInputs
from maxbench.generation.runner import Generation
from maxbench.generation.sampling import Sampling
from maxbench.generation.strength import Strengths
from maxbench.progress import say
from maxbench.report.curves import write_curves
from maxbench.report.maps import write_maps
from maxbench.report.sheet import write_sheet
from maxbench.report.tables import write_tables
from maxbench.store.runfolder import RunFolder, code_fingerprint, fingerprint, source_of, write_atomically
from maxbench.store.stamp import write_stamp

# Rooms whose code makes the numbers: another edition of them is another run.
NUMBER_MAKING = (
    "conditions", "data", "evaluation", "experiments", "fusion", "generation", "images.py", "metrics", "models",
    "seeds.py", "suites",
)  # fmt: skip
# Settings that say where and how fast, not what.
# Where weights and pictures lie is one of them: what they are is in the fingerprint by their digests.
INDIFFERENT = {"diagnostics", "output_dir", "data_dir", "root", "threads", "device", "megabytes"}


def perform(cfg: DictConfig) -> Path:
    """One run from its configuration to its tables; returns its folder."""
    chosen = OmegaConf.select(cfg, "suite.name")
    print(f"suite: {chosen} (change it with suite=; available: {', '.join(_choices('suite'))})", flush=True)
    job = build(cfg)
    if job.threads:
        torch.set_num_threads(job.threads)
    torch.backends.cudnn.allow_tf32 = False  # else "float32" convolutions keep 10 bits, while products keep 23
    folder = open_folder(job)
    print(f"run folder: {folder.path}", flush=True)
    changed = write_stamp(folder, job.device)
    if changed:
        say(f"note: since this run was begun these have changed: {', '.join(changed)} (see stamp.json)")
    generated = generation(job, folder).run()
    evaluated = evaluation(job, folder).run()
    if not generated and not evaluated:
        say("nothing to do: every image and every metric is there already")
    table = write_tables(folder.path)
    sheet = write_sheet(folder.path)
    curves, maps = write_curves(folder.path), write_maps(folder.path) if job.watching.samples else []
    print(f"\n{table}\n")
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
    package = Path(maxbench.__file__).parent
    own = [path for room in NUMBER_MAKING for path in _python_files(package / room)]
    rules = {source for method in job.experiment.methods if (source := source_of(method.rule))}
    identity = {
        "config": _without(job.config, INDIFFERENT),
        "device": job.device.type,
        "weights": job.suite.fingerprint(list(job.experiment.conditions)),
        "images": job.image_set.fingerprint(),
        **({"calibration": job.calibration.image_set.fingerprint()} if job.calibration else {}),
        "code": code_fingerprint({*own, *(rule for rule in rules if package not in rule.parents)}),
    }
    name = f"{job.experiment.name}-{job.suite.name}-{fingerprint(identity)[:10]}"
    folder = RunFolder.open(job.output_dir, name, identity)
    write_atomically(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.config)))
    manifest = {
        "samples": [_row(sample) for sample in job.experiment.samples],
        "reference": list(job.experiment.reference),
    }
    write_atomically(folder.path / "manifest.json", json.dumps(manifest, indent=1))
    return folder


def generation(job: Run, folder: RunFolder) -> Generation:
    given = ControlInputs(
        experiment=job.experiment,
        folder=folder,
        image_set=job.image_set,
        resolution=job.suite.resolution,
        batch_size=job.batch_size,
        load_annotator=cache(partial(job.suite.annotator, device=job.device)),
    )
    conditions = list(job.experiment.conditions)
    sampling = Sampling(given, job.sampler, partial(job.suite.pipeline, conditions, job.device, job.dtype))
    return Generation(sampling, Strengths(sampling, job.calibration), job.watching, job.device)


def evaluation(job: Run, folder: RunFolder) -> Evaluation:
    def read_reference(ids: Sequence[int]) -> torch.Tensor:
        return images.read_images([job.image_set.picture(image).path for image in ids], job.suite.resolution)

    conditions = list(job.experiment.conditions)
    return Evaluation(
        experiment=job.experiment,
        folder=folder,
        resolution=job.suite.resolution,
        batch_size=job.batch_size,
        load_scorer=partial(job.suite.scorer, device=job.device),
        load_annotator=partial(job.suite.self_consistency, device=job.device),
        load_clip_scorer=partial(job.suite.clip_scorer, job.device),
        read_reference=read_reference,
        scorers=job.suite.scorer_names(conditions),
        annotators=job.suite.annotator_names(conditions),
        suite=job.suite.name,
        resamples=job.resamples,
        level=job.level,
    )


def _row(sample: Sample) -> dict:
    regions = {
        kind: {name: str(region) for name, region in getattr(sample, kind).items()}
        for kind in MASKS
        if getattr(sample, kind)
    }
    return {"id": sample.id, "prompt": sample.prompt, "sources": sample.sources, **regions}


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _python_files(room: Path) -> list[Path]:
    return sorted(room.rglob("*.py")) if room.is_dir() else [room]


def _without(value: object, names: set[str]) -> object:
    """A nested configuration without the keys of these names."""
    if isinstance(value, dict):
        return {key: _without(inner, names) for key, inner in value.items() if key not in names}
    return value
