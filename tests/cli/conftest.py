"""Runs with few methods, for the verbs that work on the results of others: made once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from runs import all_runs

FEW = ("none", "single", "average", "sum")
MANY = (
    "single_tuned", "tuned_sum", "scheduled_sum", "random_blobs", "outputs_only", "gated_sum", "maxfusion",
    "maxfusion_tuned", "maxfusion_published",
)  # fmt: skip


@pytest.fixture(scope="session")
def lean(small_run) -> list[str]:
    """Overrides of a run with the methods FEW, without the experiment's name."""
    own = [each for each in small_run if not each.startswith("experiment=")]
    return [*own, *(f"~methods.{name}" for name in MANY), "baseline=average", "samples=4", "pairing.reference=8"]


@pytest.fixture(scope="session")
def exported(lean, tmp_path_factory) -> Path:
    """The export of an experiment of which nothing has been run; its runs go beside it."""
    from maxbench.__main__ import main

    place = tmp_path_factory.mktemp("exported")
    words = ["hed_depth", *lean, f"output_dir={place / 'runs'}", "--output", str(place / "export")]
    assert main(["export", *words]) == 0
    return place / "export"


@pytest.fixture(scope="session")
def pictures(exported, tmp_path_factory) -> Path:
    """Pictures made by the loop of the export's README, outside of it; every one is another."""
    place = tmp_path_factory.mktemp("elsewhere") / "export"
    shutil.copytree(exported, place)
    loop = (place / "README.md").read_text().split("```python\n")[1].split("```")[0]
    here = Path.cwd()
    os.chdir(place)
    try:
        exec(loop, {"my_method": lambda prompt, negative, hints, noise: hints[0]})
    finally:
        os.chdir(here)
    assert len(list((place / "pictures").iterdir())) == len(json.loads((place / "manifest.json").read_text())["images"])
    return place / "pictures"


@pytest.fixture(scope="session")
def seeded(lean, tmp_path_factory) -> Path:
    """An output folder with the runs of two seeds and their pooled result."""
    from maxbench.__main__ import main

    output = tmp_path_factory.mktemp("seeded")
    assert main(["run", "experiment=hed_depth", *lean, f"output_dir={output}", "--seeds", "0,1"]) == 0
    assert len(all_runs(output)) == 3
    return output
