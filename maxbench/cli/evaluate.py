"""The verb `evaluate`: score pictures made elsewhere as a row of an experiment, or a finished run once more."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from maxbench.cli.assemble import make_evaluation, make_executor, make_generation, require_same_weights
from maxbench.cli.build import Run, build
from maxbench.cli.perform import open_folder, run_identity, with_notes, write_manifest
from maxbench.cli.plan import chosen_before
from maxbench.configuration.compose import check_all
from maxbench.configuration.schema import RESERVED, Name
from maxbench.errors import UserError
from maxbench.evaluation.entered import enter, read_pictures
from maxbench.evaluation.runner import METRICS, Evaluation
from maxbench.experiments.method import NONE, SINGLE, Method
from maxbench.generation.executors.base import Executor
from maxbench.generation.export import images_of, maps_of, read_manifest
from maxbench.generation.runner import Generation
from maxbench.generation.trace import Tracing
from maxbench.progress import say
from maxbench.report.runs import find
from maxbench.report.sheet import write_sheet
from maxbench.report.tables import write_tables
from maxbench.store.artefacts import Store
from maxbench.store.files import Damaged, unseal
from maxbench.store.journal import journal
from maxbench.store.runfolder import MANIFEST, MARK, RunFolder
from maxbench.store.stamp import write_stamp

TAKEN = (*RESERVED, "reference")
"""Names of rows and files of every run."""


def evaluate(
    run: str | None, images: str | None, manifest: str | None, name: str | None, output_dir: str | None
) -> int:
    """`maxbench evaluate`, in either of its two forms; returns the exit code."""
    given = {"--images": images, "--manifest": manifest, "--name": name}
    if run is not None:
        if said := [option for option, value in given.items() if value is not None]:
            raise UserError(f"A run folder is scored by itself; leave out {' and '.join(said)}, or the folder.")
        return again(find([run], output_dir or "runs")[0])
    if missing := [option for option, value in given.items() if value is None]:
        raise UserError(
            f"{' and '.join(missing)} is missing: give --images DIR --manifest FILE --name NAME, or a finished run's "
            "folder."
        )
    return entered(Path(images), Path(manifest), name, output_dir)


# --- pictures made elsewhere ------------------------------------------------------------------------------------


def entered(images: Path, manifest: Path, name: str, output_dir: str | None) -> int:
    """Score a folder of pictures as the row `name` of the experiment that the manifest is of."""
    _check_name(name)
    said = read_manifest(manifest)
    job = built(_config(said, output_dir), manifest)
    _check_free(name, job)
    wanted = images_of(job.experiment, job.sampler)
    _check_same(said, wanted, manifest)
    pictures = read_pictures(images, [each["file"] for each in wanted], job.suite.resolution)
    folder = open_folder(job)
    _check_other_names(name, folder)
    with contextlib.closing(make_executor(job)) as executor:
        generation, required = _units(job, folder, executor)
        generation.sampling.inputs.make()
        _check_maps(said, maps_of(generation.sampling.inputs), manifest)
        write_stamp(folder, job.device, job.suite.origins(list(job.experiment.conditions)))
        if not (folder.path / MANIFEST).exists():  # a run's says what was tuned as well
            write_manifest(job, folder)
        job = chosen_before(with_notes(job, folder), folder)
        replaced = enter(folder, name, pictures)
        if replaced:
            say(f"note: the pictures that were entered as '{name}' before are replaced by these")
        evaluation = make_evaluation(job, folder, generation.sampling.inputs)
        with journal(folder):
            generation.run(scored=evaluation.references())
            _finish(job, folder, replace(evaluation, required=required))
    defects = [each.defect for each in pictures.values() if each.defect]
    if defects:
        print(f"{name}: {len(defects)} of {len(pictures)} pictures are black or of one colour; they are scored as well")
    return 0


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        wanted = error.errors()[0].get("ctx", {}).get("wanted", "a name")
        raise UserError(f"--name is {name!r}; it must be {wanted}.") from error
    if name.casefold() in TAKEN:
        raise UserError(f"--name is '{name}', which every run has a row or file of; take another.")


def _check_free(name: str, job: Run) -> None:
    taken = {each.casefold(): each for method in job.experiment.methods for each in (method.name, method.entry)}
    if (other := taken.get(name.casefold())) is not None:
        raise UserError(f"--name is '{name}', and '{other}' is a method of this experiment; take another.")


def _check_other_names(name: str, folder: RunFolder) -> None:
    """One file system in two knows no capitals."""
    other = next((each for each in folder.entered() if each.casefold() == name.casefold() and each != name), None)
    if other is not None:
        raise UserError(f"--name is '{name}', and pictures are entered as '{other}' already; write it so, or another.")


def _config(said: dict[str, Any], output_dir: str | None) -> dict[str, Any]:
    """The configuration that a manifest has, with its results in another folder if that is asked for."""
    config = said.get("config")
    if output_dir is None or not isinstance(config, dict):
        return config
    beside = str(config.get("store_dir")) == str(Path(str(config.get("output_dir"))) / "store")
    return {**config, "output_dir": output_dir, **({"store_dir": str(Path(output_dir) / "store")} if beside else {})}


def built(config: Any, origin: Path) -> Run:
    """The run of a configuration that was written by us, perhaps long ago and elsewhere."""
    if not isinstance(config, dict):
        raise UserError(f"{origin} has no configuration of a run; it is damaged, or of an older version.")
    runtime = config.get("runtime")
    if isinstance(runtime, dict):  # where a run was made says nothing of where it is scored
        config = {**config, "runtime": {**runtime, "address": None, "workers": None}}
    try:
        check_all(config)
        return build(OmegaConf.create(config))
    except UserError as error:
        raise UserError(f"The experiment of {origin} cannot be built: {error}") from error


def _check_same(said: dict[str, Any], wanted: list[dict[str, Any]], manifest: Path) -> None:
    """Pictures are of the images that were asked for, also where data or code have changed since."""
    listed = said.get("images")
    if listed == wanted:
        return
    known = {each.get("file"): each for each in listed} if isinstance(listed, list) else {}
    changed = [each["file"] for each in wanted if known.get(each["file"]) != each]
    raise UserError(
        f"The experiment has changed since {manifest} was exported: {len(changed)} of its {len(wanted)} images have "
        f"another prompt, noise or name ({', '.join(changed[:3])}); export it again and make the pictures from that."
    )


def _check_maps(said: dict[str, Any], maps: dict[str, str], manifest: Path) -> None:
    changed = [name for name, digest in maps.items() if said.get("maps", {}).get(name) != digest]
    if changed:
        raise UserError(
            f"The maps of {' and '.join(changed)} are no longer those that were exported with {manifest} (another "
            "annotator, data set or machine drew them); export the experiment again and make the pictures from that."
        )


def _units(job: Run, folder: RunFolder, executor: Executor) -> tuple[Generation, list[str]]:
    """What makes the pictures that q is made of, and the names of their methods."""
    units = tuple(each for each in job.experiment.methods if _is_unit(each))
    experiment = replace(job.experiment, methods=units, baselines=())
    only = replace(
        job, experiment=experiment, calibration=None, tracing=Tracing(**{**job.config["diagnostics"], "samples": 0})
    )
    return make_generation(only, folder, executor=executor), [each.name for each in units]


def _is_unit(method: Method) -> bool:
    return method.is_unit and method.role in (NONE, SINGLE)


# --- a finished run -------------------------------------------------------------------------------------------


def again(run: Path) -> int:
    """Score a run's pictures with everything that measures today, and write its tables anew; no picture is made."""
    config = config_of(run)
    job = built(config, run / "config.yaml")
    folder = reopened(run, job)
    job = chosen_before(with_notes(job, folder), folder)
    with contextlib.closing(make_executor(job)) as executor, journal(folder):
        inputs = make_generation(replace(job, calibration=None), folder, executor=executor).sampling.inputs
        inputs.make()
        evaluation = make_evaluation(job, folder, inputs)
        if folder.entered():  # a run of which only what q needs was made
            evaluation = replace(evaluation, required=[each.name for each in job.experiment.methods if _is_unit(each)])
        _check_pictures(folder, evaluation)
        folder.refer(inputs.artefacts, evaluation.references())
        _finish(job, folder, evaluation)
    return 0


def config_of(run: Path) -> Any:
    path = run / "config.yaml"
    if not run.is_dir():
        raise UserError(f"There is no run folder {run}; name one, or give --images, --manifest and --name.")
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise UserError(f"{run} has no config.yaml that can be read: it is no run folder of maxbench.") from error
    except Exception as error:  # YAML's and OmegaConf's errors have no common base
        raise UserError(f"{path} is damaged; run the experiment again, which makes it anew.") from error


def reopened(run: Path, job: Run) -> RunFolder:
    """The run's folder, wherever it lies now; UserError if the run of its configuration would be another one today."""
    identity = run_identity(job)
    try:
        known = unseal((run / MARK).read_bytes())
    except (OSError, Damaged) as error:
        raise UserError(
            f"{run / MARK} is missing or damaged; run the experiment again, which makes it anew."
        ) from error
    if not isinstance(known, dict) or known != identity:
        changed = [key for key, value in identity.items() if not isinstance(known, dict) or known.get(key) != value]
        raise UserError(
            f"{run} was made with other {', '.join(changed) or 'settings'} than there are now, so its pictures cannot "
            "be scored as they were; `python -m maxbench run` makes a run with these, and finds what is still the same."
        )
    beside = run.resolve().parent / "store"  # a folder of runs may have been moved as a whole
    elsewhere = job.store_dir != job.output_dir / "store" or not beside.is_dir()
    store = job.store_dir if elsewhere and job.store_dir.is_dir() else beside
    return RunFolder.open(run.resolve().parent, run.resolve().name, identity, Store.open(store))


def _check_pictures(folder: RunFolder, evaluation: Evaluation) -> None:
    """Every picture of every row is what its record says; UserError names what is neither here nor in the store."""
    lost: list[str] = []
    for product in ["real", "vae_reconstruction", *(f"images/{name}" for name in _required(evaluation))]:
        if not folder.has_record(product):
            raise UserError(f"{folder.path} has no record of {product}: the run is not finished; run it again.")
        lost += folder.restore(product)
    if lost:
        raise UserError(
            f"{len(lost)} images of {folder.path} are missing or changed ({', '.join(lost[:3])}); run the experiment "
            "again, which makes them anew."
        )


def _required(evaluation: Evaluation) -> list[str]:
    names = [method.name for method in evaluation.experiment.methods]
    return names if evaluation.required is None else list(evaluation.required)


# --- both -----------------------------------------------------------------------------------------------------


def _finish(job: Run, folder: RunFolder, evaluation: Evaluation) -> None:
    """Tables, for programs and for people."""
    evaluation.run()
    require_same_weights(job)
    table = write_tables(folder.path)
    sheet = write_sheet(folder.path)
    scores = folder.count("score")
    print(f"\n{table}\n")
    print(f"scores: {scores.made} made, {scores.found} found")
    for label, file in (("table", "table.md"), ("contact sheet", sheet.name), ("metrics", METRICS)):
        print(f"{label + ':':15}{folder.path / file}")
