"""The laws of the fusion rules, and MaxFusion against a slow oracle that works location by location."""

import math
from itertools import permutations, product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from maxbench.fusion import (
    RATIO_CAP,
    Average,
    ChannelFusion,
    GatedSum,
    LargestNorm,
    MaxFusion,
    PixFusion,
    PublishedMaxFusion,
    RandomBlobs,
    RandomChoice,
    SoftmaxSaliency,
    Sum,
    Weighted,
)

SYMMETRIC = [
    Average(), Sum(), MaxFusion(), MaxFusion(-1.0), MaxFusion(1.0), MaxFusion(rescale=False),
    SoftmaxSaliency(), LargestNorm(), GatedSum(), GatedSum(0.5, "max", smoothing=0.7), GatedSum(normaliser="none"),
]  # fmt: skip
RULES = [*SYMMETRIC, RandomChoice(), RandomBlobs()]
FOR_TWO = [
    PublishedMaxFusion(), PublishedMaxFusion(halves=False, normaliser="sample"), Weighted([0.3, 1.2]), PixFusion(),
    ChannelFusion(), ChannelFusion(saliency="variance", normaliser="pair", halves=True),
]  # fmt: skip
EXACT = {"rtol": 0, "atol": 0}


def related(seed, branches, shape=(2, 4, 3, 3), dtype=torch.float32):
    """Features that share a part, as controls grown from one base do, each with loud and quiet places."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    batch, _, height, width = shape
    common = normal(*shape)
    return [
        ((common + normal(*shape) + 0.3) * normal(batch, 1, height, width).exp() * normal(1).exp()).to(dtype)
        for _ in range(branches)
    ]


# --- the oracle ---------------------------------------------------------------------------------------


def std(vector):
    mean = sum(vector) / len(vector)
    return math.sqrt(sum((x - mean) ** 2 for x in vector) / len(vector))


def cosine(a, b):
    norms = math.hypot(*a), math.hypot(*b)
    if not any(norms):
        return 1.0
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norms[0] * norms[1]) if all(norms) else 0.0


def oracle(features, delta):
    """The rule as specified, in Python floats: merged, unmerged, and the margin of the narrowest decision."""
    lists = [feature.tolist() for feature in features]
    batch, channels, height, width = features[0].shape
    merged = torch.zeros(features[0].shape, dtype=torch.float64)
    unmerged = [merged.clone() for _ in features]
    margin = math.inf
    for b in range(batch):
        at = {
            (j, k): [[f[b][c][j][k] for c in range(channels)] for f in lists]
            for j, k in product(range(height), range(width))
        }
        total = [sum(std(vectors[i]) for vectors in at.values()) for i in range(len(lists))]
        for (j, k), vectors in at.items():
            sigma = [std(v) for v in vectors]
            relative = [s / t if t else 0.0 for s, t in zip(sigma, total, strict=True)]
            w = relative.index(max(relative))
            rho = [cosine(v, vectors[w]) for v in vectors]
            cluster = [i for i in range(len(vectors)) if i == w or rho[i] > delta or delta <= -1]
            mean = [sum(vectors[i][c] for i in cluster) / len(cluster) for c in range(channels)]
            merged[b, :, j, k] = torch.tensor(mean, dtype=torch.float64)
            for i in range(len(vectors)):
                ratio = min(sigma[i] / sigma[w], RATIO_CAP) if sigma[i] else 0.0
                going_on = mean if i in cluster else [ratio * x for x in vectors[w]]
                unmerged[i][b, :, j, k] = torch.tensor(going_on, dtype=torch.float64)
                if i != w:
                    margin = min(margin, abs(rho[i] - delta))
                    # an exact tie is no narrow decision: both sides give it to the lower index
                    if relative[i] != relative[w] and vectors[i] != vectors[w]:
                        margin = min(margin, relative[w] / relative[i] - 1 if relative[i] else math.inf)
    return merged, unmerged, margin


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    branches=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 2), st.integers(2, 6), st.integers(1, 3), st.integers(1, 3)),
    delta=st.floats(-1.5, 1.5) | st.sampled_from([-1.0, 0.0, 0.7, 1.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    silence=st.floats(0, 0.6),
)
def test_maxfusion_is_the_specification_location_by_location(seed, branches, shape, delta, dtype, silence):
    generator = torch.Generator().manual_seed(seed + 1)
    features = [
        feature * (torch.rand(feature.shape[0], 1, *feature.shape[2:], generator=generator) >= silence)
        for feature in related(seed, branches, shape, dtype)
    ]
    merged, unmerged, margin = oracle(features, delta)
    assume(margin > 1e-4)  # narrower decisions may fall either way in float32
    rule = MaxFusion(delta)
    eps = {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, torch.finfo(dtype).eps)
    rounding = {"rtol": eps, "atol": min(eps, 1e-4)}
    torch.testing.assert_close(rule.merge(features), merged.to(dtype), **rounding)
    torch.testing.assert_close(rule.unmerge(features), [f.to(dtype) for f in unmerged], **rounding)


# --- laws of every rule -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_shape_and_dtype_are_kept(rule, dtype, branches):
    features = related(0, branches, (2, 4, 3, 5), dtype)
    out = [rule.merge(features), *rule.unmerge(features)]
    assert len(out) == 1 + branches
    assert all(isinstance(feature, Float[Tensor, "2 4 3 5"]) and feature.dtype == dtype for feature in out)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_branch_passes_untouched(rule, dtype):
    (feature,) = related(1, 1, dtype=dtype)
    torch.testing.assert_close(rule.merge([feature]), feature, **EXACT)
    torch.testing.assert_close(rule.unmerge([feature]), [feature], **EXACT)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_inputs_are_not_written_to(rule):
    features = related(2, 3)
    before = [feature.clone() for feature in features]
    rule.merge(features)
    rule.unmerge(features)
    torch.testing.assert_close(features, before, **EXACT)


@pytest.mark.parametrize("rule", SYMMETRIC, ids=repr)
def test_the_order_of_branches_does_not_matter(rule):
    features = related(3, 3)
    merged, unmerged = rule.merge(features), rule.unmerge(features)
    for order in permutations(range(3)):
        reordered = [features[i] for i in order]
        torch.testing.assert_close(rule.merge(reordered), merged)
        torch.testing.assert_close(rule.unmerge(reordered), [unmerged[i] for i in order])


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_sample_does_not_depend_on_its_batch_mates(rule):
    features = related(4, 2, (3, 8, 4, 4))
    for feature, factor in zip(features, (1e3, 1e-3), strict=True):
        feature[2] *= factor  # a normaliser shared by the batch would turn the other samples' winners
    alone = [feature[:1] for feature in features]
    torch.testing.assert_close(rule.merge(features)[:1], rule.merge(alone))
    torch.testing.assert_close([feature[:1] for feature in rule.unmerge(features)], rule.unmerge(alone))


@pytest.mark.parametrize("rule", [Average(), MaxFusion(), MaxFusion(-1.0), MaxFusion(1.0)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_branches_give_that_branch(rule, dtype):
    (feature,) = related(5, 1, dtype=dtype)
    torch.testing.assert_close(rule.merge([feature] * 2), feature, **EXACT)
    torch.testing.assert_close(rule.unmerge([feature] * 2), [feature] * 2, **EXACT)
    torch.testing.assert_close(rule.merge([feature] * 3), feature)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_silence_gives_silence_and_never_nan(rule, dtype):
    zero = torch.zeros(2, 4, 3, 3, dtype=dtype)
    torch.testing.assert_close([rule.merge([zero, zero]), *rule.unmerge([zero, zero])], [zero] * 3, **EXACT)
    (feature,) = related(6, 1, dtype=dtype)
    feature[:, :, 0] = 0  # here both are silent, elsewhere only one
    for pair in ([feature, zero], [zero, feature]):
        assert all(out.isfinite().all() for out in (rule.merge(pair), *rule.unmerge(pair)))
    tiny = torch.full_like(zero, torch.finfo(dtype).smallest_normal)
    assert all(out.isfinite().all() for out in (rule.merge([tiny, feature]), *rule.unmerge([tiny, feature])))


@pytest.mark.parametrize("rule", [Average(), MaxFusion()], ids=repr)
def test_a_mean_of_large_half_precision_features_does_not_overflow(rule):
    feature = torch.full((1, 2, 2, 2), 60000.0, dtype=torch.float16)
    feature[:, 0] *= -1
    torch.testing.assert_close(rule.merge([feature] * 3), feature, **EXACT)


@pytest.mark.parametrize(
    ("rule", "branches"), [*((rule, count) for rule in RULES for count in (2, 3)), *((rule, 2) for rule in FOR_TWO)]
)
def test_a_rule_is_one_graph(rule, branches):
    """No synchronisation with the host and no branch on data: torch.compile can trace it whole."""
    features = related(7, branches)
    torch.compiler.reset()

    def act(f):
        return rule.merge(f), rule.merge_mid(f), rule.unmerge(f)

    traced = torch.compile(act, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(features), act(features))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("act", ["merge", "unmerge"])
def test_errors_quote_what_was_given(rule, act):
    act = getattr(rule, act)
    with pytest.raises(ValueError, match="at least one feature"):
        act([])
    with pytest.raises(ValueError, match=r"feature 1 has shape \(1, 8, 2, 2\), feature 0 \(1, 4, 2, 2\)"):
        act([torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 2, 2)])
    with pytest.raises(ValueError, match=r"feature 0 has shape \(4, 2, 2\)"):
        act([torch.zeros(4, 2, 2)])


# --- Average and Sum ----------------------------------------------------------------------------------


def test_average_and_sum_by_hand():
    features = [torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 6.0)]
    assert Average().merge(features).item() == 3.0
    assert Sum().merge(features).item() == 9.0


@pytest.mark.parametrize("rule", [Average(), Sum()], ids=repr)
def test_independent_branches_go_on_as_they_were(rule):
    features = related(8, 3)
    torch.testing.assert_close(rule.unmerge(features), features, **EXACT)


def test_sum_adds_in_the_order_of_the_branches():
    features = [torch.full((1, 1, 1, 1), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    assert Sum().merge(features).item() == 256.0  # each 1 is lost alone; together they would make 258


# --- MaxFusion ----------------------------------------------------------------------------------------


def at_one_location(*vectors):
    return [torch.tensor(vector, dtype=torch.float32).reshape(1, -1, 1, 1) for vector in vectors]


def vector(feature):
    return feature.flatten().tolist()


def test_delta_at_most_minus_one_is_the_mean_everywhere():
    features = related(9, 2)
    features[1][:, :, 0] = -features[0][:, :, 0]  # even opposites
    for delta in (-1.0, -2.0):
        mean = Average().merge(features)
        torch.testing.assert_close(MaxFusion(delta).merge(features), mean, **EXACT)
        torch.testing.assert_close(MaxFusion(delta).unmerge(features), [mean, mean], **EXACT)


def test_delta_at_least_one_is_pure_selection():
    features = related(10, 3, (2, 16, 8, 8))
    features[2] = features[0] * 1.5  # even parallel ones, whose rho may round to more than 1
    for delta in (1.0, 2.0):
        merged = MaxFusion(delta).merge(features)
        chosen = torch.stack([(merged == feature).all(dim=1) for feature in features])
        assert chosen.any(dim=0).all()
        assert chosen[0].any() and chosen[1].any()


def test_equality_with_delta_is_not_above():
    orthogonal = at_one_location([3.0, 0.0], [0.0, 3.0])
    assert vector(MaxFusion(0.0).merge(orthogonal)) == [3.0, 0.0]
    assert vector(MaxFusion(-0.01).merge(orthogonal)) == [1.5, 1.5]


def test_a_tie_of_the_winner_goes_to_the_lower_index():
    one, other = at_one_location([3.0, 0.0], [0.0, 3.0])
    assert vector(MaxFusion().merge([one, other])) == [3.0, 0.0]
    assert vector(MaxFusion().merge([other, one])) == [0.0, 3.0]


def test_silent_locations_agree_and_a_silent_branch_agrees_with_nobody():
    silent, speaking = at_one_location([0.0, 0.0], [3.0, 0.0])
    assert MaxFusion().decide([silent, silent]).rho.flatten().tolist() == [1.0, 1.0]
    assert MaxFusion().decide([silent, speaking]).rho.flatten().tolist() == [0.0, 1.0]
    assert vector(MaxFusion(0.0).merge([silent, speaking])) == [3.0, 0.0]


def test_the_winner_is_the_relatively_most_salient():
    loud, quiet = torch.ones(1, 2, 1, 2), torch.ones(1, 2, 1, 2)
    loud[0, :, 0] = torch.tensor([[100.0, 100.0], [-100.0, -100.0]])  # the same everywhere
    quiet[0, :, 0] = torch.tensor([[0.0, -1.0], [0.0, 1.0]])  # something to say on the right
    sigma, rho, winner, cluster = MaxFusion().decide([loud, quiet])
    assert sigma.flatten().tolist() == [100.0, 100.0, 0.0, 1.0]
    assert winner.flatten().tolist() == [0, 1]
    assert rho.flatten().tolist() == pytest.approx([1.0, -1.0, 0.0, 1.0])
    assert cluster.flatten().tolist() == [True, False, False, True]
    going_on = MaxFusion().unmerge([loud, quiet])
    torch.testing.assert_close(going_on[0][..., 1], -loud[..., 1])  # the winner's vector, 100 times louder
    torch.testing.assert_close(going_on[1][..., 0], torch.zeros(1, 2, 1))  # sigma_i = 0
    unscaled = MaxFusion(rescale=False).unmerge([loud, quiet])
    torch.testing.assert_close(unscaled[0][..., 1], quiet[..., 1])


def test_three_branches_average_the_cluster_of_the_winner():
    features = at_one_location([9.0, 0.0, 0.0], [8.0, 1.0, 0.0], [0.0, 0.0, 6.0])
    features = [torch.cat([f, torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1)], dim=3) for f in features]
    assert MaxFusion().decide(features).winner[0, 0, 0].tolist() == [0, 2]
    merged, unmerged = MaxFusion().merge(features), MaxFusion().unmerge(features)
    assert vector(merged[..., 0]) == [8.5, 0.5, 0.0]
    assert vector(unmerged[0][..., 0]) == vector(unmerged[1][..., 0]) == [8.5, 0.5, 0.0]
    assert vector(unmerged[2][..., 0]) == pytest.approx([6.0, 0.0, 0.0])  # sigma_2 / sigma_0 = 6 / 9


def test_the_ratio_is_capped():
    loud, quiet = related(11, 2)
    loud, quiet = loud * 1e6, quiet * 1e-6
    winner = MaxFusion(1.0).decide([loud, quiet]).winner.bool()
    assert winner.any()
    going_on = MaxFusion(1.0).unmerge([loud, quiet])[0]
    torch.testing.assert_close(going_on, torch.where(winner, RATIO_CAP * quiet, loud))


def test_bfloat16_features_are_decided_in_float32():
    """Among many locations, those that arithmetic in bfloat16 would decide otherwise are decided rightly."""
    features = related(12, 2, (1, 16, 16, 16), torch.bfloat16)

    def decisions(first, second):
        rho = torch.cosine_similarity(first, second, dim=1)
        sigma = torch.stack([first, second]).std(dim=2, correction=0)
        return rho > 0.7, (sigma / sigma.sum(dim=(-2, -1), keepdim=True)).argmax(dim=0)

    truth = decisions(*[feature.double() for feature in features])
    in_bfloat16 = decisions(*features)
    ours = MaxFusion().decide(features)
    own_decisions = ours.cluster.all(dim=0)[:, 0], ours.winner[:, 0]
    for right, coarse, own in zip(truth, in_bfloat16, own_decisions, strict=True):
        assert (right != coarse).any()  # else this test shows nothing
        assert torch.equal(right, own)


@pytest.mark.parametrize("delta", [math.nan, math.inf, -math.inf])
def test_delta_is_finite(delta):
    with pytest.raises(ValueError, match=f"not {delta}"):
        MaxFusion(delta)
