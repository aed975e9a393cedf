"""N control branches through one forward, in lockstep, with a fusion rule wherever their features meet.

ControlNets: `lockstep_controlnets`. T2I-Adapters (Mou et al., AAAI 2024): `lockstep_adapters`.

The forward is that of diffusers' ControlNetModel (Stable Diffusion 1.5 style), taken apart so that a rule can
act between branches, for which diffusers offers no hook. The order is that of MaxFusion (Nair et al., ECCV
2024, arXiv 2404.09977, Sec. 3.5 "InterModel Unmerging" and Algorithm 1) as its authors run it:

    site "conv_in"   conv_in of every branch, unmerge
                     add each branch's own hint: the first residual, which is not unmerged
    site "hint"      (not the authors') unmerge here, the first residual with it
    site "down"      for every down block: run all branches, unmerge each residual that the block collected; the last
                     of them is the block's hidden state, with which the branches go on
    site "mid"       mid block of every branch, unmerge
    always           zero convolutions of every branch, times its weight, merge, times scale

Two more sites (not the authors') take "down" apart:

    site "hidden"    the hidden state with which the branches go on; the residuals that the block collected stay each
                     branch's own, also the last, which is the hidden state before it is unmerged
    site "residuals" the residuals on their way to the outputs; the hidden state that goes on stays each branch's own

Both together are "down". With no sites the branches run independently and meet only in the last line. "down.1" is the
second down block alone, and so are "hidden.1" and "residuals.1".
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from maxbench.errors import UserError
from maxbench.fusion import ALL_SITES, BLOCK_SITES, SITES, Feature, Rule, RuleError, clash

if TYPE_CHECKING:
    from diffusers import ControlNetModel, T2IAdapter

Factor = float | Float[Tensor, ""]
"""Of a feature: a number, or the same as a float32 tensor, which a compiled graph does not take for a constant."""

UNSUPPORTED = ("class_embed_type", "num_class_embeds", "addition_embed_type", "global_pool_conditions")


class Residuals(NamedTuple):
    """What the U-Net adds to its skip connections, in their order, and to its middle."""

    down: list[Feature]
    mid: Feature


def lockstep_controlnets(
    nets: Sequence["ControlNetModel"],
    rule: Rule,
    sample: Float[Tensor, "batch latent height width"],
    timestep: int | float | Num[Tensor, ""] | Num[Tensor, "batch"],
    text: Float[Tensor, "batch token width"],
    hints: Sequence[Feature],
    scale: float | Sequence[float] | Float[Tensor, "number"] = 1.0,
    sites: Collection[str] = SITES,
    weights: Sequence[float] | Float[Tensor, "branch"] | None = None,
) -> Residuals:
    """Run every branch on the same latents, timestep and text, fused into what one ControlNet would return.

    nets: ControlNets of one architecture, one per branch.
    sample: the latents (B, 4, h, w); under classifier-free guidance B counts both halves.
    hints: per branch a map (B, 3, H, W) in [0, 1] or what `embed_hint` makes of it, (B, C0, h, w), C0 being
        the channels of `conv_in`. It does not depend on the timestep: embed once per image, not per step.
    scale: the control strength, a factor on what the rule has merged; a sequence has one for each residual in the
        order of the forward pass, the middle's last. In a tensor, one element or one for each.
    sites: where features are unmerged, out of ALL_SITES, or "down.<i>", "hidden.<i>", "residuals.<i>" for one down
        block; outputs are merged whatever the sites.
    weights: a factor for each branch on its own outputs, before they are merged; None for 1.
    Raises UserError, a ValueError, for branches of different architecture, inputs of different batch size, unknown
    sites, and "down" together with a part of it.
    """
    _require_one_architecture(nets)
    _require_inputs(nets, sample, timestep, text, hints, sites, weights)
    hints = [_embedding(branch, net, hints[branch], sample) for branch, net in enumerate(nets)]
    times = [_embed_time(net, timestep, sample) for net in nets]

    def unmerge(site: str, features: Sequence[Feature]) -> Sequence[Feature]:
        return _unmerged(rule, site, features) if site in sites else features

    def run(block: nn.Module, hidden: Feature, time: Tensor):
        has_cross_attention = getattr(block, "has_cross_attention", False)
        return block(hidden, time, text) if has_cross_attention else block(hidden, time)

    hidden = unmerge("conv_in", [net.conv_in(sample) for net in nets])
    hidden = unmerge("hint", _each(torch.add, hidden, hints))

    residuals = [hidden]  # for every skip connection of the U-Net, one feature per branch
    for number, blocks in enumerate(zip(*(net.down_blocks for net in nets), strict=True)):
        down, going_on, kept = (_site(kind, number, sites) for kind in ("down", "hidden", "residuals"))
        collected = [outputs for _, outputs in _each(run, blocks, hidden, times)]
        fused = [unmerge(down, features) for features in zip(*collected, strict=True)]
        hidden = unmerge(going_on, fused[-1])  # a block's last residual *is* its hidden state
        residuals += [unmerge(kept, features) for features in fused]

    hidden = unmerge("mid", _each(run, [net.mid_block for net in nets], hidden, times))

    def outputs(zero_convs: Sequence[nn.Module], features: Sequence[Feature]) -> list[Feature]:
        return _weighted([conv(feature) for conv, feature in zip(zero_convs, features, strict=True)], weights)

    down_convs = zip(*(net.controlnet_down_blocks for net in nets), strict=True)
    *down_scales, mid_scale = scales_of(scale, len(residuals) + 1)
    spoken = _each(outputs, down_convs, residuals)
    merged = [_merged(rule, rule.merge, f"output {place}", each) for place, each in enumerate(spoken)]
    mid = outputs([net.controlnet_mid_block for net in nets], hidden)
    return Residuals(
        down=_each(scaled, down_scales, merged),
        mid=scaled(mid_scale, _merged(rule, rule.merge_mid, "the mid block's output", mid)),
    )


def lockstep_adapters(
    nets: Sequence["T2IAdapter"],
    rule: Rule,
    hints: Sequence[Float[Tensor, "batch channel map_height map_width"]],
    scale: float | Sequence[float] = 1.0,
    sites: Collection[str] = SITES,
    weights: Sequence[float] | None = None,
) -> list[Feature]:
    """Run T2I-Adapters level by level, fused into the pyramid that one adapter would return.

    Adapters know neither latents nor timestep nor text: one call per image serves every step. Features are merged
    at every level, and at site "down" unmerged before the next one; at site "conv_in" they are unmerged before the
    first. What a level gives is merged before it is unmerged, so that "hidden" is the same as "down" and "residuals"
    changes nothing; nor do "hint" and "mid", which adapters do not have. The U-Net consumes the list that it is given:
    pass it a copy each time.

    nets: T2IAdapters of one architecture, one per branch. hints: per branch a map in [0, 1].
    scale, weights: as for ControlNets; a sequence of scales has one for each level.
    Raises UserError, a ValueError, for branches of different architecture and inputs of different shape.
    """
    _require_adapters(nets, hints, sites, weights)
    rule = rule.for_images()  # here is no batch of guidance halves

    def unmerge(site: str, features: Sequence[Feature]) -> Sequence[Feature]:
        return _unmerged(rule, site, features) if site in sites else features

    bodies = [net.adapter for net in nets]
    hidden = [body.unshuffle(hint) for body, hint in zip(bodies, hints, strict=True)]
    if hasattr(bodies[0], "conv_in"):  # light adapters begin with their first block
        hidden = unmerge("conv_in", [body.conv_in(each) for body, each in zip(bodies, hidden, strict=True)])
    pyramid = []
    levels = list(zip(*(body.body for body in bodies), strict=True))
    for number, (blocks, level_scale) in enumerate(zip(levels, scales_of(scale, len(levels)), strict=True)):
        hidden = [block(each) for block, each in zip(blocks, hidden, strict=True)]
        pyramid.append(_merged(rule, rule.merge, f"level {number}", _weighted(hidden, weights)) * level_scale)
        for kind in ("down", "hidden"):  # never both, see _require_sites
            hidden = unmerge(_site(kind, number, sites), hidden)
    return pyramid


def embed_hint(net: "ControlNetModel", hint: Float[Tensor, "batch 3 map_height map_width"]) -> Feature:
    """The conditioning embedding (B, C0, h, w) of a map, its channels in the order the net was trained on."""
    order = net.config.controlnet_conditioning_channel_order
    if order not in ("rgb", "bgr"):
        raise UserError(f"a ControlNet reads the channels of its map as 'rgb' or 'bgr', not {order!r}")
    return net.controlnet_cond_embedding(hint.flip(1) if order == "bgr" else hint)


def _embedding(branch: int, net: "ControlNetModel", hint: Tensor, sample: Tensor) -> Feature:
    """The hint itself if it has the shape of an embedding, else the embedding of the map it must then be."""
    expected = (len(sample), net.conv_in.out_channels, *sample.shape[2:])
    channels = net.config.conditioning_channels
    is_map = hint.shape != expected and hint.ndim == 4 and hint.shape[1] == channels
    embedding = embed_hint(net, hint) if is_map else hint
    if embedding.shape != expected:
        raise UserError(
            f"hint {branch} has shape {tuple(hint.shape)}: latents of shape {tuple(sample.shape)} need an "
            f"embedding {expected}, or a map of batch {len(sample)} and {channels} channels that becomes one"
        )
    return embedding


def _embed_time(net: "ControlNetModel", timestep: int | float | Tensor, sample: Tensor) -> Tensor:
    timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
    return net.time_embedding(net.time_proj(timesteps).to(sample.dtype))  # sinusoids are always float32


def _weighted(features: list[Feature], weights: Sequence[float] | Tensor | None) -> list[Feature]:
    if weights is None or (not isinstance(weights, Tensor) and all(weight == 1 for weight in weights)):
        return features
    return [scaled(weight, feature) for weight, feature in zip(each_of(weights), features, strict=True)]


def each_of(factors: Sequence[float] | Tensor) -> Sequence[Factor]:
    return factors.unbind() if isinstance(factors, Tensor) else factors


def scaled(factor: Factor, feature: Feature) -> Feature:
    """A feature times a number, in its dtype. A tensor would be rounded to that dtype first, which a number is not."""
    if isinstance(factor, Tensor):
        return (factor * feature.float()).to(feature.dtype)
    return factor * feature


def scales_of(scale: float | Sequence[float] | Tensor, count: int) -> Sequence[Factor]:
    """One scale for each of `count` residuals."""
    if isinstance(scale, int | float):
        return [scale] * count
    if isinstance(scale, Tensor):
        scale = each_of(scale) * (count if len(scale) == 1 else 1)
    if len(scale) != count:
        raise UserError(f"{len(scale)} scales for {count} residuals: give one number, or one for each of them")
    return scale


def _site(kind: str, block: int, sites: Collection[str]) -> str:
    """The name of a block's site: of all blocks if these are among the sites, else of this one."""
    return kind if kind in sites else f"{kind}.{block}"


def _unmerged(rule: Rule, site: str, features: Sequence[Feature]) -> Sequence[Feature]:
    """What a rule makes of the features at a site, after checking that every branch can go on with it."""
    fused = _ask(rule, rule.unmerge, site, features)
    if not isinstance(fused, list | tuple) or len(fused) != len(features):
        count = len(fused) if isinstance(fused, list | tuple) else type(fused).__name__
        raise RuleError(
            f"{type(rule).__name__}.unmerge at {site} gives {count} for {len(features)} features: "
            "it returns a list, one feature for each branch"
        )
    for feature in fused:
        _require_like(rule, "unmerge", site, feature, features[0])
    return fused


def _merged(rule: Rule, merge: Callable, place: str, features: Sequence[Feature]) -> Feature:
    """The one feature that a rule makes of several, after checking that the U-Net can take it."""
    merged = _ask(rule, merge, place, features)
    _require_like(rule, merge.__name__, place, merged, features[0])
    return merged


def _ask(rule: Rule, method: Callable, place: str, features: Sequence[Feature]):
    """Call a rule; whatever it raises becomes a RuleError that names the rule and the place."""
    if torch.compiler.is_compiling():  # a graph that is being traced takes no detours
        return method(features)
    try:
        return method(features)
    except RuleError:
        raise
    except (Exception, SystemExit) as error:  # a rule that ends the program would end it without a word
        raise RuleError(
            f"{type(rule).__name__}.{method.__name__} at {place}, on features of shape {tuple(features[0].shape)}, "
            f"raised {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _require_like(rule: Rule, method: str, place: str, result: object, feature: Feature) -> None:
    """A result that is no tensor of the features' shape and dtype would be broadcast, or refused far from here."""
    if isinstance(result, Tensor) and result.shape == feature.shape and result.dtype == feature.dtype:
        return
    was = f"{tuple(result.shape)} in {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
    raise RuleError(
        f"{type(rule).__name__}.{method} at {place} gives {was}; "
        f"the features are {tuple(feature.shape)} in {feature.dtype}, and so must the result be"
    )


def _each(call: Callable, *arguments: Iterable) -> list:
    """Call once for every branch (or every place), with its own arguments."""
    return [call(*own) for own in zip(*arguments, strict=True)]


def _require_one_architecture(nets: Sequence["ControlNetModel"]) -> None:
    if len(nets) == 0:
        raise UserError("lockstep needs at least one ControlNet, it was given none")
    for branch, net in enumerate(nets):
        for field in UNSUPPORTED:
            if net.config[field]:
                raise UserError(
                    f"branch {branch} has {field}={net.config[field]!r}: "
                    "lockstep runs ControlNets of Stable Diffusion 1.5's kind, which have none"
                )
        first = _architecture(nets[0])
        for phrase, value in _architecture(net).items():
            if value != first[phrase]:
                raise UserError(
                    f"branch {branch} {phrase.format(value)}, branch 0 {first[phrase]}: "
                    "lockstep needs controls trained on one base model"
                )


def _architecture(net: "ControlNetModel") -> dict[str, int | str]:
    """What branches must share, each thing in the words of the error about it."""
    config = net.config
    return {
        "takes latents of {} channels": config.in_channels,
        "reads text of width {}": config.cross_attention_dim,
        "has the down blocks {}": ", ".join(config.down_block_types),
        "has the mid block {}": config.mid_block_type,
        "has {} layers per block": config.layers_per_block,
    } | {f"gives {{}} channels at down block {i}": width for i, width in enumerate(config.block_out_channels)}


def _require_sites(sites: Collection[str], blocks: int) -> None:
    for site in sites:
        if site not in ALL_SITES and site not in [f"{kind}.{block}" for kind in BLOCK_SITES for block in range(blocks)]:
            raise UserError(
                f"there is an unknown site in {sites!r}: features meet at {', '.join(ALL_SITES)}, "
                f"or at one of {blocks} down blocks, down.0 to down.{blocks - 1}, and so hidden.0 and residuals.0"
            )
    if (both := clash(sites)) is not None:
        raise UserError(
            f"the sites {' and '.join(both)} unmerge the same features twice: down is hidden and residuals together"
        )


def _require_weights(weights: Sequence[float] | None, branches: int) -> None:
    if weights is not None and len(weights) != branches:
        raise UserError(f"{len(weights)} weights and {branches} branches: every branch needs one of its own")


def _require_adapters(
    nets: Sequence["T2IAdapter"], hints: Sequence[Tensor], sites: Collection[str], weights: Sequence[float] | None
) -> None:
    if len(nets) == 0:
        raise UserError("lockstep needs at least one adapter, it was given none")
    if len(hints) != len(nets):
        raise UserError(f"{len(nets)} adapters and {len(hints)} hints: every branch needs one of its own")
    _require_sites(sites, len(nets[0].adapter.body))
    _require_weights(weights, len(nets))
    first = nets[0].config
    for branch, (net, hint) in enumerate(zip(nets, hints, strict=True)):
        for field in ("adapter_type", "channels", "downscale_factor"):
            if net.config[field] != first[field]:
                raise UserError(
                    f"adapter {branch} has {field}={net.config[field]}, adapter 0 {first[field]}: "
                    "lockstep needs adapters trained on one base model"
                )
        if hint.ndim != 4 or hint.shape[1] != net.config.in_channels or len(hint) != len(hints[0]):
            raise UserError(
                f"hint {branch} has shape {tuple(hint.shape)}: its adapter takes "
                f"({len(hints[0])}, {net.config.in_channels}, H, W)"
            )


def _require_inputs(
    nets: Sequence["ControlNetModel"],
    sample: Tensor,
    timestep: int | float | Tensor,
    text: Tensor,
    hints: Sequence[Tensor],
    sites: Collection[str],
    weights: Sequence[float] | None,
) -> None:
    if len(hints) != len(nets):
        raise UserError(f"{len(nets)} ControlNets and {len(hints)} hints: every branch needs one of its own")
    _require_sites(sites, len(nets[0].down_blocks))
    _require_weights(weights, len(nets))
    channels, width = nets[0].config.in_channels, nets[0].config.cross_attention_dim
    if sample.ndim != 4 or sample.shape[1] != channels:
        raise UserError(f"latents have shape {tuple(sample.shape)}, branches take (B, {channels}, h, w)")
    batch = len(sample)
    if text.ndim != 3 or len(text) != batch or text.shape[2] != width:
        raise UserError(f"text has shape {tuple(text.shape)}, branches take ({batch}, tokens, {width})")
    if isinstance(timestep, Tensor) and timestep.shape not in ((), (1,), (batch,)):
        raise UserError(f"timestep has shape {tuple(timestep.shape)}, branches take () or ({batch},)")
