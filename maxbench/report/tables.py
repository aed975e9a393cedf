"""metrics.csv -> tables for people, in Markdown and in plain text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from maxbench.errors import UserError


@dataclass(frozen=True)
class Column:
    """How a metric is printed: heading, digits, and which way is better (None where neither is)."""

    heading: str
    digits: int
    better: str | None


COLUMNS = {
    "fd_clip": Column("FD-CLIP", 2, "lower"),
    "kd_clip": Column("KD-CLIP x1000", 2, "lower"),
    "clip_score": Column("CLIP", 2, "higher"),
    "hed_ssim": Column("HED SSIM", 3, "higher"),
    "depth_rmse": Column("depth RMSE", 2, "lower"),
    "seg_miou": Column("seg mIoU", 1, "higher"),
    "canny_f1": Column("canny F1", 3, "higher"),
    "style_clip_i": Column("style CLIP-I", 1, "higher"),
    "joint_mean": Column("joint mean", 2, "higher"),
    "joint_min": Column("joint min", 2, "higher"),
    "share_both": Column("both q > 1/2", 2, "higher"),
    "control_scale": Column("scale", 2, None),
    "seconds": Column("s/image", 2, None),
    "defects": Column("defects", 0, None),
}
ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
BY_ANNOTATOR = "_by_annotator"  # of a metric that the network which drew the maps has measured
PUBLISHED = "published"  # the paper's own number, for a user to fill


def write_tables(folder: Path) -> str:
    """Write `table.md` into a run folder from its CSV files; return the same tables as plain text."""
    metrics = _read(folder, "metrics.csv")
    markdown = [
        f"# {metrics.experiment.iloc[0]} on {metrics.suite.iloc[0]}",
        _about(folder, metrics),
        markdown_table(*method_table(metrics, intervals=True)),
        *_differences(folder),
        *_second_opinion(metrics),
        _joint_notes(folder),
        _protocols(metrics),
    ]
    (folder / "table.md").write_text("\n\n".join(markdown) + "\n")
    return "\n\n".join(
        [_about(folder, metrics), plain_table(*method_table(metrics, intervals=False)), _joint_notes(folder)]
    )


def _differences(folder: Path) -> list[str]:
    """Paired differences to the baseline; nothing where it is the only method."""
    path = folder / "differences.csv"
    if path.exists() and not path.read_text(errors="replace").strip():
        return []
    differences = _read(folder, path.name)
    return [
        f"Paired differences to `{differences.baseline.iloc[0]}` on the same samples and noise; intervals are "
        f"bootstrapped and corrected for the {int(differences.comparisons.iloc[0])} comparisons in this table "
        "(Bonferroni). An interval without 0 is bold.",
        markdown_table(*difference_table(differences)),
    ]


def _read(folder: Path, name: str) -> pd.DataFrame:
    path = folder / name
    try:
        return pd.read_csv(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {name}: it is no finished run; name another or finish it first.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged; delete it and run the experiment again.") from error


def method_table(metrics: pd.DataFrame, intervals: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one row a method; every metric is one protocol, scorer and N, or a UserError."""
    _refuse_mixtures(metrics)
    found = list(dict.fromkeys(metrics.metric))
    scores = [name for name in found if name in COLUMNS]
    columns = [name for name in COLUMNS if name in scores]
    quality = [name for name in found if name.startswith("q_")]
    place = columns.index("joint_mean") if "joint_mean" in columns else len(columns)
    columns[place:place] = quality
    if "defects" in columns and metrics[metrics.metric == "defects"].value.sum() == 0:
        columns.remove("defects")
    if metrics[metrics.metric == "control_scale"].value.nunique() == 1 and len(columns) > 1:
        columns.remove("control_scale")  # it tells nothing
    headings = ["method", *(_heading(name) for name in columns)]
    cells = {(row.method, row.metric): row for row in metrics.itertuples()}
    rows = []
    for method in dict.fromkeys(metrics.method):
        rows.append([method, *(_cell(cells.get((method, name)), name, intervals) for name in columns)])
    return headings, rows


def _second_opinion(metrics: pd.DataFrame) -> list[str]:
    """Fidelity once more, by the annotators themselves: what agrees with them alone is not the condition's."""
    theirs = metrics[metrics.metric.str.endswith(BY_ANNOTATOR)]
    if theirs.empty:
        return []
    renamed = theirs.assign(metric=theirs.metric.str.removesuffix(BY_ANNOTATOR))
    title = "The same fidelities measured by the annotators that drew the given maps, instead of independent scorers:"
    return [title, markdown_table(*method_table(renamed, intervals=True))]


def difference_table(differences: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    headings = ["method", *(f"{name} {_arrow(name)}".strip() for name in dict.fromkeys(differences.metric))]
    rows = []
    for method, group in differences.groupby("method", sort=False):
        row = [str(method)]
        for each in group.itertuples():
            digits = column(each.metric).digits
            text = f"{each.value:+.{digits}f} [{each.low:+.{digits}f}, {each.high:+.{digits}f}]"
            row.append(f"**{text}**" if each.low > 0 or each.high < 0 else text)
        rows.append(row)
    return headings, rows


def _refuse_mixtures(metrics: pd.DataFrame) -> None:
    for metric, group in metrics.groupby("metric"):
        for field in ("n", "protocol", "scorer"):
            if group[field].nunique() > 1:
                values = ", ".join(str(value) for value in group[field].unique()[:3])
                raise UserError(
                    f"The rows of '{metric}' differ in {field} ({values}): they cannot share a table; "
                    "tabulate each run for itself."
                )


def column(metric: str) -> Column:
    """How a metric is printed, also one of single samples."""
    if metric.startswith("q_"):
        return Column(f"q {metric[2:]}", 2, "higher")
    if metric == "seg_image_iou":
        return Column("seg IoU per image", 1, "higher")
    return COLUMNS.get(metric, Column(metric, 3, None))


def _arrow(metric: str) -> str:
    return ARROWS[column(metric).better].strip()


def _heading(metric: str) -> str:
    printed = column(metric)
    return printed.heading + ARROWS[printed.better]


def _cell(row, metric: str, intervals: bool) -> str:
    if row is None or pd.isna(row.value):
        return "-"
    digits = column(metric).digits
    if pd.isna(row.low) or metric == "seconds":
        return f"{row.value:.{digits}f}"
    if intervals:
        return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
    return f"{row.value:.{digits}f} ±{max(row.high - row.value, row.value - row.low):.{digits}f}"


def _about(folder: Path, metrics: pd.DataFrame) -> str:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    sampler = settings["sampler"]
    world = (
        " These are numbers about the rendered miniature world, not about photographs."
        if (metrics.suite.iloc[0] == "miniature")
        else ""
    )
    return (
        f"{settings['samples']} samples x {settings['replicates']}, seed {settings['seed']}, "
        f"{sampler['steps']} steps, guidance {sampler['guidance_scale']:g}; "
        f"{100 * settings['metrics']['level']:g}% intervals over samples.{world}"
    )


def _joint_notes(folder: Path) -> str:
    """What q means here, which condition was left out of it, and which one each method favours."""
    joint = _read_summary(folder)["joint"]
    lines = ["q: 0 = condition ignored, 1 = followed as well as by its single control alone; joint = mean and minimum."]
    if joint["note"]:
        lines.append(f"Joint score {joint['note']}.")
    if joint["dominant"]:
        favours = (
            f"{method} {condition} ({100 * share:.0f}%)" for method, (condition, share) in joint["dominant"].items()
        )
        lines.append(f"Condition with the larger q (share of samples): {', '.join(favours)}.")
    return "\n".join(lines)


def _read_summary(folder: Path) -> dict:
    """`evaluation.json`, whose value lies beside its digest."""
    path = folder / "evaluation.json"
    try:
        said = json.loads(path.read_text())
        return said["value"] if "value" in said else said
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged; run the experiment again.") from error


def _protocols(metrics: pd.DataFrame) -> str:
    lines = ["| metric | protocol | scorer | n |", "|---|---|---|---|"]
    for metric, group in metrics.groupby("metric", sort=False):
        first = group.iloc[0]
        lines.append(f"| {metric} | {first.protocol} | {first.scorer} | {int(first.n)} |")
    return "\n".join(lines)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, numbers to the right."""
    widths = [max(len(line[place]) for line in [headings, *rows]) for place in range(len(headings))]
    numeric = [all(row[place][:1] in "+-.0123456789" for row in rows) for place in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(row) for row in rows)])
