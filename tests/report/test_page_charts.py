"""The plots of the page: what they draw are the numbers of the tables, in a specification that Vega-Lite accepts."""

import altair as alt
import pandas as pd
import pytest

from evaluation.states import CONDITIONS, make_state
from maxbench.evaluation.aggregate import Tables
from maxbench.report.base import COLOURS
from maxbench.report.page.charts import PAPER_DELTA, SHAPES, charts
from maxbench.report.runs import Results
from report.made import make_run

SETTINGS = (-1.0, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run with a conflict, and a rule that varies its threshold."""
    folder = make_run(tmp_path_factory.mktemp("charts") / "run", images=24, pictures=False)
    metrics = Results(folder).metrics
    own = metrics[(metrics.method == "better") & metrics.metric.isin(["joint", "clip_score"])]
    points = [own.assign(method=f"swept/delta={each:g}", parameter="rule.delta", setting=each) for each in SETTINGS]
    pd.concat([metrics, *points]).to_csv(folder / "metrics.csv", index=False)
    Tables(make_state(24, exchanged=True), CONDITIONS, 100, 0.95).conflict_curve().to_csv(
        folder / "conflict.csv", index=False
    )
    return Results(folder)


@pytest.fixture(scope="module")
def drawn(results):
    series = {f"swept/delta={each:g}": "swept" for each in SETTINGS}
    return charts(results, series)


def of(drawn, kind):
    return [chart for chart in drawn if chart.kind == kind]


@pytest.mark.parametrize("kind", ["intervals", "differences", "curve", "conflict"])
def test_every_kind_is_what_vega_lite_accepts(drawn, kind):
    alt.LayerChart.from_dict(of(drawn, kind)[0].spec)  # raises what is wrong


def test_an_interval_is_the_row_of_the_table(results, drawn):
    joint = next(chart for chart in of(drawn, "intervals") if chart.title.startswith("joint, N = 24"))
    own = results.metrics[(results.metrics.metric == "joint") & results.metrics.setting.isna()]
    rows = joint.spec["datasets"]["rows"]
    assert [(row["method"], row["value"], row["low"], row["high"]) for row in rows] == [
        (row.method, row.value, row.low, row.high) for row in own.itertuples()
    ]
    assert len({chart.title for chart in drawn}) == len(drawn)  # nothing is drawn twice


def test_a_curve_has_one_line_a_family_with_the_papers_threshold_and_the_other_rules(drawn):
    curve = next(chart for chart in of(drawn, "curve") if chart.title.startswith("joint"))
    data = curve.spec["datasets"]
    assert {row["family"] for row in data["rows"]} == {"swept"}
    assert [row["setting"] for row in data["rows"]] == list(SETTINGS)
    assert [each["method"] for each in data["levels"]] == ["none", "average", "better", "worse"]
    named = [name for each in data["levels"] for name in each["words"].split(", ") if name]
    assert sorted(named) == sorted(each["method"] for each in data["levels"])  # each line once, together where close
    assert data["marks"][0]["at"] == PAPER_DELTA
    assert "-1: mean everywhere, 1: selection everywhere" in str(curve.spec["layer"])


def test_what_is_told_apart_by_colour_is_told_apart_by_a_marker(drawn):
    for chart in drawn:
        scales = {
            channel: layer["encoding"][channel]["scale"]
            for layer in chart.spec["layer"]
            for channel in ("color", "shape")
            if isinstance(layer.get("encoding", {}).get(channel), dict) and "scale" in layer["encoding"][channel]
        }
        assert scales["color"]["domain"] == scales["shape"]["domain"], chart.title
        assert len(set(scales["shape"]["range"])) == len(scales["shape"]["range"])
        assert set(scales["shape"]["range"]) <= {*SHAPES, "triangle-left"}
        assert set(scales["color"]["range"]) <= {*COLOURS, "#777777"}


def test_differences_leave_out_no_control_beside_which_all_else_looks_alike(results, drawn):
    (chart,) = of(drawn, "differences")
    assert "none" in set(results.differences.method)
    assert "none" not in {row["method"] for row in chart.spec["datasets"]["rows"]}
