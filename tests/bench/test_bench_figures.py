"""From what was measured to tables and aims."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from maxbench.bench.aims import MET, MISSED, UNKNOWN, aims
from maxbench.bench.rates import MatrixRate
from maxbench.bench.runner import DENOISING, DIFFUSERS, END_TO_END, Case, Result
from maxbench.bench.table import COLUMNS, text, tidy
from maxbench.store.stamp import environment

SETTINGS = {"suite": "made", "steps": 2, "guidance_scale": 3.0, "dtype": "float32"}


def result(compiled: bool = True, resolution: int = 512, **changed) -> Result:
    """By hand: a batch of 2 and 4 pictures from files to files; times in seconds of three turns."""
    seconds = {
        Case(DIFFUSERS, False): [2.0, 20.0, 2.2],
        Case("sum", False): [1.8, 16.0, 2.2],
        Case("maxfusion", False): [1.89, 16.48, 2.42],
        Case("sum", False, DENOISING): [3.0, 30.0, 3.0],
        Case("sum", False, END_TO_END): [3.2, 34.0, 3.3],
    }
    if compiled:
        seconds |= {
            Case(DIFFUSERS, True): [1.0, 10.0, 1.0],
            Case("sum", True): [1.0, 11.0, 1.1],
            Case("maxfusion", True): [1.01, 11.11, 1.2],
            Case("sum", True, DENOISING): [1.5, 15.0, 1.5],
            Case("sum", True, END_TO_END): [1.8, 18.0, 1.5],
        }
    counts = {case: 2 if case.does == "pictures" else 4 for case in seconds}
    values = {
        "parts": {DIFFUSERS: {"U-Net": 1.0}, "sum": {"U-Net": 0.9, "fusion": 0.1}},
        "memory": {},
        "differences": {"sum and diffusers": 1e-7},
        "flops": 10**12,
        "rate": MatrixRate(4e12, 5e12),
    }
    return Result(seconds, counts, size=2, resolution=resolution, **{**values, **changed})


def verdicts(measured: Result, card: str = "NVIDIA H100") -> list[str]:
    return [aim.verdict for aim in aims(measured, card)]


def test_every_aim_is_judged_by_the_median_of_its_turns():
    # sum .9; 1.1; 2.0 times; around 1.1 (1.067, 1.133, 1.1); 1.2; maxfusion 1.05; 1.01; share 10^12 / .375 s / 5e12
    found = [str(aim) for aim in aims(result(), "NVIDIA H100 80GB HBM3")]
    assert [line.partition(":")[0] for line in found] == [MET, MISSED, MET, MET, MISSED, MET, MET, MET]
    assert "0.900 [0.850, 0.950], at most 1" in found[0]
    assert "0.533 [0.293, 0.533], at least 0.45" in found[-1]


def test_what_was_not_measured_is_not_judged():
    assert verdicts(result(compiled=False)) == [MET, UNKNOWN, MET, MET, UNKNOWN, MISSED]
    assert verdicts(result(), "AMD EPYC")[-1] == UNKNOWN
    assert verdicts(result(resolution=256))[-1] == UNKNOWN
    alone = {case: each for case, each in result().seconds.items() if case.method != "maxfusion"}
    without = Result(**{**vars(result()), "seconds": alone})
    assert verdicts(without)[5:7] == [UNKNOWN, UNKNOWN]


def test_ratios_do_not_see_a_slow_turn():
    slow = result()
    assert max(slow.ratios(Case("sum", False), Case(DIFFUSERS, False))) == pytest.approx(1)
    assert slow.ratios(Case("sum", False, END_TO_END), Case("sum", False, DENOISING))[1] == pytest.approx(34 / 30)


def test_the_table_has_everything_once():
    measured = result(memory={Case("sum", False): 3 * 2**30})
    table = tidy(measured)
    assert tuple(table.columns) == COLUMNS
    assert len(table[table.measure == "seconds"]) == 30
    assert not table.duplicated(["measure", "method", "mode", "does", "part", "turn"]).any()
    assert float(table[table.measure == "peak memory"].value.iloc[0]) == 3 * 2**30
    assert isinstance(table, pd.DataFrame)


@pytest.mark.parametrize("memory", [{}, {case: 2**30 for case in result().seconds}], ids=["none", "some"])
def test_a_terminal_of_100_columns_is_enough(memory):
    names = ("sum", "maxfusion", "maxfusion_published", "average", "none")
    cases = {Case(name, way): [1234.5678] * 3 for way in (False, True) for name in (DIFFUSERS, *names)}
    measured = result(
        memory=memory | dict.fromkeys(cases, 2**30) if memory else {},
        parts={name: {"U-Net": 12.5, "scheduler, guidance": 1.0} for name in (DIFFUSERS, *names)},
    )
    wide = Result(**{**vars(measured), "seconds": {**measured.seconds, **cases},
                     "count": {**measured.count, **dict.fromkeys(cases, 2)}})  # fmt: skip
    lines = text(wide, SETTINGS, environment(torch.device("cpu"))).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("maxfusion_published, compiled") for line in lines)
