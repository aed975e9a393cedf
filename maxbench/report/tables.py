"""metrics.csv -> tables for people, in Markdown and in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from maxbench.errors import UserError
from maxbench.store.files import write_atomically


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
AGAIN = "run the experiment again, which makes it anew."
PUBLISHED = "published"  # the paper's own number, for a user to fill


REQUIRED = {
    "metrics.csv": ("experiment", "suite", "method", "metric", "protocol", "scorer", "value", "low", "high", "n"),
    "differences.csv": ("baseline", "method", "metric", "value", "low", "high", "comparisons"),
}
NUMBERS = ("value", "low", "high", "n", "comparisons")


class Tables(NamedTuple):
    """The tables of a run, as `table.md` has them and as plain text."""

    markdown: str
    text: str


def write_tables(folder: Path) -> str:
    """Write `table.md` into a run folder from its CSV files; return the same tables as plain text."""
    tables = read_tables(folder)
    write_atomically(folder / "table.md", tables.markdown)
    return tables.text


def read_tables(folder: Path) -> Tables:
    """The tables of a run folder, or of results that were kept without its images; nothing is written."""
    metrics = _read(folder, "metrics.csv")
    about, notes = _about(folder, metrics), _joint_notes(folder)
    markdown = [
        f"# {metrics.experiment.iloc[0]} on {metrics.suite.iloc[0]}",
        about,
        markdown_table(*method_table(metrics, intervals=True)),
        *_differences(folder),
        *_second_opinion(metrics),
        *notes,
        _protocols(metrics),
    ]
    text = [about, plain_table(*method_table(metrics, intervals=False)), *notes]
    return Tables("\n\n".join(markdown) + "\n", "\n\n".join(text))


def _differences(folder: Path) -> list[str]:
    """Paired differences to the baseline; nothing where it is the only method, or where they were not kept."""
    path = folder / "differences.csv"
    if not path.exists() or not path.read_text(errors="replace").strip():
        return []
    differences = _read(folder, path.name)
    return [
        f"Paired differences to `{differences.baseline.iloc[0]}` on the same samples and noise; intervals are "
        f"bootstrapped and corrected for the {int(differences.comparisons.iloc[0])} comparisons in this table "
        "(Bonferroni). An interval without 0 is bold.",
        markdown_table(*difference_table(differences)),
    ]


def _read(folder: Path, name: str) -> pd.DataFrame:
    """A table of a run, with all columns that are printed; else a UserError."""
    path = folder / name
    try:
        table = pd.read_csv(path)
        numbers = [name for name in NUMBERS if name in table]
        table[numbers] = table[numbers].apply(pd.to_numeric)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} has no {name}: it is no finished run; name another or finish it first.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); change that or name another run.") from error
    except ValueError as error:  # of pandas' parser, of the encoding, of a text where a number should be
        raise UserError(f"{path} is damaged; {AGAIN}") from error
    missing = [name for name in REQUIRED[name] if name not in table]
    if missing or table.empty:
        wrong = f"has no column {missing[0]}" if missing else "has no rows"
        raise UserError(f"{path} {wrong}: it is damaged, or of an older version; {AGAIN}")
    return table


def _read_settings(folder: Path, name: str) -> dict[str, Any]:
    """A YAML or JSON file of a run."""
    path = folder / name
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged; {AGAIN}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is damaged; {AGAIN}")
    return settings


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
    settings = _read_settings(folder, "config.yaml")
    world = (
        " These are numbers about the rendered miniature world, not about photographs."
        if (metrics.suite.iloc[0] == "miniature")
        else ""
    )
    try:
        sampler = settings["sampler"]
        return (
            f"{settings['samples']} samples x {settings['replicates']}, seed {settings['seed']}, "
            f"{sampler['steps']} steps, guidance {sampler['guidance_scale']:g}; "
            f"{100 * settings['metrics']['level']:g}% intervals over samples.{world}"
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.yaml'} is no configuration of a run; {AGAIN}") from error


def _joint_notes(folder: Path) -> list[str]:
    """What q means here, which condition was left out of it, and which one each method favours; if it is known."""
    name = "evaluation.json"
    if not (folder / name).exists():
        return []
    lines = ["q: 0 = condition ignored, 1 = followed as well as by its single control alone; joint = mean and minimum."]
    try:
        joint = _value(_read_settings(folder, name))["joint"]
        if joint["note"]:
            lines.append(f"Joint score {joint['note']}.")
        favours = [
            f"{method} {condition} ({100 * share:.0f}%)" for method, (condition, share) in joint["dominant"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / name} is damaged; {AGAIN}") from error
    if favours:
        lines.append(f"Condition with the larger q (share of samples): {', '.join(favours)}.")
    return ["\n".join(lines)]


def _value(said: dict) -> dict:
    """What a file says whose value lies beside its digest; older runs have it bare."""
    return said.get("value", said)


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
