"""What the page says: no more than the paired differences show."""

import numpy as np
import pandas as pd
import pytest

from maxbench.metrics.statistics import holm
from maxbench.report.page.answer import (
    Standing,
    answer,
    comparisons,
    judged,
    leaderboard,
    of_rule,
    overall,
    rules_of,
    same_of,
    variants,
)
from maxbench.report.runs import Results
from maxbench.report.verdicts import BETTER, WORSE
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
            {"method": method, "baseline": baseline, "metric": "joint", "value": value,
             "low": value - 0.05 * (value != 0), "high": value + 0.05 * (value != 0), "n": 9, "p": p, "win_rate": 0.75}
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
    assert judged({"a": one})["a"].verdict[0] == BETTER and both["a"].verdict[0] == "not shown"


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
    assert own.verdict == WORSE and np.isclose(own.value, -0.1) and np.isclose(own.low, -0.15)


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
    assert overall(board, "s", 2) == (
        "one is shown ahead most often: in 3 of its 4 comparisons in 2 runs on s; it is behind in none, and 1 shows no "
        "difference."
    )
    none = leaderboard(runs, {run: each.assign(verdict="not shown") for run, each in tables.items()})
    assert overall(none, "s", 2) == "No difference between any two rules is shown in 2 runs on s (4 comparisons)."


def standing(rule, ahead, behind, open_=0):
    return Standing(rule, ahead + behind + open_, ahead, behind, {})


def test_first_is_who_is_ahead_most_often_and_all_that_are_so_are_named(results):
    names = ["a", "b", "c", "d"]
    wins = [("a", "b", 0.1), ("a", "c", 0.1), ("a", "d", -0.1), ("b", "d", 0.1), ("b", "c", 0.1)]
    rows = [(one, other, value, 0.0) for one, other, value in wins] + [("c", "d", 0.1, 0.9)]
    tables = judged({"run": comparisons(table(*rows), names, 0.95)})
    metrics = pd.concat([results.metrics.iloc[:1].assign(method=name) for name in names])
    metrics.to_csv(results.folder / "metrics.csv", index=False)
    board = leaderboard({"run": Results(results.folder)}, tables)
    assert [(each.rule, each.ahead, each.behind) for each in board] == [
        ("a", 2, 1), ("b", 2, 1), ("d", 1, 1), ("c", 0, 2)
    ]  # fmt: skip
    assert overall(board, "s", 1) == (
        "a and b are shown ahead most often: in 2 comparisons each in 1 run on s; a is behind in 1 and b in 1. "
        "No rule stands alone at the top."
    )


def test_more_often_ahead_stands_before_less_often_behind():
    often, seldom = standing("often", 5, 3), standing("seldom", 3, 0, 5)
    said = overall([often, seldom], "s", 2)
    assert said.startswith("often is shown ahead most often: in 5 of its 8 comparisons") and "it is behind in 3" in said
    said = overall([standing("one", 3, 0, 5), standing("two", 3, 2)], "s", 2)
    assert said.startswith("one and two are shown ahead most often") and said.endswith(
        "; one is behind in none and two in 2."
    )


def test_rules_of_the_same_pictures_are_said_and_count_nowhere(results):
    rows = ("one", "two", 0.0, 1.0), ("one", "three", 0.2, 0.02), ("two", "three", 0.2, 0.01)
    tables = judged({"run": comparisons(table(*rows), list(LEVELS), 0.95)})
    assert np.allclose(tables["run"].p_holm.dropna(), holm([0.02, 0.01])) and tables["run"].p_holm.isna().sum() == 1
    assert [(each.rule, each.compared) for each in leaderboard({"run": results}, tables)] == [
        ("one", 1), ("two", 1), ("three", 2)
    ]  # fmt: skip
    other = judged({"run": comparisons(table(("one", "two", 0.1, 0.5)), list(LEVELS), 0.95)})["run"]
    assert same_of(tables) == ["two makes the same pictures as one; this counts as no comparison."]
    assert same_of({**tables, "other": other}) == [
        "two makes the same pictures as one in 1 of 2 runs; this counts as no comparison."
    ]
    sentence = said(results, ("one", "two", 0.0, 1.0), ("one", "three", 0.2, 0.0), ("two", "three", 0.2, 0.0))
    assert "as has two with the same pictures, and is shown ahead of the other rule: of three" in sentence
    assert "all rules that are compared make the same pictures" in said(results, ("one", "two", 0.0, 1.0))
    alone = said(results, ("one", "two", 0.0, 1.0), ("two", "three", 0.2, 0.0))
    assert "it is compared with no rule that makes other pictures" in alone


def test_variants_are_of_one_class_or_of_one_name():
    methods = {"sum": "Sum", "tuned_sum": "Sum", "gated_sum": "GatedSum", "maxfusion": "MaxFusion",
               "outputs_only": "MaxFusion", "maxfusion_published": "Published"}  # fmt: skip
    config = {"methods": {name: {"rule": {"_target_": f"maxbench.fusion.{rule}"}} for name, rule in methods.items()}}
    board = [standing(name, 1, 0) for name in methods]
    expected = [{"sum", "tuned_sum"}, {"maxfusion", "outputs_only", "maxfusion_published"}]
    assert [set(group) for group in variants(board, [config])] == expected
    assert [set(group) for group in variants(board, [{}])] == [{"maxfusion", "maxfusion_published"}]


def test_the_answer_of_a_run_is_of_its_own_numbers(tmp_path):
    """A run in which one rule follows both conditions far better than the others."""
    own = Results(make_run(tmp_path / "run", images=40, pictures=False))
    table = judged({"run": comparisons(own.differences, rules_of(own), 0.95)})["run"]
    found = answer(own, ["depth", "seg"], table, len(table))
    assert found.best == "better" and "is shown ahead of" in found.sentence
    change = own.differences[(own.differences.method == "better") & (own.differences.metric == "joint")].iloc[0]
    assert f"average by {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]" in found.sentence
