"""What the family is asked to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maxbench.metrics.statistics import Interval
from maxbench.miniature.generated import FLOOR, NONE, RECOGNISED, ControlFidelity
from maxbench.miniature.quality import AMONG, Measure, format_interval


class Bar(NamedTuple):
    """What the family is asked to reach: at least `aim`, or at most where a lower number is better."""

    what: str
    aim: float
    interval: Interval
    better: str

    @property
    def met(self) -> bool:
        return self.interval.value >= self.aim if self.better == "higher" else self.interval.value <= self.aim


AIMS = {
    ("annotator", "mIoU x100 of solids", "renderings"): 60.0,
    ("scorer", "mIoU x100 of solids", "renderings"): 75.0,
    ("clip", f"own caption found among {AMONG}, %", "renderings"): 95.0,
    (NONE, RECOGNISED, ""): 70.0,
}
CLOSED = 0.85
"""What every control alone closes, by the independent scorer."""
OVER_FLOOR = 1.3
"""How far the distance of pictures without control may be above the upper end of the floor."""


def bars_of(measures: Sequence[Measure], controls: Sequence[ControlFidelity] = ()) -> list[Bar]:
    """The bars that these measurements decide."""
    bars = [
        Bar(", ".join(filter(None, (each.part, each.measure, each.on))), aim, each.interval, each.better)
        for each in measures
        if (aim := AIMS.get((each.part, each.measure, each.on))) is not None
    ]
    distance = {each.part: each for each in measures if each.measure.startswith("FD-CLIP at N")}
    if {FLOOR, NONE} <= distance.keys():
        own, aim = distance[NONE], OVER_FLOOR * distance[FLOOR].interval.high
        bars.append(Bar(f"{NONE}, {own.measure}", aim, own.interval, "lower"))
    first = {each.condition: each for each in reversed(controls)}  # the independent scorer's comes first
    bars += [
        Bar(f"{each.method}, share of {each.metric} closed", CLOSED, each.closed, "higher") for each in first.values()
    ]
    return bars


def bars_table(bars: Sequence[Bar]) -> str:
    """Bars as Markdown."""
    lines = [["bar", "aim", "measured", "N", "met"], ["---"] * 5]
    for bar in bars:
        sign = "≥" if bar.better == "higher" else "≤"
        cells = [bar.what, f"{sign} {bar.aim:.3g}", format_interval(bar.interval), str(bar.interval.n)]
        lines.append([*cells, "yes" if bar.met else "**no**"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
