"""Everything that is measured in a run, as a state that merges: the tables are a function of it alone.

A worker's part plus another's is the whole, to the last digit: nothing is summed up before the tables are made. The
states of runs with different seeds merge in the same way, into a pooled result.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from maxbench.errors import UserError

CLIP_SCORE = "clip_score"
BY_ANNOTATOR = ", annotator"  # of what the network that drew the given map measures
FEATURES = "features/"
RETRIED = "retried"
"""Whether a picture was NaN or black and made again in float32."""
COSTS = ("seconds", "warm_up", "unet_evaluations", "control_evaluations", "control_scale", "peak_memory")

Measured = Mapping[str, np.ndarray]
"""Label -> what is measured in every image of a row, first axis the image."""


def fidelity_label(condition: str, metric: str, by_annotator: bool = False) -> str:
    return f"{condition}/{metric}{BY_ANNOTATOR if by_annotator else ''}"


def features_label(network: str) -> str:
    return f"{FEATURES}{network}"


@dataclass(frozen=True)
class Image:
    """One image of an experiment. Images of one group are of one cluster: replicates, and the halves of a split."""

    seed: int
    sample: str
    group: str
    replicate: int


@dataclass(frozen=True)
class Row:
    """One row of a table: a method's pictures, or those that no method made.

    role, branches, parameter, setting, delta: see :class:`maxbench.experiments.method.Method`; of what no method made
    the role is "reference", of pictures made elsewhere "entered".
    same: whether they are the same pictures for every condition. is_unit: whether it may be the floor or the unit of q.
    """

    name: str
    role: str
    branches: tuple[str, ...] = ()
    parameter: str | None = None
    setting: float | None = None
    delta: float | None = None
    same: bool = False
    is_unit: bool = False

    @property
    def columns(self) -> dict[str, Any]:
        """What every table says of a row, so that nobody takes its name apart."""
        return {
            "method": self.name,
            "role": self.role,
            "branches": "+".join(self.branches),
            "parameter": self.parameter,
            "setting": self.setting,
            "delta": self.delta,
        }


@dataclass(frozen=True)
class State:
    """What was measured in a run, or in several.

    images: in the order of the first axis of everything measured. rows: in the order of the tables.
    measured: row -> label -> array. reference: network -> (M, D) features of the reference images.
    scorers: what the scorers are called in tables: "clip", every network of features, and each condition that has a
    network. annotators: likewise of the networks that drew the given maps, where they are others than the scorers.
    regional, objects: the conditions that are scored in a part of the picture, and as an object.
    notes: what a reader must know of it, in sentences.
    """

    experiment: str
    suite: str
    baselines: tuple[str, ...]
    images: tuple[Image, ...]
    rows: tuple[Row, ...]
    measured: Mapping[str, Measured]
    reference: Measured
    scorers: Mapping[str, str]
    annotators: Mapping[str, str]
    regional: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> np.ndarray:
        """(N,) the number of every image's cluster."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(image.group, len(numbers)) for image in self.images])

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(image.seed for image in self.images))

    def pack(self) -> bytes:
        """As a NumPy archive, exactly; see :meth:`write`."""
        buffer = io.BytesIO()
        self.write(buffer)
        return buffer.getvalue()

    def write(self, file: BinaryIO) -> None:
        """Into a NumPy archive, one array after the other; compressed, but for features, which are noise to zlib."""
        about = {
            key: value
            for key, value in asdict(replace(self, measured={}, reference={})).items()
            if key not in ("measured", "reference")
        }
        arrays = {f"measured/{row}//{label}": each for row, own in self.measured.items() for label, each in own.items()}
        arrays |= {f"reference/{network}": each for network, each in self.reference.items()}
        about["arrays"] = sorted(arrays)  # an archive whose directory is damaged may lack some and read well
        with zipfile.ZipFile(file, "w") as archive:
            for key, array in [*arrays.items(), ("about", np.array(json.dumps(about)))]:
                member = zipfile.ZipInfo(f"{key}.npy")  # of a fixed date: the same state is the same bytes
                noise = f"//{FEATURES}" in key or key.startswith("reference/")
                member.compress_type = zipfile.ZIP_STORED if noise else zipfile.ZIP_DEFLATED
                with archive.open(member, "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, np.asanyarray(array), allow_pickle=False)

    @classmethod
    def read(cls, path: Path) -> State:
        """Of a file that :meth:`write` has filled; ValueError for anything else, OSError where there is none."""
        with open(path, "rb") as file:
            return cls._unpacked(file)

    @classmethod
    def unpack(cls, content: bytes) -> State:
        """The reverse of :meth:`pack`; ValueError for anything else."""
        return cls._unpacked(io.BytesIO(content))

    @classmethod
    def _unpacked(cls, file: BinaryIO) -> State:
        try:
            with np.load(file, allow_pickle=False) as archive:
                about = json.loads(str(archive["about"]))
                if about.pop("arrays") != sorted(set(archive.files) - {"about"}):
                    raise ValueError("it has other arrays than were packed")
                measured: dict[str, dict[str, np.ndarray]] = {}
                reference = {}
                for key in archive.files:
                    kind, _, rest = key.partition("/")
                    if kind == "measured":
                        row, _, label = rest.partition("//")
                        measured.setdefault(row, {})[label] = archive[key]
                    elif kind == "reference":
                        reference[rest] = archive[key]
            images = tuple(Image(**each) for each in about.pop("images"))
            rows = tuple(Row(**{**each, "branches": tuple(each["branches"])}) for each in about.pop("rows"))
            plain = {key: tuple(value) if isinstance(value, list) else value for key, value in about.items()}
            return cls(**plain, images=images, rows=rows, measured=measured, reference=reference)
        except Exception as error:  # zip, JSON and NumPy raise nearly every kind of error on damaged files
            raise ValueError(f"this is no state of a run ({error})") from error


def merge(states: Sequence[State]) -> State:
    """One state of several: of parts of a run, or of runs that differ in their seed alone; else a UserError.

    Rows that not all of them have are left out and named. A measured reference must be the same in parts of one run; of
    several seeds the references are put together.
    """
    first, *others = states
    for other in others:
        for what in ("experiment", "suite", "scorers", "annotators", "regional", "objects"):
            if getattr(first, what) != getattr(other, what):
                raise UserError(
                    f"Runs whose {what} differ cannot be pooled ({getattr(first, what)} and {getattr(other, what)}); "
                    "pool runs of one experiment that differ in their seed alone."
                )
    seen = [(image.seed, image.sample, image.replicate) for state in states for image in state.images]
    if len(set(seen)) < len(seen):
        raise UserError("The runs have images of the same sample, seed and replicate; pool runs of different seeds.")
    rows = [merged for row in first.rows if (merged := _in_all(row, [other.rows for other in others])) is not None]
    dropped = sorted({row.name for state in states for row in state.rows} - {row.name for row in rows})
    baselines = tuple(each for each in first.baselines if each in {row.name for row in rows})
    labels = {
        row.name: [
            label for label in first.measured[row.name] if all(label in each.measured[row.name] for each in others)
        ]
        for row in rows
    }
    notes = list(dict.fromkeys(note for state in states for note in state.notes))
    if dropped:
        notes.append(f"Rows that not all of the pooled runs have are left out: {', '.join(dropped)}.")
    return replace(
        first,
        baselines=baselines,
        images=tuple(image for state in states for image in state.images),
        rows=tuple(rows),
        measured={
            row: {label: np.concatenate([state.measured[row][label] for state in states]) for label in own}
            for row, own in labels.items()
        },
        reference={network: _together([state.reference[network] for state in states]) for network in first.reference},
        notes=tuple(notes),
    )


def _in_all(row: Row, others: Sequence[Sequence[Row]]) -> Row | None:
    """The row that all of them have, without a delta that they do not agree on; None where one of them lacks it."""
    found = [each for rows in others for each in rows if replace(each, delta=row.delta) == row]
    if len(found) < len(others):
        return None
    return row if all(each == row for each in found) else replace(row, delta=None)


def _together(references: Sequence[np.ndarray]) -> np.ndarray:
    """One reference set of several, each picture once."""
    if all(np.array_equal(references[0], each) for each in references[1:]):
        return references[0]
    return np.unique(np.concatenate(references), axis=0)
