"""Stable Diffusion 1.5's own shapes on a processor: is the fusion right there, and what does it cost?

    python scripts/true_shapes.py --output results/scale/true_shapes.md

One picture at 512, two ControlNets, one step of classifier-free guidance, random weights, float32. MaxFusion in
lockstep is held against the paper's formulas, written out below without the package's rules and lockstep, and `sum`
against diffusers' MultiControlNetModel. Then seconds and memory by part, and one step of the whole pipeline. It takes
minutes and about 10 GB; `--tiny` does the same on narrow networks in seconds. Memory is read from /proc, as Linux has
it.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import MultiControlNetModel, UniPCMultistepScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from maxbench.bench.shapes import SD15, TINY, TOKENS, Shapes, flops_of, network, pipeline
from maxbench.fusion import Fusion, MaxFusion, Rule, Sum
from maxbench.models.lockstep import lockstep_controlnets
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.report.tables import markdown_table
from maxbench.store.stamp import code_version, environment

DELTA = 0.7
CLOSE = 1e-3
"""Relative deviation at a location up to which two computations agree there."""


class Inputs(NamedTuple):
    """What a step of one picture is given under guidance: both halves are a batch of two."""

    sample: Tensor  # (2, 4, h, w)
    timestep: Tensor
    text: Tensor  # (2, 77, width)
    maps: list[Tensor]  # for each branch (2, 3, H, W) in [0, 1]


def inputs_of(shapes: Shapes, branches: int = 2, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, *shapes.latents, generator=generator).repeat(2, 1, 1, 1)
    text = torch.randn(2, TOKENS, shapes.width, generator=generator)
    size = (1, 3, shapes.resolution, shapes.resolution)
    maps = [torch.rand(size, generator=generator).repeat(2, 1, 1, 1) for _ in range(branches)]
    return Inputs(latents, torch.tensor(601), text, maps)


# --- the paper's formulas, independently --------------------------------------------------------------------


def decide(features: Sequence[Tensor], delta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of two features (B, C, H, W), in float64: where they agree, the mean, the winner's feature, each one's saliency.

    sigma_i = std of f_i over channels; the winner has the larger sigma_i / (sum of sigma_i over places);
    rho = f_1 . f_2 / (|f_1| |f_2|).
    """
    first, second = (feature.double() for feature in features)
    sigma = torch.stack([each.std(dim=1, correction=0, keepdim=True) for each in (first, second)])
    relative = sigma / sigma.sum(dim=(3, 4), keepdim=True)
    second_wins = relative[1] > relative[0]
    rho = F.cosine_similarity(first, second, dim=1, eps=0).unsqueeze(1)
    sigma_w = torch.where(second_wins, sigma[1], sigma[0])
    return rho > delta, (first + second) / 2, torch.where(second_wins, second, first), sigma / sigma_w


def merge(features: Sequence[Tensor], delta: float) -> Tensor:
    agree, mean, winner, _ = decide(features, delta)
    return torch.where(agree, mean, winner).to(features[0].dtype)


def unmerge(features: Sequence[Tensor], delta: float) -> list[Tensor]:
    agree, mean, winner, ratios = decide(features, delta)
    return [torch.where(agree, mean, ratio * winner).to(features[0].dtype) for ratio in ratios]


def by_the_formulas(nets: Sequence[nn.Module], inputs: Inputs, delta: float = DELTA) -> list[Tensor]:
    """The residuals of two ControlNets under MaxFusion, layer by layer of diffusers' modules; the middle's last."""
    sample, timestep, text, maps = inputs
    pair = range(2)
    times = [net.time_embedding(net.time_proj(timestep.expand(len(sample))).to(sample.dtype)) for net in nets]
    hidden = unmerge([net.conv_in(sample) for net in nets], delta)
    hidden = [hidden[i] + nets[i].controlnet_cond_embedding(maps[i]) for i in pair]
    skips = [hidden]
    for level in range(len(nets[0].down_blocks)):
        blocks = [net.down_blocks[level] for net in nets]
        own: list[list[Tensor]] = [[], []]
        for i in pair:
            state = hidden[i]
            for layer, resnet in enumerate(blocks[i].resnets):
                state = resnet(state, times[i])
                if getattr(blocks[i], "has_cross_attention", False):
                    state = blocks[i].attentions[layer](state, encoder_hidden_states=text, return_dict=False)[0]
                own[i].append(state)
            for downsampler in blocks[i].downsamplers or ():
                state = downsampler(state)
                own[i].append(state)
        for collected in zip(*own, strict=True):
            hidden = unmerge(collected, delta)
            skips.append(hidden)
    ends = []
    for i in pair:
        middle = nets[i].mid_block
        state = middle.resnets[0](hidden[i], times[i])
        state = middle.attentions[0](state, encoder_hidden_states=text, return_dict=False)[0]
        ends.append(middle.resnets[1](state, times[i]))
    ends = unmerge(ends, delta)
    outputs = [
        [nets[i].controlnet_down_blocks[place](features[i]) for i in pair] for place, features in enumerate(skips)
    ]
    outputs.append([nets[i].controlnet_mid_block(ends[i]) for i in pair])
    return [merge(features, delta) for features in outputs]


class Agreement(NamedTuple):
    """Of two computations of the same residuals.

    largest: relative deviation of a whole residual, the largest. places: share of all locations whose feature deviates
    by more than CLOSE. A location where rho is delta, or both branches are equally salient, to the last bits can go
    either way: few locations may therefore deviate much, and what comes after them a little.
    """

    largest: float
    places: float


def agreement(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Agreement:
    largest, apart, count = 0.0, 0, 0
    for one, other in zip(ours, theirs, strict=True):
        one, other = one.double(), other.double()
        largest = max(largest, float((one - other).norm() / other.norm()))
        local = (one - other).norm(dim=1) / other.norm(dim=1)
        apart, count = apart + int((local > CLOSE).sum()), count + local.numel()
    return Agreement(largest, apart / count)


def fused(nets: Sequence[nn.Module], rule: Rule, inputs: Inputs, **settings: Any) -> list[Tensor]:
    """The same by the package."""
    down, mid = lockstep_controlnets(nets, rule, *inputs, **settings)
    return [*down, mid]


def by_diffusers(nets: Sequence[nn.Module], inputs: Inputs) -> list[Tensor]:
    """The sum of independent ControlNets."""
    sample, timestep, text, maps = inputs
    down, mid = MultiControlNetModel(nets)(sample, timestep, text, maps, [1.0] * len(nets), return_dict=False)
    return [*down, mid]


# --- cost ---------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Of one call.

    seconds: of the processor, which other work on the machine does not lengthen much. memory: bytes that it needed at
    most beyond what was there before; NaN if not known.
    """

    seconds: float = math.nan
    memory: float = math.nan


@contextmanager
def measured() -> Iterator[Cost]:
    cost, before = Cost(), math.nan
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what was freed before is used again and not seen
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
    except (OSError, AttributeError):  # no Linux
        pass
    begun = time.process_time()
    yield cost
    cost.seconds = time.process_time() - begun
    cost.memory = _resident("VmHWM") - before


def _resident(what: str) -> float:
    """VmRSS: bytes in memory now; VmHWM: at most."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))
    except (OSError, StopIteration):
        return math.nan


@dataclass(frozen=True)
class Noting(Rule):
    """A rule that keeps what it is asked, so that it can be asked again by itself."""

    rule: Rule
    asked: list = field(default_factory=list)

    def unmerge(self, features):
        self.asked.append((self.rule.unmerge, list(features)))
        return self.rule.unmerge(features)

    def merge(self, features):
        self.asked.append((self.rule.merge, list(features)))
        return self.rule.merge(features)

    def again(self) -> None:
        for call, features in self.asked:
            call(features)


@dataclass
class Row:
    """One line of the table: what was run, its networks, its cost and its FLOPs."""

    name: str
    nets: Sequence[nn.Module]
    cost: Cost
    flops: int

    def cells(self) -> list[str]:
        weights = sum(
            parameter.numel() * parameter.element_size() for net in self.nets for parameter in net.parameters()
        )
        rate = self.flops / self.cost.seconds
        return [
            self.name,
            f"{weights / 1e9:.2f}" if self.nets else "-",
            f"{self.cost.memory / 1e9:.2f}",
            f"{self.flops / 1e12:.3f}" if self.flops else "-",
            f"{self.cost.seconds:.2f}",
            f"{rate / 1e9:.0f}" if self.flops else "-",
        ]


HEADINGS = ["part", "weights, GB", "peak beyond them, GB", "TFLOP", "processor seconds", "GFLOP a second"]


def parts_of(pipe: Pipeline, shapes: Shapes) -> tuple[list[Row], Tensor]:
    """The cost of every part, for one picture under guidance; and the picture of the last, the whole."""
    nets, inputs, flops = list(pipe.controls.values()), inputs_of(shapes), flops_of(shapes)
    sample, timestep, text, maps = inputs
    rows = []

    def run(name: str, own: Sequence[nn.Module], count: int, call: Callable[[], Any]) -> Any:
        with measured() as cost:
            result = call()
        rows.append(Row(name, own, cost, count))
        print(" | ".join(rows[-1].cells()), flush=True)
        return result

    prompts, control, unet = 2 * flops["text_encoder"], 2 * flops["controlnet"], 2 * flops["unet"]
    alone = Inputs(*inputs[:3], maps[:1])
    embedded = control + 2 * flops["hint"]
    run("text encoder, prompt and negative prompt", [pipe.text_encoder], prompts, lambda: pipe.encode_text(["a", "b"]))
    run("one ControlNet, both halves", nets[:1], embedded, lambda: fused(nets[:1], Sum(), alone))
    run("two ControlNets, `sum`", nets, 2 * embedded, lambda: fused(nets, Sum(), inputs, sites=()))
    run("two ControlNets, `maxfusion`", nets, 2 * embedded, lambda: fused(nets, MaxFusion(DELTA), inputs))
    noting = Noting(MaxFusion(DELTA))
    *down, mid = fused(nets, noting, inputs)
    run(f"the rule alone, the {len(noting.asked)} calls of that", [], 0, noting.again)
    noting.asked.clear()
    added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    run("U-Net, both halves", [pipe.unet], unet, lambda: pipe.unet(sample, timestep, text, return_dict=False, **added))
    run("autoencoder, decode", [pipe.vae], flops["decode"], lambda: pipe.decode(sample[:1]))
    run("autoencoder, encode", [pipe.vae], flops["encode"], lambda: pipe.encode(maps[0][:1]))
    everything = [pipe.text_encoder, pipe.unet, pipe.vae, *nets]
    count = prompts + 2 * (control + flops["hint"]) + unet + flops["decode"]
    picture = run("pipeline, prompt to picture in one step", everything, count, lambda: one_step(pipe, shapes))
    return rows, picture


def one_step(pipe: Pipeline, shapes: Shapes) -> Tensor:
    """A picture (1, 3, S, S) by one step of the whole pipeline under guidance."""
    inputs = inputs_of(shapes)
    sampler = Sampler(UniPCMultistepScheduler.from_config, steps=1, guidance_scale=7.5)
    text, negative = pipe.encode_text(["a red sphere"]), pipe.encode_text([""])
    hints = {name: hint[:1] for name, hint in zip(pipe.controls, inputs.maps, strict=True)}
    control = pipe.control(hints, Fusion(MaxFusion(DELTA)))
    return pipe.decode(pipe.denoise(inputs.sample[:1], text, negative, control, sampler))


def _said(agreement: Agreement) -> list[str]:
    return [f"{agreement.largest:.1e}", f"{agreement.places:.1e}"]


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="narrow networks instead of the true shapes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where the Markdown goes, besides the screen")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    shapes, stamp = TINY if chosen.tiny else SD15, environment(torch.device("cpu"))
    with measured() as whole:
        nets, inputs = [network(shapes, "controlnet", seed) for seed in range(2)], inputs_of(shapes)
        maxfusion = agreement(fused(nets, MaxFusion(DELTA), inputs), by_the_formulas(nets, inputs))
        total = agreement(fused(nets, Sum(), inputs, sites=()), by_diffusers(nets, inputs))
        del nets
    print(f"maxfusion: {maxfusion}, sum: {total}, {whole}", flush=True)
    with measured() as building:
        pipe = pipeline(shapes, {"hed": "controlnet", "depth": "controlnet"})
    rows, picture = parts_of(pipe, shapes)
    finite = bool(torch.isfinite(picture).all())
    peak = f"{(building.memory + max(each.cost.memory for each in rows)) / 1e9:.1f} GB"
    right = markdown_table(
        ["what", "against", "largest relative deviation of a residual", f"share of locations beyond {CLOSE:g}"],
        [
            [f"`maxfusion`, delta {DELTA}", "the paper's formulas, written independently", *_said(maxfusion)],
            ["`sum`", "diffusers' MultiControlNetModel", *_said(total)],
        ],
    )
    size = " x ".join(map(str, picture.shape))
    text = f"""# The true shapes on a processor

Made by `scripts/true_shapes.py` ({code_version(stamp)}) on {stamp["processor"]}, {stamp["threads"]} threads, PyTorch
{torch.__version__}: {shapes.name}, {shapes.resolution} pixels, random weights, float32, one picture, two ControlNets,
one step of classifier-free guidance.

## Is it right?

{right}

One step of the whole pipeline gives a picture of shape {size}, {"all" if finite else "NOT all"} of it finite.

## What does it cost?

{markdown_table(HEADINGS, [row.cells() for row in rows])}

One call each, on a machine with other work. FLOPs are counted by PyTorch (a multiplication and an addition are two);
what works value by value, a fusion rule for one, has none by that count. All networks together, and what the largest
part needs beyond them: {peak}.
"""
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    print(text)
    return 0 if finite else 1


if __name__ == "__main__":
    raise SystemExit(main())
