"""What every figure of the package owes a reader on paper, on a small run and on a table of made numbers."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex, to_rgb

from drawings import lightness, require_embedded, require_legible, words_of
from evaluation.states import CONDITIONS, METHODS, make_state
from maxbench.errors import UserError
from maxbench.evaluation.aggregate import Tables
from maxbench.report import base, conflict, intervals, maps, sheet
from maxbench.report.base import DOUBLE, SINGLE, SMALL, NotThere, encoded
from maxbench.report.pictures import Album, Shown
from maxbench.report.runs import Results

OF_A_RUN = {
    "contact_sheet": sheet.contact_sheets, "conditioning": sheet.conditioning, "variance_maps": maps.variance_maps,
    "winner_maps": maps.winner_maps, "fusion_curves": maps.fusion_curves,
}  # fmt: skip
OF_TABLES = {
    "intervals": intervals.intervals, "differences": intervals.differences, "conflict": conflict.conflict
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tables of a run with a joint score, which no run of random networks has."""
    folder = tmp_path_factory.mktemp("made")
    tables = Tables(make_state(24, exchanged=True), CONDITIONS, 100, 0.95)
    tables.metrics().to_csv(folder / "metrics.csv", index=False)
    tables.differences().to_csv(folder / "differences.csv", index=False)
    tables.conflict_curve().to_csv(folder / "conflict.csv", index=False)
    config = {"name": "made", "suite": {"name": "none"}, "seed": 0, "conditions": {}, "metrics": {"level": 0.95}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return Results(folder)


@pytest.fixture(scope="module")
def drawn(made, watched_run):
    """Every figure, by its name."""
    album, shown = Album(Results(watched_run)), Shown(samples=3)
    figures = {name: make(album, shown) for name, make in OF_A_RUN.items()}
    figures |= {name: make(made, Shown()) for name, make in OF_TABLES.items()}
    return {name: figure for each in figures.values() for name, figure in each.items()}


NAMES = [*OF_A_RUN, "intervals", "differences_average", "conflict"]


def test_every_figure_is_drawn(drawn):
    assert sorted(drawn) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_words_can_be_read_in_print_and_do_not_meet(drawn, name):
    require_legible(drawn[name], SMALL)
    width, height = drawn[name].get_size_inches()
    assert SINGLE - 1e-6 <= width <= DOUBLE + 1e-6 and height < 24 / 2.54


@pytest.mark.parametrize("name", NAMES)
def test_how_many_pictures_it_is_about_is_said(drawn, name):
    said = " ".join(each.text for each in words_of(drawn[name]))
    assert re.search(r"N = \d+|\d+ of \d+ samples|One picture, no average", said), said


@pytest.mark.parametrize("name", ["intervals", "differences_average", "conflict"])
def test_the_kind_of_interval_is_said(drawn, name):
    said = " ".join(each.text for each in words_of(drawn[name]))
    assert re.search(r"95%.*interval", said) and "bootstrap" in said
    assert ("Holm" in said) == (name == "differences_average")


@pytest.mark.parametrize("name", ["contact_sheet", "differences_average"])
def test_fonts_are_embedded(drawn, name):
    require_embedded(encoded(drawn[name], "pdf"))


@pytest.mark.parametrize("name", ["fusion_curves", "intervals", "differences_average", "conflict"])
def test_lines_have_colours_of_the_palette_or_are_grey(drawn, name):
    for axis in drawn[name].axes:
        for line in axis.get_lines():
            colour = to_rgb(line.get_color())
            known = to_hex(colour).upper() in {each.upper() for each in (*base.COLOURS, *maps.COLOURS)}
            assert known or np.ptp(colour) < 0.05, line.get_color()


@pytest.mark.parametrize("name", ["intervals", "differences_average", "conflict"])
def test_axes_say_what_they_count(drawn, name):
    for axis in drawn[name].axes:
        if axis.get_visible():
            assert axis.get_xlabel()


def test_bars_of_colours_say_what_they_measure(drawn):
    assert drawn["fusion_curves"].axes[-1].get_ylabel() == "share of locations"
    said = [each.text for each in words_of(drawn["variance_maps"])]
    _, *bars = drawn["variance_maps"].axes
    assert len(bars) == len([text for text in said if "mean of σ" in text]) == 2  # of the U-Net, of the controls


def test_branches_differ_in_a_grey_copy():
    levels = sorted(lightness(to_rgb(each)) for each in (*maps.COLOURS[:3], maps.MERGED))
    assert np.diff(levels).min() > 15


def test_layers_and_steps_have_names_that_readers_know(drawn):
    said = [each.text for each in words_of(drawn["variance_maps"])]
    assert {"down block 1", "up block 2", "mid block", "step 1 of 2", "step 2 of 2"} <= set(said)
    assert any(re.fullmatch(r"timestep \d+", text) for text in said)


def test_three_conditions_have_two_rows_of_panels(made, tmp_path):
    for name in ("config.yaml", "conflict.csv"):
        shutil.copy(made.folder / name, tmp_path)
    for name in ("metrics.csv", "differences.csv"):  # a third condition with the numbers of the second
        table = pd.read_csv(made.folder / name, dtype={"condition": str})
        third = table[table.condition == "seg"].replace({"condition": {"seg": "style"}})
        pd.concat([table, third.replace({"metric": {"seg_image_iou": "style_clip_i"}})]).to_csv(tmp_path / name)
    for make in (intervals.intervals, intervals.differences):
        (figure,) = make(Results(tmp_path), Shown()).values()
        assert sum(axis.get_visible() for axis in figure.axes) == 7
        require_legible(figure, SMALL)


# --- intervals and differences --------------------------------------------------------------------------------------


def points(axis):
    """(row, value) -> marker, and row -> the ends of its interval."""
    marks, ends = {}, {}
    for line in axis.get_lines():
        x, y = line.get_xdata(), line.get_ydata()
        if len(x) == 1:
            marks[float(y[0]), float(x[0])] = (line.get_marker(), line.get_markerfacecolor())
        elif y[0] == y[1] and line.get_marker() == "None":
            ends[float(y[0])] = tuple(map(float, x))
    return marks, ends


def test_intervals_are_those_of_the_table(drawn, made):
    axis = next(each for each in drawn["intervals"].axes if each.get_title().startswith("joint"))
    table = made.metrics.query("metric == 'joint' and role != 'reference'").set_index("method")
    marks, ends = points(axis)
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert rows == list(METHODS)
    assert {(float(rows.index(name)), row.value) for name, row in table.iterrows()} == set(marks)
    for name, row in table.iterrows():
        assert ends[rows.index(name)] == (row.low, row.high)


def test_the_verdict_is_the_marker(drawn, made):
    table = made.differences.query("metric == 'joint'")
    axis = next(each for each in drawn["differences_average"].axes if each.get_title().startswith("joint"))
    marks, _ = points(axis)
    rows = [label.get_text() for label in axis.get_yticklabels()]
    seen = {row.verdict: marks[float(rows.index(row.method)), row.value] for row in table.itertuples()}
    assert set(seen) >= {"better", "worse"}
    assert {verdict: mark for verdict, (mark, _) in seen.items()} == {
        name: intervals.VERDICTS[name][0] for name in seen
    }
    kinds = [(marker, filled) for marker, _, filled in intervals.VERDICTS.values()]
    assert len(set(kinds)) == 3  # without colour too


def test_a_number_without_an_interval_is_drawn_without_one(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "metrics.csv"
    pd.read_csv(path).assign(low=np.nan, high=np.nan).to_csv(path, index=False)
    (figure,) = intervals.intervals(Results(tmp_path / "copy"), Shown()).values()
    marks, ends = points(figure.axes[0])
    assert len(marks) == len(METHODS) and not ends


def test_rows_are_the_named_ones_and_another_name_is_a_sentence(made):
    (figure,) = intervals.intervals(made, Shown(["better", "none"])).values()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["better", "none"]
    with pytest.raises(UserError, match=r"no row 'best'; it has none"):
        intervals.intervals(made, Shown(["best"]))


def test_tables_without_a_score_have_no_figure(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "metrics.csv"
    table = pd.read_csv(path)
    table[table.metric == "clip_score"].to_csv(path, index=False)
    with pytest.raises(NotThere, match="no joint score"):
        intervals.intervals(Results(tmp_path / "copy"), Shown())
    (tmp_path / "copy" / "differences.csv").unlink()
    with pytest.raises(NotThere, match="no paired differences"):
        intervals.differences(Results(tmp_path / "copy"), Shown())
    (tmp_path / "copy" / "conflict.csv").unlink()
    with pytest.raises(NotThere, match=r"no conflict\.csv"):
        conflict.conflict(Results(tmp_path / "copy"), Shown())
