"""What fusion costs: python scripts/measure_cost.py [--model miniature sd15] [--device cpu] [--compiled].

Bytes that each rule moves in eager mode, against the least possible (every feature read once, every result written
once), and its time against that of the plain sum of the branches. Then the share of a denoising step (two ControlNets
and the U-Net, both guidance halves) that fusion takes, for the miniature and for networks of Stable Diffusion 1.5's
shape with random weights. With --compiled the paper's rule once more under torch.compile(fullgraph=True).
"""

import argparse
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maxbench import fusion
from maxbench.models.lockstep import SITES, embed_hint, lockstep_controlnets
from maxbench.report.tables import markdown_table
from maxbench.store.stamp import code_version, environment

RULES = {
    "Sum": fusion.Sum(),
    "Average": fusion.Average(),
    "MaxFusion": fusion.MaxFusion(),
    "PublishedMaxFusion": fusion.PublishedMaxFusion(),
    "SoftmaxSaliency": fusion.SoftmaxSaliency(),
    "LargestNorm": fusion.LargestNorm(),
}
SD15 = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "sample_size": 64,
}


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views move nothing."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        return out


@dataclass(frozen=True)
class Timed(fusion.Rule):
    """A rule that notes how long it takes."""

    rule: fusion.Rule
    device: torch.device
    spans: list = field(default_factory=list)

    def _timed(self, call: Callable, features):
        if self.device.type == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            out = call(features)
            ended.record()
            self.spans.append((begun, ended))
        else:
            begun = time.perf_counter()
            out = call(features)
            self.spans.append(time.perf_counter() - begun)
        return out

    def unmerge(self, features):
        return self._timed(self.rule.unmerge, features)

    def merge(self, features):
        return self._timed(self.rule.merge, features)

    def merge_mid(self, features):
        return self._timed(self.rule.merge_mid, features)

    @property
    def needs_guidance(self) -> bool:
        return self.rule.needs_guidance

    def seconds(self) -> float:
        """Of all calls since the last time that it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            total = sum(begun.elapsed_time(ended) for begun, ended in self.spans) / 1000
        else:
            total = sum(self.spans)
        self.spans.clear()
        return total


def features_of(branches: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(branches)
    common = torch.randn(shape, generator=generator)
    return [(common + torch.randn(shape, generator=generator)).to(device, dtype) for _ in range(branches)]


def clock(call: Callable, device: torch.device, repeats: int) -> float:
    """Seconds of one call, the median of `repeats` after a warm-up."""
    spans = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spans.append(time.perf_counter() - begun)
    return median(spans[2:])


def rules_table(shape: tuple[int, ...], device: torch.device, repeats: int, compiled: bool) -> str:
    rows = []
    for name, rule in RULES.items():
        for branches in (2, 3) if name != "PublishedMaxFusion" else (2,):
            for dtype in (torch.float32, torch.bfloat16):
                features = features_of(branches, shape, dtype, device)
                size = features[0].numel() * features[0].element_size()
                for act, results in (("merge", 1), ("unmerge", branches)):
                    call = getattr(rule, act)
                    with Traffic() as traffic:
                        call(features)
                    least = (branches + results) * size
                    plain = clock(lambda f=features: fusion.Sum().merge(f), device, repeats)
                    own = clock(lambda c=call, f=features: c(f), device, repeats)
                    cells = [f"{traffic.bytes / least:.1f}", f"{1e3 * own:.2f}", f"{own / plain:.1f}"]
                    if compiled:
                        cells.append("-")
                        if name == "MaxFusion" and branches == 2:
                            traced = torch.compile(call, fullgraph=True, dynamic=False)
                            cells[-1] = f"{own / clock(lambda c=traced, f=features: c(f), device, repeats):.1f}"
                    rows.append([name, str(branches), str(dtype).removeprefix("torch."), act, *cells])
    headings = ["rule", "N", "dtype", "act", "bytes / least", "ms", "time / merge by Sum"]
    return markdown_table([*headings, *(["compiled is faster by"] if compiled else [])], rows)


@dataclass(frozen=True)
class Step:
    """One denoising step on random inputs: two ControlNets in lockstep, then the U-Net."""

    unet: UNet2DConditionModel
    nets: list[ControlNetModel]
    inputs: tuple
    hints: list[torch.Tensor]
    rule: fusion.Rule
    sites: tuple[str, ...] = SITES

    def __call__(self) -> torch.Tensor:
        sample, timestep, text = self.inputs
        down, mid = lockstep_controlnets(self.nets, self.rule, sample, timestep, text, self.hints, sites=self.sites)
        return self.unet(
            sample, timestep, text, down_block_additional_residuals=down, mid_block_additional_residual=mid,
            return_dict=False,
        )[0]  # fmt: skip


def step_of(model: str, batch: int, dtype: torch.dtype, device: torch.device) -> Step:
    """The miniature from the package, or networks of Stable Diffusion 1.5's shape with random weights."""
    torch.manual_seed(0)
    if model == "miniature":
        root = Path(fusion.__file__).parents[1] / "suites" / "weights" / "miniature"
        unet = UNet2DConditionModel.from_pretrained(root / "unet", torch_dtype=dtype)
        nets = [
            ControlNetModel.from_pretrained(root / f"controlnet_{name}", torch_dtype=dtype) for name in ("hed", "depth")
        ]
        tokens, picture = 32, 64
    else:
        with built_in(dtype):
            unet = UNet2DConditionModel(**SD15)
            nets = [ControlNetModel.from_unet(unet) for _ in range(2)]
        for net in nets:
            for parameter in net.parameters():  # zero convolutions would leave nothing to fuse
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.02)
        tokens, picture = 77, 512
    unet, nets = unet.to(device).eval(), [net.to(device).eval() for net in nets]
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    inputs = normal(batch, 4, size, size), torch.tensor(500, device=device), normal(batch, tokens, width)
    maps = [torch.rand(batch, 3, picture, picture, generator=generator).to(device, dtype) for _ in nets]
    hints = [embed_hint(net, each) for net, each in zip(nets, maps, strict=True)]
    return Step(unet, nets, inputs, hints, fusion.Sum())


@contextmanager
def built_in(dtype: torch.dtype):
    """Networks are made in a dtype at once: twice in float32 they would not fit everywhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def step_table(step: Step, device: torch.device, repeats: int, compiled: bool) -> str:
    """Methods take turns, so that a slow moment of the machine hits all of them."""
    ways = {
        "sum, outputs": (fusion.Sum(), ()),
        "average, outputs": (fusion.Average(), ()),
        "maxfusion, outputs": (fusion.MaxFusion(), ()),
        "maxfusion, lockstep": (fusion.MaxFusion(), SITES),
        "maxfusion_published, lockstep": (fusion.PublishedMaxFusion(), SITES),
    }
    timed = {name: Timed(rule, device) for name, (rule, _) in ways.items()}
    spans: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, (_, sites) in ways.items():
            own = replace(step, rule=timed[name], sites=sites)
            begun = time.perf_counter()
            own()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            span = time.perf_counter() - begun
            fused = timed[name].seconds()
            if turn:  # the first one warms up
                spans[name].append((span, fused))
    rows = []
    for name, each in spans.items():
        whole, fused = (median(column) for column in zip(*each, strict=True))
        cells = [f"{1e3 * whole:.1f}", f"{1e3 * fused:.1f}", f"{100 * fused / whole:.1f} %"]
        if compiled:
            cells.append("-")
            if name in ("sum, outputs", "maxfusion, lockstep"):
                rule, sites = ways[name]
                traced = torch.compile(replace(step, rule=rule, sites=sites).__call__, fullgraph=True, dynamic=False)
                cells[-1] = f"{whole / clock(traced, device, repeats):.2f}"
        rows.append([name, *cells])
    headings = ["method", "ms a step", "ms of it in the rule", "share"]
    return markdown_table([*headings, *(["compiled is faster by"] if compiled else [])], rows)


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=["miniature", "sd15"], default=["miniature"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--batch", type=int, help="both guidance halves; 64 for the miniature and 2 for sd15 if not given"
    )
    parser.add_argument(
        "--shape", type=int, nargs=4, default=[2, 320, 64, 64], help="of the features in the first table"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the step; see the table")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="a few also under torch.compile: takes minutes")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    half = "bfloat16" if device.type == "cpu" else "float16"
    stamp = environment(device)
    where = f"{stamp['processor']}, {stamp['threads']} threads" if device.type == "cpu" else stamp["device"]
    parts = [
        f"# What fusion costs\n\nMade by `scripts/measure_cost.py` ({code_version(stamp)}) on {where}, "
        f"PyTorch {torch.__version__}; medians of {chosen.repeats}.",
        f"## Rules by themselves, features {' x '.join(map(str, chosen.shape))}\n\n"
        "Least: every feature read once and every result written once.",
        rules_table(tuple(chosen.shape), device, chosen.repeats, chosen.compiled),
    ]
    for model in chosen.model:
        batch = chosen.batch or {"miniature": 64, "sd15": 2}[model]
        dtype = chosen.dtype or {"miniature": "float32", "sd15": half}[model]
        step = step_of(model, batch, getattr(torch, dtype), device)
        parts.append(f"## A denoising step of {model} shapes, {dtype}, batch {batch}, two ControlNets and the U-Net")
        parts.append(step_table(step, device, chosen.repeats, chosen.compiled and model == "miniature"))
        print(f"{model}: done", flush=True)
    text = "\n\n".join(parts) + "\n"
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
