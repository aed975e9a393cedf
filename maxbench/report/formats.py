"""Headings and rows of texts -> a table in Markdown, in plain text or in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import pandas as pd

Place = tuple[int, int]
"""A cell: its row and its column."""

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≈": r"$\approx$", "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$",
    "Δ": r"$\Delta$", "δ": r"$\delta$",
}  # fmt: skip
MINUS = re.compile(r"(?<![\w\])}])-(?=\d)")  # of a number, not the dash in a name or between two numbers


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the first to the left, numbers to the right."""
    widths = plain_widths(headings, rows)
    numeric = [all(row[place][:1] in "+-.0123456789" for row in rows) for place in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def plain_widths(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Characters that each column of a plain table takes; two more stand between two columns."""
    return [max(len(line[place]) for line in [headings, *rows]) for place in range(len(headings))]


def latex_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: Collection[Place] = (),
    underlined: Collection[Place] = (),
    caption: str = "",
    label: str = "",
    texts: int = 1,
    rules: Collection[int] = (),
) -> str:
    """A table of booktabs, ready to be included: `\\usepackage{booktabs}` is all that it needs.

    bold, underlined: cells. caption: plain text, escaped here like everything else. texts: how many of the first
    columns are texts, which stand to the left; all others are numbers. rules: rows below which a line is drawn.
    """
    frame = pd.DataFrame([list(row) for row in rows], columns=range(len(headings)), dtype=object)
    looks = pd.DataFrame("", index=frame.index, columns=frame.columns)
    for places, look in ((underlined, "underline:--rwrap;"), (bold, "textbf:--rwrap;")):
        for row, place in places:
            looks.iloc[row, place] = look
    styled = (
        frame.style.format(latex)
        .format_index(lambda place: latex(headings[place]), axis=1)
        .apply(lambda _: looks, axis=None)
        .hide(axis=0)
    )
    source = styled.to_latex(
        hrules=True,
        column_format="l" * texts + "r" * (len(headings) - texts),
        position="t" if caption else None,
        position_float="centering" if caption else None,
        caption=latex(caption) if caption else None,
        label=label or None,
    ).rstrip()
    lines = source.splitlines()
    first = lines.index("\\midrule") + 1  # of the rows, each of which is a line
    for row in sorted(rules, reverse=True):
        lines.insert(first + row + 1, "\\midrule")
    return "\n".join(lines)


def latex(text: object) -> str:
    """A plain text as LaTeX prints it: special characters escaped, arrows and minus signs as mathematics."""
    escaped = MINUS.sub("$-$", "".join(LATEX.get(character, character) for character in str(text)))
    return "{[}" + escaped[1:] if escaped.startswith("[") else escaped  # after the end of a row that is an option of it
