"""A run's files -> its contact sheet."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_rgba
from PIL import Image

from drawings import require_legible, words_of
from maxbench.errors import UserError
from maxbench.report import base, pictures, sheet
from maxbench.report.base import DOTS, DOUBLE, SMALL, NotThere, width_of
from maxbench.report.pictures import MOST, PREFERRED, Album, Shown, outlined
from maxbench.report.runs import Results
from maxbench.report.sheet import write_sheet

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
    return {"sample": sample, "replicate": replicate, "method": method, "role": "fusion", "condition": condition,
            "metric": metric, "value": value}  # fmt: skip


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


def drawn(folder, **shown):
    """The only contact sheet of a run."""
    (figure,) = sheet.contact_sheets(Album(Results(folder)), Shown(**shown)).values()
    return figure


def cells(figure):
    """The pictures of a sheet, (rows, columns) of arrays, by where they stand."""
    rows = {}
    for image in figure.axes[0].get_images():
        left, _, _, top = image.get_extent()
        rows.setdefault(round(top), []).append((left, np.asarray(image.get_array()).astype(int)))
    return [[array for _, array in sorted(row, key=lambda each: each[0])] for _, row in sorted(rows.items())]


def columns(figure, number=0):
    """The colour in the middle of each picture of a row."""
    return [tuple(cell[cell.shape[0] // 2, cell.shape[1] // 2]) for cell in cells(figure)[number]]


def below(figure, column, number=0):
    """What stands below a picture: its words from left to right in their colours, and its dot's colour and filling."""
    axis = figure.axes[0]
    images = sorted(axis.get_images(), key=lambda each: (round(each.get_extent()[3]), each.get_extent()[0]))
    left, right, bottom, _ = images[number * len(cells(figure)[0]) + column].get_extent()
    inside = [text for text in axis.texts if left <= text.get_position()[0] < right
              and bottom < text.get_position()[1] < bottom + 20 and text.get_fontsize() == SMALL]  # fmt: skip
    inside = [text for text in inside if re.fullmatch(r"\S+ \S*\.\d\d", text.get_text())]
    dots = [patch for patch in axis.patches if left <= patch.center[0] < right and 0 < patch.center[1] - bottom < 20]
    said = {text.get_text(): (text.get_weight() == "bold", text.get_color()) for text in inside}
    return said, [(patch.get_edgecolor(), bool(patch.get_facecolor()[3])) for patch in dots]


def test_each_condition_s_picture_stands_beside_its_map_where_they_come_from_several(run):
    assert columns(drawn(run())) == [(90,) * 3, (200, 30, 30), (90,) * 3, (30, 200, 30), GREY, GREY]


def test_conditions_of_one_picture_share_a_column(run):
    assert columns(drawn(run(two_sources=False))) == [(90,) * 3, (90,) * 3, (200, 30, 30), GREY, GREY]


def test_conditions_that_share_one_of_several_pictures_stand_together(run):
    figure = drawn(run(conditions=("hed", "seg", "style")))
    assert columns(figure)[:5] == [(90,) * 3, (90,) * 3, (200, 30, 30), (90,) * 3, (30, 200, 30)]


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
        cell = cells(drawn(folder))[0][column]
        lit = (cell == 255).all(-1)
        return (np.flatnonzero(lit.any(0))[[0, -1]] / len(cell) * 16).round().tolist() if lit.any() else None

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
    figure = drawn(run(scores=scores))
    assert below(figure, 0) == ({}, [])  # maps have no score
    for column, depth, colour, filled in ((4, ".61", sheet.SATISFIED, True), (5, ".31", sheet.NOT_SATISFIED, False)):
        words, dots = below(figure, column)
        assert words == {"hed .92": (False, base.FAINT), f"depth {depth}": (True, base.INK)}  # the smallest in bold
        assert dots == [(to_rgba(colour), filled)]
    assert below(figure, 4, 1) == ({}, [])  # the other sample has none


def test_exactly_one_half_is_not_above_it(run):
    _, dots = below(drawn(run(scores=[row("a", "sum", "hed", "q", 0.5), row("a", "sum", "", "joint", 0.5)])), 4)
    assert dots == [(to_rgba(sheet.NOT_SATISFIED), False)]


def test_scores_of_another_replicate_and_missing_ones_are_not_shown(run):
    scores = [row("a", "sum", "hed", "q", 0.9, replicate=1), row("a", "average", "hed", "q", np.nan),
              row("b", "sum", "hed", "q", 0.3)]  # fmt: skip
    figure = drawn(run(scores=scores))
    assert below(figure, 4) == below(figure, 5) == ({}, [])
    assert list(below(figure, 4, 1)[0]) == ["hed .30"]


def test_every_replicate_has_a_row_where_it_is_asked_for(run):
    folder = run(scores=[row("a", "sum", "hed", "q", 0.9), row("a", "sum", "hed", "q", 0.4, replicate=1)])
    picture(folder / "images" / "sum" / "a-1.png", (10, 20, 200))
    figure = drawn(folder, replicates=2)
    assert [columns(figure, number)[4] for number in range(4)] == [GREY, (10, 20, 200), GREY, sheet.ABSENT]
    assert [list(below(figure, 4, number)[0]) for number in range(2)] == [["hed .90"], ["hed .40"]]


def test_scores_that_do_not_fit_in_a_line_take_another_and_long_names_are_cut():
    width = 76.0
    assert sheet.score_lines(("hed", "seg"), width) == [["hed", "seg"]]
    names = ("segmentation", "hed", "lines")
    assert sheet.score_lines(names, width) == [["segmentation"], ["hed", "lines"]]
    for line in sheet.score_lines(("a_very_long_condition", *names), 41.0):
        words = " ".join(f"{sheet._clipped(name, 41.0)} {sheet.WIDEST}" for name in line)
        assert width_of(words, SMALL, True) <= 41.0 - sheet.INDENT and line


def test_a_run_without_scores_has_lower_rows(run):
    without = drawn(run()).get_size_inches()[1]
    taller = drawn(run(scores=[row("a", "sum", "hed", "q", 0.5)])).get_size_inches()[1]
    assert (taller - without) * 72 >= 2 * base.leading(SMALL)


def test_damaged_scores_are_a_sentence(run):
    folder = run()
    (folder / "samples.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"samples\.parquet is damaged"):
        write_sheet(folder)


def test_the_degree_of_conflict_stands_with_the_prompt(run):
    scores = [row("a", "sum", "hed", "q", 0.5), row("a", "exchanged", "", "conflict", 0.8)]
    said = [each.text for each in words_of(drawn(run(scores=scores)))]
    assert "conflict .80: a picture a" in said and "a picture b" in said


def test_pictures_made_elsewhere_follow_the_methods(run):
    folder = run(methods=("sum",))
    picture(folder / "entered" / "lab" / "model" / "a-0.png", (10, 20, 200))
    picture(folder / "entered" / "unlisted" / "a-0.png", (10, 20, 200))
    for name in ("lab/model", "without_pictures"):
        path = folder / "records" / "entered" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    figure = drawn(folder)
    assert columns(figure)[4:] == [GREY, (10, 20, 200)]
    assert columns(figure, 1)[4:] == [GREY, sheet.ABSENT]  # it has no picture of the second sample


def test_a_sheet_has_at_most_six_methods_those_of_a_user_before_all(run):
    names = ("single/hed", "none", "average", "sum", "tuned_sum", "random_blobs", "gated_sum", "maxfusion", "mine")
    folder = run(methods=names)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["methods"] = {
        "mine": {"rule": {"_target_": "lab.Mine"}},
        "sum": {"rule": {"_target_": "maxbench.fusion.Sum"}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    chosen = [each.name for each in Album(Results(folder)).chosen(Shown())]
    assert chosen == ["none", "sum", "tuned_sum", "gated_sum", "maxfusion", "mine"]  # in the order of the run
    assert len(columns(drawn(folder))) == 4 + MOST
    sheets = sheet.contact_sheets(Album(Results(folder)), Shown(methods=names))
    assert [len(columns(figure)) for figure in sheets.values()] == [4 + 6, 4 + 3]
    assert list(sheets) == ["contact_sheet", "contact_sheet_2"]
    assert set(PREFERRED[:5]) == {*chosen} - {"mine"}


def test_named_methods_and_samples_are_shown_in_their_order(run):
    folder = run(methods=("none", "sum", "average"))
    picture(folder / "images" / "sum" / "a-0.png", (1, 2, 3))
    picture(folder / "images" / "sum" / "b-0.png", (4, 5, 6))
    figure = drawn(folder, methods=("average", "sum"), ids=("b", "a"))
    assert columns(figure)[4:] == [GREY, (4, 5, 6)] and columns(figure, 1)[4:] == [GREY, (1, 2, 3)]
    for wrong, said in (
        ({"methods": ("best",)}, r"no pictures of 'best'; it has none, sum, average"),
        ({"methods": ("sum", "sum")}, "names sum twice"),
        ({"ids": ("c",)}, r"no sample 'c'; its 2 begin with a, b"),
        ({"replicates": 30}, "60 rows are too many"),
    ):
        with pytest.raises(UserError, match=said):
            drawn(folder, **wrong)


def test_what_a_sheet_cannot_do_without_is_said(run):
    folder = run()
    (folder / "images").rename(folder / "moved")
    with pytest.raises(NotThere, match="no pictures of any method"):
        drawn(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(NotThere, match=r"has no manifest\.json"):
        drawn(folder)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [("manifest.json", b"{", r"manifest\.json is damaged"), ("manifest.json", b"{}", r"manifest\.json is damaged"),
     ("manifest.json", b'{"samples": [1], "methods": []}', r"manifest\.json is damaged"),
     ("config.yaml", b"a", r"config\.yaml"), ("config.yaml", b"name: tiny", "is no configuration"),
     ("images/sum/a-0.png", b"no picture", "cannot be read as a picture")],
)  # fmt: skip
def test_a_damaged_file_is_a_sentence_that_names_it(run, file, content, said):
    folder = run()
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=said):
        write_sheet(folder)


def test_the_sheet_of_a_run_is_as_wide_as_two_columns_and_legible(run):
    scores = [row(name, method, condition, "q", -0.994) for name in ("a", "b") for method in ("real", "sum", "average")
              for condition in ("hed", "depth")]  # fmt: skip
    folder = run(scores=scores, methods=("sum", "average", "maxfusion_published", "none", "tuned_sum", "gated_sum"))
    require_legible(drawn(folder), SMALL)
    with Image.open(write_sheet(folder)) as image:
        assert abs(image.width - DOUBLE * DOTS) <= 1
    assert (folder / "contact_sheet.png").exists()


def test_each_control_alone_stands_between_none_and_all(run):
    names = ("none", "single/hed", "single_tuned/hed", "single/depth", "sum", "maxfusion")
    folder = run(methods=names)
    manifest = json.loads((folder / "manifest.json").read_text())
    roles = {"none": ("none", []), "single/hed": ("single", ["hed"]), "single_tuned/hed": ("single", ["hed"]),
             "single/depth": ("single", ["depth"])}  # fmt: skip
    for each in manifest["methods"]:
        role, branches = roles.get(each["name"], ("fusion", ["hed", "depth"]))
        each |= {"role": role, "branches": branches, **({"tuned": {"scale": 1}} if "tuned" in each["name"] else {})}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for number, name in enumerate(names):
        picture(folder / "images" / name / "a-0.png", (number,) * 3)
    (figure,) = sheet.conditioning(Album(Results(folder)), Shown()).values()
    assert [each[0] for each in columns(figure)[4:]] == [0, 1, 3, 5]
    (figure,) = sheet.conditioning(Album(Results(folder)), Shown(methods=("sum",))).values()
    assert [each[0] for each in columns(figure)[4:]] == [0, 1, 3, 4]
    with pytest.raises(NotThere, match="without control"):
        sheet.conditioning(Album(Results(run())), Shown())


def test_a_method_stands_at_every_value_in_ascending_order(run):
    values = {f"maxfusion/delta={value:g}": value for value in (0.7, -1, 1, *np.linspace(0, 0.65, 9))}
    folder = run(methods=(*values, "sum"))
    config, manifest = (yaml.safe_load((folder / name).read_text()) for name in ("config.yaml", "manifest.json"))
    config["methods"] = {"maxfusion": {"rule": {"_target_": "maxbench.fusion.MaxFusion"}}}
    for each in manifest["methods"][:-1]:
        each |= {
            "entry": "maxfusion",
            "series": "maxfusion",
            "parameter": "rule.delta",
            "setting": values[each["name"]],
        }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    ((name, figure),) = sheet.settings(Album(Results(folder)), Shown()).items()
    assert name == "settings_maxfusion_rule.delta" and len(columns(figure)) == 4 + sheet.MOST_SETTINGS
    said = [each.text for each in words_of(figure)]
    assert "δ = −1" in said and "δ = 1" in said
    assert {"mean at", "selection", "every site"} & set(said)
    with pytest.raises(NotThere, match="no method of it varies"):
        sheet.settings(Album(Results(folder)), Shown(methods=("sum",)))


def test_headings_are_wrapped_where_parts_of_a_name_join():
    for name in ("maxfusion_published_tuned", "gated_sum/rule.power=2.5", "w" * 60, "sum", "lab (entered)"):
        lines = base.wrapped(name, 55)
        assert "".join(lines).replace(" ", "") == name.replace(" ", "")
        assert all(line and width_of(line) <= 55 for line in lines)
    assert base.wrapped("maxfusion_published", 55) == ["maxfusion_", "published"]
    assert base.wrapped("sum", 55) == ["sum"]


def test_a_text_that_is_too_long_loses_its_last_words():
    text = "a striped box on sand " * 9
    short = base.shortened(text, 100, SMALL)
    assert width_of(short, SMALL) <= 100 and text.startswith(short.removesuffix(" ..."))
    assert base.shortened("a box", 100, SMALL) == "a box"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.924, ".92"), (-0.31, "−.31"), (1.04, "1.04"), (-0.001, ".00"), (0.999, "1.00"), (-1, "−1.00")],
)
def test_numbers_have_two_decimals_and_no_leading_zero(value, text):
    assert sheet.number_text(value) == text


def test_a_large_sheet_is_kept_with_fewer_levels_that_nobody_sees(monkeypatch):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((300, 300), Image.Resampling.BICUBIC)
    exact = pictures.small_png(smooth)
    monkeypatch.setattr(pictures, "LARGEST", len(exact) - 1)
    smaller = pictures.small_png(smooth)
    assert len(smaller) < len(exact)

    def read(content):
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)

    assert (read(exact) == np.asarray(smooth)).all()
    assert np.abs(read(smaller) - read(exact)).max() == 2
    monkeypatch.setattr(pictures, "LARGEST", 0)
    assert len(pictures.small_png(smooth)) < 0.8 * len(exact)
