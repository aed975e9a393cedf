"""The blocks of docs/python.md run as they stand, one after the other; its table has every argument."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import maxbench

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "maxfusion.png").is_file()
    said = capsys.readouterr().out
    assert "hed_ssim" in said and "wins/depth" in said
    assert names["scores"].protocol.str.contains("inside its evaluation mask").all()
    first = [line for line in blocks[0].splitlines() if line]
    assert len(first) <= 10, "they are ten lines"


def test_every_argument_is_in_the_table():
    arguments = set(inspect.signature(maxbench.MultiControlPipeline.__call__).parameters) - {"self"}
    section = PAGE[PAGE.index("## Call") : PAGE.index("## Maps")]
    described = set(
        re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in section.splitlines() if "|" in line))
    )
    assert arguments - described == set(), "docs/python.md lacks them"
    loading = set(inspect.signature(maxbench.load).parameters)
    assert loading - set(re.findall(r"(\w+)=?`?", PAGE[: PAGE.index("## Call")])) <= {"model"}
