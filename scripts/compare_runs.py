"""One table of several runs: python scripts/compare_runs.py runs/a-... runs/b-... [--methods sum] [--output FILE].

A row is a method of a run; the first columns are the settings in which the runs differ, the others the run's own
numbers with their intervals. Made for sweeps: nothing is averaged, and runs of different size stand side by side
with their n.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from maxbench.errors import UserError
from maxbench.report.tables import COLUMNS, markdown_table
from maxbench.store.stamp import origin

IMPLIED = (
    "output_dir", "store_dir", "data_dir", "data.root", "suite.root", "runtime.threads",  # places change nothing
    "suite.steps", "suite.guidance_scale", "suite.control_scale",  # a default; what was used stands elsewhere
)  # fmt: skip


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys."""
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: inner for name, part in value.items() for key, inner in flat(part, f"{prefix}{name}.").items()}


def read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    if not (folder / "metrics.csv").exists():
        raise UserError(f"{folder} is no finished run; name the folder of one.")
    return flat(yaml.safe_load((folder / "config.yaml").read_text())), pd.read_csv(folder / "metrics.csv")


def differing(configs: list[dict[str, Any]]) -> list[str]:
    """Keys in which the runs differ, without those that change nothing by themselves; of experiments the name alone."""
    if len({config.get("name") for config in configs}) > 1:
        return ["name"]
    keys = sorted({key for config in configs for key in config} - set(IMPLIED))
    return [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]


def table(folders: list[Path], methods: list[str], metrics: list[str]) -> str:
    runs = [read(folder) for folder in folders]
    settings = differing([config for config, _ in runs])
    present = [name for name in metrics if any(name in set(frame.metric) for _, frame in runs)]
    headings = [*settings, "method", "n", *(COLUMNS[name].heading if name in COLUMNS else name for name in present)]
    rows = []
    for config, frame in runs:
        for method in dict.fromkeys(frame.method):
            if methods and method not in methods:
                continue
            own = frame[frame.method == method].set_index("metric")
            count = int(own.n.max())
            rows.append(
                [*(str(config.get(key)) for key in settings), method, str(count), *(cell(own, n) for n in present)]
            )
    return markdown_table(headings, rows)


def cell(own: pd.DataFrame, metric: str) -> str:
    if metric not in own.index or pd.isna(own.value[metric]):
        return "-"
    digits = COLUMNS[metric].digits if metric in COLUMNS else 2
    value, low, high = (own[column][metric] for column in ("value", "low", "high"))
    return f"{value:.{digits}f}" if pd.isna(low) else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="*", default=[], help="only these; all if none is named")
    parser.add_argument("--metrics", nargs="*", default=list(COLUMNS), help="columns, as in metrics.csv")
    parser.add_argument("--output", type=Path, help="also write the table here")
    chosen = parser.parse_args()
    try:
        text = table(chosen.runs, chosen.methods, chosen.metrics)
    except UserError as error:
        print(f"compare_runs: {error}", file=sys.stderr)
        return 2
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(f"From {', '.join(map(origin, chosen.runs))}.\n\n{text}\n")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
