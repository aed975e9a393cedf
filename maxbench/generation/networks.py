"""The networks of a run as one process has them: what loads them travels, what is loaded stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from maxbench.conditions.base import Annotator, Condition
from maxbench.models.precision import Precision, forbid_tf32
from maxbench.store.stamp import made_by

if TYPE_CHECKING:
    from maxbench.models.pipeline import Pipeline  # a scorer need not load diffusers

CLIP = "clip"
"""The text-image scorer, among the networks of features."""


def _none(condition: str) -> None:
    """Of networks that are not there."""


class Suite(Protocol):
    """What loads networks from their weights: :class:`maxbench.suites.folder.FolderSuite`."""

    resolution: int

    def pipeline(self, conditions: Sequence[str], device: torch.device, dtype: torch.dtype) -> Pipeline: ...

    def annotator(self, condition: str, device: torch.device) -> Annotator | None: ...

    def scorer(self, condition: str, device: torch.device) -> Annotator | None: ...

    def self_consistency(self, condition: str, device: torch.device) -> Annotator | None: ...

    def clip_scorer(self, device: torch.device) -> Any: ...

    def feature_network(self, name: str, device: torch.device) -> Any: ...


Load = Callable[..., Any]


@dataclass(frozen=True)
class Networks:
    """Every network that a task may ask for, each loaded when it is first asked for and then kept.

    A copy that is sent to another process has loaded nothing yet; its loaders must be picklable then.

    conditions: by name, for the hints that controls are shown. precision: of what makes pictures; all else is float32.
    load_pipeline: in a precision. load_annotator, load_scorer, load_self_consistency: of a condition, None where
    arithmetic does it; see :class:`maxbench.evaluation.scoring.Scorers`. load_clip: the text-image scorer.
    load_features: of the name of a network of features.
    """

    conditions: Mapping[str, Condition] = field(default_factory=dict)
    precision: Precision = field(default_factory=Precision)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    load_pipeline: Callable[[Precision], Pipeline] | None = None
    load_annotator: Callable[[str], Annotator | None] = _none
    load_scorer: Callable[[str], Annotator | None] = _none
    load_self_consistency: Callable[[str], Annotator | None] = _none
    load_clip: Callable[[], Any] | None = None
    load_features: Callable[[str], Any] | None = None
    held: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        suite: Suite,
        conditions: Mapping[str, Condition],
        precision: Precision,
        device: torch.device,
        batch_size: int,
        checked: Callable[[Load], Load] = lambda load: load,
    ) -> Networks:
        """The networks of a suite.

        batch_size: of pictures that are made together. checked: put around every loader, for what must hold after it.
        """
        return cls(
            conditions=conditions,
            precision=precision,
            device=device,
            load_pipeline=checked(partial(_pipeline, suite, tuple(conditions), device, batch_size)),
            load_annotator=checked(partial(suite.annotator, device=device)),
            load_scorer=checked(partial(suite.scorer, device=device)),
            load_self_consistency=checked(partial(suite.self_consistency, device=device)),
            load_clip=checked(partial(suite.clip_scorer, device)),
            load_features=checked(partial(suite.feature_network, device=device)),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is loaded."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**own, "held": {}}

    def _once(self, kind: str, name: str, load: Callable[[], Any]) -> Any:
        if (kind, name) not in self.held:
            forbid_tf32()  # a pipeline allows it for itself, where that is asked for
            self.held[kind, name] = load()
        return self.held[kind, name]

    def is_first(self, kind: str) -> bool:
        """Whether this process is asked so for the first time of a kind of work: it warms up."""
        known = ("asked", kind) in self.held
        self.held["asked", kind] = True
        return not known

    def of_batch(self, key: str, make: Callable[[], Any]) -> Any:
        """What all methods share of a batch, known by its key: made once, and kept until another batch comes."""
        known, made = self.held.get(("batch", ""), ("", None))
        if known != key:
            self.held.pop(("batch", ""), None)
            del made  # the last batch's, before memory is taken for this one's
            made = make()
            self.held["batch", ""] = key, made
        return made

    @property
    def pipeline(self) -> Pipeline:
        """What makes pictures."""
        return self._once("pipeline", self.precision.name, lambda: self.load_pipeline(self.precision))

    @property
    def exact(self) -> Pipeline:
        """The same in float32, cast up from the same files, for pictures that overflow in a smaller dtype."""
        return self._once("pipeline", "exact", lambda: self.load_pipeline(self.precision.exact))

    @property
    def exact_bytes(self) -> int:
        """How much its weights take beside the others; 0 until they are loaded."""
        exact = self.held.get(("pipeline", "exact"))
        return 0 if exact is None else exact.bytes

    def annotator(self, condition: str) -> Annotator | None:
        """What draws a condition's maps; None where arithmetic does."""
        return self._once("annotator", condition, lambda: self.load_annotator(condition))

    def scorer(self, condition: str) -> Annotator | None:
        """What measures a condition's map in pictures; None where arithmetic does."""
        return self._once("scorer", condition, lambda: self.load_scorer(condition))

    def self_consistency(self, condition: str) -> Annotator | None:
        """The network that drew the given maps, where it is another than the scorer."""
        return self._once("self consistency", condition, lambda: self.load_self_consistency(condition))

    @property
    def clip(self) -> Any:
        """The text-image scorer."""
        return self._once("clip", CLIP, self.load_clip)

    def features(self, name: str) -> Any:
        """A network of features that distances between sets are made of."""
        return self.clip if name == CLIP else self._once("features", name, lambda: self.load_features(name))

    @cached_property
    def made_by(self) -> dict[str, str]:
        """Of this process, in the record of everything that it makes."""
        return made_by(self.device)


def _pipeline(
    suite: Suite, conditions: Sequence[str], device: torch.device, batch_size: int, precision: Precision
) -> Pipeline:
    """All networks that make pictures, loaded and computing as `precision` says."""
    loaded = suite.pipeline(conditions, device, precision.dtype)
    return loaded.computing(precision, batch_size, suite.resolution)
