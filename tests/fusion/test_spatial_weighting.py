"""Competitors of MaxFusion: their limits, and what sets each apart."""

import pytest
import torch

from maxbench.fusion import Average, LargestNorm, MaxFusion, RandomChoice, SoftmaxSaliency, Sum, Weighted


def features(seed=0, branches=2, shape=(2, 8, 6, 6)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (i + 1) for i in range(branches)]


def test_a_softmax_lies_between_the_winner_and_the_average():
    f = features()
    torch.testing.assert_close(SoftmaxSaliency(1e-6).merge(f), MaxFusion(1.0).merge(f))
    torch.testing.assert_close(SoftmaxSaliency(1e6).merge(f), Average().merge(f), rtol=1e-4, atol=1e-4)
    between = SoftmaxSaliency(0.3).merge(f)
    assert not torch.allclose(between, MaxFusion(1.0).merge(f)) and not torch.allclose(between, Average().merge(f))


def test_a_softmax_asks_for_relative_saliency():
    one, two = features()
    one[:, 4:], two[:, :4] = 0, 0  # each in channels of its own: the weights can be read off
    weight = SoftmaxSaliency().merge([one, two])[:, :4] / one[:, :4]
    louder = SoftmaxSaliency().merge([one, 1000 * two])[:, :4] / one[:, :4]
    torch.testing.assert_close(louder, weight)  # loudness alone decides nothing
    assert weight.std() > 0.1


def test_the_largest_norm_is_for_the_loud():
    one, two = features()
    assert torch.equal(LargestNorm().merge([one, 1000 * two]), 1000 * two)
    merged = LargestNorm().merge([one, two])
    assert torch.equal(merged.norm(dim=1), torch.stack([one, two]).norm(dim=2).amax(0))


@pytest.mark.parametrize("branches", [2, 3])
def test_a_random_choice_takes_each_branch_about_as_often_and_always_the_same(branches):
    f = features(branches=branches, shape=(1, 2, 64, 64))
    merged = RandomChoice().merge(f)
    shares = [(merged == each).all(1).float().mean() for each in f]
    assert sum(shares) == pytest.approx(1)
    assert all(abs(share - 1 / branches) < 0.03 for share in shares)
    assert torch.equal(merged, RandomChoice().merge(f))
    assert not torch.equal(merged, RandomChoice(seed=1).merge(f))


def test_weights_are_per_branch():
    f = features()
    torch.testing.assert_close(Weighted([1.0, 1.0]).merge(f), Sum().merge(f))
    torch.testing.assert_close(Weighted([0.5, 0.5]).merge(f), Average().merge(f))
    torch.testing.assert_close(Weighted([0.0, 2.0]).merge(f), 2 * f[1])
    with pytest.raises(ValueError, match="3 weights and 2 branches"):
        Weighted([1.0, 1.0, 1.0]).merge(f)


@pytest.mark.parametrize("rule", [SoftmaxSaliency(), LargestNorm(), RandomChoice()], ids=repr)
def test_branches_go_on_with_one_feature_at_their_own_saliency(rule):
    f = features()
    shared = rule.merge(f)
    for own, going_on in zip(f, rule.unmerge(f), strict=True):
        torch.testing.assert_close(going_on.std(1, correction=0), own.std(1, correction=0))
        cosine = torch.cosine_similarity(going_on, shared, dim=1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature above 0"):
        SoftmaxSaliency(temperature)
