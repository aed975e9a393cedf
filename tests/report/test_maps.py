"""What a run has recorded of its rules -> pictures."""

import shutil

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from maxbench.errors import UserError
from maxbench.report.base import NotThere
from maxbench.report.maps import COLOURS, MERGED, summaries, winner_maps, write_maps
from maxbench.report.pictures import Album, Shown
from maxbench.report.runs import Results

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


@pytest.mark.parametrize(
    ("file", "content"),
    [("outputs_only.npz", b"PK"), ("outputs_only.csv", b'a,b\n1,"'), ("outputs_only.csv", b"a\n1\n")],
)
def test_a_damaged_recording_is_a_sentence_that_names_it(recorded, file, content):
    folder = recorded("outputs_only")
    (folder / "diagnostics" / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file} is damaged"):
        write_maps(folder)


def test_the_named_sample_and_methods_are_drawn(recorded):
    folder = recorded("outputs_only", "maxfusion", "none")
    album = Album(Results(folder))
    first, second, third = (each["id"] for each in album.samples[:3])
    pictures = {}
    for name in (first, second):
        (figure,) = winner_maps(album, Shown(ids=(name,))).values()
        assert any(f"sample {name}" in text.get_text() for text in figure.axes[0].texts)
        pictures[name] = [np.asarray(image.get_array()) for image in figure.axes[0].get_images()]
    assert any(one.shape != two.shape or (one != two).any() for one, two in zip(*pictures.values(), strict=True))
    with pytest.raises(UserError, match=f"No maps were recorded of sample '{third}', but of {first}, {second}"):
        winner_maps(album, Shown(ids=(third,)))
    (alone,) = winner_maps(album, Shown(methods=("maxfusion",))).values()
    both = winner_maps(album, Shown())["winner_maps"]
    assert alone.get_size_inches()[1] < both.get_size_inches()[1]
    with pytest.raises(NotThere, match="no decision of a rule was recorded"):
        winner_maps(album, Shown(methods=("none",)))


def test_what_no_method_of_the_run_recorded_is_not_drawn(recorded):
    folder = recorded("outputs_only")
    for suffix in (".csv", ".npz"):  # of a method that the run has no longer
        shutil.copy(folder / "diagnostics" / f"outputs_only{suffix}", folder / "diagnostics" / f"left_over{suffix}")
    assert list(summaries(folder)) == ["outputs_only"]
