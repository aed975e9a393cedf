"""Does MaxFusion win? python scripts/weigh_claim.py runs/hed_depth-... runs/contradictory_... [--output FILE].

For every run: the joint score of the paper's rule (in lockstep, at the outputs only, and as released) minus that of
every baseline, paired over samples with the same noise. A sample's joint score is the mean of its q over the
conditions, q = (fidelity - no control) / (mean gain of the condition's own single control). Intervals are bootstrapped
over samples and corrected for the comparisons of one run's table (Bonferroni).
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
import yaml

from maxbench.errors import UserError
from maxbench.metrics.statistics import Interval, paired_difference
from maxbench.report.tables import BY_ANNOTATOR, column, markdown_table
from maxbench.store.stamp import origin

RULES = ("maxfusion", "outputs_only", "maxfusion_published")
AT_STRENGTH = {"maxfusion_matched": "maxfusion", "outputs_only_matched": "outputs_only",
               "published_matched": "maxfusion_published"}  # fmt: skip
OTHERS = ("softmax", "largest_norm", "random")


def joint(folder: Path) -> tuple[dict, pd.DataFrame]:
    """The run's configuration, and the joint score of every sample (rows) under every method (columns)."""
    if not (folder / "samples.parquet").exists():
        raise UserError(f"{folder} is no finished run; name the folder of one.")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    samples = pd.read_parquet(folder / "samples.parquet")
    units = {branch: name for name, branch in reversed(alone(folder, "single").items())}
    none = next((each["name"] for each in methods_of(folder) if each["role"] == "none"), None)
    if none is None or set(config["conditions"]) - set(units):
        raise UserError(f"{folder} has no joint score: that needs `none` and `single` of every condition.")
    scores = []
    for condition in config["conditions"]:
        own = samples[(samples.condition == condition) & ~samples.metric.str.endswith(BY_ANNOTATOR)]
        table = own.pivot_table(index="sample", columns="method", values="value")  # replicates are averaged
        table = table if column(own.metric.iloc[0]).better == "higher" else -table
        gained = table.sub(table[none], axis=0)
        scores.append(gained / gained[units[condition]].mean())
    return config, sum(scores) / len(scores)


def methods_of(folder: Path) -> list[dict]:
    """What the manifest says of every method."""
    return json.loads((folder / "manifest.json").read_text())["methods"]


def alone(folder: Path, entry: str) -> dict[str, str]:
    """Method -> condition, of the methods that an entry of the configuration stands for, each control alone."""
    own = [each for each in methods_of(folder) if each["entry"] == entry and each["role"] == "single"]
    return {each["name"]: each["branches"][0] for each in own if each["parameter"] is None}


def verdict(interval: Interval) -> str:
    return "better" if interval.low > 0 else "worse" if interval.high < 0 else "no difference shown"


def weigh(folder: Path) -> list[list[str]]:
    config, scores = joint(folder)
    pairs = [pair for pair in comparisons(folder) if set(pair) <= set(scores)]
    if not pairs:
        raise UserError(f"{folder} compares no rule with a baseline; it has {', '.join(scores)}.")
    rows = []
    for rule, rival in pairs:
        difference = paired_difference(
            scores[rule].to_numpy(), scores[rival].to_numpy(),
            seed=config["seed"], comparisons=len(pairs), resamples=1000,
        )  # fmt: skip
        value = f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
        name = [config["name"], str(config["seed"]), str(len(scores))]
        rows.append([*name, rule, rival, value, verdict(difference)])
    return rows


def comparisons(folder: Path) -> list[tuple[str, str]]:
    """Rule and rival: at the common scale, at the strength of the sum, and against other rules that choose."""
    singles, matched = (list(alone(folder, entry)) for entry in ("single", "single_matched"))
    return [
        *((rule, rival) for rule in RULES for rival in ("average", *singles, "sum")),
        *((rule, rival) for rule in AT_STRENGTH for rival in (*matched, "sum")),
        *(("outputs_only", rival) for rival in OTHERS),
    ]


def levels(folder: Path) -> list[str]:
    """The joint score of every method, its mean over samples."""
    config, scores = joint(folder)
    methods = ["average", "sum", *RULES, *AT_STRENGTH, *OTHERS]
    cells = [f"{scores[name].mean():.2f}" if name in scores else "-" for name in methods]
    singles = " / ".join(f"{scores[name].mean():.2f}" for name in alone(folder, "single"))
    return [config["name"], str(config["seed"]), str(len(scores)), singles, *cells]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    try:
        rows = [row for run in chosen.runs for row in weigh(run)]
        table = [levels(run) for run in chosen.runs]
    except UserError as error:
        print(f"weigh_claim: {error}", file=sys.stderr)
        return 2
    headings = ["experiment", "seed", "n", "rule", "against", "joint score, difference", "verdict"]
    names = ["experiment", "seed", "n", "singles", "average", "sum", *RULES, *AT_STRENGTH, *OTHERS]
    counts = pd.Series([row[-1] for row in rows]).value_counts()
    text = (
        "# Does MaxFusion win?\n\n"
        f"Made by `scripts/weigh_claim.py` from {', '.join(map(origin, chosen.runs))}.\n\n"
        "## Joint score (0 = no control, 1 = every condition as good as by its own control alone)\n\n"
        "A `matched` method adds residuals of the same mean norm as `sum` to the U-Net, by training scenes.\n\n"
        f"{markdown_table(names, table)}\n\n"
        f"## Paired differences ({', '.join(f'{name}: {count}' for name, count in counts.items())})\n\n"
        f"{markdown_table(headings, rows)}\n"
    )
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
