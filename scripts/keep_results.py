"""Copy what is worth committing of a run: python scripts/keep_results.py runs/hed_depth-... results/hed_depth."""

import argparse
import shutil
from pathlib import Path

import yaml

from maxbench.report.sheet import write_sheet

KEPT = ("table.md", "metrics.csv", "differences.csv", "evaluation.json", "config.yaml", "stamp.json")
IF_THERE = (
    "strength.json", "tuning.csv", "conflict.csv", "conflict.png", "curves.png", "curves.csv",
    "curves.pdf", "variance_maps.png", "winner_maps.png", "fusion_curves.png",
)  # fmt: skip


def without_places(config: dict) -> dict:
    """A run's configuration with default folders: where it ran is nobody's business."""
    data = {**config["data"], "root": "data"} if "root" in config["data"] else config["data"]
    return {**config, "output_dir": "runs", "store_dir": "runs/store", "data_dir": "data", "data": data}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--samples", type=int, default=6, help="rows of the contact sheet, which is drawn anew")
    arguments = parser.parse_args()
    missing = [name for name in KEPT if not (arguments.run / name).exists()]
    if missing:
        parser.error(f"{arguments.run} is no finished run: it lacks {', '.join(missing)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in [*KEPT, *(name for name in IF_THERE if (arguments.run / name).exists())]:
        shutil.copy2(arguments.run / name, arguments.results / name)
        print(arguments.results / name)
    config = arguments.results / "config.yaml"
    config.write_text(yaml.safe_dump(without_places(yaml.safe_load(config.read_text())), sort_keys=False))
    print(write_sheet(arguments.run, arguments.samples, arguments.results / "contact_sheet.png"))
