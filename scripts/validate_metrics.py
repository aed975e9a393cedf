"""Do the metrics hold? python scripts/validate_metrics.py RUN [RUN ...] --output results/metrics_validity.md.

On the pictures and the measurements of finished runs: whether every metric orders known pictures as it must, how often
its interval covers, what pictures get that were made to deceive, how far the numbers are from those of independent
packages (the extra `test`), and whether scorer and annotator are two observers. Nothing is written into a run: pictures
that are made here lie in a temporary folder. A run's data set and suite must be where they were.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from independent_packages import SEED, packages_section
from maxbench import images as im
from maxbench.cli.assemble import make_evaluation, make_generation
from maxbench.cli.build import Run, build
from maxbench.cli.perform import open_folder
from maxbench.errors import UserError
from maxbench.evaluation import validity
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.columns import BY_ANNOTATOR
from maxbench.evaluation.runner import STATE, Evaluation
from maxbench.evaluation.scoring import Pictures, Scoring
from maxbench.evaluation.state import CLIP_SCORE, State, features_label
from maxbench.evaluation.validity import ALTERNATING, BLENDED, GREY, OTHER, Coverage, Order
from maxbench.experiments.method import FUSION, NONE, REAL
from maxbench.generation.inputs import ControlInputs
from maxbench.progress import say, track
from maxbench.report.tables import markdown_table
from maxbench.store.files import fingerprint
from maxbench.store.runfolder import RunFolder, image_file, source_file
from maxbench.store.stamp import origin

SIZES = (96, 256, 1024)  # of the draws in which order is looked for
SIMULATED = (32, 96, 256)  # of the runs in which coverage is counted
LEVEL = 0.95
COPIED = ("records", "real", "vae_reconstruction", "conditions", "control_masks", "evaluation_masks")
METHODS = ("maxfusion", "gated_sum", "sum")  # the first of a run is held against its baseline


# --- a run ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """A finished run, and the means to score further pictures as its own were.

    tables: of its state, with the rows that are made here.
    """

    folder: Path
    job: Run
    inputs: ControlInputs
    evaluation: Evaluation
    tables: Tables

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def baseline(self) -> str:
        return self.tables.state.baselines[0]

    @property
    def method(self) -> str:
        """What the baseline is held against."""
        fusions = [row.name for row in self.tables.state.rows if row.role == FUSION and row.name != self.baseline]
        return next((name for name in METHODS if name in fusions), fusions[0])

    def pictures(self, row: str, count: int) -> torch.Tensor:
        """The first pictures of a method, (count, 3, S, S)."""
        images = self.job.experiment.images[:count]
        files = [self.folder / image_file(row, sample.id, replicate) for sample, replicate in images]
        return im.read_images(files, self.inputs.resolution)

    def real(self, count: int) -> torch.Tensor:
        """The pictures that the first condition of the first samples is taken from."""
        name = next(iter(self.job.experiment.conditions))
        return self.inputs.real([sample.sources[name] for sample, _ in self.job.experiment.images[:count]])


def open_run(folder: Path, scratch: Path) -> Opened:
    """A run with the rows of fakes beside its own; a UserError where it is not finished, or not what it was."""
    if not (folder / STATE).exists():
        raise UserError(f"{folder} is no finished run; name the folder of one.")
    state = State.unpack((folder / STATE).read_bytes())
    config = OmegaConf.load(folder / "config.yaml")
    config.output_dir, config.store_dir = str(scratch / "runs"), str(scratch / "store")
    job = build(config)
    if [(each.sample, each.replicate) for each in state.images] != [
        (sample.id, replicate) for sample, replicate in job.experiment.images
    ]:
        raise UserError(f"{folder} has other samples than its configuration gives now; run its experiment again.")
    if not state.baselines or not any(row.role == FUSION and row.name != state.baselines[0] for row in state.rows):
        raise UserError(f"{folder} compares no method with a baseline; name a run that does.")
    inputs, evaluation = _inputs(job, folder)
    conditions = job.experiment.conditions
    fakes = {ALTERNATING: validity.alternating(state)} if len(validity.unit_singles(state)) > 1 else {}
    scoring = Scoring(evaluation.measuring(), job.experiment.images, evaluation.targets(), inputs.resolution)
    for row, arrays in _fakes(folder, job, inputs, state):
        fakes[row] = scoring.row(row, Pictures(_kept(evaluation.folder, row, arrays, list(conditions)), same=True))
    tables = Tables(validity.with_rows(state, fakes), conditions, job.resamples, job.level)
    return Opened(folder, job, inputs, evaluation, tables)


def _inputs(job: Run, folder: Path) -> tuple[ControlInputs, Evaluation]:
    """The run's maps and masks, from copies in the scratch folder, and what scores."""
    here = open_folder(job)
    for part in COPIED:
        if (folder / part).exists():
            shutil.copytree(folder / part, here.path / part, dirs_exist_ok=True)
    here = open_folder(job)  # now it knows them
    inputs = make_generation(job, here).sampling.inputs
    inputs.make()
    for name in job.experiment.conditions:
        listed = {each.file: each.sha256 for each in here.entries(f"conditions/{name}")}
        for (of, image), artefact in inputs.maps.items():
            if of == name and listed.get(source_file(f"conditions/{name}", image)) != artefact.sha256:
                raise UserError(f"The maps of {name} are drawn otherwise now than in {folder}; run it again.")
    return inputs, make_evaluation(job, here, inputs)


def _fakes(folder: Path, job: Run, inputs: ControlInputs, state: State) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    """(row, its pictures (S, S, 3) uint8 in the order of the images) of those that must be made."""
    images, conditions, size = job.experiment.images, job.experiment.conditions, inputs.resolution
    first, step = next(iter(conditions)), int((state.groups == state.groups[0]).sum())
    for name, condition in conditions.items():
        yield (
            validity.map_of(name),
            (im.to_bytes(condition.hint(inputs.condition_maps(name, [sample])))[0] for sample, _ in images),
        )
    yield GREY, (np.full((size, size, 3), 128, np.uint8) for _ in images)
    others = [images[(place + step) % len(images)][0] for place in range(len(images))]
    yield OTHER, (im.to_bytes(inputs.real([sample.sources[first]]))[0] for sample in others)
    singles = list(validity.unit_singles(state).values())
    if len(singles) > 1:
        files = ([folder / image_file(row, sample.id, number) for row in singles] for sample, number in images)
        yield BLENDED, (im.to_bytes(im.read_images(own, size).mean(0, keepdim=True))[0] for own in files)


def _kept(folder: RunFolder, row: str, arrays: Iterator[np.ndarray], conditions: list[str]) -> dict:
    files = [
        folder.store.keep("fake", fingerprint([row, place]), im.encode_png(array)) for place, array in enumerate(arrays)
    ]
    return dict.fromkeys(conditions, tuple(files))


# --- 1: order ---------------------------------------------------------------------------------------------------------


def order_section(run: Opened, draws: int) -> str:
    tables, found = run.tables, []
    for n in track(SIZES, f"{run.name}: order", len(SIZES), "sizes"):
        found += validity.orders(tables, n, draws=draws, seed=SEED)
        found += validity.distance_orders(tables, n, draws=draws, seed=SEED)
    kinds: dict[str, list[Order]] = {}
    for each in found:
        kinds.setdefault(_kind(each), []).append(each)
    parts = [f"{heading}\n\n{_order_table(own, run)}" for heading, own in kinds.items()]
    said = []
    for n in SIZES:
        whole = [each.whole for each in found if each.n == n]
        always = sum(share == 1 for share in whole)
        said.append(f"At N = {n:,} the whole order is there in every draw for {always} of {len(whole)} metrics.")
    least = min(found, key=lambda each: each.whole)
    worst = int(np.argmin(least.shares))
    if least.whole < 1:
        said.append(
            f"The least certain is {_named(least.metric, least.condition)} at N = {least.n:,}: in {least.whole:.0%} of "
            f"the draws, and its weakest pair, {least.pairs[worst]}, in {least.shares[worst]:.0%}."
        )
    said += _repeated(run.tables.state)
    return " ".join(said) + "\n\n" + "\n\n".join(parts)


def _repeated(state: State) -> Iterator[str]:
    """Whether real pictures repeat: then their distance is larger than that of as many different ones."""
    for network in state.reference:
        real = state.measured[REAL].get(features_label(network))
        if real is not None and (different := len(np.unique(real, axis=0))) < len(real):
            yield (
                f"The {len(real)} real pictures are {different} different ones, and repeats add to their distances on "
                f"{network}, so that the pairs of `real` are no fair test of those."
            )


def _kind(order: Order) -> str:
    if order.condition:
        return "Of one condition, with its own single control:"
    if order.scorer == "fidelity":
        return "Of all conditions together; no control has 0 by definition, so that its last pair counts ties:"
    if order.metric == CLIP_SCORE:
        return "Text: pictures of the prompt against another sample's real picture, and against grey:"
    return (
        "Distances to real pictures; that a control brings pictures nearer to real ones is no law, so that pairs of "
        "controlled and uncontrolled pictures are left out. Drawn with replacement, repeated images add to all rows:"
    )


def _order_table(found: Sequence[Order], run: Opened) -> str:
    own = {row: "single" for row in validity.unit_singles(run.tables.state).values()}

    def label(pair: validity.Pair) -> str:
        return str(pair._replace(better=own.get(pair.better, pair.better), worse=own.get(pair.worse, pair.worse)))

    labels = list(dict.fromkeys(label(pair) for each in found for pair in each.pairs))
    lines = []
    for each in sorted(found, key=lambda each: (*_place(each, found), each.n)):
        shares = {label(pair): f"{share:.2f}" for pair, share in zip(each.pairs, each.shares, strict=True)}
        size = f"{each.n:,}{' (with)' if each.replaced else ''}"
        cells = [shares.get(name, "-") for name in labels]
        lines.append([_named(each.metric, each.condition), size, f"{each.whole:.2f}", *cells])
    return markdown_table(["metric", "N", "whole", *labels], lines)


def _place(order: Order, found: Sequence[Order]) -> tuple[int]:
    names = list(dict.fromkeys((each.metric, each.condition) for each in found))
    return (names.index((order.metric, order.condition)),)


def _named(metric: str, condition: str) -> str:
    by = metric.endswith(BY_ANNOTATOR)
    name = metric.removesuffix(BY_ANNOTATOR)
    return f"{name}{f' of {condition}' if metric == 'q' else ''}{' by annotator' if by else ''}"


# --- 2: coverage ------------------------------------------------------------------------------------------------------


def coverage_section(run: Opened, simulations: int, resamples: int, flips: int) -> str:
    tables, found, false = run.tables, [], []
    pair = (run.method, run.baseline)
    for n in SIMULATED:

        def watch(items, what: str, n: int = n):
            return track(items, f"{run.name}: {what}, n = {n}", simulations, "simulations", brief=True)

        found += validity.coverage(
            tables, *pair, n, simulations=simulations, resamples=resamples, seed=SEED,
            watch=partial(watch, what="coverage"),
        )  # fmt: skip
        found += validity.distance_coverage(
            tables, *pair, n, simulations=simulations, seed=SEED, watch=partial(watch, what="distances")
        )
        false.append(
            validity.false_discoveries(
                tables, run.baseline, n, simulations=simulations, flips=flips, seed=SEED,
                watch=partial(watch, what="false discoveries"),
            )
        )  # fmt: skip
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for each in found:
        width = "-" if np.isnan(each.width) else f"{each.width:.2f}"
        cell = f"{each.covered:.3f} ({width})" + (f", {each.undefined:.0%} without" if each.undefined else "")
        lines.setdefault((_named(each.metric, each.condition), each.what), {})[each.n] = cell
    table = markdown_table(
        ["metric", "of", *(f"n = {n}" for n in SIMULATED)],
        [[*key, *(cells[n] for n in SIMULATED)] for key, cells in lines.items()],
    )
    discoveries = markdown_table(
        ["n", "tests", "some p < .05", "some p < .05 after Holm", "share of tests with p < .05"],
        [[str(each.n), str(each.tests), f"{each.any_raw:.3f}", f"{each.any_holm:.3f}", f"{each.each:.3f}"]
         for each in false],
    )  # fmt: skip
    worst = max(false, key=lambda each: each.any_holm)
    error = np.sqrt(LEVEL * (1 - LEVEL) / simulations)
    return (
        f"{_covered(found, error)}\n\n{table}\n\n"
        f"Tests where nothing differs: methods and baseline exchanged at random within clusters, {worst.tests} tests a "
        f"family, {flips:,} sign patterns. With Holm's correction a family has a false discovery in "
        f"{min(each.any_holm for each in false):.3f} to {worst.any_holm:.3f} of the simulations, where at most "
        f"{1 - LEVEL:.2f} is promised; without it in {min(each.any_raw for each in false):.3f} to "
        f"{max(each.any_raw for each in false):.3f}.\n\n{discoveries}"
    )


def _covered(found: Sequence[Coverage], error: float) -> str:
    said = []
    for n in SIMULATED:
        own = sorted(each.covered for each in found if each.n == n)
        said.append(f"at n = {n} between {own[0]:.3f} and {own[-1]:.3f}, median {np.median(own):.3f}")
    short = [each for each in found if each.covered < LEVEL - 3 * error]
    wide = [each for each in found if each.covered > LEVEL + 3 * error]
    listed = "; ".join(
        f"{_named(each.metric, each.condition)} ({each.what}, n = {each.n}: {each.covered:.3f})"
        for each in sorted(short, key=lambda each: each.covered)[:6]
    )
    return (
        f"Of {len(found) // len(SIMULATED)} numbers a {LEVEL:.0%} interval covers the population's {'; '.join(said)}. "
        f"{len(short)} of {len(found)} cells lie more than three simulation errors ({3 * error:.3f}) below {LEVEL}"
        + (f": {listed}{'; ...' if len(short) > 6 else ''}" if short else "")
        + f"; {len(wide)} lie as far above it."
    )


# --- 3: fakes ---------------------------------------------------------------------------------------------------------


def fakes_section(run: Opened) -> str:
    tables = run.tables
    state = tables.state
    columns = [each for each in validity.headline(tables) if each.metric != "q_mean"]
    order = {"joint": 0, "share_both": 1, "q": 2}
    columns.sort(key=lambda each: order.get(each.metric, 3))
    ones = np.ones((1, len(state.images)))
    fakes = [name for name in state.measured if name in _fake_names(run)]
    shown = [row.name for row in state.rows if row.role in (FUSION, NONE) and row.name in _shown(run)]
    shown += list(validity.unit_singles(state).values())
    numbers: dict[str, dict[str, tuple[float, bool]]] = {}  # column -> row -> number, higher is better
    for each in columns:
        name = _named(each.metric, each.condition)
        numbers[name] = {
            row: (float(each.of(row, ones)[0]), each.higher_is_better) for row in (*shown, *fakes) if row in each.values
        }
        if each.metric == "share_both":
            numbers["former joint"] = {row: (validity.former_joint(tables, row), True) for row in (*shown, *fakes)}
    for network, metric, distance in validity.distances(state):
        label = features_label(network)
        numbers[metric] = {
            row: (distance(state.measured[row][label], state.reference[network]).value, False)
            for row in (*shown, *fakes) if label in state.measured[row]
        }  # fmt: skip
    lines = [
        [row, *(f"{own[row][0]:.3f}" if row in own else "-" for own in numbers.values())] for row in (*shown, *fakes)
    ]
    fooled = {row: [name for name, own in numbers.items() if _fools(own, row, run.baseline)] for row in fakes}
    said = [
        f"`{row}` is at least as good as `{run.baseline}` in {', '.join(names) if names else 'no metric'}."
        for row, names in fooled.items()
    ]
    honest = [name for name in numbers if all(name not in names for names in fooled.values())]
    said.append(f"Fooled by none of them: {', '.join(honest) or 'no metric'}.")
    if ALTERNATING in fakes and "joint" in numbers:
        joint, former = numbers["joint"], numbers["former joint"]
        said.insert(
            0,
            f"Alternating singles have {joint[ALTERNATING][0]:.2f} in the joint score per image "
            f"(`{run.baseline}` {joint[run.baseline][0]:.2f}) and {former[ALTERNATING][0]:.2f} in the former one of "
            f"marginal means (`{run.baseline}` {former[run.baseline][0]:.2f}).",
        )
    note = "" if tables.joint is None or not tables.joint_note else f"\n\nJoint score: {tables.joint_note}."
    return " ".join(said) + note + "\n\n" + markdown_table(["row", *numbers], lines)


def _fools(own: dict[str, tuple[float, bool]], row: str, baseline: str) -> bool:
    if row not in own or baseline not in own:
        return False
    (value, higher), (other, _) = own[row], own[baseline]
    return value >= other if higher else value <= other


def _fake_names(run: Opened) -> list[str]:
    return [ALTERNATING, BLENDED, GREY, OTHER, *map(validity.map_of, run.job.experiment.conditions)]


def _shown(run: Opened) -> list[str]:
    none = [row.name for row in run.tables.state.rows if row.role == NONE]
    return [*none, "average", "sum", "maxfusion", run.baseline, run.method]


# --- 4: two observers -------------------------------------------------------------------------------------------------


def observers_section(run: Opened) -> str:
    found = validity.agreement(run.tables, run.baseline)
    if not found:
        return "No condition of this run has a scorer apart from its annotator."
    levels = {(each.condition, each.row): each for each in found if each.minus is None}
    changes = {(each.condition, each.row): each for each in found if each.minus is not None}
    said = [
        f"Over images, fidelity by the scorer and by the annotator correlate by {_range(levels.values())}; the "
        f"differences of methods to `{run.baseline}` by {_range(changes.values())}, and of "
        f"{len(changes)} mean differences both give {sum(each.same_sign for each in changes.values())} the same sign.",
        "A correlation holds what is true of a picture and what both networks get wrong alike, and a run has no truth "
        "to part them: the annotator's number can contradict the scorer's, but where it agrees it is not a second, "
        "independent piece of evidence.",
    ]
    lines = []
    for key, level in levels.items():
        change = changes.get(key)
        said_of = ["-"] * 3
        if change is not None:
            said_of = [f"{change.pearson:.2f}", f"{change.spearman:.2f}", "yes" if change.same_sign else "no"]
        lines.append([*key, f"{level.pearson:.2f}", f"{level.spearman:.2f}", *said_of])
    names = ["condition", "method", "Pearson", "Spearman", "difference, Pearson", "Spearman", "same sign of the mean"]
    return " ".join(said) + "\n\n" + markdown_table(names, lines)


def _range(found: Iterable[validity.Agreement]) -> str:
    values = [each.pearson for each in found if np.isfinite(each.pearson)]
    if not values:
        return "no number, since they do not vary"
    return f"{min(values):.2f} to {max(values):.2f}, median {np.median(values):.2f} (Pearson)"


# --- the file ---------------------------------------------------------------------------------------------------------


def head(runs: Sequence[Opened], chosen: argparse.Namespace) -> str:
    lines = []
    for run in runs:
        state = run.tables.state
        clusters, seeds = len(set(state.groups)), ", ".join(map(str, state.seeds))
        lines.append(
            [origin(run.folder), str(len(state.images)), str(clusters), seeds, run.baseline, run.method,
             ", ".join(f"{len(each)} ({network})" for network, each in state.reference.items())]
        )  # fmt: skip
    names = ["run", "N", "clusters", "seed", "baseline", "method", "reference images"]
    output = chosen.output.name if chosen.output.is_absolute() else chosen.output
    command = f"python scripts/validate_metrics.py {' '.join(run.name for run in runs)} --output {output}"
    return (
        f"# Do the metrics hold?\n\nMade by `{command}` with {chosen.draws} draws, {chosen.simulations} simulations, "
        f"{chosen.resamples} resamples, {chosen.flips} sign patterns and seed {SEED}.\n\n{markdown_table(names, lines)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("results/metrics_validity.md"))
    parser.add_argument("--draws", type=int, default=200, help="of images, in which order is looked for")
    parser.add_argument("--simulations", type=int, default=300, help="of runs, in which coverage is counted")
    parser.add_argument("--resamples", type=int, default=500, help="of a simulated run's intervals; tables take more")
    parser.add_argument("--flips", type=int, default=4999, help="sign patterns of a simulated test; tables take 20000")
    chosen = parser.parse_args()
    sections = {
        "Order": partial(order_section, draws=chosen.draws),
        "Coverage": partial(
            coverage_section, simulations=chosen.simulations, resamples=chosen.resamples, flips=chosen.flips
        ),
        "Fakes": fakes_section,
        "Independent packages": packages_section,
        "Two observers": observers_section,
    }
    try:
        with tempfile.TemporaryDirectory() as scratch:
            runs = []
            for number, folder in enumerate(chosen.runs):
                say(f"opening {folder}")
                runs.append(open_run(folder, Path(scratch) / str(number)))
            text = head(runs, chosen)
            for number, (name, section) in enumerate(sections.items(), start=1):
                text += f"\n\n## {number}. {name}\n\n{ABOUT[name].format(**vars(chosen))}"
                for run in runs:
                    text += f"\n\n### {run.name}\n\n{section(run)}"
    except UserError as error:
        print(f"validate_metrics: {error}", file=sys.stderr)
        return 2
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(text + "\n")
    print(text)
    return 0


ABOUT = {
    "Order": "The share of {draws} draws of N clusters in which a metric orders rows as it must, as a whole and pair "
    "by pair; `>` is better. All rows have the same images of a draw. N marked `(with)` is drawn with replacement, the "
    "run having no more clusters; the others are drawn without. q and the joint score have the denominators of the "
    "draw.",
    "Coverage": "The run is the population. {simulations} times n clusters are drawn with replacement, the interval is "
    "computed as the tables do (BCa, but {resamples} resamples; of distances, from influence values), and it is "
    "counted how often it holds the population's number; of a distance, which is biased at n, the mean over the draws. "
    "In brackets, the mean width of the intervals over that of the values' own central 95%: 1 is as wide as it should "
    "be, - where the values do not vary; `without` is the share of simulations without an interval.",
    "Fakes": "Pictures that obey nothing, or half, scored as the run's own were, beside rows of the run. `former "
    "joint` is the score of marginal means that the joint score per image replaced. A fake fools a metric where it is "
    "at least as good as the baseline, which follows all conditions.",
    "Independent packages": "Ours against theirs, on the run's own pictures, features and measurements.",
    "Two observers": "Correlations over images of what scorer and annotator say of the same pictures, held against the "
    "same maps; on the right, of the method minus the baseline.",
}
"""What each part is, before its tables."""


if __name__ == "__main__":
    raise SystemExit(main())
