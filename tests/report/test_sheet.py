"""A run's files -> its contact sheet."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from maxbench.errors import UserError
from maxbench.report import sheet
from maxbench.report.sheet import CELL, GAP, MARGIN, outlined, write_sheet

COLOURS = {"real/000000000001.png": (200, 30, 30), "real/000000000002.png": (30, 200, 30)}
GREY = (120, 120, 120)


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), colour).save(path)


def square(low=4, high=12, size=16):
    inside = np.zeros((size, size), np.uint8)
    inside[low:high, low:high] = 255
    return inside


def row(sample, method, condition, metric, value, replicate=0):
    return {"sample": sample, "replicate": replicate, "method": method, "condition": condition, "metric": metric,
            "value": value}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run of two samples with pictures of one colour; hed is from one picture and depth from another."""

    def make(methods=("sum", "average"), two_sources=True, scores=(), conditions=("hed", "depth")):
        config = {
            "name": "tiny",
            "suite": {"name": "paint"},
            "seed": 3,
            "conditions": {name: {} for name in conditions},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        sources = dict.fromkeys(conditions, 1) | ({conditions[-1]: 2} if two_sources else {})
        samples = [{"id": name, "prompt": f"a picture {name}", "sources": sources} for name in ("a", "b")]
        manifest = {"samples": samples, "methods": [{"name": name} for name in methods]}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        for file, colour in COLOURS.items():
            picture(tmp_path / file, colour)
        for name in conditions:
            picture(tmp_path / "conditions" / name / f"{sources[name]:012d}.png", (90, 90, 90))
        for method in methods:
            for sample in samples:
                picture(tmp_path / "images" / method / f"{sample['id']}-0.png", GREY)
        if scores:
            pd.DataFrame(scores).to_parquet(tmp_path / "samples.parquet")
        return tmp_path

    return make


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def columns(drawn, first):
    """The colour in the middle of each column's cell of the first row, which begins `first` pixels from the top."""
    count = (drawn.shape[1] - 2 * MARGIN + GAP) // (CELL + GAP)
    return [tuple(drawn[first + CELL // 2, MARGIN + place * (CELL + GAP) + CELL // 2]) for place in range(count)]


def top_of(drawn):
    """Where the first row of pictures begins: nothing is white across its map."""
    return int(np.argmax((drawn[:, MARGIN : MARGIN + CELL] != 255).any(-1).all(1)))


def below(drawn, column):
    """What stands below a picture of the first row, without the prompt: (y, x, colour)."""
    top, left = top_of(drawn) + CELL, MARGIN + column * (CELL + GAP)
    return drawn[top + 1 : top + 21, left : left + CELL]


def share(area, colour):
    return (np.abs(area - np.array(colour)).max(-1) < 12).mean()


def test_each_condition_s_picture_stands_beside_its_map_where_they_come_from_several(run):
    drawn = pixels(write_sheet(run()))
    assert columns(drawn, top_of(drawn)) == [(90,) * 3, (200, 30, 30), (90,) * 3, (30, 200, 30), GREY, GREY]


def test_conditions_of_one_picture_share_a_column(run):
    drawn = pixels(write_sheet(run(two_sources=False)))
    assert columns(drawn, top_of(drawn)) == [(90,) * 3, (90,) * 3, (200, 30, 30), GREY, GREY]


def test_conditions_that_share_one_of_several_pictures_stand_together(run):
    drawn = pixels(write_sheet(run(conditions=("hed", "seg", "style"))))
    first = top_of(drawn)
    assert columns(drawn, first)[:5] == [(90,) * 3, (90,) * 3, (200, 30, 30), (90,) * 3, (30, 200, 30)]


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_an_outline_is_seen_on_any_colour_and_has_one_white_pixel(colour):
    plain = Image.new("RGB", (48, 48), (colour,) * 3)
    drawn = np.asarray(outlined(plain, [Image.fromarray(square())])).astype(int)
    middle = drawn[24, :, 0]  # across both vertical borders, near columns 12 and 36
    for border in (12, 36):
        near = middle[border - 4 : border + 4]
        lines = (near[1:-1] == 255) & (near[:-2] == 0) & (near[2:] == 0)
        assert lines.sum() == 1
    assert (drawn[:8] == colour).all() and (drawn[18:30, 18:30] == colour).all()  # neither far outside nor inside


def test_a_mask_and_its_complement_have_one_outline():
    plain, inside = Image.new("RGB", (50, 50), GREY), square()
    once, other, both = (
        np.asarray(outlined(plain, [Image.fromarray(mask) for mask in masks]))
        for masks in ([inside], [255 - inside], [inside, 255 - inside])
    )
    assert (once == other).all() and (once == both).all() and (once == 255).any()


def test_a_mask_of_everything_or_nothing_has_no_outline():
    plain = Image.new("RGB", (20, 20), GREY)
    for value in (0, 255):
        assert (np.asarray(outlined(plain, [Image.new("L", (8, 8), value)])) == GREY[0]).all()


def test_the_outline_is_of_control_masks_and_else_of_evaluation_masks(run):
    folder = run()

    def white(column):
        drawn = pixels(write_sheet(folder))
        top, left = top_of(drawn), MARGIN + column * (CELL + GAP)
        lit = (drawn[top : top + CELL, left : left + CELL] == 255).all(-1)
        return (np.flatnonzero(lit.any(0))[[0, -1]] / CELL * 16).round().tolist() if lit.any() else None

    assert white(4) is None
    for kind, condition, place in (("evaluation_masks", "depth", 2), ("control_masks", "hed", 5)):
        path = folder / kind / condition / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(square(place, 16 - place)).save(path)
        assert white(4) == white(5) == [place, 16 - place]  # every generated picture
    assert white(1) == [5, 11] and white(3) == [2, 14]  # a source: its own condition's


def test_scores_stand_below_pictures_with_a_dot_for_the_joint_score(run):
    scores = [
        row("a", method, condition, metric, value)
        for method, depth in (("sum", 0.61), ("average", 0.31))
        for condition, metric, value in (("hed", "q", 0.92), ("depth", "q", depth), ("", "joint", depth))
    ]
    drawn = pixels(write_sheet(run(scores=scores)))
    good, bad = below(drawn, 4), below(drawn, 5)
    assert share(good, sheet.SATISFIED) > 0 and share(good, sheet.NOT_SATISFIED) == 0
    assert share(bad, sheet.NOT_SATISFIED) > 0 and share(bad, sheet.SATISFIED) == 0
    assert (below(drawn, 0) == 255).all()  # maps have no score
    for area in (good, bad):  # hed on the left is the larger, depth on the right the smaller: in black
        assert share(area[:, 14:58], sheet.INK) == 0 and share(area[:, 58:], sheet.INK) > 0.02
        assert share(area[:, 14:58], sheet.FAINT) > 0.01


def test_exactly_one_half_is_not_above_it(run):
    drawn = pixels(write_sheet(run(scores=[row("a", "sum", "hed", "q", 0.5), row("a", "sum", "", "joint", 0.5)])))
    assert share(below(drawn, 4), sheet.NOT_SATISFIED) > 0


def test_scores_of_another_replicate_and_missing_ones_are_not_shown(run):
    scores = [row("a", "sum", "hed", "q", 0.9, replicate=1), row("a", "average", "hed", "q", np.nan),
              row("b", "sum", "hed", "q", 0.3)]  # fmt: skip
    drawn = pixels(write_sheet(run(scores=scores)))
    assert (below(drawn, 4) == 255).all() and (below(drawn, 5) == 255).all()


def test_scores_that_do_not_fit_in_a_line_take_another(run):
    names = ("segmentation", "hed", "lines")
    scores = [row("a", "sum", name, "q", 0.5) for name in names]
    less = write_sheet(run(scores=scores[:1], conditions=names))
    one = pixels(less).shape[0]
    assert pixels(write_sheet(run(scores=scores, conditions=names))).shape[0] == one + 2 * 18  # per row of pictures
    assert sheet._score_lines(dict.fromkeys(names, 1.0), names) == [["segmentation"], ["hed", "lines"]]


def test_a_run_without_scores_has_lower_rows(run):
    without = pixels(write_sheet(run())).shape[0]
    assert pixels(write_sheet(run(scores=[row("a", "sum", "hed", "q", 0.5)]))).shape[0] == without + 2 * 18


def test_damaged_scores_are_a_sentence(run):
    folder = run()
    (folder / "samples.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"samples\.parquet is damaged"):
        write_sheet(folder)


def test_the_degree_of_conflict_stands_with_the_prompt(run):
    plain = pixels(write_sheet(run(scores=[row("a", "sum", "hed", "q", 0.5)])))
    scores = [row("a", "sum", "hed", "q", 0.5), row("a", "exchanged", "", "conflict", 0.8)]
    told = pixels(write_sheet(run(scores=scores)))
    assert plain.shape == told.shape
    changed = np.flatnonzero((plain != told).any((1, 2)))
    top = top_of(plain) + CELL
    assert top + 18 < changed.min() and changed.max() < top + 50  # the prompt of that sample alone


def test_pictures_made_elsewhere_follow_the_methods(run):
    folder = run(methods=("sum",))
    picture(folder / "entered" / "lab" / "model" / "a-0.png", (10, 20, 200))
    picture(folder / "entered" / "unlisted" / "a-0.png", (10, 20, 200))
    for name in ("lab/model", "without_pictures"):
        path = folder / "records" / "entered" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    drawn = pixels(write_sheet(folder))
    first = top_of(drawn)
    assert columns(drawn, first)[4:] == [GREY, (10, 20, 200)]
    second = first + np.flatnonzero((drawn[first + CELL :, MARGIN : MARGIN + CELL] == 90).all((1, 2)))[0] + CELL
    assert columns(drawn, second)[4:] == [GREY, sheet.ABSENT]  # it has no picture of the second sample


def test_headings_are_wrapped_where_parts_of_a_name_join():
    font = sheet._font(15)
    for name in ("maxfusion_published_tuned", "gated_sum/rule.power=2.5", "w" * 60, "sum", "lab (entered)"):
        lines = sheet._wrapped(name, font, CELL)
        assert "".join(lines).replace(" ", "") == name.replace(" ", "")
        assert all(line and font.getlength(line) <= CELL for line in lines)
    assert sheet._wrapped("maxfusion_published_tuned", font, CELL) == ["maxfusion_", "published_tuned"]
    assert sheet._wrapped("sum", font, CELL) == ["sum"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.924, ".92"), (-0.31, "-.31"), (1.04, "1.04"), (-0.001, ".00"), (0.999, "1.00"), (-1, "-1.00")],
)
def test_numbers_have_two_decimals_and_no_leading_zero(value, text):
    assert sheet._number(value) == text


def test_a_large_sheet_is_kept_with_fewer_levels_that_nobody_sees(monkeypatch):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((300, 300), Image.Resampling.BICUBIC)
    exact = sheet._encoded(smooth)
    monkeypatch.setattr(sheet, "LARGEST", len(exact) - 1)
    smaller = sheet._encoded(smooth)
    assert len(smaller) < len(exact)

    def read(content):
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)

    assert (read(exact) == np.asarray(smooth)).all()
    assert np.abs(read(smaller) - read(exact)).max() == 2
    monkeypatch.setattr(sheet, "LARGEST", 0)
    assert len(sheet._encoded(smooth)) < 0.8 * len(exact)
