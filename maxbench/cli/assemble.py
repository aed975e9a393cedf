"""A checked run -> what generates and what evaluates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from maxbench.cli.build import Run
from maxbench.data.pairing import ImageSet, Sample
from maxbench.errors import UserError
from maxbench.evaluation.runner import Evaluation
from maxbench.evaluation.scoring import Scorers
from maxbench.generation.inputs import Annotators, ControlInputs
from maxbench.generation.runner import Generation
from maxbench.generation.sampling import Networks, Sampling
from maxbench.generation.strength import ResidualNorms
from maxbench.models.pipeline import Pipeline
from maxbench.models.precision import Precision, forbid_tf32
from maxbench.progress import Outlook
from maxbench.report.tables import ABOUT
from maxbench.store.runfolder import RunFolder
from maxbench.store.stamp import made_by
from maxbench.suites.folder import FolderSuite


def make_generation(job: Run, folder: RunFolder, outlook: Outlook | None = None) -> Generation:
    """What makes a run's pictures; outlook: on all of the run, of which this may be its training."""
    load = _unchanged(job, partial(job.suite.annotator, device=job.device))
    inputs = make_inputs(
        job.suite, job.experiment.conditions, job.experiment.samples, job.image_set, folder, job.batch_size,
        job.device, load,
    )  # fmt: skip
    sampling = Sampling(
        inputs=inputs,
        sampler=job.sampler,
        networks=Networks(
            load=_unchanged(job, partial(_pipeline, job)),
            base=job.suite.base_identity(),
            control=cache(job.suite.control_identity),
            kind=cache(job.suite.branch_kind),
            scheduler=cache(job.suite.scheduler_config),
            precision=job.precision,
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
        outlook=outlook,
    )


def make_inputs(
    suite: FolderSuite,
    conditions: Mapping[str, Any],
    samples: Sequence[Sample],
    image_set: ImageSet,
    folder: RunFolder,
    batch_size: int,
    device: torch.device,
    load: Callable[[str], Any],
) -> ControlInputs:
    """What draws the maps of samples. load: condition -> its annotator on the device.

    Every caller gets maps of the same arithmetic: their keys say nothing of TF32, and the store shares them.
    """
    forbid_tf32()
    annotators = Annotators(cache(load), cache(suite.annotator_identity), device.type)
    return ControlInputs(conditions, samples, folder, image_set, suite.resolution, batch_size, annotators)


def _pipeline(job: Run, precision: Precision) -> Pipeline:
    """All networks that make pictures, loaded and computing as `precision` says."""
    loaded = job.suite.pipeline(list(job.experiment.conditions), job.device, precision.dtype)
    return loaded.computing(precision, job.batch_size, job.suite.resolution)


def _training(job: Run, sampling: Sampling) -> Sampling | None:
    """The run's sampling on the scenes of its calibration, with the same networks."""
    if job.calibration is None:
        return None
    inputs = sampling.inputs
    training = ControlInputs(
        inputs.conditions, job.calibration.samples, inputs.folder, job.calibration.image_set, inputs.resolution,
        inputs.batch_size, inputs.annotators,
    )  # fmt: skip
    return Sampling(training, sampling.sampler, sampling.networks, job.calibration.seed, job.batch_size)


def make_evaluation(job: Run, folder: RunFolder, inputs: ControlInputs) -> Evaluation:
    forbid_tf32()
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
        notes=(f"{ABOUT}{job.image_set.about}.", *suite.notes(conditions), *job.notes),
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
