"""Parameters read from the source are those that the classes have."""

import inspect

import pytest
from omegaconf import OmegaConf

from maxbench.configuration.component import locate
from maxbench.configuration.compose import CONF
from maxbench.configuration.sources import check_components, parameters
from maxbench.errors import UserError


def targets(value):
    if isinstance(value, dict):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        for inner in value.values():
            yield from targets(inner)


OURS = sorted(
    {
        target
        for room in ("condition", "data", "fusion", "pairing", "sampler", "suite")
        for path in (CONF / room).glob("*.yaml")
        for target in targets(OmegaConf.to_container(OmegaConf.load(path)))
        if target.startswith("maxbench.")
    }
)


@pytest.mark.parametrize("target", OURS)
def test_the_source_says_what_the_class_says(target):
    found = locate(target, "key")
    if isinstance(found, type):
        assert parameters(target) == list(inspect.signature(found).parameters)
    else:
        assert parameters(target) is None  # a function, looked at when it is there


def test_nothing_is_said_of_what_the_source_does_not_say():
    for target in ("torch.nn.Linear", "maxbench.nowhere.X", "maxbench.fusion.nothing", "mine.Rule", "maxbench", ""):
        assert parameters(target) is None


def test_a_misspelt_parameter_is_named_with_the_nearest_one():
    rule = {"_target_": "maxbench.fusion.MaxFusion", "detla": 0.5}
    with pytest.raises(UserError, match=r"no setting 'a\.rule\.detla'; did you mean 'a\.rule\.delta'"):
        check_components({"a": {"rule": rule}})
