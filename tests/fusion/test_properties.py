"""Laws of every rule, over shapes, dtypes, numbers of branches and extreme values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maxbench.fusion import (
    RATIO_CAP,
    Average,
    ChannelFusion,
    GatedSum,
    LargestNorm,
    MaxFusion,
    NotFinite,
    PixFusion,
    PublishedMaxFusion,
    RandomBlobs,
    RandomChoice,
    SoftmaxSaliency,
    Sum,
    Weighted,
)
from maxbench.fusion.base import winners

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EXACT = {"rtol": 0, "atol": 0}
CONTENTS = ("noise", "zeros", "flat", "parallel", "opposite", "one silent", "tiny", "huge")

deltas = st.floats(-1.5, 1.5, allow_nan=False) | st.sampled_from([-1.0, 0.0, 0.7, 1.0])
mixing = st.one_of(  # rules that give a mean of what they are given, of any number of branches
    st.builds(MaxFusion, deltas, st.booleans()),
    st.just(Average()),
    st.builds(SoftmaxSaliency, st.floats(1e-3, 1e3)),
    st.just(LargestNorm()),
    st.builds(RandomChoice, st.integers(0, 9)),
    st.builds(RandomBlobs, st.integers(0, 9), st.floats(0.05, 0.5)),
)
gated = st.builds(GatedSum, st.floats(0, 20), st.sampled_from(["sum", "max", "none"]), st.just(0.0) | st.floats(0.1, 3))
published = st.builds(
    PublishedMaxFusion, deltas, st.sampled_from(["pearson", "cosine"]), st.sampled_from(["variance", "std"]),
    st.sampled_from(["pair", "sample"]), st.booleans(),
)  # fmt: skip


successors = st.builds(
    PixFusion, deltas, st.sampled_from(["std", "variance"]), st.sampled_from(["pair", "sample"]), st.booleans()
) | st.builds(
    ChannelFusion, deltas, st.sampled_from(["std", "variance"]), st.sampled_from(["pair", "sample"]), st.booleans(),
    st.floats(0, 1),
)  # fmt: skip
FOR_TWO = PublishedMaxFusion | PixFusion


@st.composite
def cases(draw, dtypes=DTYPES, contents=CONTENTS):
    """A rule, features that it takes, and what they are like."""
    rule = draw(mixing | published | successors | gated | st.just(Sum()) | st.just(Weighted([0.3, 1.7])))
    few = isinstance(rule, FOR_TWO)
    branches = 2 if isinstance(rule, Weighted) else draw(st.integers(1, 2 if few else 4))
    batch = draw(st.sampled_from([2, 4])) if few else draw(st.integers(1, 3))
    shape = (batch, draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    content = draw(st.sampled_from(contents))
    dtype = draw(st.sampled_from(dtypes))
    return rule, filled(content, branches, shape, dtype, draw(st.integers(0, 2**31)))


def filled(content, branches, shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(branches)]
    limits = torch.finfo(dtype)
    features = {
        "noise": lambda: noise,
        "zeros": lambda: [torch.zeros(shape)] * branches,
        "flat": lambda: [each[:, :1].expand(shape) for each in noise],  # the same in every channel: no saliency
        "parallel": lambda: [noise[0] * (i + 1) for i in range(branches)],
        "opposite": lambda: [noise[0] * (-1) ** i for i in range(branches)],
        "one silent": lambda: [torch.zeros(shape), *noise[1:]],
        "tiny": lambda: [each.sign() * limits.smallest_normal for each in noise],
        "huge": lambda: [each.clamp(-1, 1) * min(limits.max / 8, 1e15) for each in noise],
    }[content]()
    return [feature.to(dtype).contiguous().clone() for feature in features]


@settings(max_examples=250, deadline=None)
@given(case=cases())
def test_what_comes_out_is_finite_and_of_the_shape_and_dtype_that_went_in(case):
    rule, features = case
    before = [feature.clone() for feature in features]
    out = [rule.merge(features), *rule.unmerge(features)]
    if isinstance(rule, FOR_TWO):
        out.append(rule.merge_mid(features))
    assert len(rule.unmerge(features)) == len(features)
    for each in out:
        assert each.shape == features[0].shape and each.dtype == features[0].dtype
        assert each.isfinite().all()
    torch.testing.assert_close(features, before, **EXACT)  # nothing was written to


@pytest.mark.parametrize("rule", [LargestNorm(), MaxFusion(1.0), SoftmaxSaliency(1e-3), PublishedMaxFusion(1.0)])
def test_a_winner_without_saliency_saturates_in_half_precision(rule):
    """Of equal channels and alone in its picture, it is made as salient as a branch that is a thousand times louder."""
    loud, flat = torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2)
    loud[:, :, 0, 0], flat[:, :, 0, 0] = torch.tensor([8188.0, -2402.0]), -8188.0
    features = [loud.half(), flat.half()]
    assert all(out.isfinite().all() for out in (rule.merge(features), *rule.unmerge(features)))
    assert max(out.abs().max() for out in LargestNorm().unmerge(features)) == torch.finfo(torch.float16).max


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_a_branch_alone_passes_untouched(case):
    rule, (feature, *_) = case
    if not isinstance(rule, Weighted):
        torch.testing.assert_close([rule.merge([feature]), *rule.unmerge([feature])], [feature] * 2, **EXACT)


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_a_merged_feature_lies_between_its_branches(case):
    rule, features = case
    if isinstance(rule, Sum | Weighted | GatedSum) or getattr(rule, "halves", False):
        return  # they add up, or give one half what the other half said
    merged = rule.merge(features).double()
    low, high = (getattr(torch.stack(features).double(), side)(dim=0).values for side in ("min", "max"))
    slack = 4 * max(torch.finfo(features[0].dtype).eps, 2**-23) * torch.stack(features).double().abs().amax(0) + 1e-37
    assert (merged >= low - slack).all() and (merged <= high + slack).all()


@settings(max_examples=100, deadline=None)
@given(case=cases(dtypes=[torch.float32], contents=["noise", "flat", "parallel", "one silent"]))
def test_features_twice_as_loud_come_out_twice_as_loud(case):
    rule, features = case
    for act in (lambda f: [rule.merge(f)], rule.unmerge):
        torch.testing.assert_close(act([2 * each for each in features]), [2 * each for each in act(features)])


@settings(max_examples=100, deadline=None)
@given(case=cases(dtypes=[torch.float32, torch.bfloat16], contents=["noise", "zeros", "flat", "one silent"]))
def test_no_sample_looks_at_another(case):
    rule, features = case
    half = len(features[0]) // 2
    guided = rule.needs_guidance
    own = [0, half] if guided else [0]  # one prompt is both of its guidance halves
    alone = [feature[own] for feature in features]
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if features[0].dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(rule.merge(features)[own], rule.merge(alone), **tolerance)
    for whole, single in zip(rule.unmerge(features), rule.unmerge(alone), strict=True):
        torch.testing.assert_close(whole[own], single, **tolerance)


@settings(max_examples=100, deadline=None)
@given(
    rule=st.one_of(
        st.builds(SoftmaxSaliency),
        st.just(LargestNorm()),
        st.just(RandomChoice()),
        st.just(MaxFusion(1.0)),
        st.just(RandomBlobs()),
        gated,
    ),
    branches=st.integers(2, 4),
    seed=st.integers(0, 2**31),
    loud=st.floats(-2, 2),
)
def test_who_loses_goes_on_at_its_own_saliency(rule, branches, seed, loud):
    features = filled("noise", branches, (2, 8, 3, 3), torch.float64, seed)
    features[0] = features[0] * 10**loud
    for own, going_on in zip(features, rule.unmerge(features), strict=True):
        wanted, found = (each.std(1, correction=0) for each in (own, going_on))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert RATIO_CAP > 10**2


@settings(max_examples=150, deadline=None)
@given(
    case=cases(contents=["noise", "zeros", "flat"]),
    value=st.sampled_from([math.inf, -math.inf, math.nan]),
    place=st.integers(0, 2**16),
    which=st.integers(0, 3),
)
def test_infinities_are_refused_and_the_branch_is_named(case, value, place, which):
    rule, features = case
    which %= len(features)
    features[which].view(-1)[place % features[which].numel()] = value
    dtype = str(features[0].dtype).removeprefix("torch.")
    acts = [rule.merge, rule.unmerge, *([rule.merge_mid] if hasattr(rule, "merge_mid") else [])]
    for act in acts:
        with pytest.raises(NotFinite, match=rf"feature {which} has values that are infinite or NaN, in {dtype}"):
            act(features)


EVERY = [
    Average(), Sum(), Weighted([0.5, 2.0]), MaxFusion(), MaxFusion(-1.0), MaxFusion(rescale=False), SoftmaxSaliency(),
    LargestNorm(), RandomChoice(), RandomBlobs(), GatedSum(), GatedSum(smoothing=1.0), PublishedMaxFusion(),
    PublishedMaxFusion(halves=False, normaliser="sample"),
    PixFusion(), ChannelFusion(), ChannelFusion(normaliser="pair", halves=True),
]  # fmt: skip


@pytest.mark.parametrize("rule", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_rule_waits_for_a_device(rule, dtype):
    """On a device without values, to ask for one is an error."""
    features = [torch.empty(2, 4, 3, 5, device="meta", dtype=dtype) for _ in range(2)]
    with pytest.raises(RuntimeError):
        bool(features[0].sum() > 0)  # else this test shows nothing
    out = [rule.merge(features), *rule.unmerge(features), getattr(rule, "merge_mid", rule.merge)(features)]
    assert all(each.device.type == "meta" and each.dtype == dtype and each.shape == (2, 4, 3, 5) for each in out)


@pytest.mark.parametrize("rule", EVERY, ids=repr)
def test_numbers_whose_squares_overflow_are_no_infinities(rule):
    """Statistics that are not finite only mean that the features have to be looked at."""
    features = [each * 1e25 for each in filled("noise", 2, (2, 4, 3, 3), torch.float32, 1)]
    for act in (rule.merge, rule.unmerge):
        act(features)  # no NotFinite


@settings(max_examples=100, deadline=None)
@given(branches=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_winners_are_the_first_of_the_largest(branches, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(0, 3, (branches, 2, 1, 3, 3), generator=generator).float()  # many are equal
    won = winners(maps.unbind())
    expected = np.argmax(maps.numpy(), axis=0)  # of equals the first
    assert (won.sum(dim=0) == 1).all() and np.array_equal(np.argmax(won.numpy(), axis=0), expected)
