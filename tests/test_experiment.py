import pytest

from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.experiment import Experiment, Method
from maxbench.fusion import Average, Sum


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
    [({"sites": ["middle"]}, "middle"), ({"scale": -1}, "scale is -1"), ({"branches": ["pose"]}, "pose")],
)
def test_impossible_methods_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        Method(Sum(), **changes).expand("mine", ["hed"])


def test_the_baseline_must_be_a_method():
    methods = tuple(Method(Sum()).expand("sum", ["hed"]))
    with pytest.raises(UserError, match="take one of sum"):
        Experiment("x", {"hed": HED()}, methods, (), (), baseline="average")


def test_images_and_sources_are_in_order():
    methods = tuple(Method(Sum()).expand("sum", ["hed"]))
    samples = (Sample("b", "", {"hed": 7, "depth": 3}), Sample("a", "", {"hed": 3, "depth": 3}))
    experiment = Experiment("x", {"hed": HED(), "depth": Depth()}, methods, samples, (), replicates=2, baseline="sum")
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
