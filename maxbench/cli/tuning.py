"""Tuned methods get their settings: their candidates are run on the calibration's scenes, like any experiment.

The training pictures, scores and tables stay in the run's folder, under `tuning/`: whoever doubts a choice can look.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from maxbench.cli.assemble import make_evaluation, make_generation
from maxbench.cli.build import Run
from maxbench.data.pairing import ImageSet, Sample
from maxbench.evaluation.aggregate import Tables
from maxbench.experiments.method import NONE, SINGLE, Experiment, Method
from maxbench.experiments.search import propose, stand_ins
from maxbench.experiments.tuning import Choice, Tried, axes, candidate, candidates, chosen, tried_candidates
from maxbench.generation.executors.base import Executor
from maxbench.generation.inputs import source_key
from maxbench.progress import Outlook, Progress, say
from maxbench.store.files import read_sealed, seal
from maxbench.store.runfolder import RunFolder

FOLDER, FILE = "tuning", "tuning.csv"
TRIALS = f"{FOLDER}/trials.json"
"""Settings that were tried one after the other, with the joint score of each, sealed."""


def tuned(job: Run, folder: RunFolder, executor: Executor, outlook: Outlook | None = None) -> Run:
    """The run with the settings of its tuned methods chosen."""
    asked = [method for method in job.experiment.methods if method.tune]
    if not asked:
        return job
    if why := nothing_to_tune_for(job):
        return _untuned(job, why)
    training = training_of(job)
    count = len(training.experiment.samples)
    names, before = [method.name for method in asked], tried_before(folder.path, asked)
    if outlook is not None:
        later = sum(len(stand_ins(each, [])) - len(candidates(each)) for each in asked if each.trials is None)
        outlook.set_aside(training.experiment.name, later / (later + len(training.experiment.methods)))
    say(f"tuning {', '.join(names)} on {count} training scenes, {len(training.experiment.methods)} methods at first")
    place = RunFolder.open(folder.path, FOLDER, names, folder.store)
    tables = _measure(training, place, executor, outlook)
    if tables.joint is None or not tables.joint.conditions:
        return _untuned(job, f"on the training scenes there is no joint score ({tables.joint_note})")
    joint = _joint(tables)
    tried = {each.name: [Tried(own.said, joint[own.method.name]) for own in candidates(each)] for each in asked}
    while further := {each.name: more for each in asked if (more := candidates(each, tried[each.name]))}:
        methods = [each.method for own in further.values() for each in own]
        say(f"tuning {', '.join(further)} further, at the best of these settings: {len(methods)} methods")
        if outlook is not None:
            outlook.set_aside(training.experiment.name, 0)
        joint = _joint(_measure(_training(job, methods), place, executor, outlook))
        for name, own in further.items():
            tried[name] += [Tried(each.said, joint[each.method.name]) for each in own]
    searched = [method for method in asked if method.trials is not None]
    for name in (method.name for method in searched):
        if before[name][:1] == tried[name]:
            tried[name] = list(before[name])
    keep = partial(_keep, folder, asked, tried)
    keep()
    if searched:
        _search(job, searched, tried, keep, place, executor)
    choices = {each.name: _choice(each, tried[each.name]) for each in asked}
    folder.write(FILE, _table(choices, count))
    methods = tuple(chosen(each, choices[each.name]) if each.tune else each for each in job.experiment.methods)
    for name, choice in choices.items():
        settings = ", ".join(f"{key}={value:g}" for key, value in choice.best.said.items())
        say(f"{name}: {settings} (joint {max(choice.joint):.2f} of {len(choice.candidates)} settings)")
    return replace(job, experiment=replace(job.experiment, methods=methods), notes=(*job.notes, *_seen(job)))


def _choice(method: Method, tried: Sequence[Tried]) -> Choice:
    """Among everything that was tried for a method."""
    return Choice(tried_candidates(method, tried), [each.joint for each in tried])


def _search(
    job: Run,
    methods: Sequence[Method],
    tried: dict[str, list[Tried]],
    keep: Callable[[], None],
    place: RunFolder,
    executor: Executor,
) -> None:
    """Try one setting after the other, of all methods at once, until each has had its trials; `tried` grows.

    Every trial is written down by `keep` when it is done. What `tried` has already is not tried again.
    """
    total = sum(method.trials for method in methods)
    done = sum(min(len(tried[method.name]), method.trials) for method in methods)
    with Progress("searching", total, "trials", done=done) as progress:
        while left := [method for method in methods if len(tried[method.name]) < method.trials]:
            proposed = {
                method.name: candidate(
                    method, propose(axes(method), tried[method.name], job.calibration.seed), len(tried[method.name])
                )
                for method in left
            }
            training = _training(job, [each.method for each in proposed.values()])
            joint = _joint(_measure(training, place, executor, None))
            for name, each in proposed.items():
                tried[name].append(Tried(each.said, joint[each.method.name]))
                say(_told(name, tried[name]))
            keep()
            progress.add(len(left))


def _keep(folder: RunFolder, methods: Sequence[Method], tried: Mapping[str, Sequence[Tried]]) -> None:
    """Write down what was tried of methods whose settings follow from what earlier ones were worth."""
    after = [method.name for method in methods if method.then or method.trials is not None]
    if after:
        folder.write(TRIALS, seal({name: [[dict(each.said), each.joint] for each in tried[name]] for name in after}))


def _told(name: str, tried: Sequence[Tried]) -> str:
    settings = ", ".join(f"{key}={value:g}" for key, value in tried[-1].said.items())
    best = max(each.joint for each in tried)
    return f"{name}: trial {len(tried)}: {settings} (joint {tried[-1].joint:.3f}, best {best:.3f})"


def tried_before(run: Path, methods: Sequence[Method]) -> dict[str, list[Tried]]:
    """What a run has tried step by step, of every method; nothing where that is lost or of other settings."""
    said = read_sealed(run / TRIALS)
    found = {}
    for method in methods:
        try:
            own = [Tried(dict(settings), float(joint)) for settings, joint in said[method.name]]
            known = all(each.said.keys() == axes(method).keys() for each in own)
        except (LookupError, TypeError, ValueError):
            known = False
        found[method.name] = own if known else []
    return found


def _joint(tables: Tables) -> dict[str, float]:
    """Row -> its joint score; of pictures that cannot be scored the lowest."""
    means = {row: float(values.mean()) for row, values in tables.per_image("joint").items()}
    return {row: value if value == value else -1.0 for row, value in means.items()}


def _seen(job: Run) -> list[str]:
    """What must be said where methods are measured on what they were tuned on."""

    def pictures(image_set: ImageSet, samples: Sequence[Sample]) -> set[str]:
        images = {image for sample in samples for image in sample.sources.values()}
        return {source_key(image_set, image, job.suite.resolution) for image in images}

    trained = pictures(job.calibration.image_set, job.calibration.samples)
    seen = len(trained & pictures(job.image_set, job.experiment.samples))
    if not seen:
        return []
    note = (
        f"Tuned methods are at an advantage here: {seen} of the {len(trained)} pictures that they were tuned on are "
        "measured as well; take another calibration.data."
    )
    say(f"note: {note}")
    return [note]


def nothing_to_tune_for(job: Run) -> str:
    """Why there can be no joint score, by which methods are tuned; empty if there can."""
    methods = job.experiment.methods
    alone = {each.branches[0] for each in methods if each.role == SINGLE and each.is_unit}
    if any(each.role == NONE for each in methods) and alone >= set(job.experiment.conditions):
        return ""
    return "that needs `none` and a `single` of every condition, for the joint score"


def _untuned(job: Run, why: str) -> Run:
    """The run with every tuned method at the first of its settings, and a note that says so."""
    methods = job.experiment.methods
    names = ", ".join(each.name for each in methods if each.tune)
    note = f"Not tuned, but at their first setting: {names}; {why}."
    say(f"note: {note}")
    return replace(at_first_settings(job), notes=(*job.notes, note))


def at_first_settings(job: Run) -> Run:
    """The run with every tuned method at the first of its settings."""
    methods = job.experiment.methods
    kept = tuple(chosen(each, Choice(candidates(each), [0.0])) if each.tune else each for each in methods)
    return replace(job, experiment=replace(job.experiment, methods=kept))


def training_of(job: Run) -> Run:
    """The same run on the calibration's scenes, of the tuned methods' first candidates and what q is made of."""
    methods = [each.method for method in job.experiment.methods if method.tune for each in candidates(method)]
    return _training(job, methods)


def _training(job: Run, methods: Sequence[Method]) -> Run:
    """The run on the calibration's scenes with these methods, and those that q is made of."""
    own = job.experiment
    units = [each for each in own.methods if each.role == NONE or (each.role == SINGLE and each.is_unit)]
    experiment = Experiment(
        name=f"{own.name}-tuning",
        conditions=own.conditions,
        methods=(*units, *methods),
        samples=job.calibration.samples,
        reference=(),
        seed=job.calibration.seed,
        baselines=(units[0].name,),
    )
    return replace(job, experiment=experiment, image_set=job.calibration.image_set, calibration=None)


def _measure(training: Run, folder: RunFolder, executor: Executor, outlook: Outlook | None) -> Tables:
    """Its pictures, made or found, and what is measured in them."""
    generation = make_generation(training, folder, outlook, executor)
    generation.run()
    return make_evaluation(training, folder, generation.sampling.inputs).fidelity()


def _table(choices: dict[str, Choice], count: int) -> bytes:
    rows = [
        {
            "method": name, "candidate": number,
            **dict(each.said), "joint": joint, "n": count, "chosen": each is choice.best,
        }
        for name, choice in choices.items()
        for number, (each, joint) in enumerate(zip(choice.candidates, choice.joint, strict=True))
    ]  # fmt: skip
    buffer = io.StringIO()
    pd.DataFrame(rows).to_csv(buffer, index=False)
    return buffer.getvalue().encode()
