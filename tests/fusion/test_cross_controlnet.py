"""PixFusion and ChannelFusion against plain loops, and every departure of the released code."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maxbench.fusion import Average, ChannelFusion, PixFusion, RuleError

KERNEL = np.array([[1, 2, 1], [2, 12, 2], [1, 2, 1]]) / 24
RELEASED = {"saliency": "variance", "normaliser": "pair", "halves": True}
EXACT = {"rtol": 0, "atol": 0}


def pair(seed, prompts=1, channels=5, size=4):
    """Two related features of both guidance halves of some prompts, with loud and quiet places."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2 * prompts, channels, size, size)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    common = normal(*shape)
    return [(common + normal(*shape) + 0.2) * normal(shape[0], 1, size, size).exp() * (i + 1) for i in range(2)]


def smooth(plane):
    return ndimage.correlate(plane, KERNEL, mode="constant")


def oracle(features, delta, saliency, whole):
    """Merged, unmerged and the narrowest decision. whole: the sum is over the tensor, which holds one prompt."""
    arrays = [each.numpy() for each in features]
    merged, going_on = np.zeros_like(arrays[0]), [np.zeros_like(arrays[0]) for _ in arrays]
    batch, channels, height, width = arrays[0].shape
    margin = math.inf
    planes = []
    for f in arrays:
        spread = np.array(
            [[[np.std(f[b, :, j, k]) for k in range(width)] for j in range(height)] for b in range(batch)]
        )
        spread = spread if saliency == "std" else spread**2
        total = [spread.sum()] * batch if whole else [spread[b].sum() for b in range(batch)]
        planes.append([smooth(spread[b] / total[b]) for b in range(batch)])
    for b in range(batch):
        centred = [[smooth(f[b, c] - f[b].mean(axis=0)) for c in range(channels)] for f in arrays]
        for j, k in product(range(height), range(width)):
            one, two = ([plane[j, k] for plane in each] for each in centred)
            rho = sum(x * y for x, y in zip(one, two, strict=True)) / (math.hypot(*one) * math.hypot(*two))
            own = [f[b, :, j, k] for f in arrays]
            first, second = planes[0][b][j, k], planes[1][b][j, k]
            w = 0 if first >= second else 1
            margin = min(margin, abs(rho - delta), abs(first / second - 1))
            mean = (own[0] + own[1]) / 2
            merged[b, :, j, k] = mean if rho > delta else own[w]
            for i in range(2):
                scaled = own[w] * np.std(own[i], ddof=1) / np.std(own[w], ddof=1)
                going_on[i][b, :, j, k] = mean if rho > delta else scaled
    return torch.from_numpy(merged), [torch.from_numpy(each) for each in going_on], margin


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    delta=st.sampled_from([-0.5, 0.3, 0.7, 0.95]),
    saliency=st.sampled_from(["std", "variance"]),
    whole=st.booleans(),
)
def test_pixfusion_is_the_formula_location_by_location(seed, delta, saliency, whole):
    features = pair(seed)
    merged, going_on, margin = oracle(features, delta, saliency, whole)
    assume(margin > 1e-9)
    rule = PixFusion(delta, saliency, "pair" if whole else "sample")
    torch.testing.assert_close(rule.merge(features), merged)
    torch.testing.assert_close(rule.merge_mid(features), merged)
    torch.testing.assert_close(rule.unmerge(features), going_on)
    torch.testing.assert_close(ChannelFusion(delta, saliency, rule.normaliser).unmerge(features), going_on)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), consistency=st.floats(0, 1) | st.sampled_from([0.0, 0.7, 1.0]))
def test_channelfusion_is_the_formula_channel_by_channel(seed, consistency):
    features = pair(seed, channels=9)
    one, two = (each.numpy() for each in features)
    expected = np.zeros_like(one)
    for b, c in product(range(one.shape[0]), range(one.shape[1])):
        v = np.var(one[b, c], ddof=1), np.var(two[b, c], ddof=1)
        assume(abs(min(v) / max(v) - consistency) > 1e-9)
        if min(v) / max(v) < consistency:
            expected[b, c] = one[b, c] if v[0] > v[1] else two[b, c]
        else:
            expected[b, c] = (v[0] * one[b, c] + v[1] * two[b, c]) / (v[0] + v[1])
    rule = ChannelFusion(consistency=consistency)
    torch.testing.assert_close(rule.merge_mid(features), torch.from_numpy(expected))
    torch.testing.assert_close(rule.merge(features), PixFusion().merge(features), **EXACT)


def test_the_released_code_mixes_up_the_guidance_halves():
    features = pair(1)
    for kind in (PixFusion, ChannelFusion):
        own, released = kind(normaliser="pair", saliency="variance"), kind(**RELEASED)
        unconditional, _ = own.merge(features).chunk(2)
        _, conditional = own.merge_mid(features).chunk(2)
        assert torch.equal(released.merge(features), torch.cat([unconditional] * 2))
        assert torch.equal(released.merge_mid(features), torch.cat([conditional] * 2))
        torch.testing.assert_close(released.unmerge(features), own.unmerge(features), **EXACT)


@pytest.mark.parametrize("departure", RELEASED)
def test_every_departure_changes_something(departure):
    features = pair(2, size=16)
    features[0] = features[0] * torch.tensor([1.0, 30.0])[:, None, None, None]
    paper, changed = PixFusion(), PixFusion(**{departure: RELEASED[departure]})
    assert not torch.allclose(paper.merge(features), changed.merge(features))
    if departure != "halves":  # an affair of the outputs
        assert not torch.allclose(paper.unmerge(features)[0], changed.unmerge(features)[0])


def test_several_prompts_behave_as_each_alone_would():
    features = pair(3, prompts=3)
    features = [feature * torch.tensor([1.0, 1e3, 1e-3] * 2)[:, None, None, None] for feature in features]
    rule = ChannelFusion(**RELEASED)
    together = [rule.merge(features), rule.merge_mid(features), *rule.unmerge(features)]
    for prompt in range(3):
        alone = [feature[[prompt, 3 + prompt]] for feature in features]
        for whole, own in zip(together, [rule.merge(alone), rule.merge_mid(alone), *rule.unmerge(alone)], strict=True):
            torch.testing.assert_close(whole[[prompt, 3 + prompt]], own)


def test_limits():
    features = pair(4, size=6)
    mean = Average().merge(features)
    torch.testing.assert_close(PixFusion(-1.01).merge(features), mean)
    chosen = PixFusion(1.01).merge(features)
    from_one, from_two = ((chosen == each).all(dim=1) for each in features)
    assert (from_one | from_two).all() and from_one.any() and from_two.any()
    whole = ChannelFusion(consistency=1.0).merge_mid(features)
    variances = torch.stack([each.var(dim=(2, 3)) for each in features])
    torch.testing.assert_close(whole.var(dim=(2, 3)), variances.amax(dim=0))


@pytest.mark.parametrize("rule", [PixFusion(), ChannelFusion(), PixFusion(**RELEASED), ChannelFusion(**RELEASED)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_silence_and_single_locations_are_no_nan(rule, dtype):
    zero = torch.zeros(2, 4, 3, 3, dtype=dtype)
    out = [rule.merge([zero, zero]), rule.merge_mid([zero, zero]), *rule.unmerge([zero, zero])]
    torch.testing.assert_close(out, [zero] * 4, **EXACT)
    for shape in ((2, 4, 3, 3), (2, 4, 1, 1), (2, 1, 3, 3)):
        speaking, silent = torch.randn(shape).to(dtype), torch.zeros(shape, dtype=dtype)
        for given_ in ([speaking, silent], [silent, speaking], [speaking, speaking]):
            out = [rule.merge(given_), rule.merge_mid(given_), *rule.unmerge(given_)]
            assert all(each.isfinite().all() and each.dtype == dtype and each.shape == shape for each in out)


def test_channels_that_do_not_vary_are_averaged():
    one, two = torch.full((1, 2, 3, 3), 1.0), torch.full((1, 2, 3, 3), 3.0)
    assert torch.equal(ChannelFusion().merge_mid([one, two]), torch.full((1, 2, 3, 3), 2.0))
    two[0, 1, 0, 0] = 0.0  # the second channel of one branch alone varies
    assert torch.equal(ChannelFusion().merge_mid([one, two])[0, 1], two[0, 1])


@pytest.mark.parametrize("rule", [PixFusion(**RELEASED), ChannelFusion(**RELEASED)])
def test_an_adapter_has_no_guidance_halves(rule):
    features = [each[:1] for each in pair(5)]
    assert rule.needs_guidance and not rule.for_images().needs_guidance
    assert type(rule.for_images()) is type(rule) and rule.for_images().saliency == "variance"
    assert rule.for_images().merge(features).shape == features[0].shape


@pytest.mark.parametrize("kind", [PixFusion, ChannelFusion])
def test_what_they_cannot_do_is_said(kind):
    for act in ("merge", "merge_mid", "unmerge"):
        with pytest.raises(RuleError, match=f"{kind.__name__} is for two branches, not 3; take MaxFusion"):
            getattr(kind(), act)([torch.zeros(2, 4, 2, 2)] * 3)
    with pytest.raises(RuleError, match="a batch of 3 has no two guidance halves"):
        kind(halves=True).merge([torch.zeros(3, 4, 2, 2)] * 2)
    with pytest.raises(ValueError, match="normaliser is one of sample, pair, not 'max'"):
        kind(normaliser="max")
    with pytest.raises(ValueError, match="saliency is one of std, variance, not 'norm'"):
        kind(saliency="norm")
    with pytest.raises(ValueError, match="not nan"):
        kind(delta=math.nan)


@pytest.mark.parametrize("consistency", [-0.1, 1.1, math.nan])
def test_consistency_is_a_ratio(consistency):
    with pytest.raises(ValueError, match=f"from 0 to 1, not {consistency}"):
        ChannelFusion(consistency=consistency)
