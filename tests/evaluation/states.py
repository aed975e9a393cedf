"""States made of numbers alone: what a run would have measured, without a picture or a network."""

from __future__ import annotations

import numpy as np

from maxbench.conditions.depth import Depth
from maxbench.conditions.seg import Segmentation
from maxbench.evaluation.state import Image, Row, State, features_label, fidelity_label
from maxbench.metrics.fidelity import class_counts

CLASSES = 4
CONDITIONS = {"depth": Depth(), "seg": Segmentation([[each, each, each] for each in range(CLASSES)])}
REFERENCE = ("real", "vae_reconstruction", "shuffled")
METHODS = {"none": (), "single/depth": ("depth",), "single/seg": ("seg",), "average": ("depth", "seg"),
           "better": ("depth", "seg"), "worse": ("depth", "seg")}  # fmt: skip
STRENGTH = {  # how far a row follows depth and segmentation, from 0 (no control) to 1 (its single control)
    "real": (1.6, 1.6), "vae_reconstruction": (1.5, 1.5), "shuffled": (0, 0), "exchanged": (0.4, 0.3), "none": (0, 0),
    "single/depth": (1, 0), "single/seg": (0, 1), "average": (0.5, 0.5), "better": (0.9, 0.8), "worse": (0.2, 0.1),
}  # fmt: skip


def counts(generator, strength, images, pixels=60):
    """(N, 3, C): labels of which a share that grows with strength is right."""
    given = generator.integers(CLASSES, size=(images, 1, pixels))
    right = generator.random((images, 1, pixels)) < 0.2 + 0.4 * strength
    measured = np.where(right, given, generator.integers(CLASSES, size=given.shape))
    return class_counts(given, measured, CLASSES).numpy()


def make_state(images=16, seed=0, replicates=1, exchanged=False, **changes):
    """A state of a run with depth and segmentation; its groups are its samples.

    exchanged: as if each condition came from a picture of its own.
    """
    generator = np.random.default_rng(seed)
    samples = images // replicates
    entries = tuple(
        Image(seed, f"s{number:03d}", f"g{number:03d}", replicate)
        for number in range(samples) for replicate in range(replicates)
    )  # fmt: skip
    extra = ("exchanged",) if exchanged else ()
    rows = [Row(name, "reference", same=not exchanged) for name in (*REFERENCE[:2], *extra, REFERENCE[2])]
    rows += [
        Row(name, ("none", "single")[len(branches)] if len(branches) < 2 else "fusion", branches, same=True,
            is_unit=True)
        for name, branches in METHODS.items()
    ]  # fmt: skip
    difficulty = generator.normal(size=images)
    measured = {}
    for row in rows:
        depth, seg = STRENGTH[row.name]
        own = {
            fidelity_label("depth", "depth_rmse"): 60 - 25 * depth + 4 * difficulty + generator.normal(size=images),
            fidelity_label("depth", "depth_mse"): 0.06 - 0.02 * depth + 0.002 * generator.normal(size=images),
            fidelity_label("depth", "depth_rmse_controlnetpp"): 70 - 20 * depth + generator.normal(size=images),
        }
        of_seg = counts(generator, seg, images)
        own |= {fidelity_label("seg", "seg_miou"): of_seg, fidelity_label("seg", "seg_accuracy"): of_seg.sum(-1)}
        if row.name not in ("shuffled", "exchanged"):
            for metric in ("depth_rmse", "depth_mse", "depth_rmse_controlnetpp"):
                own[fidelity_label("depth", metric, True)] = own[fidelity_label("depth", metric)] - 1e-3
            own["defect"] = np.zeros(images)
        if row.same and row.name != "shuffled":
            own |= {
                features_label("clip"): generator.normal(size=(images, 6)) + (1 - depth) / 2,
                "clip_score": 25 + seg + generator.normal(size=images),
            }
        if row.role != "reference":
            own |= costs(generator, images, row)
        measured[row.name] = own
    reference = {"clip": np.random.default_rng(5).normal(size=(30, 6))}
    state = State(
        experiment="made", suite="none", baselines=("average",), images=entries, rows=tuple(rows), measured=measured,
        reference=reference, scorers={"clip": "clip@1", "depth": "reader@1", "seg": "reader@1"},
        annotators={"depth": "annotator@1"},
    )  # fmt: skip
    return State(**{**vars(state), **changes})


def costs(generator, images, row):
    """Batches of four, the first of which warms up."""
    batch = np.arange(images) // 4
    return {
        "seconds": (2.0 + 0.25 * generator.permutation(batch.max() + 1))[batch] + 30 * (batch == 0),
        "warm_up": (batch == 0).astype(float),
        "unet_evaluations": np.full(images, 20.0),
        "control_evaluations": np.full(images, 20.0 * len(row.branches)),
        "control_scale": np.full(images, 1.0 if row.branches else np.nan),
        "peak_memory": np.full(images, np.nan),
    }


def part(state, index):
    """The images `index` of a state."""
    measured = {
        row: {label: each[index] for label, each in own.items()} for row, own in state.measured.items()
    }  # fmt: skip
    images = tuple(state.images[place] for place in index)
    return State(**{**vars(state), "images": images, "measured": measured})
