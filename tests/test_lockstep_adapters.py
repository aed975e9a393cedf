"""Adapters in lockstep against diffusers' own, on small random ones."""

import pytest
import torch
from diffusers import MultiAdapter, T2IAdapter

from maxbench.errors import UserError
from maxbench.fusion import Average, MaxFusion, Sum
from maxbench.lockstep import lockstep_adapters

KINDS = ("full_adapter", "full_adapter_xl", "light_adapter")


def adapters(kind, count=2, channels=(8, 16, 16, 16)):
    torch.manual_seed(0)
    return [T2IAdapter(3, list(channels), 1, 8, kind).eval() for _ in range(count)]


def maps(count=2):
    return list(torch.rand(count, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_average_of_independent_adapters_is_diffusers_multi_adapter(kind):
    nets, hints = adapters(kind), maps()
    theirs, ours = MultiAdapter(nets)(hints), lockstep_adapters(nets, Average(), hints, sites=[])
    assert len(theirs) == len(ours)
    for one, two in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", [MaxFusion(), Average(), Sum()])
@torch.inference_mode()
def test_one_branch_is_the_adapter_itself(kind, rule):
    (net,), (hint,) = adapters(kind, 1), maps(1)
    for one, two in zip(net(hint), lockstep_adapters([net], rule, [hint]), strict=True):
        assert torch.equal(one, two)


@torch.inference_mode()
def test_equal_branches_stay_equal_and_order_does_not_matter():
    first, second = adapters("full_adapter_xl")
    one, two = maps()
    for features in zip(first(one), lockstep_adapters([first, first], MaxFusion(), [one, one]), strict=True):
        torch.testing.assert_close(*features)
    forth = lockstep_adapters([first, second], MaxFusion(), [one, two])
    back = lockstep_adapters([second, first], MaxFusion(), [two, one])
    for features in zip(forth, back, strict=True):
        torch.testing.assert_close(*features)


@torch.inference_mode()
def test_sites_and_scale_matter():
    nets, hints = adapters("full_adapter_xl"), maps()
    fused = lockstep_adapters(nets, MaxFusion(delta=0.9), hints)
    apart = lockstep_adapters(nets, MaxFusion(delta=0.9), hints, sites=[])
    # without unmerging after conv_in only the outputs meet: already the first level differs
    assert not torch.allclose(fused[0], apart[0])
    for one, half in zip(fused, lockstep_adapters(nets, MaxFusion(delta=0.9), hints, scale=0.5), strict=True):
        torch.testing.assert_close(one * 0.5, half)


def test_mistakes_are_sentences():
    nets, hints = adapters("full_adapter"), maps()
    with pytest.raises(UserError, match="at least one adapter"):
        lockstep_adapters([], Sum(), [])
    with pytest.raises(UserError, match="2 adapters and 1 hints"):
        lockstep_adapters(nets, Sum(), hints[:1])
    with pytest.raises(UserError, match="unknown site"):
        lockstep_adapters(nets, Sum(), hints, sites=["up"])
    with pytest.raises(UserError, match="adapter 1 has adapter_type=light_adapter"):
        lockstep_adapters([nets[0], *adapters("light_adapter", 1)], Sum(), hints)
    with pytest.raises(UserError, match=r"hint 1 has shape \(2, 1, 64, 64\)"):
        lockstep_adapters(nets, Sum(), [hints[0], hints[1][:, :1]])
