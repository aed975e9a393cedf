"""What a tuned method is chosen from, and how."""

import pytest

from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.experiments.tuning import Candidate, Choice, Tried, axes, candidates, chosen, require_settings
from maxbench.fusion import GatedSum, MaxFusion, Sum


def method(tune, rule=None, **settings):
    (made,) = Method(rule=rule or Sum(), tune=tune, **settings).expand("mine", ["hed", "depth"])
    return made


def test_every_combination_in_the_order_of_the_lists():
    found = candidates(method({"branch_scale": [1.0, 0.5], "rule.delta": [0.7, 0.2]}, MaxFusion()))
    assert [each.said for each in found] == [
        {"branch_scale.hed": hed, "branch_scale.depth": depth, "rule.delta": delta}
        for hed in (1.0, 0.5) for depth in (1.0, 0.5) for delta in (0.7, 0.2)
    ]  # fmt: skip
    assert [each.method.name for each in found] == [f"mine/{number}" for number in range(8)]
    last = found[-1].method
    assert last.branch_scale == {"hed": 0.5, "depth": 0.5} and last.rule == MaxFusion(delta=0.2)
    assert all(not each.method.tune for each in found)


def test_what_comes_then_is_tried_at_the_best_of_what_came_first():
    asked = method({"scale": [1.0, 0.5, 2.0]}, MaxFusion(), then={"rule.delta": [0.7, 0.2], "control_end": [1.0]})
    rest = {"rule.delta": 0.7, "control_end.hed": 1.0, "control_end.depth": 1.0}
    first = candidates(asked)
    assert [each.said for each in first] == [{"scale": scale, **rest} for scale in (1.0, 0.5, 2.0)]
    tried = [Tried(each.said, joint) for each, joint in zip(first, (0.1, 0.6, 0.6), strict=True)]
    assert candidates(asked, tried[:2]) == first  # all of a stage, or it is not done
    (further,) = candidates(asked, tried)  # what is known is not tried again
    assert further.said == {**rest, "scale": 0.5, "rule.delta": 0.2} and further.method.name == "mine/3"
    assert further.method.scale == 0.5 and further.method.rule == MaxFusion(delta=0.2) and not further.method.then
    assert candidates(asked, [*tried, Tried(further.said, 0.9)]) == []
    assert candidates(method({"scale": [1.0, 2.0]}), tried[:2]) == []  # nothing comes then
    assert list(axes(asked)) == ["scale", *rest]


def test_every_branch_chooses_then_for_itself():
    asked = method({"scale": [1.0]}, then={"branch_scale": [1.0, 2.0]})
    further = candidates(asked, [Tried(candidates(asked)[0].said, 0.5)])
    assert [(each.said["branch_scale.hed"], each.said["branch_scale.depth"]) for each in further] == [
        (1, 2), (2, 1), (2, 2)
    ]  # fmt: skip


def test_the_first_of_the_best_goes_on():
    asked = method({"scale": [1.0, 2.0, 3.0]}, then={"rule.power": [2.0, 1.0]}, rule=GatedSum())
    tried = [Tried(each.said, 0.3) for each in candidates(asked)]
    (further,) = candidates(asked, tried)
    assert further.said == {"scale": 1.0, "rule.power": 1.0}
    options = [*candidates(asked), further]
    assert Choice(options, [0.3] * 4).best is options[0]


def test_balance_is_the_first_branch_s_strength_beside_the_others():
    asked = method({"balance": [1.0, 4.0]}, branch_scale={"depth": 3.0})
    even, tilted = (each.method.branch_scale for each in candidates(asked))
    assert even == {"hed": 1.0, "depth": 3.0} and tilted == {"hed": 2.0, "depth": 1.5}
    assert even["hed"] * even["depth"] == tilted["hed"] * tilted["depth"]


def test_scale_is_a_factor_and_all_else_a_value():
    found = candidates(method({"scale": [1.0, 0.5]}, scale=2.0))
    assert [each.method.scale for each in found] == [2.0, 1.0]
    (only,) = candidates(method({"control_end": [0.5], "branch_scale": [3.0]}, scale=2.0, branch_scale={"hed": 9.0}))
    assert only.method.scale == 2.0 and only.method.branch_scale == {"hed": 3.0, "depth": 3.0}
    assert only.method.control_end == {"hed": 0.5, "depth": 0.5}


def test_a_branch_chooses_for_itself_where_it_is_there():
    alone = Method(rule=Sum(), branches="each", tune={"control_end": [1.0, 0.4]}).expand("single", ["hed", "depth"])
    assert [each.name for each in alone] == ["single/hed", "single/depth"]
    for each in alone:
        (branch,) = each.branches
        assert [found.said for found in candidates(each)] == [{f"control_end.{branch}": end} for end in (1.0, 0.4)]
    assert not any(each.is_unit for each in alone)  # what is tuned is no measure of others


def test_several_numbers_of_a_rule_are_set_together():
    rule = MaxFusion(delta=0.1)
    found = candidates(method({"rule.delta": [0.3]}, rule))
    assert found[0].method.rule.delta == 0.3 and rule.delta == 0.1


def test_the_best_is_the_first_of_the_best():
    one, other, third = candidates(method({"scale": [1.0, 2.0, 3.0]}))
    assert Choice((one, other, third), (0.5, 0.5, 0.4)).best is one
    assert Choice((one, other, third), (0.1, 0.5, 0.5)).best is other
    assert Choice((one, other, third), (-0.3, -0.2, -0.1)).best is third
    assert Choice((one,), (0.0,)).best is one


def test_what_is_chosen_keeps_its_name_and_is_that_candidate():
    asked = method({"scale": [1.0, 0.5]}, scale=2.0)
    one, other = candidates(asked)
    found = chosen(asked, Choice((one, other), (0.1, 0.2)))
    assert (found.name, found.scale, found.tuned) == ("mine", 1.0, {"scale": 0.5})
    assert found.identity() == other.method.identity() != one.method.identity()
    assert found.tune == asked.tune and not found.is_unit
    plain = Method(rule=Sum(), scale=1.0).expand("other", ["hed", "depth"])[0]
    assert found.identity() == plain.identity()  # the same pictures as of a plain method with these settings


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"rule.dleta": [0.5]}, r"methods\.mine\.tune has 'rule\.dleta', which is no number of its rule"),
        ({"rule.delta": [float("nan")]}, r"methods\.mine\.tune\.rule\.delta: delta is a similarity"),
        ({"rule.unmerge": [0.5]}, r"methods\.mine\.tune has 'rule\.unmerge', which is no number of its rule"),
    ],
)
def test_what_a_rule_does_not_take_is_a_sentence(tune, message):
    with pytest.raises(UserError, match=message):
        candidates(method(tune, MaxFusion()))


def test_what_only_two_values_together_break_is_found_before_anything_is_made():
    asked = method({"rule.delta": [0.5]}, MaxFusion(), then={"rule.delta_": [1.0]})
    with pytest.raises(UserError, match=r"methods\.mine\.then has 'rule\.delta_', which is no number of its rule"):
        require_settings(asked)
    with pytest.raises(UserError, match=r"methods\.mine\.then\.rule\.power: "):
        require_settings(method({"scale": [1.0]}, GatedSum(), then={"rule.power": [2.0, -1.0]}))
    require_settings(method({"scale": [1.0, 2.0]}, GatedSum(), then={"rule.power": [2.0, 1.0]}))


def test_a_candidate_says_what_it_is():
    found = candidates(method({"scale": [1.0]}))[0]
    assert isinstance(found, Candidate) and found.said == {"scale": 1.0}
