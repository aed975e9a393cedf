"""Adapters in lockstep against diffusers' own, on small random ones."""

import pytest
import torch
from diffusers import MultiAdapter, T2IAdapter
from hypothesis import given, settings
from hypothesis import strategies as st

from maxbench.errors import UserError
from maxbench.fusion import (
    Average,
    LargestNorm,
    MaxFusion,
    NotFinite,
    PublishedMaxFusion,
    RandomChoice,
    SoftmaxSaliency,
    Sum,
)
from maxbench.models.lockstep import lockstep_adapters

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


@torch.inference_mode()
def test_a_level_has_no_hidden_state_of_its_own():
    nets, hints = adapters("full_adapter_xl"), maps()

    def pyramid(*sites):
        return lockstep_adapters(nets, MaxFusion(delta=0.9), hints, sites=sites)

    same = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(pyramid("hidden"), pyramid("down"), **same)
    torch.testing.assert_close(pyramid("hidden.1"), pyramid("down.1"), **same)
    torch.testing.assert_close(pyramid("residuals", "mid"), pyramid(), **same)
    with pytest.raises(UserError, match="the sites down and hidden unmerge the same features twice"):
        pyramid("hidden", "down")


symmetric = st.sampled_from([Average(), Sum(), MaxFusion(), MaxFusion(-1.0), MaxFusion(1.0), SoftmaxSaliency()])
rules = symmetric | st.sampled_from([LargestNorm(), RandomChoice(), PublishedMaxFusion(), MaxFusion(rescale=False)])
sites = st.lists(st.sampled_from(["conv_in", "down", "mid", "hint", "down.0", "down.3"]), unique=True)


@settings(max_examples=40, deadline=None)
@given(rule=rules, sites=sites, kind=st.sampled_from(KINDS), branches=st.integers(1, 3), batch=st.integers(1, 2),
       content=st.sampled_from(["noise", "black", "equal"]))  # fmt: skip
@torch.inference_mode()
def test_any_adapters_under_any_rule_give_the_pyramid_of_one(rule, sites, kind, branches, batch, content):
    branches = min(branches, 2) if isinstance(rule, PublishedMaxFusion) else branches
    nets = adapters(kind, branches, (4, 8, 8, 8))
    hints = {
        "noise": torch.rand(branches, batch, 3, 32, 32, generator=torch.Generator().manual_seed(2)),
        "black": torch.zeros(branches, batch, 3, 32, 32),
        "equal": torch.rand(1, batch, 3, 32, 32, generator=torch.Generator().manual_seed(3)).repeat(
            branches, 1, 1, 1, 1
        ),
    }[content]
    pyramid, own = lockstep_adapters(nets, rule, list(hints), sites=sites), nets[0](hints[0])
    assert [each.shape for each in pyramid] == [each.shape for each in own]
    assert all(each.isfinite().all() for each in pyramid)
    if content == "equal" and not isinstance(rule, Sum):  # branches that say the same stay what they are
        for fused, alone in zip(
            lockstep_adapters([nets[0]] * branches, rule, list(hints), sites=sites), own, strict=True
        ):
            torch.testing.assert_close(fused, alone, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(rule=symmetric, sites=sites, order=st.permutations(range(3)))
@torch.inference_mode()
def test_the_order_of_adapters_does_not_matter(rule, sites, order):
    nets, hints = adapters("full_adapter_xl", 3, (4, 8, 8, 8)), maps(3)
    there = lockstep_adapters(nets, rule, hints, sites=sites)
    back = lockstep_adapters([nets[i] for i in order], rule, [hints[i] for i in order], sites=sites)
    for one, two in zip(there, back, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_an_adapter_that_overflows_is_named():
    nets, (one, two) = adapters("full_adapter"), maps()
    two[0, 0, 0, 0] = torch.inf
    for rule in (MaxFusion(), Average(), Sum(), PublishedMaxFusion(), RandomChoice()):
        with pytest.raises(NotFinite, match="feature 1"):
            lockstep_adapters(nets, rule, [one, two])


@torch.inference_mode()
def test_weights_and_scales_of_levels_are_factors():
    nets, hints = adapters("full_adapter_xl"), maps()
    singles = [net(hint) for net, hint in zip(nets, hints, strict=True)]
    for level, fused in enumerate(lockstep_adapters(nets, Sum(), hints, sites=[], weights=[0.25, 3.0])):
        torch.testing.assert_close(fused, 0.25 * singles[0][level] + 3.0 * singles[1][level])
    plain = lockstep_adapters(nets, MaxFusion(), hints)
    for factor, one, two in zip(
        (1, 2, 3, 4), plain, lockstep_adapters(nets, MaxFusion(), hints, [1, 2, 3, 4]), strict=True
    ):
        torch.testing.assert_close(factor * one, two)
    with pytest.raises(UserError, match="2 scales for 4 residuals"):
        lockstep_adapters(nets, Sum(), hints, [1, 2])


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
