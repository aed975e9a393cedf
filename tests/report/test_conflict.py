"""The joint score by the degree of conflict -> a figure."""

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_rgb
from PIL import Image

from maxbench.errors import UserError
from maxbench.report.base import COLOURS, DOTS
from maxbench.report.conflict import LINES, WIDTH, _figure, caption, lines_in_colour, write_conflict

CONFIG = {"name": "tiny", "suite": {"name": "paint"}, "baseline": "average", "metrics": {"level": 0.9}}
CONFLICT = (0.42, 0.6, 0.91)
IMAGES = (10, 11, 10)


def table(**methods):
    """method -> its joint score in each of three bins."""
    rows = []
    for name, values in methods.items():
        role, branches = ("single", name.split("_")[1]) if name.startswith("single") else ("fusion", "hed+depth")
        if name == "none":
            role, branches = "none", ""
        rows += [
            {
                "method": name, "role": role, "branches": branches, "parameter": np.nan, "setting": np.nan,
                "bin": place, "conflict": at, "conflict_low": at - 0.05, "conflict_high": at + 0.05, "value": value,
                "low": value - 0.1, "high": value + 0.1, "n": n,
            }
            for place, (at, value, n) in enumerate(zip(CONFLICT, values, IMAGES, strict=True))
        ]  # fmt: skip
    return pd.DataFrame(rows)


def many(count):
    return {f"rule{number}": (number / 10,) * 3 for number in range(count)}


def share_of(colour, path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return (np.abs(pixels - np.round(255 * np.array(to_rgb(colour)))).max(-1) <= 2).mean()


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def make(rows):
        rows.to_csv(tmp_path / "conflict.csv", index=False)
        return tmp_path

    return make


def test_a_run_without_the_curve_has_no_figure(tmp_path):
    assert write_conflict(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_the_figure_is_as_wide_as_a_column_and_has_a_colour_for_each_line(run):
    folder = run(table(sum=(0.9, 0.7, 0.5), average=(0.6, 0.4, 0.2)))
    assert write_conflict(folder) == folder / "conflict.png"
    with Image.open(folder / "conflict.png") as image:
        assert abs(image.width - WIDTH * DOTS) <= 1
    shares = [share_of(colour, folder / "conflict.png") for colour in COLOURS[:3]]
    assert min(shares[:2]) > 1e-3 and shares[2] < 1e-4


def test_the_best_methods_are_in_colour_by_their_mean_over_images_and_the_baseline_with_them():
    rows = table(**many(9), average=(-1.0, -1.0, -1.0))
    best = ["rule8", "rule7", "rule6", "rule5", "rule4"]
    assert lines_in_colour(rows, ["average"]) == [*best, "average"]
    assert lines_in_colour(rows, []) == [*best, "rule3"]
    assert lines_in_colour(rows, ["rule7", "rule0"]) == [*best, "rule0"]
    few = table(tilted=(0.0, 0.4, 0.0), even=(0.12, 0.12, 0.14))  # by images .142 and .126, by bins .133 and .127
    assert lines_in_colour(few, []) == ["tilted", "even"]
    assert lines_in_colour(table(many=(0.0, 0.303, 0.0), even=(0.1033,) * 3), []) == ["many", "even"]  # bins say even


def test_singles_and_no_control_are_never_among_them():
    rows = table(none=(5, 5, 5), single_hed=(4, 4, 4), sum=(0.1, 0.1, 0.1))
    assert lines_in_colour(rows, ["single_hed"]) == ["sum"]


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines() if not line.get_label().startswith("_")}


def test_lines_have_the_numbers_and_differ_in_colour_and_marker():
    rows = table(none=(0, 0, 0), single_hed=(0.1, 0.1, 0.1), single_depth=(0.2, 0.1, 0.1), **many(9))
    figure = _figure(rows, CONFIG, ["average"])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"rule{n}" for n in range(8, 8 - LINES, -1)] + ["other fusions", "single_hed", "single_depth"]
    axis = figure.axes[0]
    bars = {container.get_label(): container for container in axis.containers}
    assert list(bars) == labels[:LINES]
    looks = {(lines.lines[0].get_color(), lines.lines[0].get_marker()) for lines in bars.values()}
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == LINES
    for name, container in bars.items():
        line, _, (spans,) = container.lines
        own = rows[rows.method == name]
        np.testing.assert_allclose(line.get_ydata(orig=False), own.value.to_numpy())
        np.testing.assert_allclose(line.get_xdata(orig=False), own.conflict.to_numpy(), atol=0.03)
        ends = np.array([[segment[:, 1].min(), segment[:, 1].max()] for segment in spans.get_segments()])
        np.testing.assert_allclose(ends, own[["low", "high"]].to_numpy())
    places = [container.lines[0].get_xdata()[0] for container in bars.values()]
    assert len(set(places)) == LINES  # intervals stand beside each other
    low, high = axis.get_xlim()
    assert 0.35 < low < min(places) and max(CONFLICT) < high < 1.05
    assert "conflict" in axis.get_xlabel() and "joint score" in axis.get_ylabel()


def test_of_singles_the_first_of_each_condition_is_drawn():
    rows = table(single_hed=(0.1, 0.1, 0.1), single_depth=(0.1, 0.1, 0.1), sum=(1, 1, 1))
    tuned = rows[rows.method == "single_hed"].assign(method="single_tuned/hed")
    varied = rows[rows.method == "single_depth"].assign(method="single_depth/scale=2", parameter="scale")
    labels = lines_of(_figure(pd.concat([varied, rows, tuned]), CONFIG, ["average"]))
    assert set(labels) == {"single_hed", "single_depth"}


def test_the_caption_says_how_many_and_at_which_level():
    said = " ".join(caption(table(sum=(1, 1, 1), average=(0, 0, 0)), CONFIG).split())
    assert "tiny on paint: N = 31 images in 3 bins" in said and "10 to 11 each" in said and "90% intervals" in said


def test_a_list_of_baselines_and_an_absent_interval_are_drawn(run):
    folder = run(table(sum=(0.9, 0.7, 0.5), average=(0.6, 0.4, 0.2)).assign(low=np.nan, high=np.nan))
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "baseline": ["average", "sum"]}))
    assert write_conflict(folder) is not None


@pytest.mark.parametrize(("content", "says"), [("", "is damaged"), ("method,role\nsum,fusion\n", "no column")])
def test_a_damaged_file_is_a_sentence(run, content, says):
    folder = run(table(sum=(1, 1, 1)))
    (folder / "conflict.csv").write_text(content)
    with pytest.raises(UserError, match=says):
        write_conflict(folder)
