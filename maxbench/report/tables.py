"""metrics.csv -> tables for people, in Markdown and in plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from maxbench.errors import UserError
from maxbench.report.runs import EVALUATED, TUNING, Results
from maxbench.store.files import write_atomically


@dataclass(frozen=True)
class Column:
    """How a metric is printed: heading, digits, and which way is better (None where neither is)."""

    heading: str
    digits: int
    better: str | None


COLUMNS = {
    "fid": Column("FID", 2, "lower"),
    "kid": Column("KID x1000", 2, "lower"),
    "fd_dinov2": Column("FD-DINOv2", 1, "lower"),
    "cmmd": Column("CMMD", 3, "lower"),
    "fd_clip": Column("FD-CLIP", 2, "lower"),
    "kd_clip": Column("KD-CLIP x1000", 2, "lower"),
    "clip_score": Column("CLIP", 2, "higher"),
    "hed_ssim": Column("HED SSIM", 3, "higher"),
    "depth_rmse": Column("depth RMSE", 2, "lower"),
    "seg_miou": Column("seg mIoU", 1, "higher"),
    "seg_image_iou": Column("seg IoU per image", 1, "higher"),
    "seg_object_iou": Column("seg object IoU", 1, "higher"),
    "canny_f1": Column("canny F1", 3, "higher"),
    "style_clip_i": Column("style CLIP-I", 1, "higher"),
    "q": Column("q", 2, "higher"),
    "q_mean": Column("q mean", 2, "higher"),
    "joint": Column("joint", 2, "higher"),
    "share_both": Column("both q > 1/2", 2, "higher"),
    "control_scale": Column("scale", 2, None),
    "seconds": Column("s/image", 2, None),
    "defects": Column("defects", 0, None),
}
"""What the methods' table has, in this order; q of a condition stands beside the fidelity that it is made of."""

FIDELITIES = {name: name for name in ("hed_ssim", "depth_rmse", "seg_object_iou", "canny_f1", "style_clip_i")}
FIDELITIES["seg_miou"] = "seg_image_iou"
"""Headline of a condition -> the image's own score, of which q is made and differences are."""

FURTHER = {
    "fid_infinity": Column("FID, N to infinity", 2, "lower"),
    "fd_clip_infinity": Column("FD-CLIP, N to infinity", 2, "lower"),
    "depth_mse": Column("depth MSE", 4, "lower"),
    "depth_rmse_controlnetpp": Column("depth RMSE, ControlNet++", 2, "lower"),
    "hed_ms_ssim": Column("HED MS-SSIM", 3, "higher"),
    "hed_mse": Column("HED MSE", 4, "lower"),
    "seg_accuracy": Column("seg pixel accuracy", 1, "higher"),
    "canny_f1_strict": Column("canny F1, strict", 3, "higher"),
}
"""The same once more, as others define it: a table of its own."""

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}
BY_ANNOTATOR = "_by_annotator"  # of a metric that the network which drew the maps has measured
ABOUT = "These are numbers about "
"""How the note begins that says on what pictures was measured; a run has one, or a pooled result one of each kind."""
MINIATURE = "maxbench.miniature.dataset.miniature_images"  # the data set of older runs, which do not say it
ENTERED = "entered"  # the role of pictures made elsewhere
NOT_SHOWN = "not shown"  # the verdict on a difference that may be chance
UNDECIDED = " ≈"  # after the heading of a column that cannot tell the rows apart


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
    results = Results(folder)
    metrics, differences = marked(results.metrics, results.differences)
    about, notes = about_of(results), notes_of(results)
    silent = undecided(differences)
    says = [*_undecided_note(silent, metrics), *_inseparable(metrics), *notes]
    markdown = [
        f"# {metrics.experiment.iloc[0]} on {metrics.suite.iloc[0]}",
        about,
        markdown_table(*method_table(metrics, intervals=True, silent=silent)),
        *says,
        *_differences(differences),
        *_further(metrics),
        *_second_opinion(metrics),
        _protocols(metrics),
    ]
    text = [about, plain_table(*method_table(metrics, intervals=False, silent=silent)), *says]
    return Tables("\n\n".join(markdown) + "\n", "\n\n".join(text))


def marked(metrics: pd.DataFrame, differences: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The same with the rows of pictures made elsewhere marked in their names."""
    if "role" not in metrics:  # of an older version
        return metrics, differences
    names = {name: f"{name} ({ENTERED})" for name in metrics.method[metrics.role == ENTERED].unique()}
    metrics = metrics.assign(method=metrics.method.replace(names))
    return metrics, None if differences is None else differences.replace({"method": names, "baseline": names})


def _differences(differences: pd.DataFrame | None) -> list[str]:
    """A table of paired differences for each baseline."""
    if differences is None:
        return []
    parts = [
        "Paired differences on the same samples and noise, each with its own interval. Bold: shown after Holm's "
        f"correction for the {int(differences.comparisons.iloc[0])} comparisons of all these tables. In brackets after "
        "a joint score: the share of samples in which the method is ahead."
    ]
    for baseline, group in differences.groupby("baseline", sort=False):
        parts += [f"Minus `{baseline}`:", markdown_table(*difference_table(group))]
    return parts


Key = tuple[str, str]
"""A column: its metric and its condition, which is empty for what belongs to none."""


def method_table(
    metrics: pd.DataFrame, intervals: bool, silent: Mapping[Key, int | None] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one row a method; every metric is one protocol, scorer and N, or a UserError.

    silent: columns that cannot tell the rows apart, see :func:`undecided`.
    """
    metrics = metrics.assign(condition=metrics.condition.fillna(""))
    refuse_mixtures(metrics)
    columns = columns_of(metrics)
    headings = ["method", *(_heading(*key) + (UNDECIDED if key in (silent or {}) else "") for key in columns)]
    cells = {(row.method, row.metric, row.condition): row for row in metrics.itertuples()}
    rows = []
    for method in dict.fromkeys(metrics.method):
        rows.append([method, *(_cell(cells.get((method, *key)), key[0], intervals) for key in columns)])
    return headings, rows


def columns_of(metrics: pd.DataFrame) -> list[Key]:
    """The columns of the methods' table, those of a condition together."""
    found = list(dict.fromkeys(zip(metrics.metric, metrics.condition, strict=True)))
    ordered: list[Key] = []
    for name in COLUMNS:
        for key in (each for each in found if each[0] == name and each not in ordered):
            ordered.append(key)
            if name in FIDELITIES:  # q and what it is made of, beside the data set's number
                beside = [(FIDELITIES[name], key[1]), ("q", key[1])]
                ordered += [each for each in beside if each in found and each not in ordered]
    constant = metrics[metrics.metric == "control_scale"].value.nunique() == 1
    no_defects = metrics[metrics.metric == "defects"].value.sum() == 0
    dropped = {"control_scale"} if constant and len(ordered) > 1 else set()  # it tells nothing
    return [each for each in ordered if each[0] not in dropped | ({"defects"} if no_defects else set())]


def undecided(differences: pd.DataFrame | None) -> dict[Key, int | None]:
    """Columns in which no rule that fuses is shown to differ from a baseline, and the fewest samples that may show one.

    That no control and single controls differ does not count where there are such rules: nobody ranks those. The number
    is the smallest of all that are estimated, and so a lower bound; None where nothing differs.
    """
    if differences is None:
        return {}
    fusing = differences[differences.role.isin(("fusion", "entered"))]
    differences = differences if fusing.empty else fusing
    silent = {}
    for key, group in differences.assign(condition=differences.condition.fillna("")).groupby(
        ["metric", "condition"], sort=False
    ):
        if (group.verdict == NOT_SHOWN).all():
            needed = group.needed.dropna()
            silent[key] = int(needed.min()) if len(needed) else None
    return silent


def _undecided_note(silent: Mapping[Key, int | None], metrics: pd.DataFrame) -> list[str]:
    if not silent:
        return []
    count = int(metrics.n.max())
    named = [
        f"{column_name(*key)} ({'no difference at all' if needed is None else f'{needed:,}'})"
        for key, needed in silent.items()
    ]
    return [
        f"{UNDECIDED.strip()} marks what shows no difference of a fusion rule from a baseline at N = {count}: do not "
        f"rank by it. In brackets a lower bound for the samples that could (power 80%): {', '.join(named)}."
    ]


def _inseparable(metrics: pd.DataFrame) -> list[str]:
    """Fidelities that do not tell real pictures from no control or from others' maps, or whose zero is not chance."""
    said: list[str] = []
    lucky: list[str] = []
    if "role" not in metrics:  # of an older version
        return []
    for key in columns_of(metrics.assign(condition=metrics.condition.fillna(""))):
        if key[0] not in (*FIDELITIES, *FIDELITIES.values()):
            continue
        own = metrics[(metrics.metric == key[0]) & (metrics.condition.fillna("") == key[1])]
        rows = {row.method: row for row in own.itertuples()}
        none = next((rows[row.method] for row in own.itertuples() if row.role == "none"), None)
        shuffled = rows.get("shuffled")
        for other in (none, shuffled):
            if "real" in rows and other is not None and not _above(rows["real"], other, key[0]):
                said.append(f"{column_name(*key)} (real pictures and `{other.method}`)")
        if none is not None and shuffled is not None and _above(shuffled, none, key[0]):
            lucky.append(column_name(*key))
    notes = []
    if said:
        notes.append(f"Proves nothing here, because it does not separate the ends of its scale: {', '.join(said)}.")
    if lucky:
        notes.append(
            f"Another sample's picture (`shuffled`) is better than no control in {', '.join(lucky)}: a q a little "
            "above 0 is no sign of obedience there."
        )
    return notes


def _above(one: Any, other: Any, metric: str) -> bool:
    return one.low > other.high if column(metric).better == "higher" else one.high < other.low


def _further(metrics: pd.DataFrame) -> list[str]:
    """Fidelity and distance as others define them."""
    theirs = metrics[metrics.metric.isin(FURTHER)]
    if theirs.empty:
        return []
    theirs = theirs.assign(condition=theirs.condition.fillna(""))
    keys = list(dict.fromkeys(zip(theirs.metric, theirs.condition, strict=True)))
    cells = {(row.method, row.metric, row.condition): row for row in theirs.itertuples()}
    rows = [
        [method, *(_cell(cells.get((method, *key)), key[0], True) for key in keys)]
        for method in dict.fromkeys(theirs.method)
    ]
    title = "The same by other definitions, for comparison with other work:"
    return [title, markdown_table(["method", *(_heading(*key) for key in keys)], rows)]


def _second_opinion(metrics: pd.DataFrame) -> list[str]:
    """Fidelity once more, by the annotators themselves: what agrees with them alone is not the condition's."""
    theirs = metrics[metrics.metric.str.endswith(BY_ANNOTATOR)]
    if theirs.empty:
        return []
    renamed = theirs.assign(metric=theirs.metric.str.removesuffix(BY_ANNOTATOR))
    renamed = renamed[renamed.metric.isin(COLUMNS)]
    title = "The same fidelities measured by the annotators that drew the given maps, instead of independent scorers:"
    return [title, markdown_table(*method_table(renamed, intervals=True))]


def difference_table(differences: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the differences to one baseline."""
    differences = differences.assign(condition=differences.condition.fillna(""))
    found = set(zip(differences.metric, differences.condition, strict=True))
    ordered = [key for key in columns_of(differences.assign(value=1.0)) if key in found]
    headings = ["method", *(_heading(*key) for key in ordered)]
    rows = []
    for method, group in differences.groupby("method", sort=False):
        cells = {(each.metric, each.condition): each for each in group.itertuples()}
        rows.append([str(method), *(_change(cells.get(key)) for key in ordered)])
    return headings, rows


def _change(each: Any) -> str:
    if each is None or pd.isna(each.value):
        return "-"
    digits = column(each.metric).digits
    text = f"{each.value:+.{digits}f} [{each.low:+.{digits}f}, {each.high:+.{digits}f}]"
    if each.metric == "joint":
        text += f" ({100 * each.win_rate:.0f}%)"
    return text if each.verdict == NOT_SHOWN else f"**{text}**"


def refuse_mixtures(metrics: pd.DataFrame) -> None:
    for (metric, _), group in metrics.groupby(["metric", "condition"]):
        for field in ("n", "protocol", "scorer"):
            if group[field].nunique() > 1:
                values = ", ".join(str(value) for value in group[field].unique()[:3])
                raise UserError(
                    f"The rows of '{metric}' differ in {field} ({values}): they cannot share a table; "
                    "tabulate each run for itself."
                )


def column(metric: str) -> Column:
    """How a metric is printed, also one of single images."""
    return COLUMNS.get(metric) or FURTHER.get(metric) or Column(metric, 3, None)


def column_name(metric: str, condition: str) -> str:
    """The heading of a column, without its arrow."""
    heading = column(metric).heading
    return f"{heading} {condition}" if metric == "q" else heading


def _heading(metric: str, condition: str) -> str:
    return column_name(metric, condition) + ARROWS[column(metric).better]


def _cell(row, metric: str, intervals: bool) -> str:
    if row is None or pd.isna(row.value):
        return "-"
    digits = column(metric).digits
    if pd.isna(row.low) or metric == "seconds":
        return f"{row.value:.{digits}f}"
    if intervals:
        return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
    return f"{row.value:.{digits}f} ±{max(row.high - row.value, row.value - row.low):.{digits}f}"


def about_of(results: Results) -> str:
    settings = results.config
    said = [note for note in results.notes if note.startswith(ABOUT)]
    if not said and _is_miniature(settings):
        said = [f"{ABOUT}the rendered miniature world, not about photographs."]
    try:
        sampler = settings["sampler"]
        return (
            f"{settings['samples']} samples x {settings['replicates']}, {_seeds(results)}, "
            f"{sampler['steps']} steps, guidance {sampler['guidance_scale']:g}; "
            f"{100 * settings['metrics']['level']:g}% intervals over samples." + "".join(f" {each}" for each in said)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise results.no_configuration() from error


def _is_miniature(settings: Mapping[str, Any]) -> bool:
    data = settings.get("data")
    return isinstance(data, dict) and data.get("_target_") == MINIATURE


def _seeds(results: Results) -> str:
    """Which noise a result is of: one seed, or those that were pooled."""
    seeds = results.seeds
    return f"with each of the seeds {' and '.join(map(str, seeds))}" if results.is_pooled else f"seed {seeds[0]}"


def notes_of(results: Results) -> list[str]:
    """What q means here, which condition was left out of it, which one each method favours, and what was tuned."""
    said = results.evaluation
    if said is None:
        return []
    lines = [
        "q of an image: 0 = as without control, 1 = followed as well as by its single control alone on average; "
        "clipped to [-1, 2], so that a single's own mean can be below 1; joint = mean over images of the smaller q."
    ]
    try:
        joint = said["joint"]
        if joint["note"]:
            lines.append(f"Joint score {joint['note']}.")
        favours = [
            f"{method} {condition} ({100 * share:.0f}%)" for method, (condition, share) in joint["dominant"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise results.damaged(EVALUATED) from error
    lines += [note for note in results.notes if not note.startswith(ABOUT)]
    if favours:
        lines.append(f"Condition with the larger q (share of images): {', '.join(favours)}.")
    return ["\n".join(lines), *_tuned(results)]


def _tuned(results: Results) -> list[str]:
    """What was chosen for tuned methods."""
    table = results.tuning
    if table is None:
        return []
    try:
        best = table[table.chosen]
        settings = [each for each in table.columns if each not in ("method", "candidate", "joint", "n", "chosen")]
        said = [
            f"{row.method} " + ", ".join(f"{name} {row[name]:g}" for name in settings if pd.notna(row[name]))
            for _, row in best.iterrows()
        ]
        count = int(table.n.iloc[0])
    except (ValueError, AttributeError, KeyError) as error:
        raise results.damaged(TUNING) from error
    return [f"Chosen for the joint score of {count} training scenes (tuning.csv): {'; '.join(said)}."]


def _protocols(metrics: pd.DataFrame) -> str:
    lines = ["| metric | protocol | scorer | n |", "|---|---|---|---|"]
    for metric, group in metrics.groupby("metric", sort=False):  # of several conditions the protocol is one
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
