"""What a finished run of `experiment=singles` says of the family: its pictures, and how far its controls are followed.

Every number stands between two ends: real pictures and the untrained U-Net's for quality, VAE reconstructions and no
control at all for control fidelity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import ArrayLike

from maxbench.errors import UserError
from maxbench.images import read_images, to_bytes
from maxbench.metrics.distribution import frechet_distance
from maxbench.metrics.statistics import Interval, bootstrap, bootstrap_mean
from maxbench.miniature import world
from maxbench.miniature.quality import (
    ARROWS,
    BOTH,
    SEED,
    Look,
    Measure,
    compare_maps,
    format_interval,
    grid,
    read_maps,
)
from maxbench.miniature.words import lone_kind
from maxbench.miniature.world import VISIBLE
from maxbench.store.files import read_sealed
from maxbench.store.runfolder import MANIFEST, MARK

STATE = "state.npz"  # what was measured, image by image
FLOOR, CEILING, NONE, ANCHOR = "real", "vae_reconstruction", "none", "untrained"
ENDS = ("shuffled", NONE, "single", CEILING, FLOOR)
BETTER = {"hed_ssim": "higher", "depth_rmse": "lower", "seg_image_iou": "higher", "canny_f1": "higher"}
"""Which way the score of one sample is better."""
BY_ANNOTATOR = "_by_annotator"
"""How the name ends of a score that the annotator itself gave; the others are by an independent scorer."""
RECOGNISED = "the solid's kind recognised, %"
DRAWS = 100  # random halves behind every FD-CLIP


@dataclass(frozen=True)
class FinishedRun:
    """A run folder, read back. Its pictures are in one order in every array."""

    path: Path
    identity: Mapping  # settings and weights
    metrics: pd.DataFrame
    samples: pd.DataFrame

    @property
    def settings(self) -> Mapping:
        return self.identity["config"]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """What each row of the tables is, by its name: role, branches, parameter."""
        return self.metrics.drop_duplicates("method").set_index("method")

    @cached_property
    def singles(self) -> dict[str, str]:
        """Condition -> the row of its control alone; the first, and none in which a number varies."""
        alone = self.rows[(self.rows.role == "single") & self.rows.parameter.isna()]
        return {branches: name for name, branches in alone.drop_duplicates("branches").branches.items()}

    @cached_property
    def methods(self) -> list[str]:
        """`none`, and each control alone."""
        singles = set(self.singles.values())
        return [name for name in self.rows.index if name == NONE or name in singles]

    def features(self, row: str) -> np.ndarray:
        """CLIP's image features (N, D) of a row of pictures, or of "reference"."""
        key = "reference/clip" if row == "reference" else f"measured/{row}//features/clip"
        try:
            with np.load(self.path / STATE) as archive:
                return archive[key]
        except (KeyError, ValueError, OSError, BadZipFile) as error:
            raise UserError(
                f"{self.path / STATE} has no CLIP features of {row} ({error}); run the experiment again, which makes "
                "it anew."
            ) from error

    def line(self, metric: str, row: str) -> pd.Series:
        """The line of the run's table for a metric of a row of pictures."""
        return self.metrics[(self.metrics.metric == metric) & (self.metrics.method == row)].iloc[0]


def read_run(folder: Path) -> FinishedRun:
    """Read a finished run; what it lacks is a UserError."""
    needed = (MARK, MANIFEST, "metrics.csv", "samples.parquet", STATE)
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        what = f"lacks {', '.join(missing)}" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} is no finished run: it {what}; run `python -m maxbench run experiment=singles` to its end."
        )
    identity = read_sealed(folder / MARK)
    if identity is None:
        raise UserError(f"{folder / MARK} is damaged; run the experiment again, which makes it anew.")
    run = FinishedRun(
        folder, identity, pd.read_csv(folder / "metrics.csv"), pd.read_parquet(folder / "samples.parquet")
    )
    old = [name for name in ("role", "branches", "parameter") if name not in run.metrics]
    if old:
        raise UserError(f"{folder} has no column {old[0]}: it is of an older version; run the experiment again.")
    absent = [row for row in (NONE, FLOOR, CEILING) if row not in set(run.metrics.method)]
    if absent:
        raise UserError(f"The run {folder} has no pictures of {', '.join(absent)}; run experiment=singles.")
    if run.settings["replicates"] != 1:
        raise UserError(
            f"The run {folder} has replicates={run.settings['replicates']}, which repeats its real pictures; "
            "run it with replicates=1 and more samples."
        )
    return run


def require_same_weights(run: FinishedRun, weights: Path, digest: Callable[[Path], str], advice: str) -> None:
    """Refuse a run that was made with other weights than those that are measured beside it.

    digest: of a part of the family, as the suite takes it. advice: what to do about it, for the message.
    """
    for part, known in run.identity["weights"].items():
        if not (weights / part).exists() or digest(weights / part) != known:
            raise UserError(f"The run {run.path} was made with another {part} than the one in {weights}; {advice}.")


# --- quality ------------------------------------------------------------------------------------------------


def quality_of_pictures(run: FinishedRun, untrained: FinishedRun | None = None, draws: int = DRAWS) -> list[Measure]:
    """FD-CLIP of every row of pictures at one N, beside the run's own FD-CLIP and CLIP score.

    untrained: the run of the family whose U-Net learned nothing; with it, the share of the way from its pictures
        to real ones.
    """
    rows = {name: (run, name) for name in (FLOOR, CEILING, *run.methods)}
    if untrained is not None:
        rows[ANCHOR] = (untrained, NONE)
        _require_comparable(run, untrained)
    features = {name: where.features(row) for name, (where, row) in rows.items()}
    distances = frechet_draws(features, run.features("reference"), draws)
    size = equal_size(len(features[FLOOR]), len(run.features("reference")))
    measures = []
    for name, (where, row) in rows.items():
        drawn = distances[name]
        measures.append(Measure(name, f"FD-CLIP at N = {size}", "", spread(drawn.mean(), drawn, size), "lower"))
        if untrained is not None:
            bad, best = distances[ANCHOR], distances[FLOOR]
            share = (bad.mean() - drawn.mean()) / (bad.mean() - best.mean())
            way = spread(share, (bad - drawn) / (bad - best), size)
            measures.append(Measure(name, "share of the way to real", "", way, "higher"))
        for metric, title in (("fd_clip", "FD-CLIP of the run"), ("clip_score", "CLIP score")):
            line = where.line(metric, row)
            interval = Interval(line.value, line.low, line.high, int(line.n))
            measures.append(Measure(name, title, "", interval, "lower" if metric == "fd_clip" else "higher"))
    return measures


def equal_size(real: int, reference: int) -> int:
    """How many pictures each side of an FD-CLIP has: half of all real ones, where so many have a generated twin."""
    return min(real, (real + reference) // 2)


def frechet_draws(features: Mapping[str, np.ndarray], reference: np.ndarray, draws: int) -> dict[str, np.ndarray]:
    """FD-CLIP of every row of pictures at equal N, (draws,) each.

    features: row -> (N, D), the same samples in the same order; `real` holds the pictures that gave the samples
        their conditions. reference: (M, D) of further real pictures.

    A draw splits all real pictures into two random halves, the first from among the samples' own. The second
    half is what every row is held against: the first half itself (the floor: two sets of real pictures differ by
    as much) and every row's pictures of the same samples. So no picture is compared with its own source, all sets
    have one size, and all rows share the chance of the draw.
    """
    real = features[FLOOR]
    size, generator = equal_size(len(real), len(reference)), np.random.default_rng(SEED)
    found: dict[str, list[float]] = {name: [] for name in features}
    for _ in range(draws):
        taken = generator.permutation(len(real))[:size]
        left = np.concatenate([np.delete(real, taken, axis=0), reference])
        others = left[generator.permutation(len(left))[:size]]
        for name, rows in features.items():
            found[name].append(frechet_distance(rows[taken], others))
    return {name: np.array(values) for name, values in found.items()}


def _require_comparable(run: FinishedRun, untrained: FinishedRun) -> None:
    one, two = (each.line("fd_clip", NONE) for each in (run, untrained))
    for column, option in (("n", "samples"), ("scorer", "suite.root"), ("protocol", "pairing.reference")):
        if one[column] != two[column]:
            raise UserError(
                f"The runs {run.path} and {untrained.path} differ in {column} ({one[column]}, {two[column]}): their "
                f"pictures cannot be compared; run both with the same {option}."
            )


def spread(value: float, draws: np.ndarray, n: int) -> Interval:
    """A value with the 95% of the `draws` (draws,) that lie in the middle."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(float(value), float(low), float(high), n)


def pictures_table(measures: Sequence[Measure]) -> str:
    """Quality as Markdown, a line for each row of pictures."""
    names = {FLOOR: f"{FLOOR} (floor)", ANCHOR: f"{ANCHOR} (bad anchor)"}
    return grid(
        measures,
        ("pictures",),
        lambda each: (names.get(each.part, each.part),),
        lambda each: each.measure + ARROWS[each.better],
    )


# --- control fidelity ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControlFidelity:
    """How far one control alone is followed, by one scorer. method: the row of its pictures.

    ends: of `ENDS`, the rows of pictures that the run has; "single" is the control's own.
    closed: share of the way from no control to the autoencoder's VAE reconstructions, the best a picture of this family
        can score.
    """

    condition: str
    metric: str
    method: str
    scorer: str
    ends: Mapping[str, Interval]
    closed: Interval

    def measures(self) -> Iterator[Measure]:
        by, method = f"by {self.scorer}", self.method
        for row, interval in self.ends.items():
            yield Measure(method if row == "single" else row, self.metric, by, interval, BETTER[self.metric])
        yield Measure(method, f"share of {self.metric} closed", by, self.closed, "higher")


def control_fidelity_of(run: FinishedRun) -> list[ControlFidelity]:
    """Of every control of a run, by the independent scorer first and then by the annotator, where there are both."""
    found = []
    for condition, alone in run.singles.items():
        own = run.samples[run.samples.condition == condition]
        for name, scores in sorted(own.groupby("metric"), key=lambda each: each[0].endswith(BY_ANNOTATOR)):
            metric = name.removesuffix(BY_ANNOTATOR)
            if metric not in BETTER:
                continue
            values = scores.pivot(index="sample", columns="method", values="value").rename(columns={alone: "single"})
            ends = {row: bootstrap_mean(values[row], seed=SEED) for row in ENDS if row in values}
            closed = share_closed(values["single"], values[NONE], values[CEILING])
            found.append(ControlFidelity(condition, metric, alone, scores.scorer.iloc[0], ends, closed))
    return found


def share_closed(values: ArrayLike, none: ArrayLike, ceiling: ArrayLike) -> Interval:
    """(mean - none) / (ceiling - none), of scores (n,) of the same samples, bootstrapped over the samples.

    0 is a control that does nothing and 1 one that does all that can be done, whichever way the score is better.
    """
    rows = np.stack([np.asarray(column, np.float64) for column in (values, none, ceiling)])

    def share(index: np.ndarray) -> np.ndarray:
        own, low, high = rows[:, index].mean(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (own - low) / (high - low)

    return bootstrap(share, rows.shape[1], seed=SEED, vectorized=True)


def control_fidelity_table(found: Sequence[ControlFidelity]) -> str:
    """ControlFidelity as Markdown, a line for each control and scorer."""
    rows = [row for row in ENDS if any(row in each.ends for each in found)]
    names = {"single": "control alone", CEILING: f"{CEILING} (ceiling)"}
    lines = [
        ["control", "score", "by", *(names.get(row, row) for row in rows), "share closed", "N"],
        ["---"] * (len(rows) + 5),
    ]
    for each in found:
        cells = [format_interval(each.ends.get(row)) for row in rows]
        score = each.metric + ARROWS[BETTER[each.metric]]
        lines.append(
            [each.condition, score, each.scorer, *cells, f"**{format_interval(each.closed)}**", str(each.closed.n)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- agreement ----------------------------------------------------------------------------------------------


def agreement_on(run: FinishedRun, networks: Mapping[str, Look]) -> list[Measure]:
    """How far annotator and scorer agree on the pictures of every method of a run."""
    measures = []
    for method in run.methods:
        paths = sorted((run.path / "images" / method).glob("*.png"))
        if not paths:
            raise UserError(f"The run {run.path} has no pictures of {method}; run it again to correct it.")
        pictures = torch.from_numpy(to_bytes(read_images(paths, run.settings["suite"]["resolution"])))
        pictures = pictures.permute(0, 3, 1, 2)  # (N, 3, S, S)
        seen = {name: read_maps(look, pictures, f"{name} on {method}") for name, look in networks.items()}
        measures += compare_maps(BOTH, method, seen["annotator"], seen["scorer"])
    return measures


# --- text fidelity ------------------------------------------------------------------------------------------


def text_fidelity(run: FinishedRun, look: Look) -> list[Measure]:
    """How often the solid in a picture is of the kind that its prompt names, of prompts that name one solid.

    look: the scorer, which calls the solid what it calls the most of its pixels. Real pictures and VAE reconstructions
    of the samples' sources say how well it reads; nothing is recognised where no solid is in sight.
    """
    samples = json.loads((run.path / MANIFEST).read_bytes())["samples"]
    named = {str(each["id"]): kind for each in samples if (kind := lone_kind(each["prompt"]))}
    places = {FLOOR: FLOOR, CEILING: CEILING} | {method: f"images/{method}" for method in run.methods}
    measures = []
    for row, place in places.items():
        paths = {path.stem: path for path in (run.path / place).glob("*.png")}
        first = {name: paths.get(name, paths.get(f"{name}-0")) for name in named}  # a method's have their replicate
        own = [name for name, path in first.items() if path is not None]
        if not own:
            continue
        read = read_images([first[name] for name in own], run.settings["suite"]["resolution"])
        pictures = torch.from_numpy(to_bytes(read)).permute(0, 3, 1, 2)  # (N, 3, S, S)
        hits = 100 * recognised(look, pictures, [named[name] for name in own], f"kinds in {row}").astype(float)
        measures.append(Measure(row, RECOGNISED, "", bootstrap_mean(hits, seed=SEED), "higher"))
    return measures


def recognised(look: Look, pictures: torch.Tensor, kinds: Sequence[str], what: str) -> np.ndarray:
    """Whether a map network calls the most pixels of a solid by the kind asked for, (N,) bool.

    pictures: (N, 3, S, S) uint8. kinds: one of `world.SHAPES` for each. Nothing is recognised where no solid is seen.
    """
    classes = read_maps(look, pictures, what).classes.flatten(1)  # (N, pixels)
    pixels = torch.stack([(classes == world.CLASSES.index(kind)).sum(1) for kind in world.SHAPES], dim=1)
    most, kind = pixels.max(1)
    right = kind == torch.tensor([world.SHAPES.index(name) for name in kinds])
    return (right & (most >= VISIBLE)).numpy()


# --- the bad anchor -----------------------------------------------------------------------------------------


def write_untrained(weights: Path, folder: Path, seed: int) -> None:
    """Write a family into `folder` that is `weights`, by links, but for a U-Net whose weights are random."""
    if not (weights / "unet" / "config.json").exists():
        raise UserError(f"{weights} has no unet/config.json; give --weights the folder of a family.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty; name another folder or delete it.")
    folder.mkdir(parents=True, exist_ok=True)
    for entry in weights.iterdir():
        if entry.name not in ("unet", "README.md"):
            (folder / entry.name).symlink_to(entry.resolve())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(weights / "unet"))
    unet.half().save_pretrained(folder / "unet")
