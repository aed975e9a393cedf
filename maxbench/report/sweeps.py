"""The members of a sweep and what came of them: a ledger as one table, and the same for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from maxbench.errors import UserError
from maxbench.report.columns import ARROWS, FIDELITIES, column, column_name
from maxbench.report.formats import markdown_table, plain_table
from maxbench.report.runs import METRICS, Results
from maxbench.report.winner import RANKED

WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"
HEADLINES = ("joint", "q", *FIDELITIES, "clip_score", "fid", "fd_clip")
"""Metrics that stand in the ledger, in this order: a summary leaves out the last ones where they do not fit."""
GENERATED = ("none", "single", "fusion", "chance", "entered")
"""Roles of rows that pictures were made for."""
WIDTH, LONGEST = 100, 60
"""Characters and rows of a summary in a terminal."""
CELL = 24
"""Characters of a setting in a summary, of which more are cut."""


@dataclass(frozen=True)
class Entry:
    """One member. overrides: as given to Hydra. folder: of its run, once it has one. why: it failed, in a sentence."""

    job: int
    overrides: Sequence[str]
    state: str = WAITING
    folder: str = ""
    why: str = ""
    begun: str = ""
    ended: str = ""


def varied(entries: Sequence[Entry]) -> list[str]:
    """The keys in which members differ, in their order in the command."""
    settings = [_settings(each.overrides) for each in entries]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    """Key -> value of overrides; of a removal, its key alone."""
    return {key.lstrip("+"): value for key, _, value in (each.partition("=") for each in overrides)}


def ledger(entries: Sequence[Entry]) -> pd.DataFrame:
    """One row for each method of a member that is finished, and one for each other member.

    Columns: `job`, `state`, what was varied, the member's `run`, `method`, `role`, headline metrics each with its
    `_low` and `_high` (of a condition with its name, `q/hed`), `n`, and `folder`, `overrides`, `why`, `begun`, `ended`.
    """
    keys, rows, metrics = varied(entries), [], dict[str, None]()
    for entry in entries:
        settings = _settings(entry.overrides)
        about = {"job": entry.job, "state": entry.state, **{key: settings.get(key, "") for key in keys}}
        last = {
            "folder": entry.folder, "overrides": " ".join(entry.overrides), "why": entry.why, "begun": entry.begun,
            "ended": entry.ended,
        }  # fmt: skip
        methods = _methods(entry.folder) if entry.state == FINISHED and entry.folder else []
        for own in methods or [{}]:
            metrics |= dict.fromkeys(own)
            rows.append({**about, "run": Path(entry.folder).name if entry.folder else "", **own, **last})
    names = [name for name in metrics if name not in ("method", "role", "n")]
    order = {metric: place for place, metric in enumerate(HEADLINES)}
    names.sort(key=lambda name: order[_metric(name)])
    table = pd.DataFrame(rows, columns=["job", "state", *keys, "run", "method", "role", *names, "n", *last])
    return table.astype({"n": "Int64"})


def _metric(name: str) -> str:
    """The metric of a column of the ledger."""
    return name.removesuffix("_low").removesuffix("_high").partition("/")[0]


def _methods(folder: str) -> list[dict[str, Any]]:
    """The headline metrics of every method of a run, the best joint score first; none of a run that cannot be read."""
    try:
        return _read(folder, (Path(folder) / METRICS).stat().st_mtime_ns)
    except (OSError, UserError):
        return []


@lru_cache(maxsize=4096)
def _read(folder: str, written: int) -> list[dict[str, Any]]:
    metrics = Results(Path(folder)).metrics
    if "role" not in metrics:  # of an older version, which does not say what its rows are
        return []
    metrics = metrics[metrics.metric.isin(HEADLINES) & metrics.role.isin(GENERATED) & metrics.value.notna()]
    rows: dict[str, dict[str, Any]] = {}
    for each in metrics.itertuples():
        row = rows.setdefault(each.method, {"method": each.method, "role": each.role, "n": None})
        name = f"q/{each.condition}" if each.metric == "q" else each.metric
        row |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        if each.metric in ("joint", "clip_score") and pd.notna(each.n):
            row["n"] = row["n"] or int(each.n)
    return sorted(rows.values(), key=lambda row: -row.get("joint", -2.0))


# --- for people -------------------------------------------------------------------------------------------


def summary(table: pd.DataFrame, keys: Sequence[str]) -> str:
    """The ledger within 100 columns: what fuses, each job's best joint score first, as many metrics as fit."""
    ranked = table[table.role.isin(RANKED)]
    parts = []
    if not ranked.empty:
        shown = ranked.head(LONGEST)
        headings, rows = _columns(shown, keys, cut=True), []
        for _, row in shown.iterrows():
            rows.append([_cell(row, name, cut=True) for name in headings])
        titles = _titles(headings, keys)
        while len(headings) > len(keys) + 3 and _width(titles, rows) > WIDTH:
            headings, titles, rows = headings[:-1], titles[:-1], [row[:-1] for row in rows]
        parts.append(plain_table(titles, rows))
        if len(ranked) > LONGEST:
            parts.append(f"{len(ranked) - LONGEST} more rows are in sweep.md")
    parts.append("\n".join(_jobs(table)))
    return "\n\n".join(parts)


def page(table: pd.DataFrame, keys: Sequence[str], name: str) -> str:
    """The same as Markdown, of every method and metric, with intervals."""
    made = table[table.role.isin(GENERATED)]
    parts = [f"# {name}", f"{_counted(table)}. Metrics with both ends of their intervals; each job's best joint first."]
    if not made.empty:
        headings = _columns(made, keys, cut=False)
        rows = [[_escaped(_cell(row, each, cut=False)) for each in headings] for _, row in made.iterrows()]
        parts.append(markdown_table(_titles(headings, keys), rows))
    jobs = table.drop_duplicates("job")
    lines = [
        [str(row.job), row.state, _escaped(row.overrides), _escaped(row.folder or row.why)] for row in jobs.itertuples()
    ]
    parts.append(markdown_table(["job", "state", "command", "run folder, or why there is none"], lines))
    return "\n\n".join(parts) + "\n"


def _columns(table: pd.DataFrame, keys: Sequence[str], cut: bool) -> list[str]:
    metrics = [
        name for name in table
        if _metric(name) in HEADLINES and not name.endswith(("_low", "_high")) and table[name].notna().any()
    ]  # fmt: skip
    if cut:  # what makes the joint score tells more than fidelities, where not all fit
        metrics.sort(key=lambda name: _metric(name) in FIDELITIES)
    return ["job", *keys, "method", *metrics]


def _end(key: str) -> str:
    """The last part of a setting's key; of a method's with the method, of which alone it is: `maxfusion delta`."""
    parts = key.split(".")
    return f"{parts[1]} {parts[-1]}" if parts[0] == "methods" and len(parts) > 2 else parts[-1]


def _titles(headings: Sequence[str], keys: Sequence[str]) -> list[str]:
    ends = [_end(key) for key in keys]
    short = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    titles = []
    for name in headings:
        metric, _, condition = name.partition("/")
        is_metric = metric in HEADLINES and name not in keys
        titles.append(
            column_name(metric, condition) + ARROWS[column(metric).better] if is_metric else short.get(name, name)
        )
    return titles


def _cell(row: pd.Series, name: str, cut: bool) -> str:
    metric = _metric(name)
    if metric not in HEADLINES or f"{name}_low" not in row:
        text = str(row[name])
        return text if not cut or len(text) <= CELL else f"{text[: CELL - 3]}..."
    value, low, high, digits = row[name], row[f"{name}_low"], row[f"{name}_high"], column(metric).digits
    if pd.isna(value):
        return "-"
    if pd.isna(low):
        return f"{value:.{digits}f}"
    if cut:
        return f"{value:.{digits}f} ±{max(high - value, value - low):.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _width(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(titles, *rows, strict=True)) - 2


def _jobs(table: pd.DataFrame) -> list[str]:
    """A line for each job: its folder, or why it has none."""
    return [
        f"job {row.job}, {row.state}: {row.folder or row.why or '-'}"
        for row in table.drop_duplicates("job").itertuples()
    ]


def _counted(table: pd.DataFrame) -> str:
    counts: Mapping[str, int] = table.drop_duplicates("job").state.value_counts(sort=False).to_dict()
    return f"{table.job.nunique()} jobs: " + ", ".join(f"{count} {state}" for state, count in counts.items())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
