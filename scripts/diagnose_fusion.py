"""Why a fusion rule does what it does: python scripts/diagnose_fusion.py runs/hed_depth-... [...].

Reads what runs have recorded of their rules' decisions (`maxbench run ... diagnostics.samples=24` records it, also of a
run that is finished): who wins where, how much is merged, how alike the branches are, and how far the controls have
drifted from the U-Net that they were copied from. Writes fusion.md and fusion.csv to --output, and prints the table.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
import yaml

from maxbench.errors import UserError
from maxbench.report.maps import FOLDER, summaries
from maxbench.report.tables import markdown_table

HEADINGS = ["experiment", "method", "where", "rho of the loser", "merged", "won by the first", "won in its own region"]


def read(folder: Path, methods: list[str]) -> pd.DataFrame:
    """One row per method, step and place of a run."""
    if not (folder / "metrics.csv").exists():
        raise UserError(f"{folder} is no finished run; name the folder of one.")
    found = {name: table for name, table in summaries(folder).items() if name in methods}
    if not found:
        raise UserError(
            f"{folder} has no recording of {', '.join(methods)}; run its experiment again with diagnostics.samples=24."
        )
    name = yaml.safe_load((folder / "config.yaml").read_text())["name"]
    return pd.concat(
        table.assign(experiment=name, method=method, first=next(each for each in table if each.startswith("wins/")))
        for method, table in found.items()
    )


def rows(table: pd.DataFrame) -> list[list[str]]:
    """Per experiment, method and kind of site, means over steps and places."""
    lines = []
    for (experiment, method), group in table.groupby(["experiment", "method"], sort=False):
        first = group["first"].iloc[0]
        unmerged = group[group.kind == "unmerge"]
        parts = {"after conv_in": unmerged[unmerged.place == 0], "down and mid": unmerged[unmerged.place > 0]}
        parts["outputs"] = group[group.kind == "output"]
        for where, part in parts.items():
            if len(part):
                own = "-" if part.own.isna().all() else f"{part.own.mean():.2f}"
                won = f"{part[first].mean():.2f} ({first.removeprefix('wins/')})"
                lines.append(
                    [experiment, method, where, f"{part.rho.mean():.2f}", f"{part.merged.mean():.2f}", won, own]
                )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="*", default=["maxfusion", "outputs_only"])
    parser.add_argument("--output", type=Path, default=Path("results/miniature"))
    chosen = parser.parse_args()
    try:
        table = pd.concat([read(run, chosen.methods) for run in chosen.runs], ignore_index=True)
    except UserError as error:
        print(f"diagnose_fusion: {error}", file=sys.stderr)
        return 2
    drifts = [json.loads((run / FOLDER / "drift.json").read_text()) for run in chosen.runs]
    moved = sorted({(name, round(value, 3)) for each in drifts for name, value in each.items()})
    chosen.output.mkdir(parents=True, exist_ok=True)
    table.to_csv(chosen.output / "fusion.csv", index=False, float_format="%.4f")
    text = (
        "# Who wins where\n\n"
        f"Made by `scripts/diagnose_fusion.py` from {', '.join(run.name for run in chosen.runs)}.\n"
        "Means over the samples watched, steps, layers, places and both guidance halves. `rho` is the cosine of the\n"
        "branch that loses to the one that wins; `merged` the share of locations where rho > delta; `won in its own\n"
        "region` the share of locations won by the condition that speaks there while the other is silent.\n\n"
        f"{markdown_table(HEADINGS, rows(table))}\n\n"
        "Drift of each control's copied weights from the U-Net's, |control - U-Net| / |U-Net|: "
        f"{', '.join(f'{name} {value}' for name, value in moved)}.\n"
    )
    (chosen.output / "fusion.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
