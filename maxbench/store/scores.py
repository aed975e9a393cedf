"""What has been measured in a picture, kept beside the pictures: one small file for each, by the picture's digest.

    <store>/scores/<first two digits>/<digest>.json   the digest, and {key of a measurement: an array}

A measurement's key is the digest of what it depends on besides the picture. A metric that is added, or a scorer that is
replaced, is measured anew and nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maxbench.store.files import read_sealed, seal, write_atomically

SPARSE = 0.25
"""Share of non-zero numbers up to which an array of integers is kept as its non-zero ones."""


@dataclass(frozen=True)
class Scores:
    """The scores of a store."""

    path: Path

    def file(self, subject: str) -> Path:
        return self.path / "scores" / subject[:2] / f"{subject}.json"

    def of(self, subject: str) -> dict[str, np.ndarray]:
        """All that is known of a picture, by key; empty if nothing is, or if its file is damaged."""
        said = read_sealed(self.file(subject))
        try:
            own = said["picture"] == subject  # and not another one's file under this name
            return {key: _array(each) for key, each in said["scores"].items()} if own else {}
        except (AttributeError, LookupError, TypeError, ValueError):
            return {}

    def add(self, subject: str, measured: Mapping[str, np.ndarray]) -> None:
        """Keep measurements of a picture beside what is known of it."""
        known = {**self.of(subject), **measured}
        said = {"picture": subject, "scores": {key: _plain(each) for key, each in known.items()}}
        write_atomically(self.file(subject), seal(said))


def _plain(array: np.ndarray) -> dict[str, Any]:
    """An array as plain data, exactly: its bytes, or its non-zero integers where those are few (a confusion)."""
    array = np.asarray(array)
    said: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
    if array.dtype.kind in "iu" and np.count_nonzero(array) <= SPARSE * array.size:
        places = np.flatnonzero(array)
        return {**said, "places": places.tolist(), "values": array.ravel()[places].tolist()}
    return {**said, "bytes": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}


def _array(said: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(said["dtype"]), tuple(said["shape"])
    if "bytes" in said:
        return np.frombuffer(base64.b64decode(said["bytes"]), dtype).reshape(shape)
    array = np.zeros(shape, dtype)
    array.ravel()[said["places"]] = said["values"]
    return array
