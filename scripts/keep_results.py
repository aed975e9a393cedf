"""Copy what is worth committing of a run: python scripts/keep_results.py runs/hed_depth-... results/hed_depth."""

import argparse
import shutil
from pathlib import Path

KEPT = (
    "table.md",
    "contact_sheet.png",
    "metrics.csv",
    "differences.csv",
    "evaluation.json",
    "config.yaml",
    "stamp.json",
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    missing = [name for name in KEPT if not (arguments.run / name).exists()]
    if missing:
        parser.error(f"{arguments.run} is no finished run: it lacks {', '.join(missing)}")
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy2(arguments.run / name, arguments.results / name)
        print(arguments.results / name)
