"""Control fidelity by length of training: how it grows with the pictures that a control was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxbench.errors import UserError
from maxbench.metrics.statistics import Interval
from maxbench.miniature.context import HISTORIES, read_history
from maxbench.miniature.generated import FinishedRun, control_fidelity_of, require_same_weights
from maxbench.miniature.quality import format_interval
from maxbench.models.files import digest_of


@dataclass(frozen=True)
class TrainedControl:
    """A control of one family, as one run measures it.

    digest: of its weights. pictures: that it was trained on, repetitions counted. loss: of its last steps. metric,
    scorer: the first of those that the run has, the independent one. closed: share of the way from no control to the
    VAE reconstructions.
    """

    part: str
    digest: str
    pictures: int
    loss: float
    metric: str
    scorer: str
    closed: Interval


def trained_controls(run: FinishedRun, family: Path) -> list[TrainedControl]:
    """Every control that a run has alone, with what its history in the family's folder says.

    A folder of other weights than the run's, and one without histories, is a UserError.
    """
    require_same_weights(run, family, digest_of, "run the experiment again")
    histories = {path.stem: read_history(family, path.stem) for path in sorted((family / HISTORIES).glob("*.json"))}
    named = {history["part"]["subfolder"]: name for name, history in histories.items()}
    found: dict[str, TrainedControl] = {}
    for each in control_fidelity_of(run):  # the independent scorer's comes first
        subfolder = _controls(run)[each.condition]
        if subfolder not in named:
            raise UserError(f"{family} has no history of {subfolder}, and so nothing says how long it was trained.")
        part = named[subfolder]
        recipe, loss = histories[part]["part"]["recipe"], histories[part]["loss"][-1]
        control = TrainedControl(
            part, run.identity["weights"][subfolder], recipe["steps"] * recipe["batch"], loss, each.metric,
            each.scorer, each.closed,
        )  # fmt: skip
        found.setdefault(each.condition, control)
    return list(found.values())


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs that differ in more than the weights of their controls: such shares are different quantities."""
    first, *others = runs
    for other in others:
        one, two = _said(first), _said(other)
        differing = [name for name in one.keys() | two.keys() if one.get(name) != two.get(name)]
        if differing:
            raise UserError(
                f"The runs {first.path} and {other.path} differ in {', '.join(sorted(differing))}; compare runs that "
                "differ in the training of their controls alone."
            )


def _said(run: FinishedRun) -> dict[str, Any]:
    """What a control's fidelity depends on beside the control."""
    settings, controls = run.settings, set(_controls(run).values())
    weights = {name: digest for name, digest in run.identity["weights"].items() if name not in controls}
    return {
        **weights,
        "samples": run.identity["samples"],
        **{name: settings[name] for name in ("seed", "sampler")},
        "suite.control_scale": settings["suite"]["control_scale"],
        "runtime.dtype": settings["runtime"]["dtype"],
    }


def _controls(run: FinishedRun) -> dict[str, str]:
    return run.settings["suite"]["controls"]


def scaling_table(controls: Sequence[TrainedControl]) -> str:
    """As Markdown, a line for every control and length of training; the same weights are listed once."""
    lines = [["control", "pictures seen", "last loss", "score", "by", "share closed", "N"], ["---"] * 7]
    order = list(dict.fromkeys(each.part for each in controls))
    distinct = {each.digest: each for each in controls}.values()
    for each in sorted(distinct, key=lambda each: (order.index(each.part), each.pictures)):
        cells = [each.part, f"{each.pictures:,}", f"{each.loss:.4f}", each.metric, each.scorer]
        lines.append([*cells, format_interval(each.closed), str(each.closed.n)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
