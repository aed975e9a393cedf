"""Turns, summaries and the stopwatch."""

import statistics
import time

import pytest
import torch

from maxbench.bench.clock import Stopwatch, ratios, summary, take_turns

CPU = torch.device("cpu")


def test_everything_takes_its_turn_and_none_always_follows_the_same():
    calls = []
    seconds = take_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 4, CPU)
    assert calls == list("abcbcacababc")
    assert {name: len(each) for name, each in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_a_call_takes_as_long_as_it_takes():
    seconds = take_turns({"long": lambda: time.sleep(0.03), "short": lambda: None}, 2, CPU)
    assert min(seconds["long"]) >= 0.03 > max(seconds["short"])


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [5.0, 1.0, 4.0, 2.0], [float(each**2) for each in range(11)]])
def test_a_summary_is_median_quartiles_and_ends(values):
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    assert summary(values) == pytest.approx((median, lower, upper, min(values), max(values)))


def test_one_turn_has_no_spread():
    assert set(summary([2.5])) == {2.5}


def test_ratios_are_of_one_turn():
    """A machine that is ten times slower in one turn changes no ratio, but would change that of the means."""
    assert ratios([1.0, 10.0, 3.0], [2.0, 20.0, 2.0]) == [0.5, 0.5, 1.5]
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_a_stopwatch_adds_up_and_begins_again():
    watch = Stopwatch(CPU)
    with watch.on("outer"):
        for _ in range(2):
            with watch.on("inner"):
                time.sleep(0.01)
    taken = watch.take()
    assert taken["outer"] >= taken["inner"] >= 0.02
    assert watch.take() == {}
