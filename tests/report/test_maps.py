"""What a run has recorded of its rules -> pictures."""

import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from maxbench.report.maps import COLOURS, MERGED, summaries, write_maps

FUSING = ["average", "sum", "outputs_only", "maxfusion", "maxfusion_published"]


@pytest.fixture
def recorded(watched_run, tmp_path):
    """A copy of a watched run's folder that has recordings of the named methods alone."""

    def keep(*methods):
        copy = shutil.copytree(watched_run, tmp_path / "run", ignore=shutil.ignore_patterns("features", "*_maps.png"))
        for recording in (copy / "diagnostics").rglob("*.*"):
            if str(recording.relative_to(copy / "diagnostics").with_suffix("")) not in methods:
                recording.unlink()
        (copy / "fusion_curves.png").unlink()
        return copy

    return keep


def share_of(colour, path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return (np.abs(pixels - np.round(255 * np.array(to_rgb(colour)))).max(-1) <= 1).mean()


def test_a_run_without_recordings_has_nothing_to_draw(finished_run):
    assert write_maps(finished_run) == [] and summaries(finished_run) == {}


def test_summaries_are_of_the_methods_that_had_something_to_decide(watched_run):
    found = summaries(watched_run)
    assert list(found) == FUSING  # not of none and the singles; in the order of the run
    for table in found.values():
        assert {"step", "kind", "place", "merged", "rho", "wins/hed", "wins/depth"} <= set(table)


def test_a_rule_s_recording_is_drawn_as_winners_and_curves(recorded):
    folder = recorded("outputs_only")
    assert [path.name for path in write_maps(folder)] == ["winner_maps.png", "fusion_curves.png"]
    assert not (folder / "variance_maps.png").exists()


@pytest.mark.parametrize(("winner", "merged"), [(0, 0), (1, 0), (1, 1)])
def test_a_winner_s_area_has_its_colour_and_what_is_merged_has_none(recorded, winner, merged):
    folder = recorded("outputs_only")
    file = folder / "diagnostics" / "outputs_only.npz"
    with np.load(file) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for key in arrays:
        if key.endswith(("winner", "merged")):
            arrays[key][:] = winner if key.endswith("winner") else merged
    np.savez(file, **arrays)
    for drawn in ("conditions", "images"):  # pictures have all colours
        shutil.rmtree(folder / drawn)
    write_maps(folder)
    colour, other, third = MERGED if merged else COLOURS[winner], COLOURS[1 - winner], COLOURS[2]
    most, least, unused = (share_of(each, folder / "winner_maps.png") for each in (colour, other, third))
    assert most > 0.2 and least < 0.01 and unused == 0  # the legend names the other branch, and there is no third


def test_controls_alone_are_drawn_as_saliency(recorded):
    folder = recorded("none", "single/hed", "single/depth")
    assert [path.name for path in write_maps(folder)] == ["variance_maps.png"]
    with Image.open(folder / "variance_maps.png") as image:
        three = image.size
    (folder / "diagnostics" / "none.npz").unlink()
    write_maps(folder)
    with Image.open(folder / "variance_maps.png") as image:
        assert image.size[1] < three[1]  # a row for each control and step


def test_what_is_recorded_anew_is_what_is_drawn(recorded):
    folder = recorded("outputs_only")
    write_maps(folder)
    before = (folder / "fusion_curves.png").read_bytes()
    place = folder / "diagnostics" / "outputs_only.csv"  # other settings leave their recording at the same place
    pd.read_csv(place).assign(merged=0.25).to_csv(place, index=False)
    assert summaries(folder)["outputs_only"].merged.eq(0.25).all()
    write_maps(folder)
    assert (folder / "fusion_curves.png").read_bytes() != before


def test_what_no_method_of_the_run_recorded_is_not_drawn(recorded):
    folder = recorded("outputs_only")
    for suffix in (".csv", ".npz"):  # of a method that the run has no longer
        shutil.copy(folder / "diagnostics" / f"outputs_only{suffix}", folder / "diagnostics" / f"left_over{suffix}")
    assert list(summaries(folder)) == ["outputs_only"]
