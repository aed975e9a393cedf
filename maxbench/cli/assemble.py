"""A checked run -> what generates and what evaluates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch

from maxbench.cli.build import Run
from maxbench.data.pairing import ImageSet, Sample
from maxbench.errors import UserError
from maxbench.evaluation.runner import Evaluation
from maxbench.evaluation.scoring import Scorers
from maxbench.generation.executors.base import Executor, usable_cores
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.inputs import Annotators, ControlInputs
from maxbench.generation.networks import Networks
from maxbench.generation.runner import Generation
from maxbench.generation.sampling import NetworkIdentity, Sampling
from maxbench.generation.strength import ResidualNorms
from maxbench.models.precision import forbid_tf32
from maxbench.progress import Outlook, say
from maxbench.report.tables import ABOUT
from maxbench.store.runfolder import RunFolder
from maxbench.suites.folder import FolderSuite

CROWD = 8
"""Workers a core that are too many by any account: more than some only wait for each other."""


def make_executor(job: Run) -> Executor:
    """What does the work of a run, with its networks: to be closed at the end.

    Every GPU that is visible, or as many workers as are asked for; this process where that is one.
    """
    networks, address = make_networks(job), job.address
    workers = job.workers or (_visible(job.device) if address is None else None)
    if address is None and workers == 1:
        return LocalExecutor(networks)
    if address is None:
        _require_cores(workers)
        _require_gpus(workers, job.device)
    if job.device.index is not None:
        raise UserError(
            f"runtime.device={job.device} names one GPU, and each worker has one of its own; set runtime.device=cuda, "
            "and CUDA_VISIBLE_DEVICES to choose among them."
        )
    from maxbench.generation.executors.ray import RayExecutor  # Ray is optional

    return RayExecutor(networks, workers, address, job.threads)


def _require_cores(workers: int) -> None:
    """UserError for workers that this machine cannot hold: each is a process with all networks in memory."""
    cores = usable_cores()
    if workers > CROWD * cores:
        raise UserError(
            f"runtime.workers={workers}, but this process may use {cores} cores, and each worker loads all networks; "
            f"give at most {CROWD * cores}, better one a core or GPU, or name a cluster with runtime.address=."
        )


def _require_gpus(workers: int, device: torch.device) -> None:
    """UserError for workers on GPUs that this machine does not have: they would wait for ever."""
    if device.type == "cuda" and device.index is None and workers > (count := torch.cuda.device_count()):
        raise UserError(
            f"runtime.workers={workers}, but {count} GPUs are visible, and each worker has one of its own; give at "
            f"most {count}, leave it out to use all, or name a cluster with runtime.address=."
        )


def _visible(device: torch.device) -> int:
    """GPUs that a run may use by itself: all, unless one is named; one process on the processor."""
    if device.type != "cuda" or device.index is not None:
        return 1
    count = torch.cuda.device_count()
    if count > 1 and find_spec("ray") is None:
        say(f"note: {count} GPUs are visible and one is used; `pip install 'maxbench[ray]'` to use all of them")
        return 1
    return count


def make_networks(job: Run) -> Networks:
    """What loads every network of a run, in this process or in another."""
    suite, conditions = job.suite, job.experiment.conditions
    checked = partial(Unchanged, suite, tuple(conditions), job.weights)
    return Networks.of(suite, conditions, job.precision, job.device, job.batch_size, checked)


def make_generation(
    job: Run, folder: RunFolder, outlook: Outlook | None = None, executor: Executor | None = None
) -> Generation:
    """What makes a run's pictures; outlook: on all of the run, of which this may be its training.

    executor: what does the work; without one, this process.
    """
    suite = job.suite
    inputs = make_inputs(
        suite, job.experiment.conditions, job.experiment.samples, job.image_set, folder, job.batch_size, job.device,
        executor or LocalExecutor(make_networks(job)),
    )  # fmt: skip
    sampling = Sampling(
        inputs=inputs,
        sampler=job.sampler,
        networks=NetworkIdentity(
            base=suite.base_identity(),
            control=cache(suite.control_identity),
            kind=cache(suite.branch_kind),
            scheduler=cache(suite.scheduler_config),
            latents=cache(suite.latent_shape),
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
    executor: Executor,
) -> ControlInputs:
    """What draws the maps of samples.

    Every caller gets maps of the same arithmetic: their keys say nothing of TF32, and the store shares them.
    """
    forbid_tf32()
    annotators = Annotators(cache(suite.annotator_identity), device.type)
    return ControlInputs(conditions, samples, folder, image_set, suite.resolution, batch_size, annotators, executor)


def _training(job: Run, sampling: Sampling) -> Sampling | None:
    """The run's sampling on the scenes of its calibration, with the same networks."""
    if job.calibration is None:
        return None
    inputs = sampling.inputs
    training = ControlInputs(
        inputs.conditions, job.calibration.samples, inputs.folder, job.calibration.image_set, inputs.resolution,
        inputs.batch_size, inputs.annotators, inputs.executor,
    )  # fmt: skip
    return Sampling(training, sampling.sampler, sampling.networks, job.calibration.seed, job.batch_size)


def make_evaluation(job: Run, folder: RunFolder, inputs: ControlInputs) -> Evaluation:
    """What scores a run's pictures, by the executor of its inputs."""
    forbid_tf32()
    suite, conditions = job.suite, list(job.experiment.conditions)
    annotator_names = suite.annotator_names(conditions)
    return Evaluation(
        experiment=job.experiment,
        folder=folder,
        inputs=inputs,
        image_set=job.image_set,
        batch_size=job.batch_size,
        scorers=Scorers(features=suite.feature_names, identity=cache(suite.scorer_identity), device=job.device.type),
        with_annotators=frozenset(annotator_names),
        scorer_names=suite.scorer_names(conditions),
        annotator_names=annotator_names,
        suite=suite.name,
        notes=(f"{ABOUT}{job.image_set.about}.", *suite.notes(conditions), *job.notes),
        resamples=job.resamples,
        level=job.level,
    )


@dataclass(frozen=True)
class Unchanged:
    """A loader after which the weights are still those that the run began with, and that its keys are made of."""

    suite: FolderSuite
    conditions: tuple[str, ...]
    weights: Mapping[str, str]
    load: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        network = self.load(*arguments)
        _require_same(self.suite, self.conditions, self.weights)
        return network


def require_same_weights(job: Run) -> None:
    """UserError if a part of the suite is not what it was when the run began."""
    _require_same(job.suite, tuple(job.experiment.conditions), job.weights)


def _require_same(suite: FolderSuite, conditions: Sequence[str], weights: Mapping[str, str]) -> None:
    now = suite.fingerprint(list(conditions))
    changed = [part for part, digest in now.items() if weights.get(part) != digest]
    if changed:
        raise UserError(
            f"{', '.join(changed)} of the suite '{suite.name}' changed while the run was going on; run again when "
            "the weights are at rest."
        )
