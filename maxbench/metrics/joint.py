"""The joint score: whether one picture satisfies several conditions at once.

For a picture x and a condition i

    q_i(x) = (fidelity_i(x) - fidelity_i(no control)) / (mean gain of i's own single control), clipped to [-1, 2]

where no control is the picture of the same sample and noise without any. 0 is a condition ignored, 1 a condition
followed as well as its control alone does on average. The denominator is the data set's and not the sample's: gains of
single samples come arbitrarily close to zero, where q would explode; for the same reason q is clipped.

    joint      = mean over images of min_i q_i    one picture must satisfy all its conditions
    share_both = share of images with every q_i above 1/2
    q_mean     = mean over images of mean_i q_i

The minimum is taken within an image: a method that obeys one condition in half of the pictures and the other in the
other half has a high mean of each q and a joint score near 0.

Fidelity is oriented: higher is better (an error enters with its sign changed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maxbench.metrics.statistics import Interval, finite_rows, intervals

LOWEST, HIGHEST = -1.0, 2.0
"""What q is clipped to: a picture cannot make up for another's failure by being far better than a single control."""

LEAST_GAIN = 0.1
"""Of the way from no control to the VAE reconstruction, what a condition's single control must close to be scored."""

SATISFIED = 0.5

Fidelity = Mapping[str, NDArray[np.float64]]
"""condition -> (N,), one for each image, higher is better."""


@dataclass(frozen=True)
class Joint:
    """What q is made of, over the conditions that can be scored.

    floor: condition -> (N,) the fidelity of no control. gain: condition -> (N,) what its single control adds to that.
    left_out: condition -> why it is not scored.
    """

    floor: Fidelity
    gain: Fidelity
    left_out: Mapping[str, str]

    @property
    def conditions(self) -> list[str]:
        return list(self.floor)

    @property
    def names(self) -> list[tuple[str, str]]:
        """(metric, condition) of what :meth:`statistic` gives; none where no condition is left."""
        if not self.conditions:
            return []
        whole = [("q_mean", ""), ("joint", ""), ("share_both", "")]
        return [*(("q", condition) for condition in self.conditions), *whole]

    @property
    def note(self) -> str:
        """A sentence on the conditions that are not scored; empty if all are."""
        if not self.left_out:
            return ""
        reasons = "; ".join(f"{name} ({why})" for name, why in self.left_out.items())
        return f"left out: {reasons}" + ("" if self.floor else "; no condition is left, the joint score is undefined")

    def per_image(self, fidelity: Fidelity) -> dict[tuple[str, str], NDArray[np.float64]]:
        """(metric, condition) -> (N,), of the pictures of one method; their means are the table's numbers."""
        if not self.conditions:
            return {}
        images = len(next(iter(self.floor.values())))
        q = self._q(fidelity, np.ones((1, images)))[:, 0]
        values = [*q, q.mean(0), q.min(0), (q > SATISFIED).all(0).astype(float)]
        return dict(zip(self.names, values, strict=True))

    def statistic(self, fidelity: Fidelity, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers `names` of one method under weights of images (draws, N), (names, draws).

        The denominators of q are those of the draw: that they are measured is part of the uncertainty.
        """
        q = self._q(fidelity, weights)
        parts = [*q, q.mean(0), q.min(0), np.where(np.isnan(q).any(0), np.nan, (q > SATISFIED).all(0))]
        return np.stack([(weights * part).sum(-1) / weights.sum(-1) for part in parts])

    def leader(self, fidelity: Fidelity) -> tuple[str, float] | None:
        """The condition with the largest q, and the share of images in which it is so; None if there is no such."""
        means = [float(self.per_image(fidelity)["q", condition].mean()) for condition in self.conditions]
        if len(means) < 2 or means.count(max(means)) > 1:
            return None
        first = int(np.argmax(means))
        q = self._q(fidelity, np.ones((1, len(self.floor[self.conditions[0]]))))[:, 0]
        return self.conditions[first], float((q[first] > np.delete(q, first, axis=0).max(0)).mean())

    def _q(self, fidelity: Fidelity, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(conditions, draws, N)"""
        total = weights.sum(-1)
        out = []
        for condition in self.conditions:
            unit = weights @ self.gain[condition] / total
            unit = np.where(unit > 0, unit, np.nan)  # few draws are without a gain, or it would have been left out
            gained = fidelity[condition] - self.floor[condition]
            out.append(np.clip(gained / unit[:, None], LOWEST, HIGHEST))
        return np.stack(out)


def joint_of(
    none: Fidelity,
    singles: Fidelity,
    ceiling: Fidelity,
    groups: NDArray[np.int64] | None = None,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Joint:
    """The unit of q, from the fidelity of no control, of every condition's own single control and of the ceiling.

    ceiling: of the samples' own pictures through the autoencoder, the best that this model can draw.
    A condition is left out if the interval of its single control's gain over no control reaches 0 (dividing by it would
    make noise look like a score), or if the gain is less than LEAST_GAIN of the way to the ceiling (following such a
    control is not following its condition). Another number of images anywhere, or a value that is not finite, is a
    ValueError.
    """
    floor, gain, left_out = {}, {}, {}
    for condition in none:
        base, alone, best = (
            finite_rows(each[condition], f"{condition} of {what}")
            for each, what in ((none, "no control"), (singles, "its single control"), (ceiling, "the ceiling"))
        )
        if not len(base) == len(alone) == len(best):
            raise ValueError(
                f"a joint score needs the same images everywhere, got {len(base)}, {len(alone)}, {len(best)}"
            )
        own = alone - base
        (interval,) = intervals(
            lambda weights, own=own: (weights @ own / weights.sum(-1))[None],
            groups, len(own), seed=seed, resamples=resamples, level=level,
        )  # fmt: skip
        why = _unscorable(interval, float((best - base).mean()))
        if why:
            left_out[condition] = why
        else:
            floor[condition], gain[condition] = base, own
    return Joint(floor, gain, left_out)


def _unscorable(gain: Interval, reach: float) -> str:
    """Why a condition cannot be scored; empty if it can."""
    said = f"its single control gains {gain.value:.4g} [{gain.low:.4g}, {gain.high:.4g}] over no control"
    if not gain.low > 0:
        return said
    if gain.value < LEAST_GAIN * reach:
        return f"{said}, {gain.value / reach:.0%} of what the VAE reconstruction gains"
    return ""
