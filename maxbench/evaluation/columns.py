"""What every row of pictures has a number of: fidelity, q and what is made of it, text, distances, cost.

Everything is computed from one state (:mod:`maxbench.evaluation.state`); no picture and no model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from maxbench.conditions.base import Condition
from maxbench.conditions.ruler import Ruler
from maxbench.evaluation.state import CLIP_SCORE, State, features_label, fidelity_label
from maxbench.experiments.method import EXCHANGED, NONE, SINGLE, VAE_RECONSTRUCTION
from maxbench.metrics.distribution import Distance, Reference, cmmd, fd_infinity, frechet, kernel
from maxbench.metrics.joint import Joint, joint_of

SMALLEST_FOR_INFINITY, SPAN = 256, 4
"""Images, and as a multiple of the features' dimensions: of fewer the extrapolation says nothing, since distances of
sets smaller than the dimensions do not lie on the line that it follows."""
FURTHER = ("fid_infinity", "fd_clip_infinity")  # distances that stand beside the table and are not tested
SPLITS, LARGE, SMALLEST_TO_SPLIT = 40, 1024, 4
"""Random halves by which the error of a distance is sharpened, the images from which on it needs none, and the clusters
below which there are no halves."""
KD_FACTOR = 1000  # tables print kernel distances x 1000, as the field does
CLIP_PROTOCOL = "100 x cosine"
JOINT_PROTOCOL = "q of each image: 0 no control, 1 own single control; clipped to [-1, 2]"
BY_ANNOTATOR = "_by_annotator"  # of a metric measured by the network that drew the given maps
SPARSE = 0.25
"""Share of non-zero counts up to which only those are kept for the bootstrap."""

Weights = NDArray[np.float64]
"""(draws, N) how often each image counts in each bootstrap draw."""


def _kernel(features: np.ndarray, reference: Reference, **splitting: Any) -> Distance:
    distance = kernel(features, reference, **splitting)
    return Distance(*(KD_FACTOR * each for each in (distance.value, distance.influence, distance.halves)))


def _infinity(features: np.ndarray, reference: Reference, **splitting: Any) -> Distance:
    """Extrapolated from subsets, where there are images enough."""
    count, dimensions = features.shape
    if count < max(SMALLEST_FOR_INFINITY, SPAN * dimensions):
        return Distance(np.nan, np.zeros(count))
    return fd_infinity(features, reference, seed=0, smallest=max(dimensions, count // 10))


DISTANCES: dict[str, dict[str, Callable[..., Distance]]] = {
    "inception": {"fid": frechet, "kid": _kernel, "fid_infinity": _infinity},
    "clip": {"fd_clip": frechet, "kd_clip": _kernel, "fd_clip_infinity": _infinity},
    "dinov2": {"fd_dinov2": frechet},
    "cmmd": {"cmmd": cmmd},
}
"""network of features -> the distances that are made of them. Only Inception's are called FID and KID."""


@dataclass(frozen=True)
class Column:
    """A number that every row of pictures has.

    metric: of the data set. sample_metric: of one image; differences are of its mean. values: row -> (N,).
    statistic: row -> its number under weights of images, (draws, N) => (draws,); None where it is the mean of `values`.
    headline: whether it stands in the methods' table, and is tested.
    """

    metric: str
    sample_metric: str
    condition: str
    protocol: str
    scorer: str
    higher_is_better: bool
    values: Mapping[str, np.ndarray]
    statistic: Callable[[str, Weights], NDArray[np.float64]] | None = None
    headline: bool = True
    sample_protocol: str = ""

    def __post_init__(self):
        if not self.sample_protocol:
            object.__setattr__(self, "sample_protocol", self.protocol)

    def of(self, row: str, weights: Weights) -> NDArray[np.float64]:
        if self.statistic is not None:
            return self.statistic(row, weights)
        return mean_of(self.values[row], weights)


@dataclass(frozen=True)
class DistanceColumn:
    """A distance of the pictures of every row to the reference."""

    metric: str
    protocol: str
    scorer: str
    distances: Mapping[str, Distance]


@dataclass(frozen=True)
class Columns:
    """The columns of one state.

    conditions: of the experiment, for their rulers. resamples, level: of the intervals.
    """

    state: State
    conditions: Mapping[str, Condition]
    resamples: int
    level: float

    @cached_property
    def all(self) -> list[Column]:
        """Fidelity by every ruler, q and what is made of it, and the CLIP score."""
        return [*self._fidelities(), *self._joints(), *self._texts()]

    def _fidelities(self) -> Iterator[Column]:
        for name in self.conditions:
            for place, ruler in enumerate(self._rulers(name)):
                yield self._fidelity(name, ruler, headline=place == 0)
        for name in self.state.annotators:
            yield self._fidelity(name, self._rulers(name)[0], headline=False, by_annotator=True)

    def _fidelity(self, name: str, ruler: Ruler, headline: bool, by_annotator: bool = False) -> Column:
        label = fidelity_label(name, ruler.metric, by_annotator)
        statistics = {row: own[label] for row, own in self.state.measured.items() if label in own}
        flat = {row: _flat(each) for row, each in statistics.items()}

        def of(row: str, weights: Weights) -> NDArray[np.float64]:
            means = weights @ flat[row] / weights.sum(-1, keepdims=True)
            return ruler.score(means.reshape(len(weights), *statistics[row].shape[1:]))

        suffix = BY_ANNOTATOR if by_annotator else ""
        inside = ", inside its evaluation mask" if name in self.state.regional else ""
        inside += ", by its annotator" if by_annotator else ""
        return Column(
            metric=f"{ruler.metric}{suffix}",
            sample_metric=f"{ruler.sample_metric}{suffix}",
            condition=name,
            protocol=ruler.protocol + inside,
            sample_protocol=ruler.sample_protocol + inside,
            scorer=(self.state.annotators if by_annotator else self.state.scorers).get(name, "arithmetic"),
            higher_is_better=ruler.higher_is_better,
            values={row: ruler.score(each) for row, each in statistics.items()},
            statistic=of,
            headline=headline,
        )

    def _joints(self) -> Iterator[Column]:
        if self.joint is None or not self.joint.conditions:
            return
        per_image = {row: self.joint.per_image(self.oriented(row)) for row in self.state.measured}
        whole = self.whole()
        for place, (metric, condition) in enumerate(self.joint.names):
            rows = [row for row in per_image if condition or row in whole]

            def of(row: str, weights: Weights, place: int = place) -> NDArray[np.float64]:
                return self._joint_under(row, weights)[place]

            values = {row: per_image[row][metric, condition] for row in rows}
            yield Column(metric, metric, condition, JOINT_PROTOCOL, "fidelity", True, values, of)

    def _joint_under(self, row: str, weights: Weights) -> NDArray[np.float64]:
        """All numbers of the joint score under the same weights: computed once, asked for one by one."""
        known = self._under
        if known.get("weights") is not weights:
            known.clear()
            known["weights"] = weights
        if (found := known.get(("row", row))) is None:
            found = known["row", row] = self.joint.statistic(self.oriented(row), weights)
        return found

    @cached_property
    def _under(self) -> dict[Any, Any]:
        return {}

    def _texts(self) -> Iterator[Column]:
        values = {row: own[CLIP_SCORE] for row, own in self.state.measured.items() if CLIP_SCORE in own}
        if values:
            scorer = self.state.scorers["clip"]
            yield Column(CLIP_SCORE, CLIP_SCORE, "", CLIP_PROTOCOL, scorer, True, values)

    @cached_property
    def costs(self) -> list[Column]:
        """Of single images: whether they are defective, and how long they took."""
        said = {"defect": ("NaN or black", "arithmetic"), "seconds": ("per image, wall clock", "clock")}
        return [
            Column(
                name, name, "", protocol, scorer, False,
                {row: own[name] for row, own in self.state.measured.items() if name in own}, headline=False,
            )
            for name, (protocol, scorer) in said.items()
        ]  # fmt: skip

    def conflicts(self) -> Iterator[Column]:
        if (conflict := self.conflict()) is not None:
            protocol = "mean over conditions of 1 - q in the other's picture, with a mean floor, in [0, 1]"
            yield Column("conflict", "conflict", "", protocol, "fidelity", False, {EXCHANGED: conflict}, headline=False)

    @cached_property
    def distances(self) -> list[DistanceColumn]:
        columns = []
        for network, features in self.state.reference.items():
            label, scorer, reference = features_label(network), self.state.scorers[network], Reference.of(features)
            rows = [row for row, own in self.state.measured.items() if label in own]
            small = len(self.state.images) < LARGE and len(np.unique(self.groups)) >= SMALLEST_TO_SPLIT
            splitting = {
                "splits": SPLITS if small else 0, "seed": self.state.seeds[0], "clusters": self.groups
            }  # fmt: skip
            for metric, distance in DISTANCES.get(network, {f"fd_{network}": frechet}).items():
                columns.append(
                    DistanceColumn(
                        metric, f"{len(features)} reference images", scorer,
                        {row: distance(self.state.measured[row][label], reference, **splitting) for row in rows},
                    )
                )  # fmt: skip
        return columns

    # --- the joint score --------------------------------------------------------------------------------------

    @cached_property
    def joint(self) -> Joint | None:
        """What q is made of; None without `none` and every single control."""
        rows = self.state.rows
        none = next((row.name for row in rows if row.role == NONE), None)
        singles = {row.branches[0]: row.name for row in reversed(rows) if row.role == SINGLE and row.is_unit}
        if none is None or set(self.conditions) - set(singles):
            return None  # without its floor and its singles a joint score has no unit
        return joint_of(
            none=self.oriented(none),
            singles={name: self.oriented(singles[name])[name] for name in self.conditions},
            ceiling=self.oriented(VAE_RECONSTRUCTION),
            groups=self.groups,
            **self.settings,
        )

    def conflict(self) -> NDArray[np.float64] | None:
        """(N,) how far each image's conditions contradict each other; None where all come from one picture.

        The picture that one condition was taken from obeys it perfectly; the other condition's fidelity in that picture
        says how far it obeys that one as well. On the scale of q, but with the *mean* fidelity of no control as floor:
        q's own floor, the image's picture without control, is in the joint score as well, and what both share would
        look like a relation of the two. conflict = mean over conditions of 1 - that, clipped to [0, 1]: 0 where each
        one's picture satisfies the other as well as its own control would, 1 where it is no better than text.
        """
        if self.joint is None or EXCHANGED not in self.state.measured or not self.joint.conditions:
            return None
        found = self.oriented(EXCHANGED)
        gained = [
            (found[name] - self.joint.floor[name].mean()) / self.joint.gain[name].mean()
            for name in self.joint.conditions
        ]
        return (1 - np.clip(gained, 0, 1)).mean(0)

    def per_image(self, metric: str, condition: str = "") -> dict[str, np.ndarray]:
        """Row -> (N,) of one metric of single images."""
        return next(
            dict(each.values) for each in self.all if (each.sample_metric, each.condition) == (metric, condition)
        )

    # --- parts ------------------------------------------------------------------------------------------------

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        return self.state.groups

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.state.seeds[0], "resamples": self.resamples, "level": self.level}

    def _rulers(self, condition: str) -> Sequence[Ruler]:
        own = self.conditions[condition]
        return own.object_rulers if condition in self.state.objects else own.rulers

    def oriented(self, row: str) -> dict[str, np.ndarray]:
        """Condition -> (N,) what q is made of: an image's own score by the headline ruler, more is better."""
        found = {}
        for name in self.conditions:
            ruler = self._rulers(name)[0]
            found[name] = ruler.oriented(ruler.score(self.state.measured[row][fidelity_label(name, ruler.metric)]))
        return found

    def whole(self) -> list[str]:
        """Rows that have one picture for all conditions."""
        return [row.name for row in self.state.rows if row.same]


def mean_of(values: np.ndarray, weights: Weights) -> NDArray[np.float64]:
    """(draws,) of values of images (N,)."""
    return weights @ values / weights.sum(-1)


def _flat(statistics: np.ndarray) -> np.ndarray | csr_array:
    """Statistics (N, ...) as a matrix (N, numbers) of float64; counts of many classes, of which a picture has few, are
    kept as those few."""
    flat = statistics.reshape(len(statistics), -1)
    sparse = flat.dtype.kind in "iu" and np.count_nonzero(flat) <= SPARSE * flat.size
    return (csr_array(flat) if sparse else flat).astype(float)
