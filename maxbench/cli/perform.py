"""One run: build, tune, generate, evaluate, report."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from maxbench.cli.assemble import make_evaluation, make_executor, make_generation, require_same_weights
from maxbench.cli.batch import settled
from maxbench.cli.build import Run, build
from maxbench.cli.doctor import slow_dtype
from maxbench.cli.plan import Plan, look_ahead
from maxbench.cli.tuning import tuned
from maxbench.configuration.compose import CONF
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.evaluation.scoring import SCORING
from maxbench.experiments.method import Method
from maxbench.generation.inputs import CONTROL, DRAWING, EVALUATION, READING, source_key
from maxbench.generation.sampling import ENGINE
from maxbench.progress import Outlook, say
from maxbench.report.runs import CONFLICT, CONFLICTS, CURVES, MAPS, SHEET
from maxbench.report.tables import write_tables
from maxbench.store.artefacts import Store
from maxbench.store.identity import identity
from maxbench.store.journal import journal
from maxbench.store.runfolder import MANIFEST, RunFolder, run_name
from maxbench.store.settings import PLACES
from maxbench.store.stamp import write_stamp
from maxbench.tracking import RUN, Subject, tracking

INDIFFERENT = {
    *PLACES, "calibration", "data", "runtime.channels_last", "runtime.compile", "runtime.tf32", "runtime.vae_slices",
    "runtime.vae_tiling", "scenes", "suite.conventions", "suite.hub", "suite.megabytes", "suite.places", "suite.root",
}  # fmt: skip
"""Settings that are not part of a run's identity as they are written. Of data, scenes, calibration and the suite it has
what they are, by digests; of how networks compute it has what is unusual."""


def foresee(cfg: DictConfig) -> tuple[Run, Plan]:
    """Print what one run would make and find; nothing is computed, and no run folder is made."""
    job = _built(cfg, measure=False)
    plan = planned(job, run_identity(job))
    print(f"run folder: {plan.folder.path}{'' if plan.folder.path.exists() else ', which is not there yet'}")
    print(f"\n{plan.table()}\n")
    print("\n".join(plan.sentences))
    return job, plan


def planned(job: Run, said: Any, seen: set[tuple[str, str]] | None = None) -> Plan:
    """What is to be made for a run and what is there, looked up and not touched; said: its identity.

    seen: what runs before it will have made or found, see :func:`maxbench.cli.plan.look_ahead`.
    """
    name = run_name(job.experiment.name, job.suite.name, said)
    return look_ahead(job, RunFolder.look(job.output_dir, name, said, Store(job.store_dir)), seen)


def _built(cfg: DictConfig, measure: bool = True) -> Run:
    chosen = OmegaConf.select(cfg, "suite.name")
    print(f"suite: {chosen} (change it with suite=; available: {', '.join(_choices('suite'))})", flush=True)
    return build(settled(cfg, measure))


def perform(cfg: DictConfig) -> Path:
    """One run from its configuration to its tables; returns its folder."""
    job = _built(cfg)
    if job.threads:
        torch.set_num_threads(job.threads)
    if warning := slow_dtype(job.precision.name, job.device.type):
        say(f"note: {warning}")
    said = run_identity(job)
    plan = planned(job, said)
    folder = open_folder(job, said)
    print(f"run folder: {folder.path}", flush=True)
    plan.announce()
    changed = write_stamp(folder, job.device, job.suite.origins(list(job.experiment.conditions)))
    if changed:
        say(f"note: since this run was begun these have changed: {', '.join(changed)} (see stamp.json)")
    subject = Subject(folder.path, RUN, job.experiment.name, job.config)
    with journal(folder), tracking(job.config.get("tracking", {}), subject) as tracker:
        with contextlib.closing(make_executor(job)) as executor:
            outlook = Outlook(plan.work, lambda: executor.status.workers)
            job = tuned(job, folder, executor, outlook)
            write_manifest(job, folder)
            generation = make_generation(job, folder, outlook, executor)
            evaluation = make_evaluation(job, folder, generation.sampling.inputs)
            generation.run(scored=evaluation.references())
            evaluated = evaluation.run()
        require_same_weights(job)
        table = write_tables(folder.path)
        images, scores = folder.count("image"), folder.count("score")
        idle = not evaluated and not images.made and not scores.made
        figures = _draw(job, folder.path, anew=not idle or bool(changed))
        tracker.results()
        if idle:
            say("nothing to do: every image and every metric is there already")
    print(f"\n{table}\n")
    print(f"images: {images.made} made, {images.found} found; scores: {scores.made} made, {scores.found} found")
    for label, file in (
        ("table", "table.md"), ("contact sheet", SHEET), ("metrics", "metrics.csv"),
        ("differences", "differences.csv"), ("per sample", "samples.parquet"), ("images", "images"),
        ("configuration", "config.yaml"), ("environment", "stamp.json"), *figures,
    ):  # fmt: skip
        print(f"{label + ':':15}{folder.path / file}")
    return folder.path


def _draw(job: Run, folder: Path, anew: bool) -> list[tuple[str, str]]:
    """Draw what a run has figures of; returns what each is and its file.

    anew: draw also what there is a file of: by the same code of the same pictures it is the same. What draws is
    imported where there is something to draw, for it takes seconds.
    """

    def lacking(*names: str) -> bool:
        return anew or not any((folder / name).is_file() for name in names)

    if lacking(SHEET):
        from maxbench.report.sheet import write_sheet

        write_sheet(folder)
    if any(method.setting is not None for method in job.experiment.methods) and lacking(CURVES):
        from maxbench.report.curves import write_curves

        write_curves(folder)
    if (folder / CONFLICT).exists() and lacking(CONFLICTS):
        from maxbench.report.conflict import write_conflict

        write_conflict(folder)
    if job.tracing.samples and job.tracing.maps and lacking(*MAPS):
        from maxbench.report.maps import write_maps

        write_maps(folder)
    figures = (("curves", CURVES), ("conflict", CONFLICTS), *(("maps", name) for name in MAPS))
    return [(title, name) for title, name in figures if (folder / name).is_file()]


def open_folder(job: Run, said: Any = None) -> RunFolder:
    """The run's folder, with its resolved configuration in it; said: the run's identity, if it is known already."""
    said = run_identity(job) if said is None else said
    folder = RunFolder.open(
        job.output_dir, run_name(job.experiment.name, job.suite.name, said), said, Store.open(job.store_dir)
    )
    folder.write("config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.config)))
    return folder


def write_manifest(job: Run, folder: RunFolder) -> None:
    """Leave what the run is made of: its samples, its methods with what was tuned in them, and what was not."""
    manifest = {
        "samples": [row(sample) for sample in job.experiment.samples],
        "reference": list(job.experiment.reference),
        "methods": [_method(method) for method in job.experiment.methods],
        "notes": list(job.notes),
    }
    folder.write(MANIFEST, json.dumps(manifest, indent=1))


def with_notes(job: Run, folder: RunFolder) -> Run:
    """The run with what its manifest says that tables must say: tuning, which is not done again here, found it out."""
    try:
        said = json.loads((folder.path / MANIFEST).read_bytes()).get("notes", [])
    except FileNotFoundError:
        return job  # nothing has been run yet
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder.path / MANIFEST} is damaged; run the experiment again, which makes it anew."
        ) from error
    return replace(job, notes=tuple(dict.fromkeys((*job.notes, *said))))


def run_identity(job: Run) -> Any:
    """Everything that a run's numbers depend on: another value of it is another run, in another folder."""
    pictures = {image: job.image_set for image in (*job.experiment.sources, *job.experiment.reference)}
    resolution = job.suite.resolution
    rules = {method.entry: [identity(method.rule), identity(method.otherwise)] for method in job.experiment.methods}
    said = {
        "versions": {"engine": ENGINE, "drawing": DRAWING, "reading": READING, "scoring": SCORING},
        "config": without(job.config, INDIFFERENT),
        "device": job.device.type,
        "weights": job.weights,
        "rules": rules,
        "conditions": {name: identity(condition) for name, condition in job.experiment.conditions.items()},
        "samples": [row(sample) for sample in job.experiment.samples],
        "regions": [_regions(job, sample) for sample in job.experiment.samples],
        "pictures": {str(image): source_key(images, image, resolution) for image, images in pictures.items()},
    }
    if job.precision.unusual:
        said["precision"] = job.precision.unusual
    if job.calibration is not None:
        training = job.calibration
        images = sorted({image for sample in training.samples for image in sample.sources.values()})
        said["calibration"] = {
            "samples": [[sample.id, sample.prompt] for sample in training.samples],
            "pictures": {str(image): source_key(training.image_set, image, resolution) for image in images},
            "seed": training.seed,
        }
    return json.loads(json.dumps(said))


def row(sample: Sample) -> dict:
    masks = {
        kind: {name: str(region) for name, region in getattr(sample, kind).items()}
        for kind in (CONTROL, EVALUATION)
        if getattr(sample, kind)
    }
    return {
        "id": sample.id, "group": sample.group, "prompt": sample.prompt, "sources": sample.sources, **masks,
        **({"category": sample.category} if sample.category else {}),
    }  # fmt: skip


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
        **({} if method.tuned is None else {"tuned": dict(method.tuned)}),
    }  # fmt: skip


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def without(config: dict[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    """A nested configuration without these dotted keys."""
    return {
        key: without(inner, keys, f"{prefix}{key}.") if isinstance(inner, dict) else inner
        for key, inner in config.items()
        if f"{prefix}{key}" not in keys
    }
