"""A run's tables -> the tables of the page: what is read, what is sorted by, what can be chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from maxbench.report.columns import cells_of, column, column_name, heading, refuse_mixtures, table_keys
from maxbench.report.runs import Results
from maxbench.report.tables import BY_ANNOTATOR, marked
from maxbench.report.winner import undecided


class Cell(NamedTuple):
    """What is read, a number to sort by (None for words), and what is told beside it."""

    text: str
    order: float | None = None
    beside: str = ""


class Grid(NamedTuple):
    """A table: headings, rows of cells, and the places of the columns that rows can be chosen by."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    filters: Sequence[int] = ()

    def plain(self) -> dict[str, Any]:
        """As data for the page: a cell is [what is read, what is sorted by]."""
        rows = [[[_joined(cell), cell.text if cell.order is None else cell.order] for cell in row] for row in self.rows]
        return {"headings": list(self.headings), "rows": rows, "filters": list(self.filters)}


FIRST = ("joint", "q", "share_both")
"""What the answer is made of leads the table."""

NOTHING = Cell("-", -1e308)  # below every number; what is no number would make the column one of words


def methods_grid(results: Results) -> Grid:
    """One row a method, one column a metric, with intervals; UserError where rows cannot share a table."""
    metrics, differences = marked(results.metrics, results.differences)
    metrics = metrics.assign(condition=metrics.condition.fillna(""))
    refuse_mixtures(metrics)
    found, silent = table_keys(metrics), undecided(differences)
    keys = [*(key for name in FIRST for key in found if key[0] == name), *(key for key in found if key[0] not in FIRST)]
    cells = cells_of(metrics)
    headings = [heading(*key, silent) for key in keys]
    rows = [
        [Cell(method), *(_number(cells.get((method, *key)), column(key[0]).digits) for key in keys)]
        for method in dict.fromkeys(metrics.method)
    ]
    return Grid(["method", *headings], rows)


def differences_grid(results: Results) -> Grid | None:
    """Every paired difference; None where there are none."""
    _, differences = marked(results.metrics, results.differences)
    if differences is None:
        return None
    differences = differences.assign(condition=differences.condition.fillna(""))
    rows = []
    for row in differences.itertuples():
        rate = getattr(row, "win_rate", float("nan"))
        rows.append(
            [
                Cell(row.method), Cell(row.baseline), Cell(heading(row.metric, row.condition)),
                _number(row, column(row.metric).digits, "+"), Cell(row.verdict),
                _share(getattr(row, "p_holm", float("nan"))),
                NOTHING if pd.isna(rate) else Cell(f"{100 * rate:.0f}%", float(rate)),
                Cell(f"{int(row.n)}", float(row.n)),
            ]
        )  # fmt: skip
    return Grid(["method", "minus", "metric", "difference", "verdict", "p (Holm)", "ahead in", "N"], rows, (0, 1, 2, 4))


def numbers_grid(results: Results) -> Grid:
    """Everything that was measured, with protocol and scorer."""
    metrics, _ = marked(results.metrics, None)
    metrics = metrics.assign(condition=metrics.condition.fillna(""))
    rows = []
    for row in metrics.itertuples():
        rows.append(
            [
                Cell(row.method), Cell(str(getattr(row, "role", ""))), Cell(_name(row.metric, row.condition)),
                _number(row, max(column(row.metric).digits, 2)), Cell(f"{int(row.n)}", float(row.n)),
                Cell(str(row.protocol)), Cell(str(row.scorer)),
            ]
        )  # fmt: skip
    return Grid(["method", "role", "metric", "value", "N", "protocol", "scorer"], rows, (0, 1, 2))


def pairs_grid(judgement: pd.DataFrame) -> Grid | None:
    """The comparisons of rules that an answer is made of; None where there are none."""
    if judgement.empty:
        return None
    rows = [
        [
            Cell(row.rule), Cell(row.rival), _number(row, column("joint").digits, "+"), Cell(row.verdict),
            _share(row.p_holm), NOTHING if pd.isna(row.win_rate) else Cell(f"{100 * row.win_rate:.0f}%", row.win_rate),
            Cell(f"{int(row.n)}", float(row.n)),
        ]
        for row in judgement.itertuples()
    ]  # fmt: skip
    return Grid(["rule", "minus", "joint", "verdict", "p (Holm)", "ahead in", "N"], rows, (0, 1, 3))


def _number(row: Any, digits: int, sign: str = "") -> Cell:
    if row is None or pd.isna(row.value):
        return NOTHING
    beside = "" if pd.isna(row.low) else f"[{row.low:{sign}.{digits}f}, {row.high:{sign}.{digits}f}]"
    return Cell(f"{row.value:{sign}.{digits}f}", float(row.value), beside)


def _share(p: float) -> Cell:
    return NOTHING if pd.isna(p) else Cell(f"{p:.2g}", float(p))


def _name(metric: str, condition: str) -> str:
    plain = metric.removesuffix(BY_ANNOTATOR)
    return column_name(plain, condition) + (" by annotator" if plain != metric else "")


def _joined(cell: Cell) -> str:
    return f"{cell.text} {cell.beside}".rstrip()
