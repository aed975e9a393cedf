"""What the parts of a trained family are worth by themselves, on scenes that none of them was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DModel
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from transformers import CLIPModel, CLIPTokenizer

from maxbench.errors import UserError
from maxbench.metrics.fidelity import confusion, depth_rmse, per_image_iou, soft_edge_ssim
from maxbench.metrics.statistics import Interval, bootstrap, bootstrap_mean, resampled_sums
from maxbench.miniature import world
from maxbench.miniature.annotators import HEADS, Annotator, MapScorer
from maxbench.miniature.corpus import Corpus
from maxbench.miniature.dilated import DilatedNet
from maxbench.miniature.language import tokenise
from maxbench.progress import track

AMONG = 64  # captions among which a picture's own is to be found
BATCH = 64
SEED = 0  # of every bootstrap
NEEDED = ("vae", "annotators", "scorers/maps", "scorers/clip")
BOTH = "annotator and scorer"
ERRORS = "errors of both"

Look = Callable[[Tensor], Tensor]
"""A map network: pictures (B, 3, S, S) in [-1, 1] to its output (B, OUTPUTS, S, S)."""


@dataclass(frozen=True)
class Measure:
    """One measured number: of which part, of what kind, on which pictures ("" where the kind says it)."""

    part: str
    measure: str
    on: str
    interval: Interval
    better: str  # "higher", "lower", or "" where neither is


@dataclass(frozen=True)
class Maps:
    """What a map network, or the renderer, says of N pictures."""

    depth: Tensor  # (N, 1, S, S) float32 in [0, 1], near = 1
    edges: Tensor  # (N, 1, S, S) float32 in [0, 1]
    classes: Tensor  # (N, S, S) uint8, index into CLASSES


# --- measuring ----------------------------------------------------------------------------------------------


def measure_parts(weights: Path, corpus: Corpus) -> list[Measure]:
    """Measure autoencoder, text-image scorer and both map networks of the family in `weights` on a held-out corpus."""
    require(weights)
    images = torch.from_numpy(np.array(corpus.images))
    decoded = reconstructions(weights, images)
    networks, exact = load_map_networks(weights), exact_maps(corpus)
    measures = [*autoencoder_quality(images, decoded), *retrieval(weights, images, corpus)]
    together: list[Measure] = []
    apart: list[Measure] = []
    for where, pictures in (("renderings", images), ("VAE reconstructions", decoded)):
        seen = {name: read_maps(look, pictures, f"{name} on {where}") for name, look in networks.items()}
        for name, maps in seen.items():
            measures += compare_maps(name, where, exact, maps)
        together += compare_maps(BOTH, where, seen["annotator"], seen["scorer"])
        apart += compare_errors(where, exact, seen["annotator"], seen["scorer"])
    return measures + together + apart


def require(weights: Path) -> None:
    """Refuse a folder that lacks a part which is measured."""
    missing = [part for part in NEEDED if not any((weights / part).glob("*.safetensors"))]
    if missing:
        raise UserError(
            f"{weights} is no complete family: it lacks {', '.join(missing)}; "
            "name another folder, or train it with `python scripts/train_miniature.py`."
        )


@torch.inference_mode()
def reconstructions(weights: Path, images: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) uint8 after encoding and decoding, rounded as a file would hold them."""
    vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).eval()
    decoded = [
        vae.decode(vae.encode(signed(batch)).latent_dist.mode()).sample for batch in batches(images, "autoencoder")
    ]
    return ((torch.cat(decoded).clamp(-1, 1) + 1) * 127.5).round().byte()


def autoencoder_quality(images: Tensor, decoded: Tensor) -> list[Measure]:
    """PSNR of the pooled squared error, and the mean structural similarity; pictures (N, 3, S, S) uint8."""
    errors, similarities = [], []
    for pair in zip(images.split(BATCH), decoded.split(BATCH), strict=True):
        one, two = (pictures.float() / 255 for pictures in pair)
        errors.append((one - two).square().mean((1, 2, 3)))
        similarities.append(structural_similarity_index_measure(two, one, data_range=1.0, reduction="none"))
    error, similarity = torch.cat(errors).double().numpy(), torch.cat(similarities).double().numpy()
    psnr = bootstrap(
        lambda index: -10 * np.log10(error[index].mean(-1)), len(error), seed=SEED, vectorized=True
    )  # bootstrapped as a whole: it is no mean over pictures
    return [
        Measure("vae", "PSNR, dB", "renderings", psnr, "higher"),
        Measure("vae", "SSIM", "renderings", bootstrap_mean(similarity, seed=SEED), "higher"),
    ]


@torch.inference_mode()
def retrieval(weights: Path, images: Tensor, corpus: Corpus) -> list[Measure]:
    """How often the text-image scorer finds a picture's own caption among AMONG; a last, smaller group is left out."""
    model = CLIPModel.from_pretrained(weights / "scorers" / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "scorers" / "clip")
    tokens = tokenise(tokenizer, [captions[0] for captions in corpus.captions])
    seen = [model.get_image_features(pixel_values=signed(batch)).pooler_output for batch in batches(images, "clip")]
    read = [model.get_text_features(input_ids=batch).pooler_output for batch in tokens.split(BATCH)]
    hits = found(F.normalize(torch.cat(seen)), F.normalize(torch.cat(read)), AMONG)
    interval = bootstrap_mean(100 * hits.double().numpy(), seed=SEED)
    return [Measure("clip", f"own caption found among {min(AMONG, len(images))}, %", "renderings", interval, "higher")]


def found(images: Tensor, texts: Tensor, among: int) -> Tensor:
    """Whether no text is nearer to image i than text i, in groups of `among`; unit vectors (N, D) => (M,) bool.

    Where two pictures of a group share a caption, it is right for both.
    """
    among = min(among, len(images))
    hits = []
    for start in range(0, len(images) - among + 1, among):
        scores = images[start : start + among] @ texts[start : start + among].T
        hits.append(scores.diagonal() >= scores.amax(1))
    return torch.cat(hits)


def load_map_networks(weights: Path) -> dict[str, Look]:
    """Both map networks of a family, ready to look."""
    annotator = UNet2DModel.from_pretrained(weights / "annotators", torch_dtype=torch.float32).eval()
    scorer = DilatedNet.from_pretrained(weights / "scorers" / "maps", torch_dtype=torch.float32).eval()
    return {"annotator": partial(Annotator.look, annotator), "scorer": partial(MapScorer.look, scorer)}


@torch.inference_mode()
def read_maps(look: Look, images: Tensor, what: str) -> Maps:
    """What a map network sees in pictures (N, 3, S, S) uint8; `what` is said of the progress."""
    depth, edges, classes = [], [], []
    for batch in batches(images, what):
        output = look(signed(batch))
        depth.append(output[:, HEADS["depth"]].clamp(0, 1))
        edges.append(output[:, HEADS["hed"]].sigmoid())
        classes.append(output[:, HEADS["seg"]].argmax(1).byte())
    return Maps(torch.cat(depth), torch.cat(edges), torch.cat(classes))


def exact_maps(corpus: Corpus) -> Maps:
    """What the renderer knows."""
    depth, edges, classes = (torch.from_numpy(np.array(p)) for p in (corpus.depth, corpus.edges, corpus.segmentation))
    return Maps(depth[:, None].float() / 255, edges[:, None].float() / 255, classes)


def compare_maps(part: str, on: str, given: Maps, measured: Maps) -> list[Measure]:
    """Five distances of the measured maps from the given ones.

    The depth error is the benchmark's own, after a fit of scale and shift in every picture; the one without the fit
    counts as well, because a map is given to a control as it is.
    """
    rows = [
        (
            depth_rmse(given.depth[index], measured.depth[index]),
            255 * (given.depth[index] - measured.depth[index]).double().square().mean((1, 2, 3)).sqrt(),
            soft_edge_ssim(given.edges[index], measured.edges[index]),
            confusion(given.classes[index], measured.classes[index], len(world.CLASSES)),
        )
        for index in torch.arange(len(given.depth)).split(BATCH)
    ]
    fitted, unfitted, similarity, counts = (torch.cat(column).numpy() for column in zip(*rows, strict=True))

    def overlap(index: np.ndarray) -> np.ndarray:
        return per_image_iou(torch.from_numpy(resampled_sums(counts, index))).numpy()

    def overlap_of_solids(index: np.ndarray) -> np.ndarray:
        sums = resampled_sums(counts, index)  # (draws, classes, classes)
        hits = np.diagonal(sums, axis1=1, axis2=2)[:, world.SOLIDS]
        union = (sums.sum(1) + sums.sum(2))[:, world.SOLIDS] - hits
        with np.errstate(invalid="ignore"):  # 0 / 0, where no solid is in sight, is NaN
            return 100 * (hits / np.maximum(union, 1)).sum(1) / (union > 0).sum(1)

    over_pictures = partial(bootstrap, n=len(counts), seed=SEED, vectorized=True)
    return [
        Measure(part, "depth RMSE, 0-255, fitted", on, bootstrap_mean(fitted, seed=SEED), "lower"),
        Measure(part, "depth RMSE, 0-255, as is", on, bootstrap_mean(unfitted, seed=SEED), "lower"),
        Measure(part, "mIoU x100", on, over_pictures(overlap), "higher"),
        Measure(part, "mIoU x100 of solids", on, over_pictures(overlap_of_solids), "higher"),
        Measure(part, "edge SSIM", on, bootstrap_mean(similarity, seed=SEED), "higher"),
    ]


def compare_errors(on: str, exact: Maps, one: Maps, two: Maps) -> list[Measure]:
    """How far two map networks err together, bootstrapped over pictures.

    Of depth and edges the correlation about 0 of the errors of all pixels: 0 for independent errors of mean 0, 1 for
    the same ones; an offset that both have is a common error. Of classes the phi coefficient of being wrong, 0 by
    chance; and of the pixels where both are wrong, how many both call the same, by chance about 1 in 9.
    """
    pairs = ((one.depth - exact.depth, two.depth - exact.depth), (one.edges - exact.edges, two.edges - exact.edges))
    wrong = [maps.classes != exact.classes for maps in (one, two)]
    alike = wrong[0] & wrong[1] & (one.classes == two.classes)
    count = len(alike)
    products = [
        torch.stack([(a * b).double().sum((1, 2, 3)) for a, b in ((left, right), (left, left), (right, right))])
        for left, right in pairs
    ]  # of each (3, N)
    flags = torch.stack([*wrong, wrong[0] & wrong[1], alike, torch.ones_like(alike)]).double().sum((2, 3))  # (5, N)
    sums = torch.cat([*products, flags]).T.numpy()  # (N, 11)

    def about_zero(first: int) -> Callable[[np.ndarray], np.ndarray]:
        def correlation(index: np.ndarray) -> np.ndarray:
            both, left, right = np.moveaxis(resampled_sums(sums, index)[..., first : first + 3], -1, 0)
            return both / np.sqrt(left * right)

        return correlation

    def phi(index: np.ndarray) -> np.ndarray:
        left, right, both, _, pixels = np.moveaxis(resampled_sums(sums, index)[..., 6:], -1, 0)
        spread = np.sqrt(left * (pixels - left) * right * (pixels - right))
        return (both * pixels - left * right) / spread

    def named_alike(index: np.ndarray) -> np.ndarray:
        _, _, both, same, _ = np.moveaxis(resampled_sums(sums, index)[..., 6:], -1, 0)
        return 100 * same / both

    measured = {
        "correlation, depth": about_zero(0),
        "correlation, edges": about_zero(3),
        "phi, classes": phi,
        "the same wrong class, %": named_alike,
    }
    with np.errstate(invalid="ignore", divide="ignore"):  # who never errs has no correlation: NaN
        return [
            Measure(ERRORS, name, on, bootstrap(statistic, n=count, seed=SEED, vectorized=True), "lower")
            for name, statistic in measured.items()
        ]


def signed(images: Tensor) -> Tensor:
    """uint8 pictures as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def batches(images: Tensor, what: str) -> Iterator[Tensor]:
    return track(images.split(BATCH), what, len(images), "images", len)


# --- tables -------------------------------------------------------------------------------------------------


def tidy(measures: Iterable[Measure]) -> pd.DataFrame:
    """One row a number: part, measure (with the pictures that it was measured on), value, low, high, n, better."""
    return pd.DataFrame(
        [
            {
                "part": each.part, "measure": f"{each.measure}, {each.on}" if each.on else each.measure,
                "value": each.interval.value, "low": each.interval.low, "high": each.interval.high,
                "n": each.interval.n, "better": each.better,
            }
            for each in measures
        ]
    )  # fmt: skip


def parts_tables(measures: Sequence[Measure]) -> str:
    """Measures of parts as Markdown: a line for each part and kind of picture, a table for each set of measures."""
    lines: dict[tuple[str, str], list[Measure]] = {}
    for each in measures:
        lines.setdefault((each.part, each.on), []).append(each)
    tables: dict[tuple[str, ...], list[Measure]] = {}
    for line in lines.values():
        tables.setdefault(tuple(each.measure for each in line), []).extend(line)
    return "\n\n".join(
        grid(table, ("part", "on"), lambda each: (each.part, each.on), lambda each: each.measure + ARROWS[each.better])
        for table in tables.values()
    )


ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def grid(
    measures: Sequence[Measure],
    headings: Sequence[str],
    line: Callable[[Measure], Sequence[str]],
    column: Callable[[Measure], str],
) -> str:
    """A Markdown table with the number of every measure at its line and column, and N at the end.

    line: the first cells of a measure's line, one for each of `headings`.
    """
    columns = list(dict.fromkeys(map(column, measures)))
    lines: dict[tuple[str, ...], dict[str, Interval]] = {}
    for each in measures:
        lines.setdefault(tuple(line(each)), {})[column(each)] = each.interval
    rows = [[*headings, *columns, "N"], ["---"] * (len(headings) + len(columns) + 1)]
    for first, cells in lines.items():
        sizes = dict.fromkeys(str(interval.n) for interval in cells.values())
        rows.append([*first, *(format_interval(cells.get(name)) for name in columns), ", ".join(sizes)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def format_interval(interval: Interval | None) -> str:
    """A value and its interval, rounded to about three digits."""
    if interval is None or np.isnan(interval.value):
        return "-"
    digits = 1 if abs(interval.value) >= 10 else 2 if abs(interval.value) >= 1 else 3
    if np.isnan(interval.low):
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
