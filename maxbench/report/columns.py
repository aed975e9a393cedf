"""How metrics are printed: their headings, digits and order, and which way is better."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maxbench.errors import UserError


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

DISTANCES = ("fid", "fd_dinov2", "cmmd", "fd_clip")
"""Of the pictures to the reference: the first that a run has is the one that essential tables show."""

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
UNDECIDED = " ≈"
"""After the heading of a column that cannot tell the rows apart."""
NOT_SHOWN = "not shown"
"""The verdict on a difference that may be chance."""

Key = tuple[str, str]
"""A column: its metric and its condition, which is empty for what belongs to none."""


def column(metric: str) -> Column:
    """How a metric is printed, also one of single images."""
    return COLUMNS.get(metric) or FURTHER.get(metric) or Column(metric, 3, None)


def column_name(metric: str, condition: str) -> str:
    """The heading of a column, without its arrow."""
    heading = column(metric).heading
    return f"{heading} {condition}" if metric == "q" else heading


def heading(metric: str, condition: str, silent: Collection[Key] = ()) -> str:
    """The heading of a column with its arrow, marked where it is among the `silent` ones."""
    mark = UNDECIDED if (metric, condition) in silent else ""
    return column_name(metric, condition) + ARROWS[column(metric).better] + mark


def keys_of(table: pd.DataFrame) -> list[Key]:
    """The columns that a table of metrics or differences has numbers for, each once."""
    return list(dict.fromkeys(zip(table.metric, table.condition.fillna(""), strict=True)))


def table_keys(metrics: pd.DataFrame) -> list[Key]:
    """The columns of the methods' table, those of a condition together."""
    found = keys_of(metrics)
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


def essential_keys(metrics: pd.DataFrame) -> list[Key]:
    """The columns that answer the question, what matters first: joint, q, defects, fidelities, text, a distance."""
    found = table_keys(metrics)
    distance = next((name for name in DISTANCES if any(key[0] == name for key in found)), None)
    order = ("joint", "q", "defects", *FIDELITIES, "clip_score", *([distance] if distance else []))
    return [key for name in order for key in found if key[0] == name]


def cells_of(metrics: pd.DataFrame) -> dict[tuple[str, str, str], Any]:
    """(method, metric, condition) -> its row of a table of metrics."""
    return {(row.method, row.metric, row.condition): row for row in metrics.fillna({"condition": ""}).itertuples()}


def interval_cell(row: Any, metric: str) -> str:
    """A number with both ends of its interval, as far as it has one; "-" for what is not there."""
    if row is None or pd.isna(row.value):
        return "-"
    digits = column(metric).digits
    if pd.isna(row.low) or metric == "seconds":
        return f"{row.value:.{digits}f}"
    return f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"


def margin_cell(row: Any, metric: str, between: str = " ") -> str:
    """A number with the wider half of its interval."""
    if row is None or pd.isna(row.value):
        return "-"
    digits = column(metric).digits
    if pd.isna(row.low) or metric == "seconds":
        return f"{row.value:.{digits}f}"
    return f"{row.value:.{digits}f}{between}±{max(row.high - row.value, row.value - row.low):.{digits}f}"


def refuse_mixtures(metrics: pd.DataFrame, fields: Sequence[str] = ("n", "protocol", "scorer")) -> None:
    """UserError where a column of a table would hold numbers of different N, protocol or scorer."""
    for (metric, _), group in metrics.groupby(["metric", "condition"]):
        for name in fields:
            if group[name].nunique() > 1:
                values = ", ".join(str(value) for value in group[name].unique()[:3])
                raise UserError(
                    f"The rows of '{metric}' differ in {name} ({values}): they cannot share a table; "
                    "tabulate each run for itself."
                )
