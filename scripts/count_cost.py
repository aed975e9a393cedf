"""What the paper's tables cost at Stable Diffusion's shapes, counted before a GPU hour is spent.

    python scripts/count_cost.py --output results/scale/cost.md
    python scripts/count_cost.py --samples 500 --experiments hed_depth contradictory_hed_depth

The experiments of conf/experiment/ are composed as a run composes them, with the settings of Stable Diffusion (steps,
guidance, resolution, control scale, from the command). Pairings choose samples from an image set of plain squares, and
every picture gets a key of what a run's own is made of, so that what experiments share is what the store shares. FLOPs
of a picture are those of its evaluations on networks of the true shapes without weights. Hours are FLOPs over a share
of the card's published peak: counted, not measured; scripts/measure_gpu.py measures. 5,000 samples take two minutes and
3 GB.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from maxbench import images as im
from maxbench.bench.shapes import SCHEDULER, SD15, Shapes, counting, flops_of, network
from maxbench.configuration.component import CONDITION, PAIRING, SAMPLER, component
from maxbench.configuration.compose import compose, hydra_on, plain
from maxbench.configuration.objects import make_method
from maxbench.data.coco import Instance, Picture
from maxbench.data.pairing import CrossImage, ObjectOnScene, Sample, Styled
from maxbench.experiments.method import NONE, SINGLE, Method
from maxbench.experiments.search import stand_ins
from maxbench.generation.inputs import CONTROL, EVALUATION
from maxbench.models.pipeline import Sampler
from maxbench.report.tables import markdown_table
from maxbench.seeds import derive
from maxbench.store.files import fingerprint
from maxbench.store.stamp import code_version, environment

PAIRS = ("hed_depth", "seg_depth", "hed_seg")
TABLES = (*(f"contradictory_{pair}" for pair in PAIRS), *PAIRS, "three_conditions")
"""The paper's Table 1, Tables 2-3, Table 4."""

PEAKS = {"float32": 67, "TF32": 495, "bfloat16": 989}
"""TFLOP a second of an NVIDIA H100 SXM, as published, without sparsity."""

CALIBRATION = 300
"""Pictures that tuning scenes are chosen from, `calibration.data.count`."""


# --- what an experiment asks for ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Squares:
    """An image set of `count` pictures, each with a caption and an object that covers a quarter of it."""

    name: str
    count: int
    category: str
    about: str = "squares"
    has_objects: bool = True

    @property
    def ids(self) -> list[int]:
        return list(range(self.count))

    def picture(self, image: int) -> Picture:
        return Picture(image, Path(f"{image}.png"), (f"picture {image}",), (Instance(self.category, 16, {}),))

    def mask(self, instance: Instance) -> np.ndarray:
        covered = np.zeros((8, 8), bool)
        covered[:4, :4] = True
        return covered

    def fingerprint(self) -> str:
        return self.name


@dataclass(frozen=True)
class Settings:
    """Of all experiments; samples: at most, of each experiment; pictures: of their one image set."""

    samples: int
    pictures: int
    reference: int
    steps: int
    guidance: float
    control_scale: float

    def overrides(self, experiment: str) -> list[str]:
        return [
            f"experiment={experiment}",
            "sampler=paper",
            f"sampler.steps={self.steps}",
            f"sampler.guidance_scale={self.guidance}",
            f"suite.control_scale={self.control_scale}",
            f"pairing.reference={self.reference}",
        ]


@dataclass
class Work:
    """What is asked for, by key; whatever has a key twice is made once.

    pictures: the entry of the method, U-Net evaluations and ControlNet evaluations, by key. passes: of a network
    over a picture: (network, picture, what it is held against). The others are keys that say what they are.
    """

    pictures: dict[tuple, tuple[str, int, int]] = field(default_factory=dict)
    sources: set = field(default_factory=set)
    maps: set = field(default_factory=set)
    masks: set = field(default_factory=set)
    passes: set = field(default_factory=set)

    def add(self, other: Work) -> None:
        self.pictures = {**other.pictures, **self.pictures}
        for kind in ("sources", "maps", "masks", "passes"):
            getattr(self, kind).update(getattr(other, kind))

    def beyond(self, known: Work) -> Work:
        """What is asked for here and is not known."""
        new = {key: each for key, each in self.pictures.items() if key not in known.pictures}
        rest = {kind: getattr(self, kind) - getattr(known, kind) for kind in ("sources", "maps", "masks", "passes")}
        return Work(new, **rest)


@dataclass
class Asked:
    """An experiment: by method what it asks for, tuning under the method that is tuned; and what is common."""

    name: str
    samples: int
    rows: int
    methods: dict[str, Work]
    common: Work

    def all(self) -> Work:
        whole = Work()
        for each in (*self.methods.values(), self.common):
            whole.add(each)
        return whole


def ask(experiment: str, settings: Settings, overrides: Sequence[str] = ()) -> Asked:
    """What a run of an experiment would make; overrides: of its configuration, besides the settings."""
    with hydra_on() as hydra:
        config = plain(compose(hydra, [*settings.overrides(experiment), *overrides]))
    names = list(config["conditions"])
    conditions = {name: component(entry, name, CONDITION) for name, entry in config["conditions"].items()}
    entries = [make_method(entry, name).expand(name, names) for name, entry in config["methods"].items()]
    methods = list(chain.from_iterable(entries))
    pairing = component(config["pairing"], "pairing", PAIRING)
    each = 2 if isinstance(pairing, ObjectOnScene | CrossImage | Styled) else 1  # pictures that a sample takes
    samples = min(settings.samples, (settings.pictures - settings.reference) // each)
    category = next(iter(config["pairing"].get("categories") or ["square"]))  # of those that objects are drawn from
    images, training = Squares("val", settings.pictures, category), Squares("train", CALIBRATION, category)
    plan = pairing.plan(images, names, samples, config["seed"])
    trained = component({**config["pairing"], "reference": 2}, "pairing", PAIRING).plan(
        training, names, config["calibration"]["samples"], config["calibration"]["seed"]
    )
    count = _Counting(component(config["sampler"], "sampler", SAMPLER), settings, conditions)
    units = [method for method in methods if method.role == NONE or (method.role == SINGLE and method.is_unit)]
    asked: dict[str, Work] = {}
    for method in methods:
        options = [option.method for option in stand_ins(method, [])] if method.tune else []
        work = count.method(_on_its_own(options[0], experiment) if options else method, images, plan.samples)
        for option in (*options, *(units if options else ())):
            work.add(count.method(option, training, trained.samples))
        asked[method.name] = work
    common = count.inputs(images, plan.samples, plan.reference)
    if any(method.tune for method in methods):
        common.add(count.inputs(training, trained.samples, ()))
    return Asked(experiment, len(plan.samples), len(methods), asked, common)


def _on_its_own(method: Method, experiment: str) -> Method:
    """A tuned method at a setting that no other has: which one is chosen is not known, and this costs the most."""
    return replace(method, scale=method.scale * (1 + derive("chosen", experiment, method.entry) / 2**63))


@dataclass(frozen=True)
class _Counting:
    """Counts for one experiment."""

    sampler: Sampler
    settings: Settings
    conditions: Mapping[str, Any]

    @cached_property
    def steps(self) -> int:
        """Of the sampler: some evaluate a step twice."""
        scheduler = self.sampler.scheduler(dict(SCHEDULER))
        scheduler.set_timesteps(self.sampler.steps)
        return len(scheduler.timesteps)

    def method(self, method: Method, images: Squares, samples: Sequence[Sample]) -> Work:
        """The pictures of a method, and what networks measure in them."""
        acting = sum(method.acts(name, step, self.steps) for name in method.branches for step in range(self.steps))
        evaluations = (self.steps * self.sampler.halves, acting * self.sampler.halves)
        what, work = fingerprint(method.identity()), Work()
        for sample in samples:
            inputs = [(name, *self._given(name, images, sample)) for name in method.branches]
            key = (what, sample.prompt, images.name, sample.group, *inputs)
            work.pictures[key] = (method.entry, *evaluations)
            work.passes |= set(self._passes(key, images, sample))
        return work

    def inputs(self, images: Squares, samples: Sequence[Sample], reference: Iterable[int]) -> Work:
        """Source pictures, maps and masks, and what networks measure in real pictures and reconstructions."""
        work = Work()
        for sample, other in zip(samples, [*samples[1:], samples[0]], strict=True):
            sources = sample.sources
            work.sources |= {(images.name, image) for image in sources.values()}
            work.maps |= {(name, images.name, image) for name, image in sources.items()}
            for kind in (CONTROL, EVALUATION):
                work.masks |= {(kind, images.name, str(region)) for region in getattr(sample, kind).values()}
            same = len(set(sources.values())) == 1
            following = dict(zip(sources, [*list(sources)[1:], next(iter(sources))], strict=True))
            for row in ("real", "vae_reconstruction"):
                for name, image in sources.items():
                    picture = (row, images.name, image)
                    work.passes |= set(self._passes(picture, images, sample, None if same else name))
            for name in sources:  # shuffled and, where pictures differ, exchanged: by the scorers alone
                shown = [("real", images.name, sources[name])]
                shown += [] if same else [("real", images.name, sources[following[name]])]
                for picture, target in zip(shown, (other, sample), strict=False):
                    work.passes.add((_looker("scorer", name), picture, self._target(name, images, target)))
        work.passes |= {(kind, ("real", images.name, image), None) for image in reference for kind in FEATURES}
        return work

    def _passes(self, picture: Any, images: Squares, sample: Sample, only: str | None = None) -> Iterable[tuple]:
        """Over a picture: for text and features, and for each condition by its scorer and its annotator."""
        if only is None:
            yield from ((kind, picture, None) for kind in FEATURES)
        for name in sample.sources if only is None else [only]:
            for kind in ("scorer", "annotator"):
                yield _looker(kind, name), picture, self._target(name, images, sample)

    def _given(self, name: str, images: Squares, sample: Sample) -> tuple:
        """The map that is a control, and where it is one."""
        return images.name, sample.sources[name], str(sample.control_masks.get(name))

    def _target(self, name: str, images: Squares, sample: Sample) -> tuple:
        """What pictures are held against, and where."""
        return *self._given(name, images, sample), str(sample.evaluation_masks.get(name))


# --- what it costs ------------------------------------------------------------------------------------------

FEATURES = ("clip", "inception", "dinov2", "cmmd")
"""Networks that every picture goes through, whatever its conditions; CLIP's features also give the text score."""


def _clip(side: int = 224) -> torch.nn.Module:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
            projection_dim=768, image_size=side,
        )
    )  # fmt: skip


def _dinov2() -> torch.nn.Module:
    return transformers.Dinov2Model(
        transformers.Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518)
    )


def _dpt_hybrid() -> torch.nn.Module:
    return transformers.DPTForDepthEstimation(
        transformers.DPTConfig(
            is_hybrid=True, neck_hidden_sizes=[256, 512, 768, 768], backbone_out_indices=[0, 1, 8, 11], image_size=384
        )
    )


def _depth_anything() -> torch.nn.Module:
    backbone = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], reshape_hidden_states=False,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone, neck_hidden_sizes=[48, 96, 192, 384], fusion_hidden_size=64,
            reassemble_hidden_size=384,
        )
    )  # fmt: skip


STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _upernet() -> torch.nn.Module:
    backbone = transformers.ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[96, 192, 384, 768], out_features=STAGES)
    return transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(backbone_config=backbone, num_labels=150, auxiliary_in_channels=384)
    )


def _mask2former() -> torch.nn.Module:
    backbone = transformers.SwinConfig(
        embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12, image_size=384,
        out_features=STAGES,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(
        transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=150)
    )


def _vgg() -> torch.nn.Module:
    """HED's trunk; its side outputs have one channel."""
    return torchvision.models.vgg16(weights=None, init_weights=False).features[:30]


class PictureNetwork(NamedTuple):
    """A network that takes pictures: its name, how it is made, and the pixels a side that it takes.

    mode: in which it is made and run without weights; not every network can both ways.
    """

    name: str
    make: Callable[[], torch.nn.Module]
    side: int
    mode: Callable[[], Any] = partial(torch.device, "meta")


NETWORKS = {
    "clip": PictureNetwork("CLIP ViT-L/14", _clip, 224),
    "inception": PictureNetwork("Inception v3", lambda: torchvision.models.inception_v3(init_weights=False), 299),
    "annotator depth": PictureNetwork("DPT hybrid", _dpt_hybrid, 384),
    "scorer depth": PictureNetwork("Depth Anything V2 small", _depth_anything, 518),
    "annotator seg": PictureNetwork("UperNet, ConvNeXt small", _upernet, 512),
    "scorer seg": PictureNetwork("Mask2Former, Swin large", _mask2former, 512, FakeTensorMode),
    "annotator hed": PictureNetwork("HED", _vgg, 512),
    "dinov2": PictureNetwork("DINOv2 ViT-L/14", _dinov2, 224),
    "cmmd": PictureNetwork("CLIP ViT-L/14", partial(_clip, 336), 336),
}


def _looker(kind: str, condition: str) -> str:
    """The network that looks at pictures as a condition's scorer or annotator; without a scorer it is the latter."""
    named = f"{kind} {condition}"
    return named if named in NETWORKS else f"annotator {condition}"


@cache
def pass_flops(kind: str) -> int:
    """FLOPs of one pass; its weights are never made."""
    own = NETWORKS[kind]
    transformers.logging.set_verbosity_error()
    with own.mode(), torch.inference_mode(own.mode is not FakeTensorMode), torch.no_grad():
        net, picture = own.make().eval(), torch.empty(1, 3, own.side, own.side)
        return counting(lambda: net(picture))


@dataclass(frozen=True)
class Costs:
    """FLOPs of evaluations, by part and by network; bytes of one picture as PNG."""

    parts: Mapping[str, int]
    picture_bytes: int
    of_pass: Callable[[str], int] = pass_flops

    def pictures(self, work: Work) -> int:
        """FLOPs of generating: text, all steps, decoding. A map's embedding, once per picture, is too small to show."""
        part, once = self.parts, 2 * self.parts["text_encoder"] + self.parts["decode"]
        tally: dict[tuple[int, int], int] = defaultdict(int)
        for _, unet, control in work.pictures.values():
            tally[unet, control] += 1
        return sum(
            count * (once + unet * part["unet"] + control * part["controlnet"])
            for (unet, control), count in tally.items()
        )

    def passes(self, work: Work) -> int:
        """FLOPs of drawing maps, of reconstructions and of all that is measured by a network."""
        drawn = sum(self.of_pass(f"annotator {name}") for name, *_ in work.maps)
        rebuilt = len(work.sources) * (self.parts["encode"] + self.parts["decode"])
        return drawn + rebuilt + sum(self.of_pass(kind) for kind, *_ in work.passes)

    def disk(self, work: Work, resolution: int) -> int:
        """Bytes of the store: pictures, sources and reconstructions as PNG; maps and masks as large as they can be."""
        plain = len(work.maps) + len(work.masks)
        return (len(work.pictures) + 2 * len(work.sources)) * self.picture_bytes + plain * resolution**2


def photograph_bytes(resolution: int) -> tuple[int, int]:
    """The mean size of photographs as squares in PNG, as pictures are kept, and how many: those in scikit-image."""
    from skimage import data

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    sizes = [len(im.encode_png(im.square(each, resolution))) for each in photographs]
    return round(statistics.mean(sizes)), len(sizes)


def makespan(jobs: Iterable[float], workers: int) -> float:
    """How long `workers` take for jobs that cannot be cut, the longest first, each by whoever is free first."""
    busy = [0.0] * workers
    for job in sorted(jobs, reverse=True):
        place = busy.index(min(busy))
        busy[place] += job
    return max(busy)


# --- tables -------------------------------------------------------------------------------------------------


def hours(flops: float, peak: float, shares: Sequence[float]) -> str:
    """Hours of one card, from the highest share of its peak to the lowest."""
    each = [flops / (share * peak * 1e12) / 3600 for share in sorted(shares, reverse=True)]
    return " to ".join(dict.fromkeys(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in each))


def count_table(asked: Sequence[Asked], costs: Costs, shares: Sequence[float]) -> tuple[str, Work]:
    """A row an experiment, in the order in which they are run with one store; and all of the work."""
    known, rows = Work(), []
    totals = [0] * 5
    for each in asked:
        whole = each.all()
        new = whole.beyond(known)
        known.add(whole)
        unet, control = (sum(picture[place] for picture in new.pictures.values()) for place in (1, 2))
        generating = costs.pictures(new)
        numbers = [len(whole.pictures), len(new.pictures), unet, control, generating]
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        rows.append([f"`{each.name}`", f"{each.samples:,}", str(each.rows), *_numbers(numbers, shares)])
    rows.append(["all", "", "", *_numbers(totals, shares)])
    headings = [
        "experiment",
        "samples",
        "methods",
        "pictures asked for",
        "made",
        "U-Net, million",
        "ControlNets, million",
    ]
    return markdown_table([*headings, "EFLOP", *(f"{dtype}, hours" for dtype in PEAKS)], rows), known


def _numbers(numbers: Sequence[int], shares: Sequence[float]) -> list[str]:
    asked, made, unet, control, flops = numbers
    times = [hours(flops, peak, shares) for peak in PEAKS.values()]
    return [f"{asked:,}", f"{made:,}", f"{unet / 1e6:.1f}", f"{control / 1e6:.1f}", f"{flops / 1e18:.1f}", *times]


def sharing_table(asked: Sequence[Asked], costs: Costs) -> str:
    """What several experiments ask for and the store has once, by what it is."""
    by_entry: dict[str, list[Work]] = defaultdict(list)
    for each in asked:
        for name, work in each.methods.items():
            by_entry[name.partition("/")[0]].append(work)
    rows, known = [], Work()
    for entry, works in by_entry.items():
        own = sum(len(work.pictures) for work in works)
        flops = sum(costs.pictures(work) for work in works)
        whole = Work()
        for work in works:
            whole.add(work)
        new = whole.beyond(known)
        known.add(whole)
        if own > len(new.pictures):
            rows.append(
                [f"pictures of `{entry}`", f"{own:,}", f"{len(new.pictures):,}", _saved(flops, costs.pictures(new))]
            )
    for what, kind in (("source pictures", "sources"), ("maps", "maps"), ("passes over pictures", "passes")):
        own = sum(len(getattr(each.all(), kind)) for each in asked)
        distinct = len(set().union(*(getattr(each.all(), kind) for each in asked)))
        rows.append([what, f"{own:,}", f"{distinct:,}", f"{1 - distinct / own:.0%}"])
    return markdown_table(["what", "asked for", "made", "saved"], rows)


def _saved(before: float, after: float) -> str:
    return f"{1 - after / before:.0%}"


def gpu_table(asked: Sequence[Asked], costs: Costs, shares: Sequence[float], cards: Sequence[int]) -> str:
    """How long several cards take: whole experiments, single methods, and were it cut without loss."""
    known, whole, single = Work(), [], []
    for each in asked:
        total = 0
        for work in each.methods.values():
            new = work.beyond(known)
            known.add(work)
            single.append(costs.pictures(new))
            total += single[-1]
        whole.append(total)
    apart = [costs.pictures(each.all()) for each in asked]  # at once, nobody finds what another is making
    rows = []
    for count in cards:
        spans = [makespan(whole if count == 1 else apart, count), makespan(single, count), sum(single) / count]
        rows.append([str(count), *(hours(span, PEAKS["bfloat16"], shares) for span in spans)])
    headings = ["H100", "an experiment each", "a method each", "cut without loss"]
    return markdown_table(headings, rows)


def passes_table(work: Work, costs: Costs) -> str:
    tally: dict[str, int] = defaultdict(int)
    for kind, *_ in work.passes:
        tally[kind] += 1
    rows = [
        [kind, NETWORKS[kind].name, str(NETWORKS[kind].side), f"{costs.of_pass(kind) / 1e12:.2f}", f"{tally[kind]:,}"]
        for kind in NETWORKS
        if tally[kind]
    ]
    return markdown_table(["what for", "network", "pixels a side", "TFLOP", "passes"], rows)


def page(asked: Sequence[Asked], costs: Costs, resolution: int, shares: Sequence[float], cards: Sequence[int]) -> str:
    """Everything that is counted for one image set, Markdown."""
    counted, work = count_table(asked, costs, shares)
    alone, generating, measuring = (
        sum(costs.pictures(each.all()) for each in asked),
        costs.pictures(work),
        costs.passes(work),
    )
    files = len(work.pictures) + 2 * len(work.sources) + len(work.maps) + len(work.masks)
    return f"""{counted}

Without the store, every experiment by itself, generating would be {alone / 1e18:.1f} EFLOP instead of
{generating / 1e18:.1f}.

### What the store shares

{sharing_table(asked, costs)}

### Disk and metrics

Disk: {costs.disk(work, resolution) / 1e9:,.0f} GB in {files:,} files and as many records, at {costs.picture_bytes:,}
bytes a picture; maps and masks as if PNG did not make them smaller.

Networks that take pictures (maps, reconstructions, metrics): {measuring / 1e18:.2f} EFLOP, {measuring / generating:.1%}
of generating; in float32, as scorers run, {hours(measuring, PEAKS["float32"], shares)} hours.

{passes_table(work, costs)}

### More than one card

bfloat16, generating alone, in hours.

{gpu_table(asked, costs, shares, cards)}
"""


def parts_table(shapes: Shapes, parts: Mapping[str, int]) -> str:
    """What one evaluation of each network takes."""

    def millions(part: str) -> str:
        if part not in shapes.configs:
            return "-"
        return f"{sum(each.numel() for each in network(shapes, part, device='meta').parameters()) / 1e6:.1f}"

    rows = [[f"`{part}`", millions(part), f"{count / 1e12:.3f}"] for part, count in parts.items()]
    return markdown_table(["part", "parameters, million", "TFLOP"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=list(TABLES), metavar="NAME")
    parser.add_argument("--samples", type=int, default=5000, help="of each experiment, if there are pictures for them")
    parser.add_argument(
        "--pictures", type=int, nargs="+", help="sizes of image sets; as many as the samples need, if left out"
    )
    parser.add_argument("--reference", type=int, default=512, help="pictures that stand for real ones")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--control-scale", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.35, 0.15], help="of the peak: assumptions")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    shapes, stamp = replace(SD15, resolution=chosen.resolution), environment(torch.device("cpu"))
    size, photographs = photograph_bytes(shapes.resolution)
    costs = Costs(flops_of(shapes), size)
    peaks = ", ".join(f"{dtype} {peak}" for dtype, peak in PEAKS.items())
    shares = " to ".join(f"{share:.0%}" for share in sorted(chosen.shares, reverse=True))
    first = f"""# What the paper's tables cost, counted

Made by `scripts/count_cost.py` ({code_version(stamp)}, PyTorch {torch.__version__}); nothing here was measured on a
GPU. {chosen.steps} steps, guidance {chosen.guidance:g}, {shapes.resolution} pixels, control scale
{chosen.control_scale:g}; {chosen.reference} pictures are the reference. Experiments in the tables' order, with one
store. Hours are of one H100 (SXM) at {shares} of its published peak; that share is an assumption. Peaks, TFLOP a second
without sparsity: {peaks}. A picture takes as many bytes as {photographs} photographs do on average.

## One evaluation

One picture, one guidance half; a multiplication and an addition are two FLOPs.

{parts_table(shapes, costs.parts)}
"""
    pages = [first]
    for pictures in chosen.pictures or [2 * chosen.samples + chosen.reference]:
        settings = Settings(
            chosen.samples, pictures, chosen.reference, chosen.steps, chosen.guidance, chosen.control_scale
        )
        asked = [ask(each, settings) for each in chosen.experiments]
        heading = f"## {pictures:,} pictures, at most {chosen.samples:,} samples an experiment"
        pages.append(f"{heading}\n\n{page(asked, costs, shapes.resolution, chosen.shares, chosen.gpus)}")
        del asked
    text = "\n".join(pages)
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
