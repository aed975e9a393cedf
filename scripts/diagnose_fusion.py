"""Why a fusion rule does what it does in a finished run: python scripts/diagnose_fusion.py runs/hed_depth-... [...].

For the first samples of each run the rule is watched at every site and step: who wins where, how much is merged, how
alike the branches are, and how far the controls have drifted from the U-Net that they were copied from. Two ways of
fusing are watched: in lockstep, and at the outputs of independent branches. Writes fusion.md, fusion.csv and
fusion.png to --output, and prints the table.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from omegaconf import OmegaConf

from maxbench.config import build
from maxbench.diagnostics import Watched, drift
from maxbench.errors import UserError
from maxbench.fusion import MaxFusion
from maxbench.generate import given_maps, region
from maxbench.lockstep import SITES
from maxbench.pipeline import Pipeline
from maxbench.report.tables import markdown_table
from maxbench.runfolder import RunFolder
from maxbench.seeds import noise_for

WAYS = {"lockstep": SITES, "outputs only": ()}


@torch.inference_mode()
def watch(folder: Path, samples: int, delta: float) -> pd.DataFrame:
    """One row per way, step and place."""
    if not (folder / "metrics.csv").exists():
        raise UserError(f"{folder} is no finished run; name the folder of one.")
    job = build(OmegaConf.load(folder / "config.yaml"))
    run, conditions = RunFolder(folder), job.experiment.conditions
    pipeline = job.suite.pipeline(list(conditions), job.device, job.dtype)
    chosen = job.experiment.samples[:samples]
    hints = {name: each.hint(given_maps(run, each, chosen)) for name, each in conditions.items()}
    spoken = [region(run, "scored", name, chosen) for name in conditions]
    regions = None if any(each is None for each in spoken) else [each[:, None] for each in spoken]
    shape = pipeline.latent_shape(job.suite.resolution)
    noise = torch.stack([noise_for(job.experiment.seed, sample.id, 0, shape) for sample in chosen])
    text = pipeline.encode_text([sample.prompt for sample in chosen])
    negative = pipeline.encode_text([job.sampler.negative_prompt]).expand(len(chosen), -1, -1)
    rows = []
    for way, sites in WAYS.items():
        watched = Watched(MaxFusion(delta), regions)
        control = pipeline.control(hints, watched, sites)

        def stepped(*inputs, watched=watched, control=control):
            watched.next_step()
            return control(*inputs)

        pipeline.denoise(noise, text, negative, stepped, job.sampler)
        rows += [{"experiment": job.experiment.name, "way": way, **asdict(site)} for site in watched.sites]
    table = pd.DataFrame(rows)
    table[list(conditions)] = table.wins.tolist()
    table["first"], table["second"] = list(conditions)
    table["drift"] = str(drifts(pipeline))
    return table.drop(columns="wins")


def drifts(pipeline: Pipeline) -> dict[str, float]:
    return {name: round(drift(net, pipeline.unet), 3) for name, net in pipeline.controls.items()}


def summary(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: per experiment, way and kind of site, means over steps and places."""
    headings = ["experiment", "way", "where", "rho of the loser", "merged", "won by the first", "won in its own region"]
    rows = []
    for (experiment, way), group in table.groupby(["experiment", "way"], sort=False):
        unmerged = group[group.kind == "unmerge"]
        places = {"after conv_in": unmerged.place == 0, "down and mid": unmerged.place > 0} if len(unmerged) else {}
        parts = [*((where, unmerged[chosen]) for where, chosen in places.items())]
        parts.append(("outputs", group[group.kind == "merge"]))
        for where, part in parts:
            first = part["first"].iloc[0]
            own = "-" if part.own.isna().all() else f"{part.own.mean():.2f}"
            numbers = [
                f"{part.rho.mean():.2f}",
                f"{part.merged.mean():.2f}",
                f"{part[first].mean():.2f} ({first})",
                own,
            ]
            rows.append([experiment, way, where, *numbers])
    return headings, rows


def draw(table: pd.DataFrame, path: Path) -> None:
    """Similarity and merged share over steps, a line per way, a column per experiment."""
    names = list(dict.fromkeys(table.experiment))
    figure, axes = plt.subplots(2, len(names), figsize=(3.4 * len(names), 5), squeeze=False, sharey="row", sharex=True)
    for column, name in enumerate(names):
        for way, group in table[table.experiment == name].groupby("way", sort=False):
            outputs = group[group.kind == "merge"].groupby("step")[["rho", "merged"]].mean()
            for row, measure in enumerate(("rho", "merged")):
                axes[row, column].plot(outputs.index, outputs[measure], label=way)
        axes[0, column].set_title(name, fontsize=9)
        axes[1, column].set_xlabel("step of the sampler")
    axes[0, 0].set_ylabel("rho at the outputs")
    axes[1, 0].set_ylabel("share merged at the outputs")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--delta", type=float, default=0.7)
    parser.add_argument("--output", type=Path, default=Path("results/miniature"))
    chosen = parser.parse_args()
    try:
        table = pd.concat([watch(run, chosen.samples, chosen.delta) for run in chosen.runs], ignore_index=True)
    except UserError as error:
        print(f"diagnose_fusion: {error}", file=sys.stderr)
        return 2
    chosen.output.mkdir(parents=True, exist_ok=True)
    table.to_csv(chosen.output / "fusion.csv", index=False)
    draw(table, chosen.output / "fusion.png")
    drifted = "\n".join(f"- {name}: {value}" for name, value in table.groupby("experiment").drift.first().items())
    text = (
        f"# Who wins where ({chosen.samples} samples a run, delta {chosen.delta:g})\n\n"
        "Means over steps, layers, locations and both guidance halves. `rho` is the cosine of the branch that loses\n"
        "to the one that wins; `merged` the share of locations where rho > delta; `won in its own region` the\n"
        "share of locations won by the condition that speaks there while the other is silent.\n\n"
        f"{markdown_table(*summary(table))}\n\n"
        f"Drift of each control's copied weights from the U-Net's, |control - U-Net| / |U-Net|:\n\n{drifted}\n"
    )
    (chosen.output / "fusion.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
