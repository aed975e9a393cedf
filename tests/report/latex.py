"""A strict reader of the little LaTeX that tables use: what it reads compiles with booktabs."""

from __future__ import annotations

import re

COMMANDS = {
    "toprule", "midrule", "bottomrule", "begin", "end", "textbf", "underline", "caption", "label", "centering",
    "textbackslash", "textasciitilde", "textasciicircum", "uparrow", "downarrow", "approx", "pm", "times", "geq",
    "Delta", "delta",
}  # fmt: skip


def read(source: str) -> tuple[list[list[str]], list[str]]:
    """The cells of a table and the environments that it opened; AssertionError for what would not compile."""
    depth, mathematics, environments, place = 0, False, [], 0
    body, spec = "", None
    while place < len(source):
        character = source[place]
        if character == "\\":
            if (following := source[place + 1]) in "&%$#_{}\\":
                place += 2
                if following == "\\":
                    assert depth == 0 and not mathematics and spec, "a row ends inside of a group"
                continue
            name = re.match(r"[A-Za-z]+", source[place + 1 :])
            assert name and name[0] in COMMANDS, f"an unknown command at {source[place : place + 20]!r}"
            if name[0] in ("begin", "end"):
                environment = re.match(r"\{(\w+)\}(?:\{(\w+)\})?", source[place + 1 + len(name[0]) :])
                if name[0] == "begin":
                    environments.append(environment[1])
                    if environment[1] == "tabular":
                        spec = environment[2]
                        body = source[place + len("\\begin") + len(environment[0]) : source.index("\\end{tabular}")]
                else:
                    assert environments.pop() == environment[1]
                place += 1 + len(name[0]) + len(environment[0])
                continue
            place += 1 + len(name[0])
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        elif character == "$":
            mathematics = not mathematics
        else:
            assert character not in "%#~^", f"{character} is not escaped"
            assert character not in "_<>|" or mathematics or _in_label(source, place), f"{character} is not escaped"
            if character == "&":
                assert environments[-1:] == ["tabular"] and depth == 0 and not mathematics
        assert depth >= 0
        place += 1
    assert depth == 0 and not mathematics and not environments and spec
    rows = [re.sub(r"\\(toprule|midrule|bottomrule)", "", row).strip() for row in body.split("\\\\\n")]
    cells = [re.split(r"(?<!\\)&", row) for row in rows if row]
    assert all(len(row) == len(spec) for row in cells), "a row has another number of cells than the table"
    return [[cell.strip() for cell in row] for row in cells], environments


def _in_label(source: str, place: int) -> bool:
    return source.rfind("\\label{", 0, place) > source.rfind("}", 0, place)
