import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxbench.errors import UserError
from maxbench.report.base import DOTS, DOUBLE
from maxbench.report.sheet import write_sheet
from maxbench.report.tables import markdown_table, method_table, plain_table, read_tables, undecided, write_tables
from runs import as_written


def test_a_cell_is_the_number_of_the_csv(finished_run):
    metrics = pd.read_csv(finished_run / "metrics.csv")
    headings, rows = method_table(metrics, intervals=True)
    column = headings.index("depth RMSE ↓")
    row = next(row for row in rows if row[0] == "maxfusion")
    expected = metrics.query("metric == 'depth_rmse' and method == 'maxfusion'").iloc[0]
    assert row[column] == f"{expected.value:.2f} [{expected.low:.2f}, {expected.high:.2f}]"


@pytest.mark.parametrize(("column", "value"), [("n", 99), ("protocol", "another"), ("scorer", "someone else")])
def test_a_table_refuses_to_mix_what_cannot_be_compared(finished_run, column, value):
    metrics = pd.read_csv(finished_run / "metrics.csv")
    chosen = (metrics.metric == "fd_clip") & (metrics.method == "sum")
    metrics.loc[chosen, column] = value
    with pytest.raises(UserError, match=f"'fd_clip' differ in {column}"):
        method_table(metrics, intervals=False)


def test_differences_are_bold_after_holm_and_only_then(finished_run, tmp_path):
    """An interval without zero is no verdict: it is of one difference by itself."""
    copy = shutil.copytree(finished_run, tmp_path / "run")
    differences = pd.read_csv(copy / "differences.csv")
    differences.loc[:, ["low", "value", "high"]] = [0.5, 1.0, 1.5]
    differences["verdict"] = "not shown"
    differences.to_csv(copy / "differences.csv", index=False)
    as_written(copy)
    write_tables(copy)
    assert "**" not in (copy / "table.md").read_text()
    place = differences.index[(differences.metric == "depth_rmse") & (differences.method == "maxfusion")]
    differences.loc[place, "verdict"] = "worse"
    differences.to_csv(copy / "differences.csv", index=False)
    as_written(copy)
    write_tables(copy)
    text = (copy / "table.md").read_text()
    assert text.count("**") == 2 and "**+1.00 [+0.50, +1.50]**" in text
    assert f"Holm's correction for the {differences.comparisons.iloc[0]} comparisons" in text


MINIATURE = "These are numbers about the rendered miniature world, not about photographs."


def test_what_numbers_are_about_is_said_by_the_data_set(finished_run, tmp_path):
    assert read_tables(finished_run).markdown.count(MINIATURE) == 1
    copy = shutil.copytree(finished_run, tmp_path / "run")
    said = json.loads((copy / "evaluation.json").read_text())
    notes = said["value"]["notes"]
    assert notes.count(MINIATURE) == 1
    photographs = "These are numbers about the pictures of COCO 2017 Dataset, split val2017."
    notes[notes.index(MINIATURE)] = photographs
    (copy / "evaluation.json").write_text(json.dumps(said))
    as_written(copy)
    tables = read_tables(copy)  # the suite is the miniature still
    for text in tables:
        assert text.count(photographs) == 1 and "miniature world" not in text
    assert f"intervals over samples. {photographs}" in tables.markdown
    notes.remove(photographs)
    (copy / "evaluation.json").write_text(json.dumps(said))
    as_written(copy)
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace("miniature_images", "other"))
    assert "These are numbers" not in read_tables(copy).markdown


def test_kept_results_that_do_not_say_it_are_known_by_their_data_set():
    kept = Path(__file__).parents[2] / "results" / "hed_depth"
    assert read_tables(kept).markdown.count(MINIATURE) == 1


# --- tables made by hand -------------------------------------------------------------------------------------


def made(rows):
    """metrics.csv of (method, role, metric, condition, value, margin)."""
    return pd.DataFrame(
        [
            {
                "experiment": "made", "suite": "none", "method": method, "role": role, "condition": condition or None,
                "metric": metric, "protocol": "p", "scorer": "s", "value": value, "low": value - margin,
                "high": value + margin, "n": 40,
            }
            for method, role, metric, condition, value, margin in rows
        ]
    )  # fmt: skip


BOTH = [
    (method, role, metric, condition, value, 0.1)
    for method, role in (("none", "none"), ("sum", "fusion"))
    for metric, condition, value in (
        ("fd_clip", "", 3), ("depth_rmse", "depth", 40), ("seg_miou", "seg", 30), ("seg_image_iou", "seg", 20),
        ("q", "depth", 0.5), ("q", "seg", 0.7), ("q_mean", "", 0.6), ("joint", "", 0.4), ("share_both", "", 0.3),
        ("depth_mse", "depth", 0.01), ("control_scale", "", 2), ("defects", "", 0), ("unet_evaluations", "", 20),
    )
]  # fmt: skip


def test_q_stands_beside_the_fidelity_that_it_is_made_of():
    headings, rows = method_table(made(BOTH), intervals=False)
    assert headings == [
        "method", "FD-CLIP ↓", "depth RMSE ↓", "q depth ↑", "seg mIoU ↑", "seg IoU per image ↑", "q seg ↑", "q mean ↑",
        "joint ↑", "both q > 1/2 ↑",
    ]  # fmt: skip
    assert rows[0] == ["none", "3.00 ±0.10", "40.00 ±0.10", "0.50 ±0.10", "30.0 ±0.1", "20.0 ±0.1", "0.70 ±0.10",
                       "0.60 ±0.10", "0.40 ±0.10", "0.30 ±0.10"]  # fmt: skip
    defect = [row if row[2] != "defects" else (*row[:4], 1, 0) for row in BOTH]
    assert method_table(made(defect), intervals=False)[0][-1] == "defects"


def differing(*rows):
    """differences.csv of (method, metric, condition, verdict, needed)."""
    return pd.DataFrame(
        [
            {
                "baseline": "none", "method": method, "condition": condition or None, "metric": metric, "value": 1.0,
                "low": 0.5, "high": 1.5, "verdict": verdict, "needed": needed, "comparisons": len(rows),
                "win_rate": 0.8, "role": "single" if "/" in method else "fusion",
            }
            for method, metric, condition, verdict, needed in rows
        ]
    )  # fmt: skip


def test_columns_that_tell_nothing_apart_are_marked():
    differences = differing(
        ("sum", "depth_rmse", "depth", "not shown", 900), ("mean", "depth_rmse", "depth", "not shown", 120),
        ("sum", "q", "seg", "not shown", 70), ("mean", "q", "seg", "better", 20),
        ("sum", "joint", "", "not shown", None), ("mean", "joint", "", "not shown", None),
        ("single/depth", "joint", "", "worse", 5),  # nobody ranks singles
    )  # fmt: skip
    silent = undecided(differences)
    assert silent == {("depth_rmse", "depth"): 120, ("joint", ""): None}
    headings, _ = method_table(made(BOTH), intervals=False, silent=silent)
    assert [each for each in headings if each.endswith("≈")] == ["depth RMSE ↓ ≈", "joint ↑ ≈"]
    assert undecided(None) == {}


def written(folder, metrics, differences=None):
    """A kept result: what tables are read from."""
    folder.mkdir(exist_ok=True)
    metrics.to_csv(folder / "metrics.csv", index=False)
    if differences is not None:
        differences.to_csv(folder / "differences.csv", index=False)
    (folder / "config.yaml").write_text(
        "samples: 40\nreplicates: 1\nseed: 0\nsampler: {steps: 4, guidance_scale: 3}\nmetrics: {level: 0.95}\n"
    )
    return folder


def test_the_samples_that_a_column_would_need_are_told(tmp_path):
    differences = differing(("sum", "depth_rmse", "depth", "not shown", 1234), ("sum", "joint", "", "not shown", None))
    tables = read_tables(written(tmp_path, made(BOTH), differences))
    for text in (tables.markdown, tables.text):
        assert "no difference of a fusion rule from a baseline at N = 40: do not rank by it" in text
        assert "depth RMSE (1,234), joint (no difference at all)." in text
    shown = differing(("sum", "depth_rmse", "depth", "better", 12))
    assert "do not rank by it" not in read_tables(written(tmp_path, made(BOTH), shown)).markdown
    assert "(80%)" in read_tables(written(tmp_path, made(BOTH), differing(("sum", "joint", "", "better", 12)))).markdown


def test_ends_of_a_scale_that_are_not_apart_are_named(tmp_path):
    def says(real, none, shuffled, metric="depth_rmse", condition="depth"):
        rows = [("real", "reference", metric, condition, real, 1), ("none", "none", metric, condition, none, 1),
                ("shuffled", "reference", metric, condition, shuffled, 1)]  # fmt: skip
        return read_tables(written(tmp_path, made(rows))).text

    assert "Proves nothing" not in says(10, 40, 50)
    assert "depth RMSE (real pictures and `none`)." in says(10, 11, 50)
    assert "depth RMSE (real pictures and `shuffled`)." in says(10, 40, 11)
    assert "`none`), depth RMSE (real pictures and `shuffled`)." in says(10, 3, 3)  # the wrong way round
    assert "hed SSIM" not in says(0.9, 0.1, 0.1).lower()
    assert "HED SSIM (real pictures and `none`)" in says(2, 3, -4, "hed_ssim", "hed")
    assert "seg object IoU (real pictures and `shuffled`)" in says(90, 20, 89, "seg_object_iou", "seg")


def test_other_definitions_have_a_table_of_their_own(tmp_path):
    text = read_tables(written(tmp_path, made(BOTH))).markdown
    assert "depth MSE ↓" in text.split("by other definitions")[1] and "depth MSE" not in text.split("by other")[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", "", r"metrics\.csv is damaged"),
        ("metrics.csv", "a,b\n1,2\n", r"metrics\.csv has no column experiment: it is damaged, or of an older version"),
        ("metrics.csv", "\x00\xff", r"metrics\.csv (is damaged|has no)"),
        ("differences.csv", "method,baseline\nx,y\n", r"differences\.csv has no column role"),
        ("config.yaml", "{", r"config\.yaml is damaged"),
        ("config.yaml", "samples: 3\n", r"config\.yaml is no configuration of a run"),
        ("evaluation.json", "[]", r"evaluation\.json is damaged"),
        ("evaluation.json", "{}", r"evaluation\.json is damaged"),
        ("evaluation.json", '{"value": {"joint": {"note": "", "dominant": [1]}}}', r"evaluation\.json is damaged"),
        ("tuning.csv", "method\nx\n", r"tuning\.csv is damaged"),
    ],
)
def test_what_is_damaged_is_one_sentence(name, content, message, tmp_path):
    folder = written(tmp_path, made(BOTH), differing(("sum", "joint", "", "better", 12)))
    (folder / "evaluation.json").write_text('{"value": {"joint": {"note": "", "dominant": {}}, "notes": []}}')
    read_tables(folder)
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=message) as error:
        read_tables(folder)
    assert "\n" not in str(error.value)


def test_tables_of_older_versions_are_printed_without_their_differences(tmp_path):
    today, differences = made(BOTH), differing(("sum", "joint", "", "better", 12))
    shared = today[today.condition.isna()]  # then a metric had its condition in its name
    written(tmp_path, shared.drop(columns=["condition", "role"]), differences.drop(columns=["verdict", "needed"]))
    said = read_tables(tmp_path)
    assert "| sum | 3.00 [2.90, 3.10] |" in said.markdown and "Paired differences" not in said.markdown


def test_a_damaged_table_is_a_sentence(finished_run, tmp_path):
    copy = shutil.copytree(finished_run, tmp_path / "run")
    (copy / "metrics.csv").write_text("")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        write_tables(copy)


def test_columns_line_up():
    lines = plain_table(["name", "n"], [["a", "1"], ["longer", "100"]]).splitlines()
    assert lines == ["name      n", "------  ---", "a         1", "longer  100"]
    assert markdown_table(["a"], [["1"]]) == "| a |\n| --- |\n| 1 |"


def test_the_sheet_shows_conditions_then_methods(finished_run, tmp_path):
    copy = shutil.copytree(finished_run, tmp_path / "run")
    with Image.open(write_sheet(copy, samples=2)) as sheet:
        wide, high = sheet.size
        pixels = np.asarray(sheet.convert("RGB"))
    with Image.open(write_sheet(copy, samples=4)) as taller:
        assert taller.size[0] == wide and taller.size[1] > high
    assert abs(wide - DOUBLE * DOTS) <= 1  # which six methods are on it says test_sheet.py
    assert (pixels < 250).any(-1).mean() > 0.3  # not a blank page
