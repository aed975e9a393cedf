"""Competitors of MaxFusion: their limits, and what sets each apart."""

import pytest
import torch

from maxbench.fusion import Average, LargestNorm, MaxFusion, RandomBlobs, RandomChoice, SoftmaxSaliency, Sum, Weighted


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


def owners(rule, branches=2, height=48, width=48):
    """Whose each location is, (height, width)."""
    return rule.merge([torch.full((1, 1, height, width), float(i)) for i in range(branches)])[0, 0]


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_random_blobs_give_every_branch_the_same_area_over_the_seeds(branches):
    shares = torch.stack(
        [
            torch.stack(
                [(owners(RandomBlobs(seed, 0.25), branches, 16, 16) == i).double().mean() for i in range(branches)]
            )
            for seed in range(200)
        ]
    )
    error = shares.std(dim=0) / 200**0.5
    assert ((shares.mean(dim=0) - 1 / branches).abs() < 4 * error).all()
    assert (shares[:, 0] - 1 / branches).abs().max() < 0.2  # and in each pattern about so


@pytest.mark.parametrize("shape", [(16, 16), (8, 12), (5, 7)])
def test_random_blobs_are_one_pattern_at_every_resolution(shape):
    height, width = shape
    fine = owners(RandomBlobs(3), 3, 3 * height, 3 * width)
    # the middle one of three by three locations lies where the coarse one lies
    assert torch.equal(owners(RandomBlobs(3), 3, height, width), fine[1::3, 1::3])


def test_random_blobs_are_blobs_and_the_seed_draws_them():
    def borders(pattern):
        return (pattern[:, 1:] != pattern[:, :-1]).double().mean() + (pattern[1:] != pattern[:-1]).double().mean()

    patterns = [owners(RandomBlobs(seed)) for seed in range(20)]
    assert sum(map(borders, patterns)) / 20 < 0.3 * borders(owners(RandomChoice()))
    assert not any(torch.equal(patterns[0], other) for other in patterns[1:])
    assert torch.equal(patterns[0], owners(RandomBlobs(0)))
    few, many = (sum(borders(owners(RandomBlobs(seed, size))) for seed in range(20)) for size in (0.5, 0.1))
    assert many > 2 * few


def test_random_blobs_are_the_cells_of_one_point_in_each_square():
    rule, side = RandomBlobs(5, 0.25), 4
    pattern = owners(rule, 16, 64, 64)  # as many branches as blobs: each owns one
    assert sorted(pattern.unique().tolist()) == list(range(16))
    for branch in range(16):
        rows, columns = torch.nonzero(pattern == branch, as_tuple=True)
        assert rows.max() - rows.min() <= 64 * 3 / side and columns.max() - columns.min() <= 64 * 3 / side


@pytest.mark.parametrize("size", [0, 0.01, 0.7, float("nan"), "big"])
def test_the_size_of_blobs_is_a_share(size):
    with pytest.raises(ValueError, match=f"from 0.05 to 0.5, not {size}"):
        RandomBlobs(size=size)


def test_weights_are_per_branch():
    f = features()
    torch.testing.assert_close(Weighted([1.0, 1.0]).merge(f), Sum().merge(f))
    torch.testing.assert_close(Weighted([0.5, 0.5]).merge(f), Average().merge(f))
    torch.testing.assert_close(Weighted([0.0, 2.0]).merge(f), 2 * f[1])
    with pytest.raises(ValueError, match="3 weights and 2 branches"):
        Weighted([1.0, 1.0, 1.0]).merge(f)


@pytest.mark.parametrize("rule", [SoftmaxSaliency(), LargestNorm(), RandomChoice(), RandomBlobs()], ids=repr)
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
