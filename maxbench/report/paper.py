"""MaxFusion's tables and figures (arXiv 2404.09977) from the runs that are their counterparts here.

Rows and columns are the paper's as far as they are known: its tables are pictures, whose numbers are not in this
package. What the paper has published stands beside ours where a user gives it in a CSV file.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from maxbench.errors import UserError
from maxbench.report.columns import (
    COLUMNS,
    DISTANCES,
    FIDELITIES,
    FURTHER,
    Key,
    cells_of,
    column,
    column_name,
    heading,
    interval_cell,
    keys_of,
)
from maxbench.report.formats import latex_table, markdown_table
from maxbench.report.runs import Results
from maxbench.report.winner import ranks, undecided, winner

ONE_CONDITION = ("SPADE", "PITI")
"""Of the paper's complementary tables: models of one condition, which nothing here runs."""
ADAPTERS = "Multi-T2I-Adapter"
PAPER = {ADAPTERS: "multi_t2i_adapter", "Multi-ControlNet": "sum", "MaxFusion": "maxfusion"}
"""The paper's name of a method -> its row here."""
NAMES = {method: f"{name} ({method})" for name, method in PAPER.items()}
TABLE_1, TABLES_2_3, TABLE_4, FIG_9, FIG_10 = "table_1", "tables_2_3", "table_4", "fig_9", "fig_10"


class Cell(NamedTuple):
    """A run that a table of the paper needs. words: of its command. adapters: of what it is the T2I-Adapters' part."""

    key: str
    label: str
    words: tuple[str, ...]
    adapters: str = ""


class Item(NamedTuple):
    """A table or figure of the paper. one_condition: whether it has rows of models that take one condition."""

    key: str
    title: str
    cells: tuple[Cell, ...]
    one_condition: bool = False


CONTRADICTORY = ("pairing=object_on_scene", "scenes=2048")


def _pairs(prefix: str, labels: Mapping[str, str], more: tuple[str, ...] = ()) -> tuple[Cell, ...]:
    """A cell for each pair of conditions, and one for the same with T2I-Adapters."""
    cells = [Cell(f"{prefix}{pair}", label, (f"experiment={prefix}{pair}",)) for pair, label in labels.items()]
    for pair, label in labels.items():
        key = f"adapters_{prefix}{pair}"
        named = (f"name={key}",) if more else ()
        cells.append(
            Cell(key, f"{label}, T2I-Adapters", (f"experiment=adapters_{pair}", *more, *named), f"{prefix}{pair}")
        )
    return tuple(cells)


ITEMS = (
    Item(
        TABLE_1, "Table 1: contradictory conditions",
        _pairs(
            "contradictory_", {"seg_depth": "Seg on Depth", "hed_depth": "HED on Depth", "hed_seg": "HED on Seg"},
            CONTRADICTORY,
        ),
    ),
    Item(
        TABLES_2_3, "Tables 2-3: complementary conditions",
        _pairs("", {"seg_depth": "Seg + Depth", "hed_depth": "HED + Depth", "hed_seg": "HED + Seg"}),
        one_condition=True,
    ),
    Item(
        TABLE_4, "Table 4: three conditions",
        (Cell("three_conditions", "Depth + Seg + HED", ("experiment=three_conditions",)),),
    ),
    Item(
        FIG_9, "Fig. 9: the threshold",
        (
            Cell("threshold", "HED + Depth, agreeing", ("experiment=threshold",)),
            Cell(
                "threshold_contradictory", "HED on Depth, contradictory",
                ("experiment=threshold_contradictory",),
            ),
        ),
    ),
    Item(
        FIG_10, "Fig. 10: conditioning ablation",
        (Cell("conditioning_ablation", "none, each alone, both", ("experiment=conditioning_ablation",)),),
    ),
)  # fmt: skip
"""What is reproduced, in the paper's order."""

ORIENTATION = """\
Third-party figures, for orientation only: not measured here, not the paper's, and not comparable with any number above.
A note on Cross-ControlNet (ICLR 2026) says of its own run of MaxFusion with Stable Diffusion 1.5 (UniPC, 50 steps,
guidance 7.5, delta 0.7, seed 0, 500 pictures a pair; pose is a condition that is not offered here):

| pair | method | figures of the note |
| --- | --- | --- |
| pose + seg | MaxFusion | CLIP 0.2945, MSE-S 0.2016, mIoU-P 0.3528 |
| pose + seg | Multi-ControlNet | CLIP 0.2999, MSE-S 0.2282, mIoU-P 0.3145 |
| pose + depth | MaxFusion | CLIP 0.2870, MSE-D 0.0498, mIoU-P 0.3555 |
| pose + depth | Multi-ControlNet | CLIP 0.2978, MSE-D 0.0625, mIoU-P 0.3150 |
| HED + seg | MaxFusion | CLIP 0.2992, SSIM 0.2382, NIQE 3.2499, MSE-H 0.0766, MSE-S 0.1135 |
"""


# --- what has been published --------------------------------------------------------------------------------------


class Published(NamedTuple):
    """A number that a user says is in the paper."""

    cell: str
    method: str
    metric: str
    value: float
    source: str = ""


FIELDS = ("cell", "method", "metric", "value")
EXAMPLE = "cell,method,metric,value,source"


def read_published(path: Path) -> list[Published]:
    """A user's CSV file with the columns cell, method, metric, value and, if they like, source.

    cell: a run, as the paper's tables here name it (`hed_depth`). method: as in the paper, or the row here. metric: as
    in metrics.csv. A mistake is a UserError that names the line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            _check_fields(path, lines.fieldnames)
            found = [_published(path, lines.line_num, line) for line in lines]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give --published a CSV file.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); save it as such.") from error
    if not found:
        raise UserError(f"{path} has no rows below its headings; give it the numbers, or leave out --published.")
    seen: set[tuple[str, str, str]] = set()
    for each in found:
        if each[:3] in seen:
            raise UserError(f"{path} has {each.metric} of {each.method} in {each.cell} twice; keep one of them.")
        seen.add(each[:3])
    return found


def _check_fields(path: Path, fields: Sequence[str] | None) -> None:
    given = [each.strip() for each in fields or ()]
    if missing := [name for name in FIELDS if name not in given]:
        raise UserError(f"{path} has no column {missing[0]}; its first line is {EXAMPLE}.")
    if len(set(given)) < len(given):
        raise UserError(f"{path} has a column twice; its first line is {EXAMPLE}.")
    if unknown := [name for name in given if name not in (*FIELDS, "source")]:
        raise UserError(f"{path} has a column '{unknown[0]}', which is not known; its first line is {EXAMPLE}.")


def _published(path: Path, number: int, line: Mapping[Any, Any]) -> Published:
    where = f"{path}, line {number}"
    if None in line or None in line.values():
        raise UserError(f"{where} has {'more' if None in line else 'fewer'} fields than the first line; correct it.")
    said = {str(key).strip(): str(value).strip() for key, value in line.items()}
    cells = [cell.key for item in ITEMS for cell in item.cells if not cell.adapters]
    if said["cell"] not in cells:
        raise UserError(f"{where}: '{said['cell']}' is no cell; take one of {', '.join(cells)}.")
    if not said["method"]:
        raise UserError(f"{where} has no method; write MaxFusion, Multi-ControlNet, or a row of the run.")
    metrics = {name: each for name, each in {**COLUMNS, **FURTHER}.items() if name != "q"}  # of one condition, and ours
    if said["metric"] not in metrics:
        raise UserError(f"{where}: '{said['metric']}' is no metric; take one of {', '.join(metrics)}.")
    try:
        value = float(said["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: '{said['value']}' is no number; write it with a decimal point, as in 0.5.")
    method = PAPER.get(said["method"], said["method"])
    return Published(said["cell"], method, said["metric"], value, said.get("source", ""))


# --- a table --------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A row of a table: its cell, what it is called, the row of the run, and its numbers by metric and condition."""

    cell: Cell
    name: str
    method: str
    numbers: Mapping[Key, Any]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, of the runs that are there.

    runs: key of a cell -> its run. published: of all tables.
    """

    item: Item
    runs: Mapping[str, Results]
    published: Sequence[Published] = ()

    @property
    def is_empty(self) -> bool:
        return not any(cell.key in self.runs for cell in self.item.cells if not cell.adapters)

    def lines(self) -> Iterator[Line]:
        """The paper's rows of every cell, then the harness's own."""
        for cell in self.item.cells:
            if cell.adapters or cell.key not in self.runs:
                continue
            own = self.runs[cell.key].metrics
            numbers = {method: _numbers(own, method) for method in dict.fromkeys(own.method)}
            listed = self._listed(cell, own)
            paper = dict.fromkeys(ONE_CONDITION) if self.item.one_condition else {}
            if self.item.key in (TABLE_1, TABLES_2_3):
                for name in paper:
                    yield Line(cell, name, name, {})
                yield Line(cell, NAMES[PAPER[ADAPTERS]], PAPER[ADAPTERS], self._adapters(cell))
            first = [method for method in PAPER.values() if method in listed]
            if self.item.key in (FIG_9, FIG_10):  # in the order of what varies, or of what is added
                first = []
            for method in [*first, *(each for each in listed if each not in first)]:
                yield Line(cell, NAMES.get(method, method), method, numbers[method])
            known = {*paper, *PAPER.values(), *numbers}
            for name in dict.fromkeys(each.method for each in self.published if each.cell == cell.key):
                if name not in known:
                    yield Line(cell, name, name, {})

    def _listed(self, cell: Cell, own: pd.DataFrame) -> list[str]:
        """The methods of a run that its table has, in the table's order."""
        rows = own.drop_duplicates("method")
        if self.item.key == FIG_9:  # what is varied, and what it is compared with
            rows = rows[(rows.role == "fusion")].sort_values(
                ["parameter", "setting"], kind="stable", na_position="last"
            )
        return rows[rows.role != "reference"].method.tolist()

    def _adapters(self, cell: Cell) -> dict[Key, Any]:
        """Of the run with T2I-Adapters; its q is in units of its own controls, and left out."""
        key = next((each.key for each in self.item.cells if each.adapters == cell.key), None)
        if key not in self.runs:
            return {}
        found = _numbers(self.runs[key].metrics, PAPER[ADAPTERS])
        return {name: row for name, row in found.items() if name[0] != "joint"}

    def columns(self) -> list[Key]:
        """A distance, the text, fidelities, joint: those that any run of the table has."""
        found: list[Key] = []
        for cell in self.item.cells:
            if cell.key in self.runs:
                found += [key for key in keys_of(self.runs[cell.key].metrics) if key not in found]
        distance = next((name for name in DISTANCES if (name, "") in found), None)
        order = [*([distance] if distance else []), "clip_score", *FIDELITIES, "joint"]
        shown = [key for name in order for key in found if key[0] == name]
        given = dict.fromkeys(
            each.metric for each in self.published if each.cell in {cell.key for cell in self.item.cells}
        )
        more = [key for name in given for key in found if key[0] == name and key not in shown]
        absent = [(name, "") for name in given if not any(key[0] == name for key in [*shown, *more])]
        return [*shown, *more, *absent]

    def _given(self) -> dict[tuple[str, str, str], Published]:
        return {(each.cell, each.method, each.metric): each for each in self.published}

    def _cells(self) -> tuple[list[str], list[list[str]], list[Line], list[Key | None]]:
        """Headings, rows, what each is of, and what each column is of (None for texts and published numbers)."""
        given, lines = self._given(), list(self.lines())
        headings, of = ["conditions", "method", "n"], [None, None, None]
        wanted: list[tuple[Key, bool]] = []
        keys = {cell.key for cell in self.item.cells}
        for key in self.columns():
            wanted.append((key, False))
            if any(each.metric == key[0] and each.cell in keys for each in self.published):
                wanted.append((key, True))
        for key, is_published in wanted:
            headings.append(f"{heading(*key)}, published" if is_published else heading(*key))
            of.append(None if is_published else key)
        rows = []
        for line in lines:
            # Of distances n counts images, else samples.
            count = min((int(row.n) for row in line.numbers.values()), default=None)
            cells = [line.cell.label, line.name, "-" if count is None else str(count)]
            for key, is_published in wanted:
                said = given.get((line.cell.key, line.method, key[0]))
                if is_published:
                    cells.append("-" if said is None else f"{said.value:.{column(key[0]).digits}f}")
                else:
                    cells.append(interval_cell(line.numbers.get(key), key[0]))
            rows.append(cells)
        return headings, rows, lines, of

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the table."""
        said = [f"Runs: {', '.join(f'{key} {run.origin}' for key, run in self._own.items())}."]
        for cell in self.item.cells:
            run = self.runs.get(cell.key)
            if run is None or cell.adapters:
                continue
            if won := winner(run.metrics, run.differences):
                said.append(f"{cell.label}: {won}")
            if silent := [column_name(*key) for key in undecided(run.differences)]:
                said.append(
                    f"{cell.label}: no difference of a fusion rule from a baseline is shown in {', '.join(silent)}; do "
                    "not rank by these."
                )
        if self.item.one_condition:
            said.append(f"{' and '.join(ONE_CONDITION)} take one condition and are not run here.")
        if any(cell.adapters for cell in self.item.cells):
            said.append(f"{ADAPTERS} has no joint score here: its q would be in units of other single controls.")
        return said

    @property
    def _own(self) -> dict[str, Results]:
        return {cell.key: self.runs[cell.key] for cell in self.item.cells if cell.key in self.runs}

    def markdown(self) -> str:
        headings, rows, _, _ = self._cells()
        return "\n\n".join([f"## {self.item.title}", markdown_table(headings, rows), *self.notes])

    def latex(self, about: str) -> str:
        """The same as a table of booktabs; best and second best fusion rule of each run are set off."""
        headings, rows, lines, of = self._cells()
        bold, underlined = set(), set()
        for cell_key in dict.fromkeys(line.cell.key for line in lines):
            run = self.runs[cell_key]
            for marks, own in zip((bold, underlined), ranks(run.metrics, undecided(run.differences)), strict=True):
                marks |= {
                    (row, place)
                    for row, line in enumerate(lines)
                    for place, key in enumerate(of)
                    if line.cell.key == cell_key and (line.method, key) in own and rows[row][place] != "-"
                }
        caption = (
            f"{self.item.title}. {about} Bold: best fusion rule of a run, underlined: second best; neither says that a "
            "difference is shown. Where no difference of a fusion rule from a baseline is shown, none is set off."
        )
        ends = {row for row, line in enumerate(lines[:-1]) if line.cell != lines[row + 1].cell}
        return latex_table(headings, rows, bold, underlined, caption, f"tab:{self.item.key}", texts=2, rules=ends)

    def tidy(self) -> list[dict[str, Any]]:
        """A row for each number, ours and published."""
        given, out = self._given(), []
        for line in self.lines():
            for key in self.columns():
                row, said = line.numbers.get(key), given.get((line.cell.key, line.method, key[0]))
                if row is None and said is None:
                    continue
                out.append(
                    {
                        "item": self.item.key, "cell": line.cell.key, "conditions": line.cell.label, "name": line.name,
                        "method": line.method, "run": getattr(row, "run", None), "delta": getattr(row, "delta", None),
                        "metric": key[0], "condition": key[1],
                        **{name: getattr(row, name, None) for name in SAID},
                        "published": None if said is None else said.value,
                        "source": None if said is None else said.source,
                    }
                )  # fmt: skip
        return out


SAID = ("protocol", "scorer", "value", "low", "high", "n")


def _numbers(metrics: pd.DataFrame, method: str) -> dict[Key, Any]:
    return {key[1:]: row for key, row in cells_of(metrics[metrics.method == method]).items()}
