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
from maxbench.report.tables import COLUMNS, column, column_name, markdown_table
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
    frame = pd.read_csv(folder / "metrics.csv")
    config = flat(yaml.safe_load((folder / "config.yaml").read_text()))
    return config, frame.assign(condition=frame.condition.fillna(""))


def differing(configs: list[dict[str, Any]]) -> list[str]:
    """Keys in which the runs differ, without those that change nothing by themselves; of experiments the name alone."""
    if len({config.get("name") for config in configs}) > 1:
        return ["name"]
    keys = sorted({key for config in configs for key in config} - set(IMPLIED))
    return [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]


def table(folders: list[Path], methods: list[str], metrics: list[str]) -> str:
    runs = [read(folder) for folder in folders]
    settings = differing([config for config, _ in runs])
    found = {key for _, frame in runs for key in zip(frame.metric, frame.condition, strict=True)}
    present = [key for name in metrics for key in sorted(found) if key[0] == name]
    headings = [*settings, "method", "n", *(column_name(*key) for key in present)]
    rows = []
    for config, frame in runs:
        for method in dict.fromkeys(frame.method):
            if methods and method not in methods:
                continue
            own = {(row.metric, row.condition): row for row in frame[frame.method == method].itertuples()}
            count = int(max(row.n for row in own.values()))
            cells = (cell(own.get(key)) for key in present)
            rows.append([*(str(config.get(key)) for key in settings), method, str(count), *cells])
    return markdown_table(headings, rows)


def cell(row: Any) -> str:
    if row is None or pd.isna(row.value):
        return "-"
    digits = column(row.metric).digits
    text = f"{row.value:.{digits}f}"
    return text if pd.isna(row.low) else f"{text} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="*", default=[], help="only these; all if none is named")
    parser.add_argument(
        "--metrics", nargs="*", default=list(COLUMNS), help="as in metrics.csv; a column for each condition"
    )
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
