"""Run folders made of numbers and drawn pictures: what a run would have left, without a network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import yaml
from PIL import Image

from evaluation.states import CLASSES, CONDITIONS, make_state
from maxbench.evaluation.aggregate import Tables
from maxbench.evaluation.runner import DIFFERENCES, METRICS, SAMPLES, STATE, SUMMARY
from maxbench.store.files import seal, write_atomically

PROMPTS = (
    'a "red" sphere </script><script>alert(1)</script> on grass',
    "<b>two</b> blue boxes & a hill\u2028 under \u00e9toiles \u2605 \U0001f33f",
    "a striped cone on sand",
    "a green box 'at' sunset",
)
CONFIG = {
    "name": "made",
    "replicates": 1,
    "seed": 0,
    "suite": {"name": "none"},
    "sampler": {"steps": 2, "guidance_scale": 1.0},
    "metrics": {"level": 0.95, "resamples": 100},
    "conditions": {
        "depth": {"_target_": "maxbench.conditions.depth.Depth"},
        "seg": {
            "_target_": "maxbench.conditions.seg.Segmentation",
            "palette": [[60 * each, 255 - 60 * each, 90] for each in range(CLASSES)],
        },
    },
    "methods": {"average": {}, "better": {}, "worse": {}},
}


def make_run(folder, images=12, replicates=1, exchanged=True, size=24, entered=(), pictures=True, seed=0, changes=None,
             more=0):  # fmt: skip
    """A finished run of depth and segmentation in `folder`; the first of its prompts are PROMPTS.

    exchanged: as of conditions from different pictures, with masks. entered: rows whose pictures were made elsewhere.
    more: further rules, each as good as `better` on other samples.
    """
    state = make_state(images, seed=seed, replicates=replicates, exchanged=exchanged)
    rows = [replace(each, role="entered") if each.name in entered else each for each in state.rows]
    better = next(each for each in state.rows if each.name == "better")
    extra = {f"rule {number}": number for number in range(1, more + 1)}
    measured = {
        name: {label: np.roll(each, number, 0) for label, each in state.measured["better"].items()}
        for name, number in extra.items()
    }
    state = replace(
        state, rows=(*rows, *(replace(better, name=name) for name in extra)), measured={**state.measured, **measured}
    )
    tables = Tables(state, CONDITIONS, 100, 0.95)
    folder.mkdir(parents=True)
    write_atomically(folder / STATE, state.write)
    tables.samples().to_parquet(folder / SAMPLES, index=False)
    tables.metrics().to_csv(folder / METRICS, index=False)
    tables.differences().to_csv(folder / DIFFERENCES, index=False)
    config = {**CONFIG, "samples": images // replicates, "replicates": replicates, "seed": seed, **(changes or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    said = {"files": {}, "defects": {}, "notes": list(tables.notes), "joint": {"note": "", "dominant": {}}}
    (folder / SUMMARY).write_text(seal(said))
    ids = list(dict.fromkeys(image.sample for image in state.images))
    samples = [
        {
            "id": name, "group": name.replace("s", "g"), "prompt": PROMPTS[place] if place < len(PROMPTS) else
            f"scene number {place}", "sources": {"depth": place, "seg": place + 5000 * exchanged},
        }
        for place, name in enumerate(ids)
    ]  # fmt: skip
    methods = [
        {"name": row.name, "role": row.role, "series": row.name, "branches": list(row.branches)}
        for row in state.rows if row.role not in ("reference", "entered")
    ]  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"samples": samples, "methods": methods, "reference": []}))
    if pictures:
        _draw(folder, samples, methods, entered, replicates, size, exchanged)
    return folder


def _draw(folder, samples, methods, entered, replicates, size, exchanged):
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (4, 4, 3), np.uint8)
    ramp = np.tile(np.linspace(0, 255, size).astype(np.uint8), (size, 1))
    for place, sample in enumerate(samples):
        for number in set(sample["sources"].values()):
            _save(np.roll(base, (place, number), (0, 2)), folder / "real" / f"{number:012d}.png", size)
        _save(np.roll(ramp, place, 1), folder / "conditions/depth" / f"{sample['sources']['depth']:012d}.png", size)
        labels = (np.roll(ramp, place, 0) // 64).astype(np.uint8)
        _save(labels, folder / "conditions/seg" / f"{sample['sources']['seg']:012d}.png", size)
        if exchanged:
            mask = np.zeros((size, size), np.uint8)
            mask[size // 4 : size // 2, size // 4 : 3 * size // 4] = 255
            _save(mask, folder / "control_masks/depth" / f"{sample['id']}.png", size)
        for number, row in enumerate([*(each["name"] for each in methods), *entered]):
            place_of = f"entered/{row}" if row in entered else f"images/{row}"
            for replicate in range(replicates):
                drawn = np.roll(base, (place + number, replicate), (1, 2))
                _save(drawn, folder / place_of / f"{sample['id']}-{replicate}.png", size)
    for row in entered:
        (folder / "records/entered").mkdir(parents=True, exist_ok=True)
        (folder / "records/entered" / f"{row}.json").write_text(seal([]))


def _save(array, path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).resize((size, size), Image.Resampling.NEAREST).save(path, compress_level=1)


def read_part(path):
    """The value that a script of data hands to the page."""
    text = path.read_text()
    head, _, rest = text.partition(",")
    assert head.startswith("maxbench.put(") and rest.endswith(");\n")
    return json.loads(rest[: -len(");\n")])


def build_of(output):
    """The folder of the build that index.html refers to."""
    index = (output / "index.html").read_text()
    return output / index.split('data-build="')[1].split('"')[0]
