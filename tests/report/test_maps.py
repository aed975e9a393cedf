"""What a run has recorded of its rules -> pictures."""

import json
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
        for record in (copy / "records" / "diagnostics").rglob("*.json"):
            if str(record.parent.relative_to(copy / "records" / "diagnostics")) not in methods:
                record.unlink()
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
    (file,) = (folder / "diagnostics").glob("outputs_only-*.npz")
    with np.load(file) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for key in arrays:
        if key.endswith(("winner", "merged")):
            arrays[key][:] = winner if key.endswith("winner") else merged
    np.savez(file, **arrays)
    write_maps(folder)
    colour, other, third = MERGED if merged else COLOURS[winner], COLOURS[1 - winner], COLOURS[2]
    most, least, unused = (share_of(each, folder / "winner_maps.png") for each in (colour, other, third))
    assert most > 0.2 and least < 0.01 and unused == 0  # the legend names the other branch, and there is no third


def test_controls_alone_are_drawn_as_saliency(recorded):
    folder = recorded("none", "single/hed", "single/depth")
    assert [path.name for path in write_maps(folder)] == ["variance_maps.png"]
    with Image.open(folder / "variance_maps.png") as image:
        three = image.size
    (folder / "records" / "diagnostics" / "none" / "00000.json").unlink()
    write_maps(folder)
    with Image.open(folder / "variance_maps.png") as image:
        assert image.size[1] < three[1]  # a row for each control and step


def test_the_latest_recording_is_drawn(recorded):
    folder = recorded("outputs_only")
    (record,) = (folder / "records" / "diagnostics").rglob("*.json")
    rows = json.loads(record.read_text())
    for row in rows:  # as a recording with other settings leaves it: beside the old one, the record its own
        other = row["file"].replace("-2-", "-1-")
        shutil.copy(folder / row["file"], folder / other)
        row["file"] = other
    table = pd.read_csv(folder / rows[0]["file"]).assign(merged=0.25)
    table.to_csv(folder / rows[0]["file"], index=False)
    record.write_text(json.dumps(rows))
    assert summaries(folder)["outputs_only"].merged.eq(0.25).all()
