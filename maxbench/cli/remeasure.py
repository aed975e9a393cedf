"""A finished run -> the maps that its scorers see in some of its pictures, for the report's gallery."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from maxbench.cli.assemble import make_evaluation, make_executor, make_generation, require_same_weights
from maxbench.cli.evaluate import built, config_of, reopened
from maxbench.errors import UserError
from maxbench.evaluation.remeasured import Remeasuring
from maxbench.report.page.gallery import SeenFiles
from maxbench.store.artefacts import Artefact
from maxbench.store.files import file_digest
from maxbench.store.runfolder import RunFolder


def seen_maps(run: Path, samples: Sequence[str], rows: Mapping[str, str]) -> dict[tuple[str, str, int, str], SeenFiles]:
    """(row, sample, replicate, condition) -> files of the map that is seen in a picture, and of its error.

    rows: name -> where its pictures lie in the run folder. A picture that is not there has no maps. UserError where
    the run cannot be looked at as it was: other weights, pictures or settings; or where it cannot be written to.
    """
    job = built(config_of(run), run / "config.yaml")
    folder = reopened(run, job)
    wanted = set(samples)
    chosen = tuple(sample for sample in job.experiment.samples if sample.id in wanted)
    if not chosen:
        return {}
    job = replace(job, experiment=replace(job.experiment, samples=chosen), calibration=None)
    with contextlib.closing(make_executor(job)) as executor:
        inputs = make_generation(job, folder, executor=executor).sampling.inputs
        inputs.make()
        evaluation = make_evaluation(job, folder, inputs)
        images = job.experiment.images
        remeasuring = Remeasuring(
            conditions=job.experiment.conditions,
            scorers=evaluation.scorers,
            folder=folder,
            images=images,
            targets=evaluation.targets(),
            batch_size=job.batch_size,
            resolution=job.suite.resolution,
            executor=executor,
        )
        pictures = {
            row: [_picture(folder, f"{place}/{sample.id}-{replicate}.png") for sample, replicate in images]
            for row, place in rows.items()
        }
        found = remeasuring.maps(pictures)
        require_same_weights(job)
    return {
        (item.row, images[item.place][0].id, images[item.place][1], item.condition): SeenFiles(
            seen.measured.path, seen.error.path
        )
        for item, seen in found.items()
    }


def _picture(folder: RunFolder, file: str) -> Artefact | None:
    """A picture of a run as the artefact that it is, by its own bytes; None where it is not there."""
    path = folder.path / file
    try:
        return Artefact(key="", sha256=file_digest(path), path=path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); change that, or give --maps 0.") from error
