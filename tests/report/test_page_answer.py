"""What the page says: no more than the paired differences show."""

import numpy as np
import pandas as pd
import pytest

from maxbench.metrics.statistics import holm
from maxbench.report.page.answer import (
    AHEAD,
    BEHIND,
    answer,
    comparisons,
    judged,
    leaderboard,
    of_rule,
    overall,
    rules_of,
)
from maxbench.report.runs import Results
from report.made import make_run

LEVELS = {"one": 0.5, "two": 0.4, "three": 0.3}


@pytest.fixture
def results(tmp_path):
    """A run with the joint scores LEVELS and nothing else."""
    pd.DataFrame(
        [
            {"experiment": "e", "suite": "s", "method": name, "role": "fusion", "condition": "", "metric": "joint",
             "protocol": "", "scorer": "", "setting": None, "value": value, "low": value - 0.1,
             "high": value + 0.1, "n": 9}
            for name, value in LEVELS.items()
        ]
    ).to_csv(tmp_path / "metrics.csv", index=False)  # fmt: skip
    return Results(tmp_path)


def table(*rows):
    """method, baseline, value, p"""
    return pd.DataFrame(
        [
            {"method": method, "baseline": baseline, "metric": "joint", "value": value, "low": value - 0.05,
             "high": value + 0.05, "n": 9, "p": p, "win_rate": 0.75}
            for method, baseline, value, p in rows
        ]
    )  # fmt: skip


def compared(*rows):
    return judged({"run": comparisons(table(*rows), list(LEVELS), 0.95)})["run"]


def said(results, *rows):
    judgement = compared(*rows)
    return answer(results, ["hed", "depth"], judgement, len(judgement)).sentence


def test_a_pair_is_compared_once_and_in_the_order_of_the_rules():
    own = comparisons(
        table(("two", "one", -0.1, 0.2), ("one", "two", 0.1, 0.2), ("one", "three", 0.2, 0.1)), list(LEVELS), 0.95
    )
    assert list(zip(own.rule, own.rival, strict=True)) == [("one", "two"), ("one", "three")]
    turned = comparisons(table(("two", "one", -0.1, 0.2)), list(LEVELS), 0.95).iloc[0]
    assert (turned.rule, turned.rival) == ("one", "two")
    assert np.allclose([turned.value, turned.low, turned.high, turned.win_rate], [0.1, 0.05, 0.15, 0.25])


def test_what_is_no_rule_and_what_was_not_tested_is_not_compared():
    own = comparisons(table(("none", "one", -0.4, 0.0), ("two", "one", np.nan, np.nan)), list(LEVELS), 0.95)
    assert own.empty
    assert comparisons(None, list(LEVELS), 0.95).empty


def test_holm_is_over_all_runs_of_the_page():
    one, two = (
        comparisons(table(("one", "two", 0.1, p), ("one", "three", 0.2, 0.5)), list(LEVELS), 0.95) for p in (0.02, 0.03)
    )
    both = judged({"a": one, "b": two})
    assert np.allclose(np.concatenate([both["a"].p_holm, both["b"].p_holm]), holm([0.02, 0.5, 0.03, 0.5]))
    assert judged({"a": one})["a"].verdict[0] == AHEAD and both["a"].verdict[0] == "not shown"


def test_without_a_shown_difference_no_rule_is_called_better(results):
    sentence = said(results, ("one", "two", 0.1, 0.2), ("one", "three", 0.2, 0.06), ("two", "three", 0.1, 0.9))
    assert sentence.startswith("No difference between any two of the 3 rules")
    assert "ahead" not in sentence and "best" not in sentence


def test_a_rule_ahead_of_every_other_is_called_so_with_its_smallest_lead_first(results):
    sentence = said(results, ("one", "two", 0.1, 0.0), ("one", "three", 0.2, 0.0), ("two", "three", 0.1, 0.9))
    assert "one has the highest joint score, 0.50 [0.40, 0.60], and is shown ahead of each of the 2 other" in sentence
    assert "two by +0.10 [+0.05, +0.15] and three by +0.20 [+0.15, +0.25]" in sentence
    assert "3 comparisons of this page" in sentence and "N = 9" in sentence


def test_a_rule_ahead_of_some_is_not_the_best(results):
    sentence = said(results, ("one", "two", 0.1, 0.3), ("one", "three", 0.2, 0.0), ("two", "three", 0.1, 0.9))
    assert sentence.startswith("No single rule is shown to be the best")
    assert "no difference from two is shown" in sentence


def test_the_highest_joint_score_alone_is_no_lead(results):
    sentence = said(results, ("one", "two", 0.1, 0.3), ("one", "three", 0.2, 0.3), ("two", "three", 0.1, 0.0))
    assert (
        sentence.startswith("No rule is shown to be the best: one has the highest")
        and "not shown ahead of any" in sentence
    )


def test_of_a_rule_that_is_behind_signs_turn():
    own = of_rule(compared(("one", "two", 0.1, 0.0)), "two").iloc[0]
    assert own.verdict == BEHIND and np.isclose(own.value, -0.1) and np.isclose(own.low, -0.15)


def test_what_varies_is_no_rule_of_a_leaderboard(results):
    metrics = results.metrics.assign(setting=[0.1, np.nan, np.nan])
    metrics.to_csv(results.folder / "metrics.csv", index=False)
    assert rules_of(Results(results.folder)) == ["two", "three"]


def test_a_leaderboard_counts_every_comparison_for_both_sides(results):
    runs = {"a": results, "b": results}
    tables = judged({run: comparisons(table(("one", "two", 0.1, 0.0), ("one", "three", 0.2, p)), list(LEVELS), 0.95)
                     for run, p in (("a", 0.0), ("b", 0.9))})  # fmt: skip
    board = leaderboard(runs, tables)
    assert [(each.rule, each.compared, each.ahead, each.behind, each.open) for each in board] == [
        ("one", 4, 3, 0, 1), ("three", 2, 0, 1, 1), ("two", 2, 0, 2, 0)
    ]  # fmt: skip
    assert "one is shown ahead most often: in 3 of its 4 comparisons in 2 runs on s" in overall(board, "s", 2)
    none = leaderboard(runs, {run: each.assign(verdict="not shown") for run, each in tables.items()})
    assert overall(none, "s", 2) == "No difference between any two rules is shown in 2 runs on s (4 comparisons)."


def test_the_answer_of_a_run_is_of_its_own_numbers(tmp_path):
    """A run in which one rule follows both conditions far better than the others."""
    own = Results(make_run(tmp_path / "run", images=40, pictures=False))
    table = judged({"run": comparisons(own.differences, rules_of(own), 0.95)})["run"]
    found = answer(own, ["depth", "seg"], table, len(table))
    assert found.best == "better" and "is shown ahead of" in found.sentence
    change = own.differences[(own.differences.method == "better") & (own.differences.metric == "joint")].iloc[0]
    assert f"average by {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]" in found.sentence
