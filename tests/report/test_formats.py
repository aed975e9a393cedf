"""Tables in LaTeX, read by a strict reader of the little LaTeX that they use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxbench.report.formats import latex, latex_table
from report.latex import read

NASTY = [["a_b & 50%", "0.81 [-0.02, 0.84]"], ["#1 {x} ~ ^ \\ $", "-3 ±0.1"], ["[0, 1]", "-"]]


def test_everything_is_escaped_and_best_cells_are_set_off():
    source = latex_table(["method_x", "joint ↑ ≈"], NASTY, {(0, 1)}, {(1, 1)}, "50% of a_b & c # d", "tab:a_b")
    cells, _ = read(source)
    assert cells[0] == [r"method\_x", r"joint $\uparrow$ $\approx$"]
    assert cells[1] == [r"a\_b \& 50\%", r"\textbf{0.81 [$-$0.02, 0.84]}"]
    assert cells[2][1] == r"\underline{$-$3 $\pm$0.1}" and cells[3] == ["{[}0, 1]", "-"]
    assert r"\caption{50\% of a\_b \& c \# d}" in source and r"\label{tab:a_b}" in source
    for rule in ("toprule", "midrule", "bottomrule"):
        assert source.count(f"\\{rule}") == 1
    assert source.startswith("\\begin{table}[t]") and r"\begin{tabular}{lr}" in source


def test_a_line_is_drawn_below_the_rows_that_are_named():
    lines = latex_table(["a"], [["1"], ["2"], ["3"]], rules={0, 1}).splitlines()
    assert [line for line in lines if not line.startswith("\\begin") and "tabular" not in line] == [
        "\\toprule", "a \\\\", "\\midrule", "1 \\\\", "\\midrule", "2 \\\\", "\\midrule", "3 \\\\", "\\bottomrule"
    ]  # fmt: skip


def test_without_a_caption_it_is_the_tabular_alone():
    assert latex_table(["a"], [["1"]]).startswith("\\begin{tabular}{l}")


@given(st.lists(st.tuples(st.text(max_size=12), st.text("&%$#_{}~^\\<>|-↑[]0", max_size=12)), min_size=1, max_size=4))
def test_no_text_breaks_a_table(texts):
    texts = [tuple(" ".join("".join(c for c in each if c.isprintable()).split()) for each in row) for row in texts]
    cells, _ = read(latex_table(["method", "n"], texts, {(0, 0)}, (), "caption"))
    assert len(cells) == len(texts) + 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("-0.5", "$-$0.5"), ("[-0.5, -1]", "{[}$-$0.5, $-$1]"), ("2-3", "2-3"), ("hed-depth", "hed-depth"), ("-", "-")],
)
def test_a_minus_sign_is_one_only_before_a_number(text, wanted):
    assert latex(text) == wanted
