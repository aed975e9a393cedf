"""A measurement as text for people, and as a table of everything that was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maxbench.bench.aims import aims, figure
from maxbench.bench.cases import SUM
from maxbench.bench.clock import summary
from maxbench.bench.parts import PARTS
from maxbench.bench.runner import DIFFUSERS, PICTURES, Case, Result
from maxbench.report.tables import markdown_table, plain_table
from maxbench.store.files import write_atomically
from maxbench.store.stamp import code_version

GIB = 2**30
WIDTH = 100  # of a terminal
COLUMNS = ("measure", "method", "mode", "does", "part", "turn", "pictures", "value", "unit")
"""Of the table: one line for everything that was measured. `pictures` is what `value` is for."""

Drawn = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def card_of(stamp: Mapping[str, Any]) -> str:
    """What the networks ran on."""
    return stamp["processor"] if stamp["device"] == "cpu" else stamp["device"]


def text(result: Result, settings: Mapping[str, Any], stamp: Mapping[str, Any], draw: Drawn = plain_table) -> str:
    """Settings, tables and aims. draw: headings and rows -> a table."""
    wide = draw is markdown_table
    code = "`" if wide else ""

    def listed(lines: Iterable[Any]) -> str:
        if wide:
            return "\n".join(f"- {line}" for line in lines)
        return "\n".join(textwrap.fill(str(line), WIDTH, subsequent_indent="  ") for line in lines)

    said = [
        f"{settings['suite']}, {result.resolution} pixels, batch {result.size}, {settings['steps']} steps, "
        f"guidance {settings['guidance_scale']:g}, {settings['dtype']}",
        f"{card_of(stamp)}, {stamp['threads']} threads; {code_version(stamp)}",
        f"torch {stamp['packages']['torch']}, diffusers {stamp['packages']['diffusers']}; "
        f"{len(next(iter(result.seconds.values())))} turns",
    ]
    agreed = [
        f"{what}: pictures differ by {value:.2g} (root mean square)" for what, value in result.differences.items()
    ]
    parts = [
        listed([*said, *agreed]),
        "Milliseconds a picture, medians with [quartiles]; ratios of the times are made turn by turn.",
        draw(*_cases(result, code, wide)),
        *([] if result.memory else ["No peak memory: of a processor's it cannot be told which method takes it."]),
        "Milliseconds a picture by part, eager, watched in a pass of its own.",
        draw(*_parts(result, code)),
        listed(_rates(result)),
        "Aims:",
        listed(aims(result, card_of(stamp))),
    ]
    return "\n\n".join(parts)


def _cases(result: Result, code: str, wide: bool) -> tuple[list[str], list[list[str]]]:
    """wide: with ranges and the quartiles of ratios, for which a terminal has no room."""
    headings = ["case", "images/s", "ms", *(["range"] if wide else []), "/ diffusers", "/ sum"]
    rows = []
    for case in result.seconds:
        times = [1e3 * each for each in result.per_picture(case)]
        said = summary(times)
        others = [DIFFUSERS, SUM] if case.does == PICTURES else []
        compared = [
            result.ratios(case, Case(other, case.compiled)) if other in others and case.method not in (other, DIFFUSERS)
            else None
            for other in (DIFFUSERS, SUM)
        ]  # fmt: skip
        row = [
            f"{code}{case.name}{code}",
            f"{1e3 / said.median:.3g}",
            f"{_ms(said.median)} [{_ms(said.lower)}, {_ms(said.upper)}]",
            *([f"{_ms(said.least)} to {_ms(said.most)}"] if wide else []),
            *("-" if each is None else figure(each) if wide else f"{summary(each).median:.3f}" for each in compared),
        ]
        rows.append([*row, *([f"{result.memory[case] / GIB:.2f}"] if result.memory else [])])
    return [*headings, *(["peak GiB"] if result.memory else [])], rows


def _ms(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _parts(result: Result, code: str) -> tuple[list[str], list[list[str]]]:
    names = list(result.parts)
    rows = [
        [part, *(_milliseconds(result.parts[name].get(part), result.size) for name in names)]
        for part in PARTS
        if any(part in result.parts[name] for name in names)
    ]
    return ["part", *(f"{code}{name}{code}" for name in names)], rows


def _milliseconds(seconds: float | None, size: int) -> str:
    return "-" if seconds is None else f"{1e3 * seconds / size:.2f}"


def _rates(result: Result) -> Iterator[str]:
    rate = result.rate
    yield (
        f"matrix rate: {rate.product / 1e9:,.0f} GFLOP/s in a product of matrices, {rate.convolution / 1e9:,.0f} in a "
        "convolution"
    )
    for compiled in result.modes:
        yield (
            f"denoising a picture by sum{', compiled' * compiled}: {result.flops / 1e9:,.1f} GFLOP, "
            f"{figure(result.shares(compiled))} of the larger rate"
        )


def tidy(result: Result) -> pd.DataFrame:
    """Everything that was measured, with the columns COLUMNS."""
    return pd.DataFrame(list(_lines(result)), columns=list(COLUMNS))


def _lines(result: Result) -> Iterator[tuple]:
    for case, seconds in result.seconds.items():
        for turn, value in enumerate(seconds):
            yield "seconds", case.method, _mode(case), case.does, "", turn, result.count[case], value, "s"
    for case, value in result.memory.items():
        yield "peak memory", case.method, _mode(case), case.does, "", "", result.count[case], value, "byte"
    for method, parts in result.parts.items():
        for part, value in parts.items():
            yield "part", method, "eager", PICTURES, part, "", result.size, value, "s"
    for what, value in result.differences.items():
        yield "difference", what, "", PICTURES, "", "", result.size, value, ""
    for part, value in result.rate._asdict().items():
        yield "matrix rate", "", "", "", part, "", "", value, "FLOP/s"
    yield "work", SUM, "", "denoising", "", "", 1, result.flops, "FLOP"


def _mode(case: Case) -> str:
    return "compiled" if case.compiled else "eager"


def write(
    result: Result, settings: Mapping[str, Any], stamp: Mapping[str, Any], folder: Path, name: str, command: str
) -> Path:
    """Write `name`.md and `name`.csv into a folder; returns the path of the first."""
    page = folder / f"{name}.md"
    body = text(result, settings, stamp, markdown_table)
    head = f"# Speed of {settings['suite']} on {card_of(stamp)}\n\nWritten by `{command}`; see docs/bench.md."
    write_atomically(folder / f"{name}.csv", tidy(result).to_csv(index=False))
    write_atomically(page, f"{head}\n\n{body}\n")
    return page
