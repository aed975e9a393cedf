"""The released rule, row by row of what it does otherwise than the paper."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxbench.fusion import MaxFusion, PublishedMaxFusion

PAPER = {"similarity": "cosine", "saliency": "std", "normaliser": "sample", "halves": False}
EXACT = {"rtol": 0, "atol": 0}


def pair(seed, prompts=1, channels=6, size=4):
    """Two related features of both guidance halves of some prompts."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2 * prompts, channels, size, size)
    common = torch.randn(shape, generator=generator)
    return [(common + torch.randn(shape, generator=generator)) * (i + 1) for i in range(2)]


def oracle(one, two, delta):
    """One prompt, location by location in Python floats: the merged tensor before it is unpacked, and what goes on."""
    halves, channels, height, width = one.shape
    lists = one.tolist(), two.tolist()

    def at(b, j, k):
        return [[f[b][c][j][k] for c in range(channels)] for f in lists]

    def mean(v):
        return sum(v) / len(v)

    def variance(v, correction):
        return sum((x - mean(v)) ** 2 for x in v) / (len(v) - correction)

    places = list(product(range(halves), range(height), range(width)))
    totals = [sum(variance(at(*place)[i], 0) for place in places) for i in (0, 1)]  # one sum over everything
    merged, going_on = torch.zeros_like(one), [torch.zeros_like(one), torch.zeros_like(one)]
    for b, j, k in places:
        a, c = at(b, j, k)
        centred = [[x - mean(v) for x in v] for v in (a, c)]
        norms = math.hypot(*centred[0]) * math.hypot(*centred[1])
        rho = sum(x * y for x, y in zip(*centred, strict=True)) / norms
        first = variance(a, 0) / totals[0] >= variance(c, 0) / totals[1]
        winner = a if first else c
        average = [(x + y) / 2 for x, y in zip(a, c, strict=True)]
        merged[b, :, j, k] = torch.tensor(average if rho > delta else winner)
        for i, own in enumerate((a, c)):
            ratio = math.sqrt(variance(own, 1) / variance(winner, 1))
            going_on[i][b, :, j, k] = torch.tensor(average if rho > delta else [ratio * x for x in winner])
    return merged, going_on


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), delta=st.sampled_from([-0.5, 0.3, 0.7, 0.95]))
def test_it_is_the_released_rule_location_by_location(seed, delta):
    one, two = pair(seed, size=3)
    merged, going_on = oracle(one, two, delta)
    rule = PublishedMaxFusion(delta)
    torch.testing.assert_close(rule.unmerge([one, two]), going_on)
    unconditional, conditional = merged.chunk(2)
    torch.testing.assert_close(rule.merge([one, two]), torch.cat([unconditional, unconditional]))
    torch.testing.assert_close(rule.merge_mid([one, two]), torch.cat([conditional, conditional]))


def test_without_its_departures_it_is_the_papers_rule():
    features = pair(1, prompts=2)
    ours, theirs = MaxFusion(0.6), PublishedMaxFusion(0.6, **PAPER)
    torch.testing.assert_close(theirs.merge(features), ours.merge(features))
    torch.testing.assert_close(theirs.merge_mid(features), ours.merge(features))
    torch.testing.assert_close(theirs.unmerge(features), ours.unmerge(features))


@pytest.mark.parametrize("departure", PAPER)
def test_every_departure_changes_something(departure):
    features = pair(2, prompts=1, size=16)
    features[1] = features[1] * torch.randn(2, 1, 16, 16).exp()  # one branch has loud places, the other none
    features[0] = features[0] * torch.tensor([1.0, 30.0])[:, None, None, None]  # and a loud half
    for act in ("merge", "unmerge"):
        paper = getattr(PublishedMaxFusion(0.6, **PAPER), act)(features)
        own = {name: value for name, value in PAPER.items() if name != departure}
        changed = getattr(PublishedMaxFusion(0.6, **own), act)(features)
        if act == "merge" or departure != "halves":  # halves are an affair of the outputs
            assert any(not torch.allclose(*each) for each in zip(paper, changed, strict=True))


def test_several_prompts_behave_as_each_alone_would():
    features = pair(3, prompts=3)
    features = [feature * torch.tensor([1.0, 1e3, 1e-3] * 2)[:, None, None, None] for feature in features]
    rule = PublishedMaxFusion()
    together = [rule.merge(features), rule.merge_mid(features), *rule.unmerge(features)]
    for prompt in range(3):
        alone = [feature[[prompt, 3 + prompt]] for feature in features]
        for whole, own in zip(together, [rule.merge(alone), rule.merge_mid(alone), *rule.unmerge(alone)], strict=True):
            torch.testing.assert_close(whole[[prompt, 3 + prompt]], own)


def test_a_half_depends_on_the_other_half():
    features = pair(4, size=8)
    louder = [features[0].clone(), features[1]]
    louder[0][1] *= 100  # the conditional half of one branch
    before, after = (PublishedMaxFusion().merge(each)[0] for each in (features, louder))
    assert not torch.allclose(before, after)  # the unconditional half's winners have changed


def test_the_first_wins_a_tie_and_silence_is_no_nan():
    zero = torch.zeros(2, 4, 2, 2)
    rule = PublishedMaxFusion()
    assert not any(out.any() for out in (rule.merge([zero, zero]), *rule.unmerge([zero, zero])))
    one = torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None, None].expand(2, 4, 1, 1).contiguous()
    other = torch.tensor([1.0, 1.0, -1.0, -1.0])[None, :, None, None].expand(2, 4, 1, 1).contiguous()
    torch.testing.assert_close(rule.merge([one, other]), one, **EXACT)
    torch.testing.assert_close(rule.merge([other, one]), other, **EXACT)


def test_one_channel_and_one_pixel_are_no_trouble():
    features = [torch.randn(2, 1, 1, 1), torch.randn(2, 1, 1, 1)]
    for out in (PublishedMaxFusion().merge(features), *PublishedMaxFusion().unmerge(features)):
        assert out.shape == (2, 1, 1, 1) and out.isfinite().all()


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="two branches, not 3"):
        PublishedMaxFusion().merge([torch.zeros(2, 4, 2, 2)] * 3)
    with pytest.raises(ValueError, match="a batch of 3 has no two guidance halves"):
        PublishedMaxFusion().merge([torch.zeros(3, 4, 2, 2)] * 2)
    with pytest.raises(ValueError, match="similarity is one of pearson, cosine, not 'dot'"):
        PublishedMaxFusion(similarity="dot")
    with pytest.raises(ValueError, match="not nan"):
        PublishedMaxFusion(delta=math.nan)
