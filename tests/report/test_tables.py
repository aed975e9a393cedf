import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxbench.errors import UserError
from maxbench.report.sheet import write_sheet
from maxbench.report.tables import markdown_table, method_table, plain_table, write_tables


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


def test_differences_without_zero_are_bold_and_only_they(finished_run, tmp_path):
    copy = shutil.copytree(finished_run, tmp_path / "run")
    differences = pd.read_csv(copy / "differences.csv")
    differences.loc[:, ["low", "value", "high"]] = [-1.0, 0.0, 1.0]
    differences.loc[0, ["low", "value", "high"]] = [0.5, 1.0, 1.5]
    differences.to_csv(copy / "differences.csv", index=False)
    write_tables(copy)
    assert (copy / "table.md").read_text().count("**") == 2


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
    columns = 2 + 1 + 8  # conditions, the real picture, methods
    assert columns * 144 < wide < (columns + 1) * 160
    assert (pixels < 250).any(-1).mean() > 0.3  # not a blank page
