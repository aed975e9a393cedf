"""An image set in two parts without a picture in common: one that results are measured on, one to calibrate on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from maxbench.errors import UserError
from maxbench.seeds import derive

EVALUATION, CALIBRATION = "evaluation", "calibration"


@dataclass(frozen=True)
class Part:
    """One part of an image set.

    name: `evaluation` or `calibration`. share: of the pictures that are in the calibration part, from 0 to 1; which
    they are is a matter of each picture's id alone, so that a set that grows keeps them in their parts.
    """

    name: str
    share: float

    def __post_init__(self):
        if self.name not in (EVALUATION, CALIBRATION):
            raise UserError(f"data.part is '{self.name}'; it must be {EVALUATION} or {CALIBRATION}.")
        if not 0 <= self.share <= 1:
            raise UserError(f"data.calibration_share is {self.share}; it must be a number from 0 to 1.")

    def of(self, ids: Iterable[int]) -> list[int]:
        """The ids that are in this part, ascending."""
        wanted = self.name == CALIBRATION
        return sorted(image for image in ids if (derive("calibration", image) < self.share * 2**63) == wanted)

    def named(self, name: str) -> str:
        """The name of this part of a set."""
        return f"{name} ({self.name} part)" if self.name == CALIBRATION else name
