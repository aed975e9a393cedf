"""Our metrics against those of independent packages (the extra `test`), for `scripts/validate_metrics.py`.

Every comparison is on a run's own pictures, features and measurements. A package that is not installed is said.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch

from maxbench.conditions.canny import Canny
from maxbench.evaluation import validity
from maxbench.evaluation.state import CLIP_SCORE, features_label
from maxbench.metrics import fidelity
from maxbench.metrics.distribution import frechet_distance, kernel_distance
from maxbench.metrics.statistics import intervals, means, sign_flip
from maxbench.progress import track
from maxbench.report.tables import markdown_table
from maxbench.store.stamp import package_version

if TYPE_CHECKING:
    from validate_metrics import Opened  # which calls this

SEED = 0
COMPARED = 48  # pictures that packages are shown


@dataclass(frozen=True)
class Check:
    """ours against theirs: the largest deviation; `said` alone where there is none to be had."""

    what: str
    package: str
    said: str
    count: int = 0
    absolute: float = float("nan")
    relative: float = float("nan")

    @property
    def cells(self) -> list[str]:
        if self.count == 0:
            return [self.what, self.package, "-", "-", "-", self.said]
        return [self.what, self.package, str(self.count), f"{self.absolute:.1e}", f"{self.relative:.1e}", self.said]


def compared(what: str, package: str, ours, theirs, said: str) -> Check:
    ours, theirs = (np.atleast_1d(np.asarray(each, float)).ravel() for each in (ours, theirs))
    apart = np.abs(ours - theirs)
    relative = apart[theirs != 0] / np.abs(theirs[theirs != 0])
    return Check(what, package, said, len(ours), float(apart.max()), float(relative.max(initial=0)))


def packages_section(run: Opened) -> str:
    checks: list[Check] = []
    parts: dict[str, Callable[[Opened], Iterator[Check]]] = {
        "clean-fid": with_clean_fid, "torch-fidelity": with_torch_fidelity, "scipy": with_scipy,
        "scikit-image": with_scikit_image, "torchmetrics": with_torchmetrics, "pycocotools": with_pycocotools,
        "numpy": with_numpy, "transformers": with_transformers,
    }  # fmt: skip
    for package, check in track(parts.items(), f"{run.name}: packages", len(parts), "packages"):
        try:
            checks += check(run)
        except ImportError:
            said = "not compared: it is not installed here; `pip install 'maxbench[test]'` brings it"
            checks.append(Check("everything of it", package, said))
    done = [each for each in checks if each.count]
    worst = max(done, key=lambda each: each.relative)
    exact = sum(each.relative <= 1e-6 for each in done)
    versions = ", ".join(f"{name} {package_version(name) or 'not installed'}" for name in parts)
    return (
        f"{exact} of {len(done)} comparisons agree to a relative 1e-6; the largest relative deviation is "
        f"{worst.relative:.1e} ({worst.what}, {worst.package}). Versions: {versions}.\n\n"
        + markdown_table(
            ["what", "package", "numbers", "largest deviation", "relative", "how"], [each.cells for each in checks]
        )
    )


def _sets(run: Opened) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(network, row, features, reference) of two rows."""
    state = run.tables.state
    for network, reference in state.reference.items():
        for row in (run.baseline, run.method):
            if features_label(network) in state.measured[row]:
                yield network, row, state.measured[row][features_label(network)].astype(float), reference.astype(float)


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(0), np.cov(rows, rowvar=False)


def _even(rows: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equally many of both: then one subset of that size is the whole."""
    count = min(len(rows), len(reference))
    return rows[:count], reference[:count]


def with_clean_fid(run: Opened) -> Iterator[Check]:
    import cleanfid.fid

    sets = list(_sets(run))
    yield compared(
        "Frechet distance", "clean-fid", [frechet_distance(*each[2:]) for each in sets],
        [cleanfid.fid.frechet_distance(*_moments(rows), *_moments(reference)) for *_, rows, reference in sets],
        "from the run's features; its square root of a product of covariances is less exact in small sets",
    )  # fmt: skip
    even = [_even(*each[2:]) for each in sets]
    yield compared(
        "kernel distance", "clean-fid", [kernel_distance(*each) for each in even],
        [cleanfid.fid.kernel_distance(*each, num_subsets=1, max_subset_size=len(each[0])) for each in even],
        "one subset of all rows",
    )  # fmt: skip


def with_torch_fidelity(run: Opened) -> Iterator[Check]:
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    def statistics(rows: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(("mu", "sigma"), _moments(rows), strict=True))

    sets = list(_sets(run))
    theirs = [
        fid_statistics_to_metric(statistics(rows), statistics(reference), verbose=False)["frechet_inception_distance"]
        for *_, rows, reference in sets
    ]
    ours = [frechet_distance(*each[2:]) for each in sets]
    yield compared("Frechet distance", "torch-fidelity", ours, theirs, "from the run's features")
    even = [_even(*each[2:]) for each in sets]
    theirs = [
        kid_features_to_metric(
            *map(torch.from_numpy, each), kid_subsets=1, kid_subset_size=len(each[0]), verbose=False
        )["kernel_inception_distance_mean"]
        for each in even
    ]  # fmt: skip
    ours = [kernel_distance(*each) for each in even]
    yield compared("kernel distance", "torch-fidelity", ours, theirs, "one subset of all rows")


def with_scipy(run: Opened) -> Iterator[Check]:
    sets = list(_sets(run))

    def formula(rows: np.ndarray, reference: np.ndarray) -> float:
        (mean, spread), (mean_r, spread_r) = _moments(rows), _moments(reference)
        root = scipy.linalg.sqrtm(spread @ spread_r).real
        return float(((mean - mean_r) ** 2).sum() + np.trace(spread + spread_r - 2 * root))

    yield compared(
        "Frechet distance", "scipy", [frechet_distance(*each[2:]) for each in sets],
        [formula(*each[2:]) for each in sets], "the formula with scipy.linalg.sqrtm",
    )  # fmt: skip
    given, measured = (
        Canny().draw(each, None) > 127 for each in (run.real(COMPARED), run.pictures(run.baseline, COMPARED))
    )
    reach = np.ones((3, 3), bool)

    def f1(given: np.ndarray, measured: np.ndarray) -> float:
        if not given.any() and not measured.any():
            return 1.0
        share = [
            (edges & scipy.ndimage.binary_dilation(others, reach)).sum() / max(edges.sum(), 1)
            for edges, others in ((measured, given), (given, measured))
        ]
        return 2 * share[0] * share[1] / max(sum(share), 1e-300)

    yield compared(
        "edge F1", "scipy", fidelity.edge_f1(given[:, None], measured[:, None]),
        [f1(*each) for each in zip(given.numpy(), measured.numpy(), strict=True)],
        "Canny's edges of real pictures and of the baseline's; binary dilation by 3 x 3",
    )  # fmt: skip
    changes = _changes(run)
    ours = [
        intervals(means(each[None]), None, len(each), seed=SEED, resamples=999, method="bca")[0] for each in changes
    ]
    theirs = [
        scipy.stats.bootstrap(
            (each,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(SEED)
        ).confidence_interval
        for each in changes
    ]  # fmt: skip
    yield compared(
        "BCa interval, its ends", "scipy", [[each.low, each.high] for each in ours], [list(each) for each in theirs],
        "of the mean paired differences to the baseline, from the same draws; where a draw equals the value but for "
        "rounding, which is common in small runs only, ours counts half of it as below and theirs goes by the rounding",
    )  # fmt: skip
    few = [each[:10] for each in changes]
    theirs = [
        scipy.stats.permutation_test(
            (each,), lambda values, axis: np.abs(values.mean(axis)), permutation_type="samples",
            n_resamples=np.inf, alternative="greater", vectorized=True,
        ).pvalue
        for each in few
    ]  # fmt: skip
    yield compared(
        "p of sign flips", "scipy", [sign_flip(each[None], seed=SEED)[0] for each in few], theirs,
        f"of the first {len(few[0])} images, where both take all sign patterns",
    )  # fmt: skip


def _changes(run: Opened) -> list[np.ndarray]:
    """(N,) of every headline column: method minus baseline; those that are 0 everywhere are left out."""
    columns = [each for each in validity.headline(run.tables) if {run.method, run.baseline} <= set(each.values)]
    changes = [np.asarray(each.values[run.method] - each.values[run.baseline], float) for each in columns]
    return [each for each in changes if np.ptp(each) > 0 and np.ptp(each[:10]) > 0]


def _grey(pictures: torch.Tensor) -> torch.Tensor:
    """(B, 1, S, S) float64 in [0, 1]"""
    return pictures.double().mean(1, keepdim=True)


def with_scikit_image(run: Opened) -> Iterator[Check]:
    from skimage.metrics import structural_similarity

    given, measured = _grey(run.real(COMPARED)), _grey(run.pictures(run.baseline, COMPARED))
    inside = torch.zeros(given.shape, dtype=torch.bool)
    inside[..., 5:-5, 5:-5] = True
    theirs = [
        structural_similarity(
            one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for one, other in zip(given[:, 0].numpy(), measured[:, 0].numpy(), strict=True)
    ]  # fmt: skip
    yield compared(
        "structural similarity", "scikit-image", fidelity.soft_edge_ssim(given, measured, inside), theirs,
        "levels of real pictures and of the baseline's, windows that lie inside; at the border the two reflect "
        "otherwise. Ours is computed in float32, theirs in float64",
    )  # fmt: skip


def _labels(run: Opened) -> tuple[torch.Tensor, torch.Tensor, int, str]:
    """Labels (B, S, S) of real pictures and of the baseline's, how many classes there are, and where they are from."""
    pictures = [run.real(COMPARED), run.pictures(run.baseline, COMPARED)]
    condition = run.job.experiment.conditions.get("seg")
    if condition is None:
        given, measured = ((_grey(each)[:, 0] * 7.999).long() for each in pictures)
        return given, measured, 8, "eight grey levels as classes, this run having no segmentation"
    scorer = run.inputs.executor.networks.scorer("seg")
    given, measured = (condition.draw(each, scorer).long() for each in pictures)
    return given, measured, len(condition.palette), "the scorer's classes in real pictures and in the baseline's"


def with_torchmetrics(run: Opened) -> Iterator[Check]:
    from torchmetrics.functional.classification import multiclass_jaccard_index

    given, measured, classes, said = _labels(run)
    counts = fidelity.class_counts(given, measured, classes)
    theirs = [
        100 * float(multiclass_jaccard_index(found, wanted, classes, average="macro"))
        for found, wanted in [(measured, given), *zip(measured, given, strict=True)]
    ]
    ours = [float(fidelity.iou_of_counts(counts.sum(0))), *fidelity.iou_of_counts(counts).tolist()]
    yield compared("mean IoU", "torchmetrics", ours, theirs, f"of all pictures and of each; {said}; theirs is float32")


def with_pycocotools(run: Opened) -> Iterator[Check]:
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    given, measured, _, said = _labels(run)
    own = torch.stack([torch.bincount(each.flatten()).argmax() for each in given])
    outline = given == own[:, None, None]
    ours = fidelity.own_class_iou(measured, outline, own, torch.ones_like(outline))

    def encoded(mask: torch.Tensor) -> dict:
        return rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))

    theirs = [
        100 * rle.iou([encoded(labels == number)], [encoded(mask)], [0])[0, 0]
        for labels, number, mask in zip(measured, own, outline, strict=True)
    ]
    yield compared("object IoU", "pycocotools", ours, theirs, f"of each picture's largest class; {said}")
    images = run.job.image_set
    file = images._annotations("instances") if hasattr(images, "_annotations") else None
    if file is None:
        yield Check("object masks", "pycocotools", "not compared: the run's data set is not of COCO's layout")
        return
    with contextlib.redirect_stdout(sys.stderr):  # it tells of its reading
        theirs = COCO(str(file))
    names = sorted(run.job.experiment.sources)[:COMPARED]
    masks = [
        (images.mask(each), theirs.annToMask(each.annotation)) for at in names for each in images.picture(at).instances
    ]
    yield compared(
        "object masks, pixels that differ", "pycocotools", [float((one != other).sum()) for one, other in masks],
        np.zeros(len(masks)), "annToMask; run lengths are decoded by code of our own",
    )  # fmt: skip


def with_numpy(run: Opened) -> Iterator[Check]:
    given, measured = _grey(run.real(COMPARED)), _grey(run.pictures(run.baseline, COMPARED))
    said = "levels of real pictures and of the baseline's"
    condition = run.job.experiment.conditions.get("depth")
    if condition is not None:
        scorer = run.inputs.executor.networks.scorer("depth")
        given, measured = (
            condition.draw(each, scorer)[:, None].double() / 255
            for each in (run.real(COMPARED), run.pictures(run.baseline, COMPARED))
        )
        said = "the scorer's depth of real pictures and of the baseline's"

    def rmse(given: np.ndarray, measured: np.ndarray) -> float:
        sides = np.stack([measured.ravel(), np.ones(measured.size)], axis=1)
        fit = np.linalg.lstsq(sides, given.ravel(), rcond=None)[0]
        fitted = sides @ fit if fit[0] > 0 else np.full(given.size, given.mean())
        return float(255 * np.sqrt(((fitted - given.ravel()) ** 2).mean()))

    theirs = [rmse(*each) for each in zip(given.numpy(), measured.numpy(), strict=True)]
    yield compared(
        "depth RMSE", "numpy", fidelity.depth_rmse(given, measured), theirs,
        f"numpy.linalg.lstsq; {said}; a negative scale is not allowed in ours, and becomes the mean in both",
    )  # fmt: skip


def with_transformers(run: Opened) -> Iterator[Check]:
    from transformers import AutoTokenizer, CLIPModel

    suite, scorer = run.job.suite, run.inputs.executor.networks.clip
    folder = suite.folder / suite.text_scorer.folder
    model, tokenizer = (
        CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    pictures = run.pictures(run.baseline, COMPARED)
    size = model.config.vision_config.image_size
    if pictures.shape[-2:] != (size, size):
        yield Check("CLIP score", "transformers", "not compared: the pictures would have to be resized for it first")
        return
    mean, std = (torch.tensor(list(each)).view(1, 3, 1, 1) for each in (scorer.mean, scorer.std))
    prompts = [sample.prompt for sample, _ in run.job.experiment.images[:COMPARED]]
    limit = model.config.text_config.max_position_embeddings
    tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=tokens.input_ids, pixel_values=(pictures - mean) / std).logits_per_image
        theirs = 100 * logits.diagonal() / model.logit_scale.exp()
    ours = run.tables.state.measured[run.baseline][CLIP_SCORE][:COMPARED]
    yield compared("CLIP score", "transformers", ours, theirs.double(), "CLIPModel called on the pictures, float32")
