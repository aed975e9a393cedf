"""Notebooks run from top to bottom; what is committed of them is of their sources, small, and loads nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from render_notebooks import NOTEBOOKS, ROOT, digest, execute, read

SOURCES = sorted(NOTEBOOKS.glob("*.py"))
LARGEST = 300_000  # bytes of a page


def done(name: str, folder: Path, monkeypatch, **parameters) -> str:
    """A notebook executed with parameters, and all that it printed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    notebook = read(NOTEBOOKS / f"{name}.py", parameters)
    execute(notebook, folder)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook shows a picture"
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.processes
def test_a_first_look(tmp_path, monkeypatch):
    said = done("first_look", tmp_path, monkeypatch)
    assert "hed_ssim" in said and "maxfusion" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_controls_on_a_picture_of_one_s_own(tmp_path, monkeypatch):
    from PIL import Image

    Image.new("RGB", (90, 70), (200, 60, 30)).save(tmp_path / "mine.png")
    said = done("own_picture", tmp_path, monkeypatch, PICTURE="mine.png", SEEDS=[3])
    assert "depth_rmse" in said


@pytest.mark.slow
def test_variance_maps(tmp_path, monkeypatch):
    assert "wins/depth" in done("variance_maps", tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_threshold_curve(tmp_path, monkeypatch):
    said = done("threshold_curve", tmp_path, monkeypatch, SAMPLES=4, SCENES=48, DELTAS=[-1, 0.7, 1])
    assert "maxfusion/delta=0.7" in said


@pytest.mark.slow
def test_a_rule_of_one_s_own_is_entered(tmp_path, monkeypatch):
    said = done("own_rule", tmp_path, monkeypatch, SAMPLES=4, SCENES=48)
    assert "norm_weighted" in said and "entered" in said


@pytest.mark.slow
def test_reading_results(tmp_path, monkeypatch):
    assert "verdict" in done("reading_results", tmp_path, monkeypatch, SAMPLES=6)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_committed_of_a_notebook(source):
    page = source.with_suffix(".html")
    assert page.is_file(), "render it with `python scripts/render_notebooks.py`"
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    assert digest(source) in text, f"{page.name} is of another source; python scripts/render_notebooks.py {source.stem}"
    assert not re.search(r"<script|<iframe|(src|href)=[\"'](https?:)?//", text), "a page loads nothing"
    assert "Traceback (most recent" not in text and str(Path.home()) not in text and "/tmp/" not in text
    assert re.search(r"Rendered 20\d\d-\d\d-\d\d from commit <code>[0-9a-f]{12}</code>", text)
    assert "image/png;base64," in text


def test_every_notebook_is_listed_and_has_parameters():
    described = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert len(SOURCES) == 6
    for source in SOURCES:
        assert f"../notebooks/{source.name})" in described and f"../notebooks/{source.stem}.html)" in described
        assert sum("parameters" in cell.metadata.get("tags", ()) for cell in read(source).cells) == 1
