"""What a run will make, find, evaluate and write, said before it begins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maxbench.cli.assemble import make_generation
from maxbench.cli.build import Run
from maxbench.cli.tuning import FOLDER, at_first_settings, nothing_to_tune_for, training_of, tried_before
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.experiments.search import stand_ins
from maxbench.experiments.tuning import Choice, axes, candidate, chosen
from maxbench.generation.plan import Need, Planning, bytes_each, disk, reference_digests
from maxbench.generation.runner import cost_units
from maxbench.progress import Work, say
from maxbench.report.tables import plain_table
from maxbench.store.runfolder import MANIFEST, RunFolder

TABLES_SHARE = 0.75
"""Of what the scores take: a run's own copy of them, `state.npz`, holds the same numbers as bytes and not as text."""
FAR_LESS = 0.5
"""Share of what will be written below which free disk is no matter of a rough estimate any more."""


@dataclass(frozen=True)
class Plan:
    """What there is and what is to be made.

    stages: name of the experiment -> its needs; a run with tuned methods has one for its training before its own.
    is_open: whether tuned methods' settings are not known yet. copied: whether a run folder holds copies of the store's
    files, for it lies on another disk.
    """

    job: Run
    folder: RunFolder
    stages: Mapping[str, Sequence[Need]]
    is_open: bool
    copied: bool

    @property
    def needs(self) -> list[Need]:
        return [need for own in self.stages.values() for need in own]

    @property
    def work(self) -> dict[str, Work]:
        """Stage -> its images, for the time that they take."""
        return {
            stage: Work(sum(each.missing for each in own), sum(each.missing * cost_units(each.per) for each in own))
            for stage, needs in self.stages.items()
            for own in [[each for each in needs if each.kind == "image"]]
        }

    def table(self) -> str:
        """Kind by kind: what is to be made, and what is there; the candidates of a tuned method in one row."""
        rows: dict[str, list[Need]] = {}
        for stage, needs in self.stages.items():
            for need in needs:
                if need.missing or need.found:
                    rows.setdefault(self._label(stage, need), []).append(need)
        lines = []
        for label, needs in rows.items():
            unet, control = (sum(each) for each in zip(*(need.evaluations for need in needs), strict=True))
            numbers = (sum(need.missing for need in needs), sum(need.found for need in needs), unet, control)
            settings = f", {len(needs)} settings" if len(needs) > 1 else ""
            lines.append([label + settings, *(f"{number:,}" for number in numbers)])
        return plain_table(["what", "to make", "found", "U-Net", "controls"], lines)

    def _label(self, stage: str, need: Need) -> str:
        if stage == self.job.experiment.name:
            return f"images of {need.what}" if need.kind == "image" else need.what
        return f"tuning: {f'images of {need.series}' if need.kind == 'image' else need.what}"

    # --- in sentences -----------------------------------------------------------------------------------------

    @property
    def sentences(self) -> list[str]:
        """Images, evaluations, disk, and what cannot be known yet."""
        said = [self._images, f"{self._disk}; {_size(self.free)} free at {_existing(self.job.store_dir)}"]
        if self._assumed:
            said.append(f"none is there to tell the size of {', '.join(self._assumed)}: that much is assumed")
        if self._is_uncertain:
            said.append(
                "control inputs are still to be made, and images are known by them: where a store lacks the inputs "
                "alone, more will be found than is said here"
            )
        if self.is_open:
            said.append(
                "the settings of tuned methods are chosen in training; until then their images count as to make"
            )
        return [*said, *([self.warning] if self.warning else [])]

    @property
    def _images(self) -> str:
        images = [need for need in self.needs if need.kind == "image"]
        made, found = sum(need.missing for need in images), sum(need.found for need in images)
        unet = sum(need.evaluations.unet for need in self.needs)
        control = sum(need.evaluations.control for need in self.needs)
        return (
            f"to make: {made:,} images ({found:,} found), {unet:,} evaluations of the U-Net and {control:,} of controls"
        )

    @property
    def bytes(self) -> int:
        """What will be written, about; what is linked is not."""
        needs, resolution = self.needs, self.job.suite.resolution
        if not any(need.missing for need in needs):
            return 0
        scores = [need for need in self.stages[self.job.experiment.name] if need.kind == "score"]
        each, _ = bytes_each(needs, "score", resolution)
        tables = TABLES_SHARE * each * sum(need.found + need.missing for need in scores)
        copies = 0.0
        if self.copied:
            copies = sum(
                (need.found + need.missing) * bytes_each(needs, need.kind, resolution)[0]
                for need in needs
                if need.kind != "score"
            )
        return round(disk(needs, resolution) + tables + copies)

    @property
    def _disk(self) -> str:
        return f"disk: about {_size(self.bytes)} to write{', copies in the run folder included' if self.copied else ''}"

    @property
    def free(self) -> int:
        return shutil.disk_usage(_existing(self.job.store_dir)).free

    @property
    def warning(self) -> str:
        """That the disk is too small, if it is."""
        if self.free >= self.bytes:
            return ""
        return (
            f"warning: about {_size(self.bytes)} will be written and {_size(self.free)} are free; make room, or set "
            "store_dir= and output_dir= to a larger disk"
        )

    def announce(self) -> None:
        """Say before a run begins what it will cost; UserError where the disk is far too small for it."""
        print(self._images)
        print(f"{self._disk}; {_size(self.free)} free", flush=True)
        if self.free < FAR_LESS * self.bytes:
            raise UserError(
                f"About {_size(self.bytes)} will be written and only {_size(self.free)} are free at "
                f"{_existing(self.job.store_dir)}; make room, or set store_dir= and output_dir= to a larger disk."
            )
        if self.warning:
            say(self.warning)

    @property
    def _assumed(self) -> list[str]:
        """Sizes that nothing there could tell."""
        resolution = self.job.suite.resolution
        said = []
        for kind in dict.fromkeys(need.kind for need in self.needs if need.missing):
            size, measured = bytes_each(self.needs, kind, resolution)
            if size and not measured:
                said.append(f"{kind}s ({_size(size)} each)")
        return said

    @property
    def _is_uncertain(self) -> bool:
        return any(need.missing for need in self.needs if need.kind in ("source", "map", "mask"))


def look_ahead(job: Run, folder: RunFolder, seen: set[tuple[str, str]] | None = None) -> Plan:
    """The plan of a run; nothing is made, written or loaded.

    seen: what runs before it will have made or found, which is not counted again; this run's is added to it.
    """
    stages: dict[str, list[Need]] = {}
    planning = Planning(
        is_open=lambda method: bool(method.tune) and method.tuned is None, seen=set() if seen is None else seen
    )
    if any(method.tune for method in job.experiment.methods):
        if nothing_to_tune_for(job):
            job = at_first_settings(job)
        else:
            training = _with_trials(training_of(job), job, folder)
            inner = RunFolder.look(
                folder.path, FOLDER, [each.name for each in job.experiment.methods if each.tune], folder.store
            )
            stages[training.experiment.name] = planning.needs(make_generation(training, inner))
            job = chosen_before(job, folder)
    generation = make_generation(job, folder)
    stages[job.experiment.name] = planning.needs(generation, reference_digests(generation))
    return Plan(
        job=job,
        folder=folder,
        stages=stages,
        is_open=any(planning.is_open(method) for method in job.experiment.methods),
        copied=_device(job.output_dir) != _device(job.store_dir),
    )


def _with_trials(training: Run, job: Run, folder: RunFolder) -> Run:
    """The training with all that will be tried, as far as that is known; the rest counts as to be made."""
    own = training.experiment
    tried = tried_before(folder.path, job.experiment.methods)
    more = [
        each.method
        for method in job.experiment.methods
        if method.then or method.trials is not None
        for each in stand_ins(method, tried[method.name])
    ]
    kept = [each for each in own.methods if each.name not in {other.name for other in more}]
    return replace(training, experiment=replace(own, methods=(*kept, *more)))


def chosen_before(job: Run, folder: RunFolder) -> Run:
    """The run with the settings that its manifest, left by an earlier invocation, says of its tuned methods."""
    try:
        said = {
            each["name"]: each.get("tuned") for each in json.loads((folder.path / MANIFEST).read_bytes())["methods"]
        }
    except (OSError, ValueError, LookupError, TypeError):
        return job
    methods = tuple(_at(method, said.get(method.name)) if method.tune else method for method in job.experiment.methods)
    return replace(job, experiment=replace(job.experiment, methods=methods))


def _at(method: Method, settings: Mapping[str, float] | None) -> Method:
    known = axes(method)
    if not isinstance(settings, Mapping) or settings.keys() != known.keys():
        return method
    if method.trials is None and any(value not in known[name] for name, value in settings.items()):
        return method  # of other lists
    return chosen(method, Choice([candidate(method, settings, 0)], [0.0]))


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


def _size(count: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.2g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
