"""A run's tables -> plots as Vega-Lite specifications, which the page draws when they come into sight.

Colours are those of Okabe and Ito, and every colour comes with a marker of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from maxbench.report.base import COLOURS
from maxbench.report.columns import FIDELITIES, NOT_SHOWN, column, column_name, table_keys
from maxbench.report.runs import Results

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
ROLES = ("fusion", "entered", "single", "none", "reference", "chance")
SHOWN = (
    "joint",
    "q",
    "clip_score",
    "fid",
    "fd_dinov2",
    "cmmd",
    "fd_clip",
    "share_both",
    *FIDELITIES,
    *FIDELITIES.values(),
)
"""What is drawn, where a run has it; in this order."""

PAPER_DELTA = 0.7
CLOSE = 0.07  # of the height of a curve: lines that are nearer to each other have one label
LINES = len(COLOURS)
BEST = 4  # rules in the plot over conflict: the intervals of more hide each other
HIGH = 190  # pixels of a curve
ROW = 19  # pixels of a method in an interval plot
GREY, FAINT = "#555555", "#dddddd"
VERDICTS = {"better": "ahead", "worse": "behind", NOT_SHOWN: "not shown"}


class Chart(NamedTuple):
    """A plot: what it shows, in words; what it is; and its specification."""

    title: str
    kind: str
    spec: dict[str, Any]


def charts(results: Results, series: Mapping[str, str]) -> list[Chart]:
    """All plots of a run. series: method -> the name of what varies in one number, without its setting."""
    metrics = results.metrics.assign(condition=results.metrics.condition.fillna(""))
    found = table_keys(metrics)
    chosen = [key for name in dict.fromkeys(SHOWN) for key in found if key[0] == name]
    varied = "setting" in metrics and metrics.setting.notna().any()
    drawn = [*(_curves(metrics, chosen, series) if varied else [])]
    still = metrics[metrics.setting.isna()] if varied else metrics
    drawn += [_intervals(still, key) for key in chosen if _has_intervals(still, key)]
    drawn += _against(results.differences)
    if (conflict := results.conflict) is not None:
        drawn.append(_conflict(conflict))
    return drawn


def _has_intervals(metrics: pd.DataFrame, key: tuple[str, str]) -> bool:
    own = _of(metrics, key)
    return len(own) > 1 and bool(own.low.notna().any())


def _of(metrics: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    return metrics[(metrics.metric == key[0]) & (metrics.condition == key[1])].dropna(subset=["value"])


ROWS, LEVELS, MARKS = (alt.NamedData(name) for name in ("rows", "levels", "marks"))
"""The data of a plot: rows with intervals, lines that they are looked at beside, and what is marked.

A chart names them, and its specification has them once: Altair copies what is within a chart many times.
"""


def _records(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Plain rows under names of ours."""
    frame = pd.DataFrame({name: list(values) for name, values in columns.items()})
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _words(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], digits: int, sign: str = "") -> list:
    def said(value: float, low: float, high: float) -> str:
        shown = f"{value:{sign}.{digits}f}"
        return shown if pd.isna(low) else f"{shown} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"

    return [said(*each) for each in zip(values, lows, highs, strict=True)]


def _roles(table: pd.DataFrame) -> list[str]:
    return list(table.role) if "role" in table else ["fusion"] * len(table)


def _looks(domain: Sequence[str], places: Sequence[int] | None = None) -> tuple[alt.Scale, alt.Scale]:
    """A colour and a marker for every name."""
    places = range(len(domain)) if places is None else places
    return (
        alt.Scale(domain=list(domain), range=[COLOURS[place % LINES] for place in places]),
        alt.Scale(domain=list(domain), range=[SHAPES[place % len(SHAPES)] for place in places]),
    )


def _spec(chart: alt.LayerChart | alt.Chart, **data: list[dict[str, Any]]) -> dict[str, Any]:
    """As plain data. What is written here is checked against Vega-Lite's schema by a test, not in every report."""
    configured = (
        chart.properties(width="container")
        .configure(font="system-ui, sans-serif", padding={"left": 2, "top": 4, "right": 8, "bottom": 2})
        .configure_view(stroke=None)
        .configure_axis(gridColor=FAINT, domainColor="#999", tickColor="#999", labelColor="#222", titleColor="#222",
                        titleFontWeight="normal", labelLimit=170)
        .configure_legend(orient="bottom", title=None, labelLimit=260, columns=2)
    )  # fmt: skip
    return {**configured.to_dict(validate=False), "datasets": data}


def _better(metric: str) -> str:
    return {"higher": ", more is better", "lower": ", less is better"}.get(column(metric).better, "")


def _n(table: pd.DataFrame) -> str:
    counts = sorted({int(each) for each in table.n.dropna()})
    return f"N = {', '.join(map(str, counts))}"


# --- intervals ------------------------------------------------------------------------------------------------------


def _intervals(metrics: pd.DataFrame, key: tuple[str, str]) -> Chart:
    """One metric of all methods, each with its interval."""
    own, name = _of(metrics, key), column_name(*key)
    roles = [role for role in ROLES if role in set(_roles(own))]
    rows = _records(
        method=own.method, role=_roles(own), value=own.value, low=own.low, high=own.high,
        words=_words(own.value, own.low, own.high, column(key[0]).digits),
    )  # fmt: skip
    colour, shape = _looks(roles, [ROLES.index(role) for role in roles])
    base = alt.Chart(ROWS, height=ROW * len(own)).encode(
        y=alt.Y("method:N", sort=list(own.method), title=None),
        color=alt.Color("role:N", scale=colour),
        tooltip=[alt.Tooltip("method:N"), alt.Tooltip("role:N"), alt.Tooltip("words:N", title=name)],
    )
    axis = alt.X("low:Q", title=f"{name}{_better(key[0])}", scale=alt.Scale(zero=False))
    drawn = base.mark_rule(strokeWidth=1.5).encode(x=axis, x2="high:Q") + base.mark_point(filled=True, size=55).encode(
        x=alt.X("value:Q", title=f"{name}{_better(key[0])}", scale=alt.Scale(zero=False)),
        shape=alt.Shape("role:N", scale=shape),
    )
    return Chart(f"{name}, {_n(own)}", "intervals", _spec(drawn, rows=rows))


def _against(differences: pd.DataFrame | None) -> list[Chart]:
    """The joint score of every method minus each baseline's; without no control, beside which all else looks alike."""
    if differences is None:
        return []
    joint = differences[(differences.metric == "joint") & (differences.role != "none")].dropna(subset=["value"])
    charts = []
    for baseline, own in joint.groupby("baseline", sort=False):
        verdicts = [VERDICTS.get(verdict, verdict) for verdict in own.verdict]
        rows = _records(
            method=own.method, verdict=verdicts, value=own.value, low=own.low, high=own.high,
            words=_words(own.value, own.low, own.high, 2, "+"),
        )  # fmt: skip
        colour = alt.Scale(domain=list(VERDICTS.values()), range=[COLOURS[0], COLOURS[1], "#777777"])
        shape = alt.Scale(domain=list(VERDICTS.values()), range=["triangle-right", "triangle-left", "circle"])
        title = f"joint score minus that of {baseline}"
        base = alt.Chart(ROWS, height=ROW * len(own)).encode(
            y=alt.Y("method:N", sort=list(own.method), title=None),
            color=alt.Color("verdict:N", scale=colour),
            tooltip=[alt.Tooltip("method:N"), alt.Tooltip("verdict:N"), alt.Tooltip("words:N", title="difference")],
        )
        zero = alt.Chart(MARKS).mark_rule(color="#222", strokeWidth=1).encode(x=alt.X("zero:Q", title=title))
        drawn = (
            zero
            + base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", title=title), x2="high:Q")
            + base.mark_point(filled=True, size=60).encode(
                x=alt.X("value:Q", title=title), shape=alt.Shape("verdict:N", scale=shape)
            )
        )
        charts.append(
            Chart(
                f"Paired differences to {baseline}, {_n(own)}",
                "differences",
                _spec(drawn, rows=rows, marks=[{"zero": 0}]),
            )
        )
    return charts


# --- curves ---------------------------------------------------------------------------------------------------------


def _curves(metrics: pd.DataFrame, keys: Sequence[tuple[str, str]], series: Mapping[str, str]) -> list[Chart]:
    """Methods that differ in one number as curves over it, with intervals; the other rules and no control as lines."""
    points = metrics[metrics.setting.notna()]
    charts = []
    for parameter, group in points.groupby("parameter", sort=False):
        for key in keys:
            own = _of(group, key)
            if own.setting.nunique() > 1:
                charts.append(_curve(own, _levels(metrics, key), str(parameter), key, series))
    return charts


def _levels(metrics: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    """The rows that a curve is looked at beside: rules that do not vary, and no control."""
    own = _of(metrics[metrics.setting.isna()], key)
    return own[own.role.isin(("fusion", "none"))]


def _curve(
    own: pd.DataFrame, levels: pd.DataFrame, parameter: str, key: tuple[str, str], series: Mapping[str, str]
) -> Chart:
    name = column_name(*key)
    families = [series.get(method, method) for method in own.method]
    domain = list(dict.fromkeys(families))
    colour, shape = _looks(domain)
    rows = _records(
        family=families, setting=own.setting, value=own.value, low=own.low, high=own.high,
        words=_words(own.value, own.low, own.high, column(key[0]).digits),
    )  # fmt: skip
    is_delta = parameter.rpartition(".")[2] == "delta"
    said = f"{parameter} (-1: mean everywhere, 1: selection everywhere)" if is_delta else parameter
    settings = own.setting[own.setting > 0]
    wide = len(settings) == len(own) and settings.max() / settings.min() > 8
    x = alt.X("setting:Q", title=said, scale=alt.Scale(type="log") if wide else alt.Scale(zero=False, nice=False))
    title = f"{name}{_better(key[0])}"
    base = alt.Chart(ROWS, height=HIGH).encode(
        x=x, color=alt.Color("family:N", scale=colour),
        tooltip=[
            alt.Tooltip("family:N"), alt.Tooltip("setting:Q", title=parameter), alt.Tooltip("words:N", title=name)
        ],
    )  # fmt: skip
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    layers = []
    if is_delta and own.setting.min() < PAPER_DELTA < own.setting.max():
        mark = alt.Chart(MARKS)
        layers += [
            mark.mark_rule(color=GREY, strokeDash=[2, 3]).encode(x=alt.X("at:Q", title=said)),
            mark.mark_text(color=GREY, align="right", dx=-4, baseline="bottom", y=HIGH - 4).encode(
                x=alt.X("at:Q", title=said), text="words:N"
            ),
        ]
    if len(levels):
        flat = alt.Chart(LEVELS)
        layers += [
            flat.mark_rule(color="#999", strokeDash=[5, 3]).encode(y=alt.Y("value:Q", title=title), tooltip="method:N"),
            flat.mark_text(color=GREY, align="left", baseline="bottom", x=2, fontSize=9).encode(
                y=alt.Y("value:Q", title=title), text="words:N"
            ),
        ]
    layers += [
        base.mark_rule(strokeWidth=1).encode(y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), y2="high:Q"),
        base.mark_line(strokeWidth=1.5).encode(y=y),
        base.mark_point(filled=True, size=45).encode(y=y, shape=alt.Shape("family:N", scale=shape)),
    ]
    return Chart(
        f"{name} over {parameter}, {_n(own)}",
        "curve",
        _spec(
            alt.layer(*layers),
            rows=rows,
            levels=_records(method=levels.method, value=levels.value, words=_labels(levels, own)),
            marks=[{"at": PAPER_DELTA, "words": "the paper's 0.7"}],
        ),
    )


def _labels(levels: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """What stands at every line: its name, and of lines so close that names would collide all names at the highest."""
    drawn = pd.concat([levels.value, curves.value, curves.low, curves.high])
    close = CLOSE * (drawn.max() - drawn.min())
    groups: list[list[int]] = []
    for place in levels.value.reset_index(drop=True).sort_values(ascending=False, kind="stable").index:
        last = groups[-1] if groups else None
        if last and levels.value.iloc[last[0]] - levels.value.iloc[place] < close:
            last.append(place)
        else:
            groups.append([place])
    words = [""] * len(levels)
    for group in groups:
        words[group[0]] = ", ".join(levels.method.iloc[place] for place in group)
    return words


def _conflict(table: pd.DataFrame) -> Chart:
    """The joint score by degree of conflict, of the best rules."""
    rules = table[table.role.isin(("fusion", "entered"))]
    if "setting" in rules:
        rules = rules[rules.setting.isna()]
    means = (rules.value * rules.n).groupby(rules.method).sum() / rules.n.groupby(rules.method).sum()
    domain = list(means.sort_values(ascending=False, kind="stable").index[:BEST])
    own = rules[rules.method.isin(domain)]
    colour, shape = _looks(domain)
    rows = _records(
        method=own.method, conflict=own.conflict, value=own.value, low=own.low, high=own.high,
        words=_words(own.value, own.low, own.high, 2),
    )  # fmt: skip
    base = alt.Chart(ROWS, height=220).encode(
        x=alt.X("conflict:Q", title="measured conflict of a sample's conditions, in equal shares of the samples",
                scale=alt.Scale(zero=False)),
        color=alt.Color("method:N", scale=colour),
        tooltip=[alt.Tooltip("method:N"), alt.Tooltip("words:N", title="joint")],
    )  # fmt: skip
    y = alt.Y("value:Q", title="joint, more is better", scale=alt.Scale(zero=False))
    drawn = (
        base.mark_rule(strokeWidth=1).encode(y=alt.Y("low:Q", title="joint, more is better"), y2="high:Q")
        + base.mark_line(strokeWidth=1.5).encode(y=y)
        + base.mark_point(filled=True, size=45).encode(y=y, shape=alt.Shape("method:N", scale=shape))
    )
    more = f", the {len(domain)} best rules" if len(means) > len(domain) else ""
    return Chart(f"Joint score by conflict{more}", "conflict", _spec(drawn, rows=rows))
