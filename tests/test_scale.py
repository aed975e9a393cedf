"""What true shapes weigh and cost by the scripts that count and measure, and what docs/scale.md says of it."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import count_cost
import measure_gpu
from count_cost import Settings, Squares, ask
from maxbench.__main__ import main
from maxbench.bench.shapes import SD15, TINY, counting, flops_of, network
from maxbench.data.pairing import ObjectOnScene

ROOT = Path(__file__).parents[1]
PUBLISHED = {  # part -> bytes of the file that the Hub has, bytes of a number in it
    "unet": (1_719_125_304, 2),
    "vae": (167_335_342, 2),
    "text_encoder": (246_144_864, 2),
    "controlnet": (1_445_157_124, 4),
}


@pytest.mark.parametrize("part", PUBLISHED)
def test_true_shapes_hold_as_many_numbers_as_the_published_files(part):
    size, width = PUBLISHED[part]
    count = sum(parameter.numel() for parameter in network(SD15, part, device="meta").parameters())
    assert 0 <= size - width * count < 100_000  # the list of names


def test_random_weights_are_the_same_again_and_none_is_silent():
    one, again, other = (network(TINY, "controlnet", seed).state_dict() for seed in (0, 0, 1))
    half = network(TINY, "controlnet", 0, dtype=torch.bfloat16).state_dict()
    for name, weight in one.items():
        assert torch.equal(weight, again[name]) and torch.equal(weight.bfloat16(), half[name])
        assert weight.any() or "norm" in name, name  # of a norm the bias alone is 0
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])


def test_flops_are_counted_as_by_hand():
    conv = nn.Conv2d(3, 8, 3, padding=1, device="meta")
    assert counting(lambda: conv(torch.empty(2, 3, 10, 10, device="meta"))) == 2 * 9 * 3 * 8 * 200
    tokens, width, inner, layers = 77, 768, 3072, 12
    linear = tokens * (4 * width**2 + 2 * width * inner)
    attention = 2 * tokens**2 * width
    flops = flops_of(SD15)
    assert flops["text_encoder"] == 2 * layers * (linear + attention)
    side, channels = 64, (320, 640, 1280, 1280)  # a ControlNet's own are a U-Net's first half: its self-attention
    looked = sum(2 * (2 * (side >> level) ** 4 * channels[level]) for level in range(3)) + 2 * 8**4 * 1280
    assert 2 * looked < flops["controlnet"] < flops["unet"] / 2


# --- counting -----------------------------------------------------------------------------------------------


SMALL = Settings(samples=4, pictures=20, reference=4, steps=50, guidance=7.5, control_scale=1.0)


def test_what_is_counted_is_what_runs_make(small_suite, data_dir, tmp_path):
    """Two experiments that share a store, the second with a tuned method, against the files that lie there then."""
    left = ("single_tuned", "average", "scheduled_sum", "random_blobs", "outputs_only", "gated_sum", "maxfusion",
            "maxfusion_tuned", "maxfusion_published")  # fmt: skip
    plain = [*(f"~methods.{name}" for name in left), "calibration.samples=2", "suite.control_scale=1.0"]
    runs = {
        "hed_depth": [*plain, "~methods.tuned_sum"],
        "seg_depth": [
            *plain, "methods.tuned_sum.tune={scale:[0.5,0.25,0.125]}", "~methods.tuned_sum.then",
        ],
    }  # fmt: skip
    settings = Settings(samples=3, pictures=24, reference=4, steps=2, guidance=3.0, control_scale=1.0)
    work = count_cost.Work()
    for experiment, own in runs.items():
        made = [
            "run", f"experiment={experiment}", *own, f"suite.root={small_suite}", f"data_dir={data_dir}",
            "data.count=24", "pairing.reference=4", "calibration.data.count=12", "samples=3", "sampler.steps=2",
            "metrics.resamples=100", "runtime.batch_size=8", "runtime.device=cpu", f"output_dir={tmp_path}",
        ]  # fmt: skip
        assert main(made) == 0
        asked = ask(experiment, settings, own)
        work.add(asked.all())
        assert asked.rows == len(asked.methods) == (5 if "tuned_sum" in asked.methods else 4)
        for kind, counted in (("image", work.pictures), ("source", work.sources), ("map", work.maps)):
            assert len(list((tmp_path / "store" / kind).rglob("*.png"))) == len(counted), (experiment, kind)
    known = {(unet, control) for _, unet, control in work.pictures.values()}
    assert known == {(4, 0), (4, 4), (4, 8)}  # two steps, both halves, of no control, one and two


def test_a_branch_counts_in_the_steps_in_which_it_acts():
    asked = ask("hed_depth", SMALL)
    scheduled = {control for _, _, control in asked.methods["scheduled_sum"].pictures.values()}
    shares = (1.0, 0.6)
    assert scheduled >= {round(100 * (one + other)) for one in shares for other in shares}
    assert {control for _, _, control in asked.methods["maxfusion"].pictures.values()} == {200}


def test_pairs_of_two_pictures_need_two_and_get_as_many_samples_as_there_are():
    assert [ask(name, SMALL).samples for name in ("hed_depth", "contradictory_hed_depth")] == [4, 4]
    fewer = Settings(samples=10, pictures=20, reference=4, steps=50, guidance=7.5, control_scale=1.0)
    assert [ask(name, fewer).samples for name in ("hed_depth", "contradictory_hed_depth")] == [10, 8]
    plan = ObjectOnScene(4).plan(Squares("val", 20, "square"), ["hed", "depth"], 8, 0)
    assert len({image for sample in plan.samples for image in sample.sources.values()}) == 16


def test_cards_take_as_long_as_the_longest_of_what_is_not_cut():
    assert count_cost.makespan([5, 3, 3, 1], 1) == 12
    assert count_cost.makespan([5, 3, 3, 1], 2) == 6
    assert count_cost.makespan([5, 3, 3, 1], 8) == 5
    assert count_cost.hours(3.6e15, 1, [0.5]) == "2.0" and count_cost.hours(7.2e16, 1, [0.2, 0.5]) == "40 to 100"


def numbers(table_row: str) -> list[str]:
    return [cell.strip() for cell in table_row.strip("|").split("|")]


def test_the_kept_counts_are_those_of_this_code():
    """The counts grow in proportion to the samples, but for tuning: two small ones tell the large one."""
    kept = (ROOT / "results" / "scale" / "cost.md").read_text()
    rows = {cells[0].strip("`"): cells for line in kept.splitlines() if len(cells := numbers(line)) > 4}
    for name in ("contradictory_hed_depth", "three_conditions"):
        few, more = (len(ask(name, Settings(count, 40, 4, 50, 7.5, 1.0)).all().pictures) for count in (4, 8))
        at = {count: few + (more - few) * (count - 4) // 4 for count in (int(rows[name][1].replace(",", "")),)}
        assert [f"{each:,}" for each in at.values()] == [rows[name][3]], f"{name}: run scripts/count_cost.py again"
    for part, count in flops_of(SD15).items():
        assert f"| `{part}` |" in kept and f"| {count / 1e12:.3f} |" in kept


def test_the_page_quotes_what_the_scripts_wrote():
    page = (ROOT / "docs" / "scale.md").read_text()
    kept = "".join(path.read_text() for path in sorted((ROOT / "results" / "scale").glob("*.md")))
    quoted = [line for line in page.splitlines() if line.startswith("|")]
    assert len(quoted) > 30
    for line in quoted:
        assert line in kept.splitlines(), f"copy this line anew from results/scale/: {line}"
    phrases = re.findall(r"[\d.,]*\d(?: to [\d.,]+)? (?:GB|hours)\b", page)
    assert len(phrases) > 1
    for phrase in phrases:
        assert phrase in kept, f"'{phrase}' is in no file of results/scale/"


# --- measuring ----------------------------------------------------------------------------------------------


def measure(monkeypatch, output, *arguments):
    small = ["--tiny", "--device", "cpu", "--no-tests", "--batches", 1, "--precisions", "float32", "bfloat16"]
    methods = ["--methods", "none", "maxfusion"]
    every = ["measure_gpu.py", *small, *methods, "--output", output, *arguments]
    monkeypatch.setattr(sys, "argv", list(map(str, every)))
    return measure_gpu.main()


def test_a_card_is_asked_once_and_in_parts(tmp_path, monkeypatch, capsys):
    assert measure(monkeypatch, tmp_path, "--steps", 2, "--minutes", 0) == 0
    assert "12 of 12 cells had no time" in capsys.readouterr().out
    assert measure(monkeypatch, tmp_path, "--steps", 2, "--minutes", 10) == 0
    assert "had no time" not in capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    first = json.loads((folder / "measured.json").read_text())
    answers = first["answers"]
    assert len(answers) == 12 and not any("error" in each for each in answers.values())
    assert answers["controlnet/maxfusion/float32/0"]["deviation"] == 0
    assert 0 < answers["controlnet/maxfusion/bfloat16/0"]["deviation"] < 1
    timed = answers["adapter/maxfusion/float32/1"]
    assert timed["seconds"] > 0 and timed["defective"] == 0 and timed["peak_memory"] is None
    assert measure(monkeypatch, tmp_path, "--steps", 2) == 0  # nothing is asked twice
    assert json.loads((folder / "measured.json").read_text()) == first
    table = (folder / "table.md").read_text()
    assert "| controlnet | none | 1 |" in table and "| adapter | maxfusion | 1 |" in table
    assert measure(monkeypatch, tmp_path, "--steps", 3) == 2
    assert "give another --output" in capsys.readouterr().err


def test_the_important_questions_come_first_and_networks_are_made_once_for_them():
    asked = measure_gpu.cells([1, 8, 16], list(measure_gpu.PRECISIONS))
    assert len({cell.key for cell in asked}) == len(asked) == 5 * (6 + 5) * 4
    assert all(cell.batch == 0 for cell in asked[:55]) and all(cell.batch == 8 for cell in asked[55:75])
    made = [(cell.family, cell.precision) for cell in asked[75:]]
    assert sum(one != other for one, other in pairwise(made)) + 1 == len(set(made)) == 10


def test_without_a_card_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure(monkeypatch, tmp_path, "--device", "cuda") == 2
    assert "no CUDA device is visible" in capsys.readouterr().err
