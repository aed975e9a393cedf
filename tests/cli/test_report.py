"""The verb `report`: what lies in its folder, and what becomes of mistakes, damage and a sudden end."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maxbench.__main__ import main
from maxbench.cli.remeasure import seen_maps
from maxbench.cli.report import differing_rules
from maxbench.report.page.gallery import Gallery
from maxbench.report.page.site import Site
from maxbench.report.runs import Results
from report.made import PROMPTS, build_of, make_run, read_part

FILES = ("metrics.csv", "differences.csv", "samples.parquet", "manifest.json", "config.yaml", "state.npz")
KEPT = Path(__file__).parents[2] / "results"


class Words(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def with_class(self, name):
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def page(output):
    return Words((output / "index.html").read_text())


def write(*runs, output, maps=0):
    return main(["report", *map(str, runs), "--output", str(output), "--maps", str(maps)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with two replicates, masks, entered pictures and difficult prompts."""
    place = tmp_path_factory.mktemp("made")
    return make_run(place / "made-none-0a1b", images=40, replicates=2, entered=("worse",))


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    output = tmp_path_factory.mktemp("written") / "report"
    assert write(made, output=output) == 0
    return output


# --- what is written ----------------------------------------------------------------------------------------------


def test_the_page_answers_first_and_refers_to_nothing_that_is_elsewhere(written):
    own = page(written)
    first = own.text.split("made on none")[1]
    assert "Which way of fusing the controls makes depth and seg hold in one picture?" in own.text
    assert "better has the highest joint score" in first.split("40")[0] or "better has the highest" in own.text
    links = [attributes[key] for _, attributes in own.tags for key in ("src", "href") if key in attributes]
    assert links and not [each for each in links if re.match(r"[a-z]+://|//", each)]
    for each in links:
        if not each.startswith(("#", "data:")):
            assert (written / each).is_file(), each


def test_a_text_of_the_run_is_text_of_the_page(tmp_path):
    name = "a<img src=x onerror=alert(1)>"
    run = make_run(tmp_path / "made", images=12, pictures=False)
    for file in ("metrics.csv", "differences.csv"):
        (run / file).write_text((run / file).read_text().replace("better", name))
    (run / "state.npz").unlink()
    assert write(run, output=tmp_path / "report") == 0
    own = page(tmp_path / "report")
    assert name in own.text and not [tag for tag, _ in own.tags if tag == "img"]
    assert [attributes.get("src") for tag, attributes in own.tags if tag == "script"] == [
        f"{build_of(tmp_path / 'report').name}/page.js"
    ]


def test_the_parts_have_every_sample_once_with_its_own_numbers(made, written):
    data = build_of(written) / "data" / "r0"
    about, samples = read_part(data / "run.js"), read_part(data / "samples.js")
    assert [each[1] for each in samples[:4]] == list(PROMPTS)
    assert "<" not in (data / "samples.js").read_text().split("(")[0]
    parts = [each for place in range(2) for each in read_part(data / f"part-{place}.js")]
    assert len(parts) == len(samples) == 20 and not (data / "part-2.js").exists()
    table = Results(made).samples
    table = table[table.method.isin([row["name"] for row in about["rows"]])]
    rows = [row["name"] for row in about["rows"]]
    assert rows == ["none", "single/depth", "single/seg", "average", "better", "worse"]
    assert about["rows"][-1]["label"] == "worse (entered)"
    for number, metric in enumerate(about["metrics"]):
        own = table[(table.metric == metric["metric"]) & (table.condition.fillna("") == metric["condition"])]
        values = read_part(data / f"values-{number}.js")
        for row, name in enumerate(rows):
            expected = own[own.method == name].sort_values(["sample", "replicate"]).value
            if expected.empty:
                assert set(values[row]) == {None}
                continue
            found = np.array(values[row], float)
            assert np.allclose(found, expected, rtol=1e-4, equal_nan=True)
            there = [parts[place]["values"][number][row] for place in range(20)]
            assert [each for own in there for each in own] == values[row]


def test_every_picture_is_there_also_entered_ones_of_every_replicate(made, written):
    data = build_of(written) / "data" / "r0"
    first = read_part(data / "part-0.js")[3]
    for replicate, pictures in enumerate(first["pictures"]):
        for name, file in zip(["none", "single/depth"], pictures[:2], strict=True):
            assert (written / file).read_bytes() == (made / "images" / name / f"s003-{replicate}.png").read_bytes()
        assert (written / pictures[-1]).read_bytes() == (made / f"entered/worse/s003-{replicate}.png").read_bytes()
    assert [each["of"] for each in first["given"]] == [["depth"], ["depth"], ["seg"], ["seg"]]
    with Image.open(written / first["outline"]) as lines:
        assert lines.mode == "RGBA" and lines.getpixel((0, 0))[3] == 0 and np.asarray(lines)[..., 3].any()
    with Image.open(written / first["strips"][0]) as strip:
        assert strip.width == strip.height * (2 + 6)


def test_a_second_report_draws_nothing_again_and_leaves_one_build(made, written):
    before = {path: path.stat().st_mtime_ns for path in (written / "files").rglob("*.*")}
    build = build_of(written)
    assert write(made, output=written) == 0
    assert {path: path.stat().st_mtime_ns for path in (written / "files").rglob("*.*")} == before
    assert [path.name for path in written.glob("page-*")] == [build_of(written).name] != [build.name]


def test_several_runs_have_sections_and_suites_have_leaderboards_of_their_own(tmp_path, made):
    other = make_run(tmp_path / "other-paint-1", images=12, exchanged=False, seed=3)
    for file in ("metrics.csv", "differences.csv"):
        table = pd.read_csv(other / file, dtype={"condition": str})
        table.assign(suite="paint").to_csv(other / file, index=False)
    twin = shutil.copytree(made, tmp_path / made.name)
    assert write(made, twin, other, output=tmp_path / "report") == 0
    own = page(tmp_path / "report")
    assert [each["data-anchor"] for each in own.with_class("run")] == [made.name, f"{made.name}-2", other.name]
    assert len(own.with_class("board")) == 2
    assert "Rules over all runs on none" in own.text and "Rules over all runs on paint" in own.text
    assert f"Not counted again, because it is the same run as {made.name}: {made.name}-2." in own.text
    for suite, count in (("none", 6), ("paint", 3)):  # three rules are three pairs in each run
        assert f"correction for the {count} comparisons of this page on {suite}" in own.text


def test_runs_that_differ_in_their_seed_alone_count_once(tmp_path):
    seeds = [make_run(tmp_path / f"made-none-{seed}", images=12, seed=seed, pictures=False) for seed in (0, 1)]
    other = make_run(
        tmp_path / "made-none-2", images=12, pictures=False, changes={"sampler": {"steps": 3, "guidance_scale": 1.0}}
    )
    assert write(*seeds, other, output=tmp_path / "report") == 0
    text = " ".join(page(tmp_path / "report").text.split())
    assert "Counted as one run, because they differ in their seed alone: made-none-0 and made-none-1." in text
    assert "image by image; 6 comparisons in 2 runs" in text and "correction for the 12 comparisons" in text
    (seeds[1] / "state.npz").unlink()
    assert write(*seeds, output=tmp_path / "again") == 0
    text = " ".join(page(tmp_path / "again").text.split())
    assert "in all but the seed it is as made-none-0" in text and "image by image; 3 comparisons in 1 run." in text


def test_a_pooled_result_counts_instead_of_its_runs_and_has_no_gallery(tmp_path):
    seeds = [make_run(tmp_path / f"made-none-{seed}", images=12, seed=seed, pictures=False) for seed in (0, 1)]
    pooled = shutil.copytree(seeds[0], tmp_path / "made-none-pooled")
    config = (pooled / "config.yaml").read_text().replace("seed: 0", "seed: [0, 1]")
    (pooled / "config.yaml").write_text(config + "pooled: [made-none-0, made-none-1]\n")
    (pooled / "manifest.json").unlink()
    assert write(pooled, *seeds, output=tmp_path / "report") == 0
    text = page(tmp_path / "report").text
    assert "a pooled result has no pictures of its own" in text
    assert "Not counted here, because a pooled result has them: made-none-0, made-none-1" in text


def test_methods_of_one_name_and_other_settings_are_named():
    configs = {
        run: {"methods": {"better": {"rule": {"delta": delta}}, "sum": {"scale": 2.0}}}
        for run, delta in (("a", 0.5), ("b", 0.7))
    }
    assert differing_rules(configs) == ["better"]
    assert differing_rules({"a": configs["a"], "c": configs["a"], "kept": {}}) == []


@pytest.mark.parametrize("kept", ["contradictory_hed_depth", "gated_family_contradictory_hed_depth"])
def test_kept_results_open_without_a_gallery_and_say_so(tmp_path, kept, capsys):
    assert write(KEPT / kept, output=tmp_path / "report") == 0
    text = page(tmp_path / "report").text
    assert "this result was kept without its pictures" in text
    assert "what was measured image by image was not kept" in text
    assert not list((build_of(tmp_path / "report") / "data" / "r0").glob("part-*"))
    assert f"{kept}: " in capsys.readouterr().out


# --- what is missing or damaged -------------------------------------------------------------------------------------


def test_missing_and_damaged_pictures_are_shown_as_that(tmp_path):
    run = make_run(tmp_path / "made", images=8, exchanged=False)
    (run / "images/average/s002-0.png").unlink()
    (run / "images/better/s002-0.png").write_bytes(b"no picture")
    shutil.rmtree(run / "conditions/depth")
    assert write(run, output=tmp_path / "report") == 0
    data = build_of(tmp_path / "report") / "data/r0"
    rows = [row["name"] for row in read_part(data / "run.js")["rows"]]
    found = read_part(data / "part-0.js")[2]
    pictures = dict(zip(rows, found["pictures"][0], strict=True))
    damaged = dict(zip(rows, found["damaged"][0], strict=True))
    assert pictures["average"] is None and pictures["better"] is None and pictures["none"]
    assert damaged["better"] and not damaged["average"]
    assert [each["file"] is None for each in found["given"]] == [False, True, False]
    assert "1 pictures cannot be decoded" in page(tmp_path / "report").text


def test_maps_that_cannot_be_made_again_are_named_and_the_page_is_written(tmp_path, capsys):
    run = make_run(tmp_path / "made", images=8)
    assert write(run, output=tmp_path / "report", maps=4) == 0
    assert "No maps were re-estimated from the pictures: " in page(tmp_path / "report").text
    assert "note: made: No maps were re-estimated" in capsys.readouterr().err


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_hides_no_other_run(tmp_path, capsys, file):
    good, bad = (make_run(tmp_path / name, images=8, pictures=False) for name in ("good", "bad"))
    (bad / file).write_bytes(b"\xff\xfe\x00 damage")
    assert write(bad, output=tmp_path / "alone") == 2
    said = capsys.readouterr().err
    assert said.startswith("maxbench: ") and file in said and said.count("\n") == 1
    assert not (tmp_path / "alone").exists()
    assert write(good, bad, output=tmp_path / "both") == 2
    assert file in capsys.readouterr().err
    assert [each["data-anchor"] for each in page(tmp_path / "both").with_class("run")] == ["good"]


@pytest.mark.parametrize("name", ["state.npz", "evaluation.json"])
def test_without_what_was_measured_the_baselines_are_compared(tmp_path, name):
    run = make_run(tmp_path / "made", images=8, pictures=False)
    (run / name).unlink()
    assert write(run, output=tmp_path / "report") == 0
    text = page(tmp_path / "report").text
    assert ("what was measured image by image was not kept" in text) is (name == "state.npz")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--maps", "-1"], "--maps is -1"),
        (["nowhere"], "There is no run 'nowhere'"),
        (["--output-dir", "empty"], "There is no finished run in empty/"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "made", images=8, pictures=False)
    assert main(["report", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_folder_that_holds_something_else_is_refused_untouched(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "made", images=8, pictures=False)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.html").write_text("mine")
    for output, said in (("file", "is a file"), ("full", "holds something else"), ("runs", "holds something else"),
                         ("runs/made", "holds something else")):  # fmt: skip
        assert write(run, output=tmp_path / output) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "full" / "index.html").read_text() == "mine" == (tmp_path / "file").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path, capsys):
    run = make_run(tmp_path / "made", images=8, pictures=False)
    (tmp_path / "closed").mkdir(mode=0o500)
    assert write(run, output=tmp_path / "closed" / "report") == 2
    assert "Cannot write to" in capsys.readouterr().err


def test_what_is_stopped_half_way_leaves_the_page_as_it_was(tmp_path):
    run = make_run(tmp_path / "made", images=8, exchanged=False)
    output = tmp_path / "report"
    assert write(run, output=output) == 0
    before = (output / "index.html").read_text()
    killed = Site.open(output)
    killed.data("r0/run", {"half": True})
    assert (output / "index.html").read_text() == before and build_of(output).is_dir()
    old = time.time() - 3600
    assert write(run, output=output) == 0
    assert (output / killed.build).is_dir()  # another process may be writing it
    assert build_of(output).is_dir() and old < time.time()


def test_pictures_that_no_page_shows_any_more_are_removed_when_they_are_old(tmp_path):
    run = make_run(tmp_path / "made", images=8, exchanged=False)
    output = tmp_path / "report"
    assert write(run, output=output) == 0
    site = Site.open(output)
    assert list((output / "files").rglob("*.png"))
    site.pictures.sweep()  # nothing is used, but all of it is young
    assert list((output / "files").rglob("*.png"))


# --- re-estimated maps ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved(finished_run, tmp_path_factory):
    """A copy of a finished run with its store, which a report may change."""
    place = tmp_path_factory.mktemp("moved") / "runs"
    shutil.copytree(finished_run.parent, place)
    return place / finished_run.name


def test_the_maps_are_those_that_the_scores_were_made_of(moved):
    """The error map's mean square is the score of the picture, to the rounding of a map's levels."""
    samples = [each["id"] for each in Results(moved).manifest["samples"]][:2]
    seen = seen_maps(moved, samples, {"average": "images/average", "maxfusion": "images/maxfusion"})
    assert len(seen) == 2 * 2 * 2
    table = Results(moved).samples
    for (*image, condition), files in seen.items():
        with Image.open(files.error) as picture:
            error = np.asarray(picture).astype(float)
        own = table[(table[["method", "sample", "replicate"]] == image).all(axis=1)].set_index("metric").value
        expected = own["depth_rmse"] if condition == "depth" else 255 * own["hed_mse"] ** 0.5
        assert abs(np.sqrt((error**2).mean()) - expected) <= 0.5


def test_a_second_report_makes_no_map_again_and_the_store_keeps_them(moved, tmp_path, capsys):
    from maxbench.store.artefacts import Store
    from maxbench.store.prune import stored

    assert write(moved, output=tmp_path / "report", maps=2) == 0
    kinds = {kind: sorted((moved.parent / "store" / kind).rglob("*.png")) for kind in ("measured_map", "error_map")}
    times = {path: path.stat().st_mtime_ns for paths in kinds.values() for path in paths}
    assert len(kinds["measured_map"]) == len(kinds["error_map"]) >= 2 * 2 * 2
    needed = {each.path: each.needed for each in stored(Store(moved.parent / "store"))}
    assert all(needed[path] for path in times)
    capsys.readouterr()
    assert write(moved, output=tmp_path / "again", maps=2) == 0
    assert "re-estimated maps" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in times} == times
    data = build_of(tmp_path / "again") / "data/r0"
    about, parts = read_part(data / "run.js"), read_part(data / "part-0.js")
    assert "the pictures of 2 of 6 samples, those in which" in about["note"]
    shown = [each for each in parts if each["seen"]]
    assert len(shown) == 2
    for measured, error in (maps for row in shown[0]["seen"][0] for maps in row):
        with Image.open(tmp_path / "again" / measured) as one, Image.open(tmp_path / "again" / error) as other:
            assert one.size == other.size


def test_a_run_of_other_settings_is_shown_without_maps(moved, tmp_path):
    run = tmp_path / "runs" / moved.name
    shutil.copytree(moved, run)
    mark = json.loads((run / "maxbench-run.json").read_text())
    assert mark["value"]["weights"]
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("steps: 2", "steps: 3"))
    assert write(run, output=tmp_path / "report", maps=2) == 0
    assert "was made with other config than there are now" in page(tmp_path / "report").text


def test_the_samples_with_maps_are_those_in_which_two_rows_differ_most(made):
    gallery = Gallery(Results(made))
    rows = [row.name for row in gallery.rows]
    change = gallery.values[0, rows.index("better")].mean(-1) - gallery.values[0, rows.index("average")].mean(-1)
    ranked = [gallery.samples[place]["id"] for place in np.argsort(-change)]
    assert gallery.chosen(3, "better", "average") == [*ranked[:2], ranked[-1]]
    assert len(gallery.chosen(99, "better", "average")) == len(ranked)
    assert gallery.chosen(2, "gone", "average") == [each["id"] for each in gallery.samples[:2]]
