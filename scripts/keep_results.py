"""Copy what is worth committing of a run: python scripts/keep_results.py runs/hed_depth-... results/hed_depth.

Of runs that were pooled (`run --seeds`) the tables are the pooled ones; with --first, the folder of one of them, the
pictures and what was tuned are that one's. What an earlier call has left there and this run does not have goes.
"""

import argparse
import shutil
from pathlib import Path

import yaml

from maxbench.report.runs import SHEET
from maxbench.report.sheet import write_sheet
from maxbench.store.runfolder import MANIFEST

KEPT = ("table.md", "metrics.csv", "differences.csv", "evaluation.json", "config.yaml", "stamp.json")
IF_THERE = (
    "further_differences.csv", "strength.json", "tuning.csv", "conflict.csv", "conflict.png",
    "conflict_differences.csv", "curves.png", "curves.csv", "curves.pdf", "variance_maps.png",
    "winner_maps.png", "fusion_curves.png",
)  # fmt: skip


def without_places(config: dict) -> dict:
    """A run's configuration with default folders: where it ran is nobody's business."""
    data = {**config["data"], "root": "data"} if "root" in config["data"] else config["data"]
    return {**config, "output_dir": "runs", "store_dir": "runs/store", "data_dir": "data", "data": data}


def keep(run: Path, results: Path, first: Path, samples: int) -> None:
    """Copy the kept files of `run` to `results`, those that it lacks from `first`, and draw the contact sheet anew."""
    results.mkdir(parents=True, exist_ok=True)
    for name in (*KEPT, *IF_THERE):
        source = next((folder / name for folder in (run, first) if (folder / name).exists()), None)
        if source is None:
            (results / name).unlink(missing_ok=True)
            continue
        shutil.copy2(source, results / name)
        print(results / name)
    config = results / "config.yaml"
    config.write_text(yaml.safe_dump(without_places(yaml.safe_load(config.read_text())), sort_keys=False))
    if (first / MANIFEST).exists():
        print(write_sheet(first, samples, results / SHEET))
    else:
        (results / SHEET).unlink(missing_ok=True)  # of other pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--first", type=Path, help="one of the runs that were pooled (default: the run)")
    parser.add_argument("--samples", type=int, default=6, help="rows of the contact sheet (default: 6)")
    arguments = parser.parse_args()
    missing = [name for name in KEPT if not (arguments.run / name).exists()]
    if missing:
        parser.error(f"{arguments.run} is no finished run: it lacks {', '.join(missing)}")
    keep(arguments.run, arguments.results, arguments.first or arguments.run, arguments.samples)
