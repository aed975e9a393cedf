"""The laws of lockstep, on real ControlNets made small, against diffusers' own forward."""

import threading

import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from maxbench.fusion import Average, ChannelFusion, GatedSum, MaxFusion, PublishedMaxFusion, SoftmaxSaliency, Sum
from maxbench.models.lockstep import SITES, Residuals, embed_hint, lockstep_controlnets

RULES = [Average(), Sum(), MaxFusion()]
EXACT = {"rtol": 0, "atol": 0}
SMALL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": 16,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "conditioning_embedding_out_channels": (8, 16, 16),
}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def controlnet(seed, **config):
    """A ControlNet whose zero convolutions are not zero, or every output would be equal to every other."""
    torch.manual_seed(seed)
    net = ControlNetModel(**SMALL | config).eval()
    for zero_conv in (
        *net.controlnet_down_blocks,
        net.controlnet_mid_block,
        net.controlnet_cond_embedding.conv_out,
    ):
        torch.nn.init.normal_(zero_conv.weight, std=0.3)
        torch.nn.init.normal_(zero_conv.bias, std=0.1)
    return net


@pytest.fixture(scope="module")
def nets():
    return [controlnet(seed) for seed in (1, 2, 3)]


def inputs(branches, batch=2, dtype=torch.float32):
    """Latents, timesteps (one per sample), text and one map per branch."""
    generator = torch.Generator().manual_seed(branches)
    sample = torch.randn(batch, 4, 8, 8, generator=generator).to(dtype)
    timestep = torch.tensor([801, 41, 7][:batch])
    text = torch.randn(batch, 5, 16, generator=generator).to(dtype)
    return (
        sample,
        timestep,
        text,
        [torch.rand(batch, 3, 32, 32, generator=generator).to(dtype) for _ in range(branches)],
    )


def flat(residuals):
    down, mid = residuals
    return [*down, mid]


def assert_same(ours, theirs, **tolerance):
    torch.testing.assert_close(flat(ours), flat(theirs), **tolerance)


def alone(net, sample, timestep, text, hint, scale=1.0):
    return net(sample, timestep, text, hint, scale, return_dict=False)


def hooked(nets, rule, sample, timestep, text, hints, sites):
    """The oracle: diffusers' own forward, a thread for every branch, meeting at hooks on the modules."""
    barrier, shared = threading.Barrier(len(nets), timeout=60), [None] * len(nets)
    outputs = [None] * len(nets)

    def meet(branch, feature):
        shared[branch] = feature
        barrier.wait()
        own = rule.unmerge(list(shared))[branch]
        barrier.wait()
        return own

    def run(branch):
        def on_feature(module, args, output):
            return meet(branch, output)

        def on_down_block(module, args, output):
            residuals = tuple(meet(branch, residual) for residual in output[1])
            return residuals[-1], residuals

        def on_hidden_state(module, args, output):
            return meet(branch, output[0]), output[1]

        def on_residuals(module, args, output):
            return output[0], tuple(meet(branch, residual) for residual in output[1])

        net = nets[branch]
        places = {
            "conv_in": [(net.conv_in, on_feature)],
            "down": [(block, on_down_block) for block in net.down_blocks],
            "hidden": [(block, on_hidden_state) for block in net.down_blocks],
            "residuals": [(block, on_residuals) for block in net.down_blocks],
            "mid": [(net.mid_block, on_feature)],
        }
        hooks = [module.register_forward_hook(hook) for site in sites for module, hook in places[site]]
        with torch.no_grad():
            outputs[branch] = flat(alone(net, sample, timestep, text, hints[branch]))
        for hook in hooks:
            hook.remove()

    threads = [threading.Thread(target=run, args=(branch,), daemon=True) for branch in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    *down, mid = [rule.merge(list(features)) for features in zip(*outputs, strict=True)]
    return down, mid


# --- against diffusers --------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [SITES, ("conv_in",), ("down",), ("hidden",), ("residuals",), ("mid",), ()], ids=str)
@pytest.mark.parametrize("branches", [2, 3])
def test_lockstep_is_the_forward_of_diffusers_with_the_branches_meeting(nets, sites, branches):
    nets, given = nets[:branches], inputs(branches)
    ours = lockstep_controlnets(nets, MaxFusion(), *given, sites=sites)
    assert_same(ours, hooked(nets, MaxFusion(), *given, sites), **EXACT)


def test_every_site_matters(nets):
    given = inputs(2)
    results = [
        lockstep_controlnets(nets[:2], MaxFusion(), *given, sites=sites).mid
        for sites in ((), ("conv_in",), ("down",), ("mid",), SITES, ("conv_in", "hidden"))
    ]
    for i, result in enumerate(results):
        assert not any(torch.allclose(result, other, atol=1e-3) for other in results[:i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("branches", [2, 3])
def test_sum_is_the_multi_controlnet_of_diffusers(branches, dtype):
    nets = [controlnet(seed).to(dtype) for seed in range(branches)]
    *given, hints = inputs(branches, dtype=dtype)
    theirs = MultiControlNetModel(nets)(*given, hints, [1.0] * branches, return_dict=False)
    assert_same(lockstep_controlnets(nets, Sum(), *given, hints), theirs, **EXACT)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_branch_is_that_controlnet(nets, rule):
    *given, (hint,) = inputs(1)
    ours = lockstep_controlnets(nets[:1], rule, *given, [hint], scale=0.7)
    assert_same(ours, alone(nets[0], *given, hint, scale=0.7), **EXACT)


@pytest.mark.parametrize("timestep", [7, 7.5, torch.tensor(7), torch.tensor([7]), torch.tensor([7, 900])], ids=str)
def test_timesteps_in_every_form_that_diffusers_takes(nets, timestep):
    sample, _, text, (hint,) = inputs(1)
    ours = lockstep_controlnets(nets[:1], Sum(), sample, timestep, text, [hint])
    assert_same(ours, alone(nets[0], sample, timestep, text, hint), **EXACT)


@pytest.mark.parametrize(
    "config",
    [
        {
            "layers_per_block": 2,
            "block_out_channels": (16, 32, 32),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        },
        {"mid_block_type": "UNetMidBlock2D"},
        {"controlnet_conditioning_channel_order": "bgr"},
        {"flip_sin_to_cos": False, "freq_shift": 1},
    ],
    ids=str,
)
def test_other_architectures_of_the_same_kind(config):
    nets = [controlnet(seed, **config) for seed in (1, 2)]
    sample, timestep, text, hints = inputs(2)
    ours = lockstep_controlnets(nets, MaxFusion(), sample, timestep, text, hints)
    assert_same(ours, hooked(nets, MaxFusion(), sample, timestep, text, hints, SITES), **EXACT)


# --- laws ---------------------------------------------------------------------------------------------


def test_the_result_unpacks_and_has_the_shapes_of_the_unet(nets):
    result = lockstep_controlnets(nets[:2], MaxFusion(), *inputs(2))
    down, mid = result
    assert isinstance(result, Residuals) and down is result.down and mid is result.mid
    shapes = [(2, 32, 8, 8), (2, 32, 8, 8), (2, 32, 4, 4), (2, 64, 4, 4)]
    assert [tuple(feature.shape) for feature in down] == shapes
    assert isinstance(mid, Float[Tensor, "2 64 4 4"])


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_without_sites_branches_are_independent_and_outputs_are_merged(nets, rule):
    *given, hints = inputs(3)
    singles = [flat(alone(net, *given, hint)) for net, hint in zip(nets, hints, strict=True)]
    *down, mid = [rule.merge(list(features)) for features in zip(*singles, strict=True)]
    assert_same(lockstep_controlnets(nets, rule, *given, hints, sites=()), (down, mid), **EXACT)


@pytest.mark.parametrize("rule", [Average(), MaxFusion(), MaxFusion(1.0)], ids=repr)
def test_identical_branches_give_the_single_result(nets, rule):
    *given, (hint,) = inputs(1)
    ours = lockstep_controlnets([nets[0]] * 2, rule, *given, [hint] * 2)
    assert_same(ours, alone(nets[0], *given, hint), **EXACT)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_order_of_branches_does_not_matter(nets, rule):
    *given, hints = inputs(3)
    ours = lockstep_controlnets(nets, rule, *given, hints)
    order = (2, 0, 1)
    reordered = lockstep_controlnets([nets[i] for i in order], rule, *given, [hints[i] for i in order])
    assert_same(reordered, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_sample_does_not_depend_on_its_batch_mates(nets, rule):
    sample, timestep, text, hints = inputs(2, batch=3)
    together = lockstep_controlnets(nets[:2], rule, sample, timestep, text, hints)
    for b in range(3):
        own = slice(b, b + 1)
        single = lockstep_controlnets(
            nets[:2], rule, sample[own], timestep[own], text[own], [hint[own] for hint in hints]
        )
        assert_same(([f[own] for f in together.down], together.mid[own]), single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_map_and_its_embedding_are_the_same_hint(order):
    nets = [controlnet(seed, controlnet_conditioning_channel_order=order) for seed in (1, 2)]
    *given, hints = inputs(2)
    embeddings = [embed_hint(net, hint) for net, hint in zip(nets, hints, strict=True)]
    assert all(isinstance(embedding, Float[Tensor, "2 32 8 8"]) for embedding in embeddings)
    from_maps = lockstep_controlnets(nets, MaxFusion(), *given, hints)
    assert_same(lockstep_controlnets(nets, MaxFusion(), *given, embeddings), from_maps, **EXACT)
    mixed = [hints[0], embeddings[1]]
    assert_same(lockstep_controlnets(nets, MaxFusion(), *given, mixed), from_maps, **EXACT)


def test_scale_is_the_factor_on_what_was_merged(nets):
    given = inputs(2)
    down, mid = lockstep_controlnets(nets[:2], MaxFusion(), *given)
    scaled = lockstep_controlnets(nets[:2], MaxFusion(), *given, scale=0.5)
    assert_same(scaled, ([0.5 * feature for feature in down], 0.5 * mid), **EXACT)


def test_a_rule_may_hand_one_tensor_to_every_branch(nets):
    class Shared(Average):
        def unmerge(self, features):
            return [self.merge(features)] * len(features)

    given = inputs(2)
    ours = lockstep_controlnets(nets[:2], Shared(), *given)
    assert_same(ours, hooked(nets[:2], Shared(), *given, SITES), **EXACT)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_fresh_zero_convolutions_give_zeros(rule):
    torch.manual_seed(0)
    fresh = [ControlNetModel(**SMALL).eval() for _ in range(2)]
    for feature in flat(lockstep_controlnets(fresh, rule, *inputs(2))):
        assert torch.equal(feature, torch.zeros_like(feature))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_half_precision_in_half_precision_out(rule):
    nets = [controlnet(seed).to(torch.bfloat16) for seed in (1, 2)]
    result = flat(lockstep_controlnets(nets, rule, *inputs(2, dtype=torch.bfloat16)))
    assert all(feature.dtype == torch.bfloat16 and feature.isfinite().all() for feature in result)


def test_inputs_are_not_written_to(nets):
    sample, timestep, text, hints = inputs(2)
    hints = [embed_hint(net, hint) for net, hint in zip(nets, hints, strict=False)]
    before = [tensor.clone() for tensor in (sample, timestep, text, *hints)]
    lockstep_controlnets(nets[:2], MaxFusion(), sample, timestep, text, hints)
    torch.testing.assert_close([sample, timestep, text, *hints], before, **EXACT)


@pytest.mark.slow
def test_lockstep_is_one_graph(nets):
    """No synchronisation with the host and no branch on data: torch.compile can trace it whole."""
    given = inputs(2)
    traced = torch.compile(
        lambda *given: lockstep_controlnets(nets[:2], MaxFusion(), *given), fullgraph=True, backend="eager"
    )
    assert_same(traced(*given), lockstep_controlnets(nets[:2], MaxFusion(), *given))


def unet():
    torch.manual_seed(9)
    config = {name: value for name, value in SMALL.items() if name != "conditioning_embedding_out_channels"}
    return UNet2DConditionModel(**config, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), sample_size=8).eval()


def step(net, nets, rule, sample, timestep, text, hints):
    """What one denoising step computes."""
    down, mid = lockstep_controlnets(nets, rule, sample, timestep, text, hints)
    return net(
        sample, timestep, text, down_block_additional_residuals=down, mid_block_additional_residual=mid,
        return_dict=False,
    )[0]  # fmt: skip


@pytest.mark.parametrize(
    "rule",
    [
        MaxFusion(),
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (PublishedMaxFusion(), SoftmaxSaliency(), GatedSum(), ChannelFusion())
        ),
    ],
    ids=repr,
)
def test_controls_rule_and_unet_are_one_graph(nets, rule):
    net, given = unet(), inputs(2)
    torch.compiler.reset()
    traced = torch.compile(lambda *given: step(net, nets[:2], rule, *given), fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(*given), step(net, nets[:2], rule, *given))


@pytest.mark.parametrize(
    "rule", [MaxFusion(), PublishedMaxFusion(), Sum(), GatedSum(smoothing=1.0), ChannelFusion()], ids=repr
)
def test_a_step_never_waits_for_the_device(rule):
    """On a device without values, to ask for one is an error."""
    nets, net = [controlnet(seed).to("meta") for seed in (1, 2)], unet().to("meta")
    sample, timestep, text, hints = inputs(2)
    given = sample.to("meta"), timestep.to("meta"), text.to("meta"), [hint.to("meta") for hint in hints]
    assert step(net, nets, rule, *given).shape == sample.shape


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [MaxFusion(), PublishedMaxFusion(), SoftmaxSaliency()], ids=repr)
def test_a_step_on_a_gpu_does_not_synchronise(rule):
    nets, net = [controlnet(seed).cuda() for seed in (1, 2)], unet().cuda()
    sample, timestep, text, hints = inputs(2)
    given = sample.cuda(), timestep.cuda(), text.cuda(), [hint.cuda() for hint in hints]
    step(net, nets, rule, *given)  # whatever is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(net, nets, rule, *given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_site_can_be_one_down_block(nets):
    given = inputs(2)
    none, both, first, second = (
        lockstep_controlnets(nets[:2], MaxFusion(), *given, sites=sites)
        for sites in ((), ("down",), ("down.0",), ("down.1",))
    )
    blocks = len(nets[0].down_blocks[0].resnets) + 1 + 1  # conv_in, the residuals of the first block, its downsampler
    torch.testing.assert_close(second.down[:blocks], none.down[:blocks], **EXACT)
    torch.testing.assert_close(first.down[:blocks], both.down[:blocks], **EXACT)
    assert not torch.allclose(second.down[blocks], none.down[blocks])
    assert not torch.allclose(first.down[blocks], both.down[blocks])
    assert_same(lockstep_controlnets(nets[:2], MaxFusion(), *given, sites=("down.0", "down.1")), both, **EXACT)


def test_the_hidden_state_and_the_residuals_of_a_block_are_two_sites(nets):
    """The first block's outputs tell them apart, and what comes after it: by hand, with the mean for a rule."""
    sample, timestep, text, hints = given = inputs(2)
    rule, nets = MaxFusion(-1.0), nets[:2]
    none, whole, hidden, residuals = (
        lockstep_controlnets(nets, rule, *given, sites=sites)
        for sites in ((), ("down.0",), ("hidden.0",), ("residuals.0",))
    )
    own = []
    for net, hint in zip(nets, hints, strict=True):
        time = net.time_embedding(net.time_proj(timestep))
        state, collected = net.down_blocks[0](net.conv_in(sample) + embed_hint(net, hint), time)
        assert torch.equal(state, collected[-1])
        own.append((time, collected))
    (first_time, first), (second_time, second) = own
    mean = [(one + two) / 2 for one, two in zip(first, second, strict=True)]
    convs = [net.controlnet_down_blocks for net in nets]
    for place, (one, two, both) in enumerate(zip(first, second, mean, strict=True), start=1):
        kept = (convs[0][place](one) + convs[1][place](two)) / 2
        given_out = (convs[0][place](both) + convs[1][place](both)) / 2
        torch.testing.assert_close(hidden.down[place], kept)
        torch.testing.assert_close(residuals.down[place], given_out)
    last = len(first) + 1
    after = [
        net.down_blocks[1](mean[-1], time, text)[1][0]
        for net, time in zip(nets, (first_time, second_time), strict=True)
    ]
    expected = sum(conv[last](feature) for conv, feature in zip(convs, after, strict=True)) / 2
    torch.testing.assert_close(hidden.down[last], expected)
    torch.testing.assert_close([*residuals.down[last:], residuals.mid], [*none.down[last:], none.mid], **EXACT)
    torch.testing.assert_close([*hidden.down[last:], hidden.mid], [*whole.down[last:], whole.mid], **EXACT)
    assert not torch.allclose(hidden.down[last], residuals.down[last])


@pytest.mark.parametrize("rule", [MaxFusion(), GatedSum(), ChannelFusion(normaliser="pair", halves=True)], ids=repr)
def test_hidden_state_and_residuals_together_are_the_down_block(nets, rule):
    given = inputs(2)
    whole = lockstep_controlnets(nets[:2], rule, *given, sites=("conv_in", "down", "mid"))
    parts = lockstep_controlnets(nets[:2], rule, *given, sites=("conv_in", "hidden", "residuals", "mid"))
    assert_same(parts, whole, **EXACT)
    each = ("conv_in", "hidden.0", "hidden.1", "residuals.0", "residuals.1", "mid")
    assert_same(lockstep_controlnets(nets[:2], rule, *given, sites=each), whole, **EXACT)
    mixed = ("conv_in", "down.0", "hidden.1", "residuals.1", "mid")
    assert_same(lockstep_controlnets(nets[:2], rule, *given, sites=mixed), whole, **EXACT)


def test_weights_and_scales_are_factors_before_and_after_the_merge(nets):
    given = inputs(2)
    sample, timestep, text, hints = given
    singles = [alone(net, sample, timestep, text, hint) for net, hint in zip(nets[:2], hints, strict=True)]
    weighted = lockstep_controlnets(nets[:2], Sum(), *given, weights=[0.5, 2.0])
    expected = [0.5 * one + 2.0 * two for one, two in zip(*map(flat, singles), strict=True)]
    torch.testing.assert_close(flat(weighted), expected)
    plain = lockstep_controlnets(nets[:2], MaxFusion(), *given)
    factors = [0.1 * (place + 1) for place in range(len(flat(plain)))]
    scaled = lockstep_controlnets(nets[:2], MaxFusion(), *given, scale=factors)
    expected = [factor * each for factor, each in zip(factors, flat(plain), strict=True)]
    torch.testing.assert_close(flat(scaled), expected, **EXACT)


# --- errors -------------------------------------------------------------------------------------------


ONE_BASE = "lockstep needs controls trained on one base model"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"block_out_channels": (32, 32)},
            "branch 1 gives 32 channels at down block 1, branch 0 64: " + ONE_BASE,
        ),
        ({"layers_per_block": 2}, "branch 1 has 2 layers per block, branch 0 1: " + ONE_BASE),
        ({"cross_attention_dim": 24}, "branch 1 reads text of width 24, branch 0 16: " + ONE_BASE),
        ({"in_channels": 9}, "branch 1 takes latents of 9 channels, branch 0 4: " + ONE_BASE),
        ({"mid_block_type": "UNetMidBlock2D"}, "branch 1 has the mid block UNetMidBlock2D, branch 0"),
        (
            {"down_block_types": ("DownBlock2D",) * 2},
            "branch 1 has the down blocks DownBlock2D, DownBlock2D, branch 0",
        ),
        ({"num_class_embeds": 3}, "branch 1 has num_class_embeds=3"),
        ({"class_embed_type": "timestep"}, "branch 1 has class_embed_type='timestep'"),
        ({"addition_embed_type": "text"}, "branch 1 has addition_embed_type='text'"),
        ({"global_pool_conditions": True}, "branch 1 has global_pool_conditions=True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_branch_that_does_not_fit_is_named(nets, config, sentence):
    if "addition_embed_type" in config:
        config = config | {"addition_embed_type_num_heads": 8}
    with pytest.raises(ValueError, match=sentence):
        lockstep_controlnets([nets[0], controlnet(5, **config)], Sum(), *inputs(2))


def test_a_configuration_read_from_a_file_is_the_same_architecture(nets, tmp_path):
    nets[0].save_pretrained(tmp_path)
    loaded = ControlNetModel.from_pretrained(tmp_path)  # its tuples have become lists
    *given, (hint,) = inputs(1)
    ours = lockstep_controlnets([nets[0], loaded], Average(), *given, [hint, hint])
    assert_same(ours, alone(nets[0], *given, hint), **EXACT)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nets": []}, "at least one ControlNet"),
        ({"hints": []}, "2 ControlNets and 0 hints"),
        ({"sites": ("down.2",)}, "or at one of 2 down blocks, down.0 to down.1"),
        ({"weights": [1.0]}, "1 weights and 2 branches"),
        ({"scale": [1.0, 1.0]}, "2 scales for 5 residuals"),
        ({"sites": ("hidden.2",)}, "down.0 to down.1, and so hidden.0 and residuals.0"),
        ({"sites": ("conv_in.0",)}, "unknown site"),
        ({"sites": ("mid", "down", "hidden")}, "the sites down and hidden unmerge the same features twice"),
        ({"sites": ("residuals.1", "down")}, "the sites down and residuals.1 unmerge"),
        ({"sites": ("hidden", "down.0")}, "the sites down.0 and hidden unmerge"),
        ({"sites": ("hidden.1", "down.1")}, "the sites down.1 and hidden.1 unmerge"),
        ({"sites": ("down", "up")}, r"unknown site in \('down', 'up'\)"),
        ({"sites": "down"}, "unknown site in 'down'"),
        (
            {"sample": torch.zeros(2, 3, 8, 8)},
            r"latents have shape \(2, 3, 8, 8\), branches take \(B, 4, h, w\)",
        ),
        ({"text": torch.zeros(1, 5, 16)}, r"text has shape \(1, 5, 16\), branches take \(2, tokens, 16\)"),
        ({"text": torch.zeros(2, 5, 24)}, r"text has shape \(2, 5, 24\)"),
        ({"timestep": torch.tensor([1, 2, 3])}, r"timestep has shape \(3,\), branches take \(\) or \(2,\)"),
        (
            {"hints": [torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 32, 32)]},
            r"hint 1 has shape \(1, 3, 32, 32\)",
        ),
        (
            {"hints": [torch.zeros(2, 3, 16, 16)] * 2},
            r"hint 0 has shape \(2, 3, 16, 16\).*embedding \(2, 32, 8, 8\)",
        ),
        ({"hints": [torch.zeros(2, 32, 4, 4)] * 2}, r"hint 0 has shape \(2, 32, 4, 4\)"),
        ({"hints": [torch.zeros(3, 32, 32)] * 2}, r"hint 0 has shape \(3, 32, 32\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_quote_what_was_given(nets, change, sentence):
    sample, timestep, text, hints = inputs(2)
    call = {"nets": nets[:2], "sample": sample, "timestep": timestep, "text": text, "hints": hints}
    with pytest.raises(ValueError, match=sentence):
        lockstep_controlnets(rule=MaxFusion(), **call | change)


def test_a_rule_that_loses_a_branch_is_stopped(nets):
    class Forgetful(Sum):
        def unmerge(self, features):
            return features[:1]

    with pytest.raises(ValueError, match=r"Forgetful\.unmerge at conv_in gives 1 for 2 features"):
        lockstep_controlnets(nets[:2], Forgetful(), *inputs(2))


def test_the_hint_site_unmerges_the_first_residual_too(nets):
    sample, timestep, text, hints = inputs(2)
    rule = MaxFusion(-1.0)  # the mean everywhere: both branches go on with it
    hidden = [net.conv_in(sample) + embed_hint(net, hint) for net, hint in zip(nets[:2], hints, strict=True)]
    mean = sum(hidden) / 2
    expected = sum(net.controlnet_down_blocks[0](mean) for net in nets[:2]) / 2
    fused = lockstep_controlnets(nets[:2], rule, sample, timestep, text, hints, sites=["hint"])
    torch.testing.assert_close(fused.down[0], expected)
    before = lockstep_controlnets(nets[:2], rule, sample, timestep, text, hints, sites=["conv_in"])
    assert not torch.allclose(before.down[0], expected)


def test_a_rule_may_treat_the_middle_otherwise(nets):
    class Silent(Sum):
        def merge_mid(self, features):
            return torch.zeros_like(features[0])

    sample, timestep, text, hints = inputs(2)
    down, mid = lockstep_controlnets(nets[:2], Silent(), sample, timestep, text, hints)
    usual = lockstep_controlnets(nets[:2], Sum(), sample, timestep, text, hints)
    assert not mid.any() and usual.mid.any()
    torch.testing.assert_close(down, usual.down)
