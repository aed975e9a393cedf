"""The gated sum against plain loops, its limits, and what its parameters change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maxbench.fusion import GatedSum, MaxFusion, Sum


def features(seed=0, branches=2, shape=(2, 6, 5, 4), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * (i + 1)).to(dtype) * places
        for i in range(branches)
        for places in [torch.rand(shape[0], 1, *shape[2:], generator=generator).to(dtype)]
    ]


def oracle(features, power, normaliser, smoothing):
    """Gates location by location in Python floats, (branch, batch, height, width)."""
    batch, channels, height, width = features[0].shape
    gates = torch.zeros(len(features), batch, height, width, dtype=torch.float64)
    for b in range(batch):
        relative = []
        for f in features:
            sigma = [[0.0] * width for _ in range(height)]
            for j in range(height):
                for k in range(width):
                    vector = [f[b, c, j, k].item() for c in range(channels)]
                    mean = sum(vector) / channels
                    sigma[j][k] = math.sqrt(sum((x - mean) ** 2 for x in vector) / channels)
            everything = [value for row in sigma for value in row]
            by = {"sum": sum(everything), "max": max(everything), "none": 1.0}[normaliser]
            sigma = [[value / by for value in row] for row in sigma]
            if smoothing:
                sigma = ndimage.gaussian_filter(sigma, smoothing, mode="constant", radius=math.ceil(3 * smoothing))
            relative.append(sigma)
        for j in range(height):
            for k in range(width):
                most = max(each[j][k] for each in relative)
                for i, each in enumerate(relative):
                    gates[i, b, j, k] = (each[j][k] / most) ** power
    return gates


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    branches=st.integers(2, 3),
    power=st.floats(0, 6),
    normaliser=st.sampled_from(["sum", "max", "none"]),
    smoothing=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_it_is_the_formula_location_by_location(seed, branches, power, normaliser, smoothing):
    f = features(seed, branches)
    gates = oracle(f, power, normaliser, smoothing)
    expected = sum(gate[:, None] * each for gate, each in zip(gates, f, strict=True))
    torch.testing.assert_close(GatedSum(power, normaliser, smoothing).merge(f), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("branches", [2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_without_power_it_is_the_sum(branches, smoothing):
    f = features(1, branches, dtype=torch.float32)
    assert torch.equal(GatedSum(power=0, smoothing=smoothing).merge(f), Sum().merge(f))
    f[1] = torch.zeros_like(f[1])  # also with a branch that is silent
    assert torch.equal(GatedSum(power=0).merge(f), Sum().merge(f))


@pytest.mark.parametrize("branches", [2, 3])
def test_with_all_power_it_is_the_selection_by_saliency(branches):
    f = features(2, branches, (2, 8, 9, 9))
    torch.testing.assert_close(GatedSum(power=1e7).merge(f), MaxFusion(1.0).merge(f))


def test_smoothed_over_everything_it_is_the_sum():
    f = features(3)
    torch.testing.assert_close(GatedSum(smoothing=1e5).merge(f), Sum().merge(f))
    assert not torch.allclose(GatedSum(smoothing=0.5).merge(f), GatedSum().merge(f))


def test_a_silent_branch_leaves_the_other_alone_and_two_are_no_nan():
    one, other = features(4, dtype=torch.float32)
    one[..., 0], other[..., 0] = 0, 0
    one[..., 1] = 0
    merged = GatedSum().merge([one, other])
    assert not merged[..., 0].any() and torch.equal(merged[..., 1], other[..., 1])
    flat = torch.ones_like(one)  # no saliency, yet not silent: every gate is 1
    assert torch.equal(GatedSum().merge([flat, flat]), 2 * flat)


def test_loudness_counts_only_without_a_normaliser():
    one, other = features(5)
    for normaliser in ("sum", "max"):
        rule = GatedSum(normaliser=normaliser)
        torch.testing.assert_close(rule.weigh([one, 1000 * other]), rule.weigh([one, other]))
    torch.testing.assert_close(GatedSum(normaliser="none").merge([one, 1e6 * other]), 1e6 * other)


def test_a_quieter_branch_is_not_lost_in_half_precision():
    one, other = (each.half() for each in features(6))
    exact = GatedSum().merge([one.double(), other.double()])
    torch.testing.assert_close(GatedSum().merge([one, other]), exact.half(), rtol=2e-3, atol=2e-3)
    loud = torch.full((1, 2, 1, 1), 60000.0, dtype=torch.float16)
    assert GatedSum().merge([loud, loud]).max() == torch.finfo(torch.float16).max  # saturated, not infinite


def test_branches_go_on_with_the_gated_sum_at_their_own_saliency():
    f = features(7, 3)
    shared = GatedSum().merge(f)
    for own, going_on in zip(f, GatedSum().unmerge(f), strict=True):
        torch.testing.assert_close(going_on.std(1, correction=0), own.std(1, correction=0))
        cosine = torch.cosine_similarity(going_on, shared, dim=1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_only_maps_of_some_sizes_are_gated_and_the_others_added():
    rule = GatedSum(sides=[3, 5])
    assert rule == GatedSum(sides=(3, 5))
    for side, gated in ((2, False), (3, True), (5, True), (6, False)):
        f = features(8, shape=(1, 6, side, side - 1))
        assert torch.equal(rule.merge(f), (GatedSum() if gated else Sum()).merge(f))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"power": -1}, "power is a finite number, 0 or more, not -1"),
        ({"power": math.inf}, "power is a finite number, 0 or more, not inf"),
        ({"power": math.nan}, "not nan"),
        ({"smoothing": -0.5}, "smoothing is a finite number, 0 or more, not -0.5"),
        ({"smoothing": "much"}, "not much"),
        ({"normaliser": "mean"}, "normaliser is one of sum, max, none, not 'mean'"),
        ({"sides": 4}, "sides are two numbers, the least and the most, or null, not 4"),
        ({"sides": [8, 4]}, r"or null, not \[8, 4\]"),
        ({"sides": [0, 4]}, r"or null, not \[0, 4\]"),
    ],
)
def test_mistakes_are_sentences(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        GatedSum(**parameters)
