"""What the figures should be, and whether they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from maxbench.bench.cases import SUM
from maxbench.bench.clock import summary
from maxbench.bench.runner import DENOISING, DIFFUSERS, END_TO_END, Case, Result

MAXFUSION = "maxfusion"
SLOWEST = 1.0  # of diffusers' time, for the same pictures
SPEEDUP = 1.5  # of diffusers' eager throughput, compiled
AROUND = 1.1  # of denoising alone, from files to files
OVERHEAD = {False: 1.05, True: 1.02}  # of the time of the sum, by whether it is compiled
SHARE = 0.45  # of the matrix rate
CARDS, PIXELS = ("H100", "H200"), 512  # that it is an aim for

MET, MISSED, UNKNOWN = "met", "not met", "cannot be measured here"


class Aim(NamedTuple):
    """what: in words, with the figure of its median and quartiles."""

    verdict: str
    what: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.what}"


def aims(result: Result, card: str) -> Iterator[Aim]:
    """Every aim; card: the name of the device."""
    modes = {False: "eager", True: "compiled"}
    for compiled in result.modes:
        slowness = result.ratios(Case(SUM, compiled), Case(DIFFUSERS, compiled))
        yield _most(slowness, SLOWEST, f"sum over diffusers, both {modes[compiled]}")
    if True in result.modes:
        gain = result.ratios(Case(DIFFUSERS, False), Case(SUM, True))
        yield _least(gain, SPEEDUP, "throughput of sum, compiled, over diffusers, eager")
    else:
        yield Aim(UNKNOWN, f"throughput of sum, compiled, over diffusers, eager, at least {SPEEDUP:g}; add --compiled")
    for compiled in result.modes:
        around = result.ratios(Case(SUM, compiled, END_TO_END), Case(SUM, compiled, DENOISING))
        yield _most(around, AROUND, f"from files to files over denoising alone, {modes[compiled]}")
    for compiled, most in OVERHEAD.items():
        what = f"maxfusion over sum, {modes[compiled]}"
        if Case(MAXFUSION, compiled) in result.seconds:
            yield _most(result.ratios(Case(MAXFUSION, compiled), Case(SUM, compiled)), most, what)
        else:
            option = "--compiled" if compiled not in result.modes else f"{MAXFUSION} to --methods"
            yield Aim(UNKNOWN, f"{what}, at most {most:g}; add {option}")
    share, what = result.shares(True in result.modes), "share of the matrix rate in denoising"
    if any(each in card for each in CARDS) and result.resolution == PIXELS:
        yield _least(share, SHARE, what)
    else:
        where = f"an {' or '.join(CARDS)} at {PIXELS} pixels"
        yield Aim(UNKNOWN, f"{what}, at least {SHARE:g} on {where}; here it is {figure(share)}")


def figure(values: Sequence[float]) -> str:
    """Median and quartiles of shares and ratios."""
    said = summary(values)
    return f"{said.median:.3f} [{said.lower:.3f}, {said.upper:.3f}]"


def _most(values: Sequence[float], most: float, what: str) -> Aim:
    return Aim(MET if summary(values).median <= most else MISSED, f"{what}: {figure(values)}, at most {most:g}")


def _least(values: Sequence[float], least: float, what: str) -> Aim:
    return Aim(MET if summary(values).median >= least else MISSED, f"{what}: {figure(values)}, at least {least:g}")
