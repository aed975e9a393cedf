from dataclasses import replace

import pytest

from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.experiments.method import Experiment, Method
from maxbench.experiments.tuning import Choice, candidates, chosen
from maxbench.fusion import Average, MaxFusion, PublishedMaxFusion, RandomBlobs, Sum
from maxbench.store.files import fingerprint


def test_each_makes_one_method_a_condition():
    methods = Method(Sum(), branches="each").expand("single", ["hed", "depth"])
    assert [(method.name, method.branches) for method in methods] == [
        ("single/hed", ("hed",)),
        ("single/depth", ("depth",)),
    ]


def test_no_list_means_all_branches_and_an_empty_one_none():
    assert Method(Average()).expand("average", ["hed", "depth"])[0].branches == ("hed", "depth")
    assert Method(Sum(), branches=[]).expand("none", ["hed", "depth"])[0].branches == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sites": ["middle"]}, "middle"),
        (
            {"sites": ["down.x"]},
            r"sites has 'down\.x'; sites are conv_in, hint, down, hidden, residuals, mid, down\.0 for the first",
        ),
        ({"sites": "down"}, r"write \[down\]"),
        ({"scale": -1}, "scale is -1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"branches": ["pose"]}, "pose"),
        ({"branch_scale": {"pose": 1}}, "branch_scale has 'pose'; there are hed"),
        ({"branch_scale": {"hed": -1}}, r"branch_scale\.hed is -1; a control strength is a number, 0 or more"),
        ({"layer_scale": [1, -1]}, r"layer_scale\[1\] is -1"),
        ({"layer_scale": [True]}, r"layer_scale\[0\] is True"),
        ({"control_start": 1.5}, "control_start is 1.5; it must be a share of the steps, from 0 to 1"),
        ({"control_start": {"hed": -0.1}}, "control_start is -0.1"),
        ({"control_end": {"pose": 0.5}}, "control_end has 'pose'"),
        ({"fusion_start": "late"}, "fusion_start is late"),
        ({"fusion_end": 2}, "fusion_end is 2"),
    ],
)
def test_impossible_methods_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        Method(Sum(), **changes).expand("mine", ["hed"])


def test_the_baseline_must_be_a_method():
    methods = tuple(Method(Sum()).expand("sum", ["hed"]))
    with pytest.raises(UserError, match="take one of sum"):
        Experiment("x", {"hed": HED()}, methods, (), (), baselines=("average",))


def test_images_and_sources_are_in_order():
    methods = tuple(Method(Sum()).expand("sum", ["hed"]))
    samples = (Sample("b", "", {"hed": 7, "depth": 3}), Sample("a", "", {"hed": 3, "depth": 3}))
    experiment = Experiment(
        "x", {"hed": HED(), "depth": Depth()}, methods, samples, (), replicates=2, baselines=("sum",)
    )
    assert [(sample.id, replicate) for sample, replicate in experiment.images] == [
        ("b", 0),
        ("b", 1),
        ("a", 0),
        ("a", 1),
    ]
    assert experiment.sources == [3, 7]


def test_pairs_are_a_method_each():
    methods = Method(Sum(), branches="pairs").expand("pair", ["depth", "seg", "hed"])
    assert [method.name for method in methods] == ["pair/depth+seg", "pair/depth+hed", "pair/seg+hed"]
    assert methods[1].branches == ("depth", "hed")


def test_a_site_may_be_one_block_and_strengths_may_differ():
    own = {"sites": ["conv_in", "down.0"], "branch_scale": {"depth": 0}, "layer_scale": [1, 0.5]}
    (method,) = Method(Sum(), **own, control_start={"hed": 0.2}).expand("mine", ["hed", "depth"])
    assert method.sites == ("conv_in", "down.0") and method.strengths == [1, 0.5]
    assert (method.weight("hed"), method.weight("depth")) == (1, 0)


def test_what_varies_makes_one_method_a_value():
    methods = Method(Sum(), vary={"scale": [0.5, 2]}).expand("sum", ["hed", "depth"])
    assert [(method.name, method.scale) for method in methods] == [("sum/scale=0.5", 0.5), ("sum/scale=2", 2)]
    rules = Method(MaxFusion(rescale=False), vary={"rule.delta": [0, 0.7]}, scale=3).expand("mine", ["hed", "depth"])
    assert [(method.name, method.rule) for method in rules] == [
        ("mine/delta=0", MaxFusion(0, rescale=False)),
        ("mine/delta=0.7", MaxFusion(0.7, rescale=False)),
    ]
    for method in (*methods, *rules):
        assert not method.vary and method.branches == ("hed", "depth")
    assert all(method.scale == 3 for method in rules)


def test_what_varies_does_so_for_each_condition():
    methods = Method(Sum(), branches="each", vary={"scale": [1, 2]}).expand("alone", ["hed", "depth"])
    assert [(method.name, method.branches) for method in methods] == [
        ("alone/hed/scale=1", ("hed",)), ("alone/hed/scale=2", ("hed",)),
        ("alone/depth/scale=1", ("depth",)), ("alone/depth/scale=2", ("depth",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"strength": [1]}, r"vary has 'strength', which is no number of it; take scale or, say, rule\.delta"),
        ({"rule.temperature": [1]}, r"vary has 'rule\.temperature', which is no number"),
        ({"name": [1]}, "vary has 'name', which is no number"),
        ({"sampler.steps": [1]}, r"vary has 'sampler\.steps', which is no number"),
        ({"scale": []}, r"vary\.scale is \[\]; give a list of numbers"),
        ({"scale": 2}, r"vary\.scale is 2; give a list of numbers"),
        ({"scale": "123"}, r"vary\.scale is '123'; give a list of numbers"),
        ({"scale": [1], "rule.delta": [1]}, "give one number and its values"),
        ({"scale": [1, -1]}, "scale is -1; a control strength is a number, 0 or more"),
        ({"scale": [float("nan")]}, "scale is nan"),
        ({"control_start": [0, 2]}, "control_start is 2; it must be a share of the steps"),
        ({"rule.delta": [0.5, float("nan")]}, r"vary\.rule\.delta: delta is a similarity, a finite number, not nan"),
    ],
)
def test_what_cannot_vary_is_refused(vary, said):
    with pytest.raises(UserError, match=rf"^methods\.mine\..*{said}"):
        Method(MaxFusion(), vary=vary).expand("mine", ["hed", "depth"])


# --- what a row is -------------------------------------------------------------------------------------------


def test_a_role_is_how_many_controls_act_together():
    roles = {count: Method(Sum(), branches=("hed", "depth", "seg")[:count]).role for count in range(4)}
    assert Method(RandomBlobs(), branches=("hed", "depth")).role == "chance"  # no rule that a table ranks
    assert Method(RandomBlobs(), branches=("hed",)).role == "single"
    assert roles == {0: "none", 1: "single", 2: "fusion", 3: "fusion"}


def test_a_method_says_its_entry_series_parameter_and_setting_so_that_nobody_takes_its_name_apart():
    own = Method(MaxFusion(), branches="each", vary={"rule.delta": [0, 0.7]}).expand("mine", ["hed", "depth"])
    assert [(each.entry, each.series, each.parameter, each.setting) for each in own] == [
        ("mine", "mine/hed", "rule.delta", 0.0), ("mine", "mine/hed", "rule.delta", 0.7),
        ("mine", "mine/depth", "rule.delta", 0.0), ("mine", "mine/depth", "rule.delta", 0.7),
    ]  # fmt: skip
    (plain,) = Method(Sum()).expand("sum", ["hed", "depth"])
    assert (plain.entry, plain.series, plain.parameter, plain.setting) == ("sum", "sum", None, None)
    assert plain.is_unit and not any(each.is_unit for each in own)
    assert not Method(Sum(), match="sum").expand("other", ["hed"])[0].is_unit


@pytest.mark.parametrize("name", ["real", "Real", "shuffled", "vae_reconstruction", "Sum"])
def test_no_two_rows_share_their_files_also_where_capitals_do_not_count(name):
    methods = tuple(Method(Sum(), name=each, branches=("hed",)) for each in ("sum", name))
    with pytest.raises(UserError, match=f"'{name}' would write the files of"):
        Experiment("x", {"hed": HED()}, methods, (), (), baselines=("sum",))


def identity(method):
    return fingerprint(method.identity())


def test_what_a_method_is_called_and_what_it_comes_from_are_no_part_of_its_identity():
    one = Method(MaxFusion(0.5), branches=("hed", "depth"), name="one", entry="one", scale=2)
    (varied,) = Method(MaxFusion(0.7), vary={"rule.delta": [0.5]}, scale=2.0).expand("two", ["hed", "depth"])
    assert identity(one) == identity(varied)
    spelled = Method(
        MaxFusion(0.5), branches=["hed", "depth"], scale=2, branch_scale={"depth": 1}, control_start={"hed": 0}
    )
    assert identity(one) == identity(spelled)  # what is said outright and was so anyway


def test_no_control_is_one_identity_whatever_the_rule():
    assert identity(Method(Sum(), branches=())) == identity(Method(MaxFusion(), branches=(), scale=3))


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": MaxFusion(0.6)}, {"rule": Sum()}, {"branches": ("depth", "hed")}, {"branches": ("hed",)},
        {"scale": 1.5}, {"branch_scale": {"hed": 0.5}}, {"layer_scale": [0.5]}, {"sites": ("down",)},
        {"control_end": 0.5}, {"control_start": {"hed": 0.5}}, {"fusion_start": 0.5}, {"fusion_end": 0.5},
        {"fusion_end": 0.5, "otherwise": MaxFusion(0.1)},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_changes_pictures_changes_the_identity(changes):
    plain = Method(MaxFusion(0.5), branches=("hed", "depth"))
    assert identity(replace(plain, **changes)) != identity(plain)


def test_what_a_fusion_is_replaced_by_counts_only_where_it_acts():
    plain = Method(MaxFusion(0.5), branches=("hed", "depth"))
    assert identity(replace(plain, otherwise=MaxFusion(0.1))) == identity(plain)
    ends = replace(plain, fusion_end=0.5)
    assert identity(replace(ends, otherwise=MaxFusion(0.1))) != identity(ends)


def test_delta_is_the_threshold_of_a_rule_that_fuses():
    def delta(rule, **settings):
        (method,) = Method(rule=rule, **settings).expand("m", ["hed", "depth"])[:1]
        return method.delta

    assert delta(MaxFusion(0.5)) == 0.5 and delta(PublishedMaxFusion()) == 0.7 and delta(Sum()) is None
    assert delta(MaxFusion(0.5), branches=["hed"]) is None and delta(MaxFusion(0.5), branches=[]) is None
    assert delta(MaxFusion(0.5), vary={"rule.delta": [0.25, 1]}) == 0.25
    open_ = Method(rule=MaxFusion(0.7), tune={"rule.delta": [0.7, 0.9]}).expand("m", ["hed", "depth"])[0]
    assert open_.delta is None  # until one is chosen
    own = candidates(open_)
    assert [each.method.delta for each in own] == [0.7, 0.9] and chosen(open_, Choice(own, [0.1, 0.2])).delta == 0.9
