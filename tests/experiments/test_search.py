"""What a search proposes: within its ranges, the same from the same past, and better than chance."""

import pytest

from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.experiments.search import propose, require_optuna, stand_ins
from maxbench.experiments.tuning import Tried, axes, candidates, own_setting
from maxbench.fusion import MaxFusion, Sum

RANGES = {"rule.delta": (-1.0, 1.0), "scale": (0.25, 4.0)}


def searched(count, worth, seed=0):
    """A search from its beginning."""
    tried = []
    while len(tried) < count:
        said = propose(RANGES, tried, seed)
        tried.append(Tried(said, worth(said)))
    return tried


def worth(said):
    return -((said["rule.delta"] - 0.4) ** 2) - (said["scale"] - 1.5) ** 2


def test_proposals_are_within_their_ranges_and_short():
    for each in searched(12, worth):
        for name, (low, high) in RANGES.items():
            assert low <= each.said[name] <= high and float(f"{each.said[name]:.4g}") == each.said[name]


def test_a_search_that_goes_on_is_the_unbroken_one():
    whole = searched(16, worth)
    for cut in (1, 9, 13):
        tried = whole[:cut]
        while len(tried) < 16:
            said = propose(RANGES, tried, 0)
            tried = [*tried, Tried(said, worth(said))]
        assert tried == whole
    assert searched(5, worth, seed=1) != whole[:5]


def test_it_learns_from_what_was_tried():
    """Later proposals are nearer to the best than the first ones, which are drawn at random."""
    whole = searched(40, worth)
    first, last = whole[:10], whole[-10:]
    assert sum(each.joint for each in last) > sum(each.joint for each in first)
    assert max(each.joint for each in whole) > -0.1


def method(tune, rule=None, **settings):
    (made,) = Method(rule=rule or Sum(), tune=tune, trials=5, **settings).expand("mine", ["hed", "depth"])
    return made


def test_the_first_setting_is_the_method_s_own():
    found = method({"rule.delta": [0.0, 1.0], "scale": [0.5, 2.0]}, MaxFusion(delta=0.6), scale=3.0)
    (first,) = candidates(found)
    assert first.said == {"rule.delta": 0.6, "scale": 1.0} and first.method.scale == 3.0
    assert first.method.identity() == Method(rule=MaxFusion(0.6), scale=3.0).expand("a", ["hed", "depth"])[0].identity()
    assert own_setting(method({"rule.delta": [0.8, 1.0]}, MaxFusion(delta=0.6))) == {"rule.delta": 0.8}
    found = method({"branch_scale": [0.5, 2.0], "control_end": [0.2, 1.0]}, branch_scale={"hed": 1.5})
    assert own_setting(found) == {
        "branch_scale.hed": 1.5, "branch_scale.depth": 1.0, "control_end.hed": 1.0, "control_end.depth": 1.0
    }  # fmt: skip


def test_stand_ins_are_as_many_as_will_be_tried_and_all_different():
    found = method({"rule.delta": [-1.0, 1.0], "scale": [0.5, 2.0]}, MaxFusion())
    known = [Tried({"rule.delta": 0.25, "scale": 1.5}, 0.3)]
    options = stand_ins(found, known)
    assert len(options) == 5 and options[0].said == known[0].said
    assert len({str(each.said) for each in options}) == 5 and len({each.method.name for each in options}) == 5
    for each in options:
        assert all(low <= each.said[name] <= high for name, (low, high) in axes(found).items())


def test_stand_ins_of_what_comes_then_are_as_many_as_will_be_tried():
    (found,) = Method(rule=Sum(), tune={"scale": [1.0, 2.0]}, then={"branch_scale": [1.0, 0.5]}).expand("m", ["a", "b"])
    open_ = stand_ins(found, [])
    assert [each.method.name for each in open_] == [f"m/{number}" for number in range(5)]
    tried = [Tried(open_[0].said, 0.1), Tried(open_[1].said, 0.2)]
    assert {each.said["scale"] for each in stand_ins(found, tried)[2:]} == {2.0}  # what is known counts
    assert len({str(each.said) for each in stand_ins(found, tried)}) == 5


def test_without_optuna_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr("maxbench.experiments.search.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'maxbench\[search\]'"):
        require_optuna()
