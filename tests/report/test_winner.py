"""Who is said to win, and that nobody is where nothing is shown."""

import pytest

from maxbench.report.tables import terminal_table
from maxbench.report.winner import best, comparisons, ranking, ranks, undecided, winner
from report.frames import differences_of, metrics_of

JOINT = ("joint", "")
SCORES = {"joint": {"none": 0.0, "single/hed": 0.95, "sum": 0.7, "tuned": 0.75, "rule": 0.9}}


def test_only_rules_that_fuse_are_ranked_and_an_error_the_other_way_round():
    assert [row.method for row in ranking(metrics_of(SCORES), JOINT)] == ["rule", "tuned", "sum"]
    errors = metrics_of({("depth_rmse", "depth"): {"real": 1, "sum": 7, "rule": 6}})
    assert [row.method for row in ranking(errors, ("depth_rmse", "depth"))] == ["rule", "sum"]
    assert ranking(metrics_of({"seconds": {"sum": 1, "rule": 2}}), ("seconds", "")) == []


def test_a_random_choice_is_no_rule_and_decides_no_column():
    scores = {"joint": {"random_blobs": 0.99, "sum": 0.7, "rule": 0.9}}
    assert [row.method for row in ranking(metrics_of(scores), JOINT)] == ["rule", "sum"]
    rows = [("random_blobs", "sum", "joint", -0.4, "worse"), ("rule", "sum", "joint", 0.2, "not shown")]
    assert undecided(differences_of(rows)) == {JOINT: 100}
    assert undecided(differences_of([*rows, ("tuned", "sum", "joint", 0.3, "better")])) == {}


def test_a_winner_is_shown_ahead_of_all_that_it_is_tested_against():
    metrics = metrics_of(SCORES)
    shown = differences_of([("rule", "sum", "joint", 0.2, "better"), ("rule", "tuned", "joint", 0.15, "better"),
                            ("tuned", "sum", "joint", 0.05, "better")])  # fmt: skip
    assert best(metrics, shown) == {("rule", JOINT)}
    said = winner(metrics, shown)
    assert said.startswith(
        "`rule` has the highest joint score, 0.90 [0.80, 1.00], and is shown ahead of `tuned` (+0.15 "
    )
    assert "`sum` (+0.20 [+0.19, +0.21])" in said and "12 comparisons" in said and "no difference" not in said


@pytest.mark.parametrize("verdict", ["not shown", "worse"])
def test_one_difference_that_is_not_shown_takes_the_mark(verdict):
    metrics = metrics_of(SCORES)
    half = differences_of([("rule", "sum", "joint", 0.2, "better"), ("rule", "tuned", "joint", 0.15, verdict)])
    assert best(metrics, half) == set()
    said = winner(metrics, half)
    assert "shown ahead of `sum`" in said and "no difference is shown from `tuned`" in said


def test_nobody_wins_where_nothing_is_shown():
    metrics = metrics_of(SCORES)
    none = differences_of([("rule", "sum", "joint", 0.2, "not shown"), ("rule", "tuned", "joint", 0.15, "not shown")])
    said = winner(metrics, none)
    assert said.startswith("No rule is shown to win: `rule` has the highest joint score, 0.90")
    assert "ahead" not in said and best(metrics, none) == set()


def test_a_baseline_at_the_top_is_held_against_every_other_rule_with_signs_turned():
    metrics = metrics_of({"joint": {"sum": 0.9, "tuned": 0.8, "rule": 0.7, "other": 0.6}})
    table = differences_of([
        ("tuned", "sum", "joint", -0.1, "worse"), ("rule", "sum", "joint", -0.2, "worse"),
        ("other", "sum", "joint", -0.3, "not shown"), ("sum", "tuned", "joint", 0.1, "better"),
    ])  # fmt: skip
    found = {each.other: each for each in comparisons(table, JOINT, "sum", ["tuned", "rule", "other"])}
    assert found["rule"].value == 0.2 and found["rule"].shown and not found["other"].shown
    assert found["rule"].low == pytest.approx(0.19) and found["rule"].high == pytest.approx(0.21)
    assert set(found) == {"tuned", "rule", "other"}
    assert best(metrics, table) == set() and "no difference is shown from `other`" in winner(metrics, table)


def test_rules_that_make_the_same_pictures_are_said_and_tie():
    metrics = metrics_of({"joint": {"sum": 0.9, "scheduled": 0.9, "rule": 0.7}})
    table = differences_of([("scheduled", "sum", "joint", 0.0, "not shown"), ("rule", "sum", "joint", -0.2, "worse")])
    assert "as has `scheduled` with the same pictures, and is shown ahead of `rule`" in winner(metrics, table)
    assert best(metrics, table) == {("sum", JOINT), ("scheduled", JOINT)}
    nothing = differences_of([("scheduled", "sum", "joint", 0.0, "not shown")])
    assert best(metrics, nothing) == set()


def test_without_tests_or_without_a_joint_score_nothing_is_claimed():
    metrics = metrics_of(SCORES)
    assert winner(metrics, None).endswith("no difference of it from another rule was tested.")
    assert best(metrics, None) == set()
    assert winner(metrics_of({"clip_score": {"sum": 1, "rule": 2}}), None) == ""
    assert winner(metrics_of({"joint": {"none": 0, "rule": 2}}), None) == ""
    assert winner(metrics.drop(columns="role"), None) == ""  # of an older version


def test_many_rules_are_counted_and_not_listed():
    names = {f"r{number}": 0.5 - number / 100 for number in range(9)}
    table = differences_of([(name, "sum", "joint", value - 0.9, "worse") for name, value in names.items()])
    said = winner(metrics_of({"joint": {"sum": 0.9, **names}}), table)
    assert "`r0` (+0.40" in said and "6 more" in said and "r5" not in said


def test_ranks_are_by_number_and_ties_share_them():
    metrics = metrics_of({"joint": {"a": 0.9, "b": 0.9, "c": 0.7, "d": 0.1}, "clip_score": {"a": 1, "b": 2}})
    first, second = ranks(metrics, {("clip_score", ""): 50})
    assert first == {("a", JOINT), ("b", JOINT)} and second == {("c", JOINT)}


def test_the_mark_of_the_terminal_says_that_fusion_rules_alone_may_have_it():
    """A single control with a higher number is no rule, and takes the mark from none."""
    table = differences_of([("rule", "sum", "joint", 0.2, "better"), ("rule", "tuned", "joint", 0.15, "better")])
    shown, _ = terminal_table(metrics_of(SCORES), table, {})
    assert [line.split()[0] for line in shown.splitlines() if line.endswith("*")] == ["rule"]
    legend = "* the best fusion rule of its column, shown ahead of every rule that it is tested against"
    assert shown.splitlines()[-1] == legend
    shown, _ = terminal_table(metrics_of(SCORES), table.assign(verdict="not shown"), {})
    assert "*" not in shown
