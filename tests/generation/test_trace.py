"""Traced rules: nothing changes, what is recorded is what was decided, and runs leave it behind."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel

from maxbench.__main__ import main
from maxbench.fusion import Average, MaxFusion, PublishedMaxFusion, Sum
from maxbench.generation.recording import OUTPUT, UNET, UNMERGE, Trace, Traced, drift
from maxbench.generation.trace import steps_between

NAMES = ["hed", "depth"]
FUSING = ["average", "sum", "outputs_only", "maxfusion", "maxfusion_published"]
PICTURES = ["variance_maps.png", "winner_maps.png", "fusion_curves.png"]


def features(seed=0, batch=6, count=2):
    """Of two guidance halves of three samples."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 8, 4, 4, generator=generator) for _ in range(count)]


def a_trace(**changes):
    return Trace(**{"branches": NAMES, "size": 3, "keep": 2, "steps": [0], **changes})


def same(one, two):
    return len(one) == len(two) and all(torch.equal(*pair) for pair in zip(one, two, strict=True))


# --- a traced rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [MaxFusion(0.3), PublishedMaxFusion(0.2), Average(), Sum()], ids=repr)
def test_a_traced_rule_gives_what_its_rule_gives(rule):
    traced, f = Traced(rule, a_trace()), features()
    assert same(traced.unmerge(f), rule.unmerge(f))
    assert torch.equal(traced.merge(f), rule.merge(f))
    assert torch.equal(traced.merge_mid(f), rule.merge_mid(f))
    assert torch.equal(traced.for_images().merge(f[:1]), rule.for_images().merge(f[:1]))
    assert traced.needs_guidance == rule.needs_guidance


def test_the_published_rule_keeps_its_own_middle_and_its_own_way_with_adapters():
    rule, f = PublishedMaxFusion(0.2), features()
    traced = Traced(rule, a_trace())
    assert not torch.equal(traced.merge_mid(f), traced.merge(f))
    adapted = traced.for_images()
    assert traced.needs_guidance and not adapted.needs_guidance
    assert torch.equal(adapted.merge(f), rule.for_images().merge(f))


def test_rows_say_what_the_rule_decided():
    rule, trace, f = MaxFusion(0.3), a_trace(), features()
    traced = Traced(rule, trace)
    traced.unmerge(f)
    traced.merge(f)
    traced.merge_mid(f)
    table = trace.table()
    assert list(zip(table.step, table.kind, table.place, strict=True)) == [
        (0, UNMERGE, 0), (0, OUTPUT, 0), (0, OUTPUT, 1),
    ]  # fmt: skip
    sigma, rho, winner, cluster = rule.decide(f)
    row = trace.rows[0]
    for number, name in enumerate(NAMES):
        assert row[f"wins/{name}"] == pytest.approx((winner == number).float().mean().item())
        assert row[f"saliency/{name}"] == pytest.approx(sigma[number].mean().item())
    assert row["wins/hed"] + row["wins/depth"] == pytest.approx(1)
    assert row["merged"] == pytest.approx(cluster.all(0).float().mean().item())
    of_losers = torch.where(winner == 0, rho[1], rho[0])
    assert row["rho"] == pytest.approx(of_losers.mean().item(), abs=1e-6)
    shares = [value for name, value in row.items() if name.startswith("rho/")]
    assert sum(shares) == pytest.approx(1)
    counted = np.histogram(of_losers.numpy(), bins=len(shares), range=(-1, 1))[0]
    np.testing.assert_allclose(shares, counted / of_losers.numel())
    assert row["size"] == 4 and np.isnan(row["own"])


def test_what_is_merged_is_told_by_sample_over_both_guidance_halves():
    trace, f, rule = a_trace(), features(), MaxFusion(0.3)
    Traced(rule, trace).merge(f)
    merged = rule.decide(f).cluster.all(0).float().mean((1, 2, 3))  # of six, three samples twice
    own = [trace.rows[0][f"merged/{sample}"] for sample in range(3)]
    np.testing.assert_allclose(own, (merged[:3] + merged[3:]) / 2, rtol=1e-6)
    assert len(set(own)) == 3 and np.mean(own) == pytest.approx(trace.rows[0]["merged"])


def test_maps_are_of_steps_that_lie_evenly():
    assert steps_between(4, 10) == [0, 3, 6, 9] and steps_between(20, 3) == [0, 1, 2]
    assert steps_between(0, 10) == []  # numbers alone


def test_a_rule_without_a_decision_is_seen_through_the_paper_s():
    one, two = a_trace(), a_trace()
    Traced(Average(), one).merge(features())
    Traced(MaxFusion(), two).merge(features())
    pd.testing.assert_frame_equal(one.table().drop(columns="rule"), two.table().drop(columns="rule"))
    assert (one.rows[0]["rule"], one.rows[0]["decided_by"]) == ("Average", "MaxFusion")
    assert one.maps.keys() == two.maps.keys()
    assert all(np.array_equal(one.maps[key], two.maps[key]) for key in one.maps)


def test_the_released_rule_is_seen_as_it_decides_itself():
    merged = []
    for delta in (0.2, 0.95):
        trace, rule = a_trace(), PublishedMaxFusion(delta)
        Traced(rule, trace).unmerge(features())
        assert trace.rows[0]["decided_by"] == "PublishedMaxFusion"
        assert trace.rows[0]["merged"] == pytest.approx(rule.decide(features()).cluster.all(0).float().mean().item())
        merged.append(trace.rows[0]["merged"])
    assert merged[0] > merged[1]


def test_a_winner_keeps_its_number_when_another_branch_is_silent():
    trace = Trace(branches=("style", "hed", "depth"), size=3, keep=2, steps={0})
    Traced(MaxFusion(1.0), trace).for_branches(("hed", "depth")).merge(features())
    winner = MaxFusion(1.0).decide(features()).winner[-3:, 0][:2].numpy()
    assert np.array_equal(trace.maps["output/0/0/winner"], winner + 1)
    assert {"wins/hed", "wins/depth"} <= set(trace.rows[0]) and "wins/style" not in trace.rows[0]


def test_branches_that_always_agree_are_merged_everywhere():
    trace, (f, _) = a_trace(), features()
    Traced(MaxFusion(), trace).merge([f, f.clone()])
    assert trace.rows[0]["merged"] == 1 and trace.rows[0]["rho"] == pytest.approx(1) and trace.rows[0]["rho/+0.9"] == 1


def test_maps_are_the_first_prompted_samples_in_few_bytes():
    trace, f = a_trace(), features()
    Traced(MaxFusion(0.3), trace).merge(f)
    sigma, _, winner, cluster = MaxFusion(0.3).decide(f)
    saliency, won, merged = (trace.maps[f"output/0/0/{what}"] for what in ("saliency", "winner", "merged"))
    assert (saliency.dtype, won.dtype, merged.dtype) == (np.float16, np.uint8, np.uint8)
    assert saliency.shape == (2, 2, 4, 4) and won.shape == merged.shape == (2, 4, 4)
    prompted = slice(3, 5)  # of six, the last three are prompted and two of them kept
    np.testing.assert_allclose(saliency, sigma[:, prompted, 0], rtol=1e-3)
    np.testing.assert_array_equal(won, winner[prompted, 0])
    np.testing.assert_array_equal(merged, cluster.all(0)[prompted, 0])
    with np.load(io.BytesIO(trace.packed())) as archive:
        assert set(archive.files) == set(trace.maps)
        np.testing.assert_array_equal(archive["output/0/0/saliency"], saliency)


def test_one_half_alone_is_the_prompted_one():
    trace, f = a_trace(), features(batch=3)
    Traced(MaxFusion(), trace).merge(f)
    np.testing.assert_array_equal(trace.maps["output/0/0/winner"], MaxFusion().decide(f).winner[:2, 0])


def test_a_single_branch_is_merely_looked_at():
    trace, f = a_trace(branches=["hed"]), features(count=1)
    traced = Traced(Sum(), trace)
    assert same(traced.unmerge(f), f) and torch.equal(traced.merge(f), f[0])
    assert not trace.rows and trace.table().empty
    assert set(trace.maps) == {"unmerge/0/0/saliency", "output/0/0/saliency"}
    seen = f[0][3:5].std(dim=1, correction=0)[None]
    np.testing.assert_allclose(trace.maps["output/0/0/saliency"], seen, rtol=1e-3)


def test_regions_say_who_should_have_won():
    left = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    generator = torch.Generator().manual_seed(0)
    one, two = torch.zeros(6, 8, 4, 4), torch.zeros(6, 8, 4, 4)
    one[..., :2], two[..., 2:] = (torch.randn(6, 8, 4, 2, generator=generator) for _ in range(2))
    for regions, share in (([left, ~left], 1.0), ([~left, left], 0.0)):
        trace = a_trace(regions=dict(zip(NAMES, regions, strict=True)))  # of three samples; features have both halves
        Traced(MaxFusion(1.0), trace).merge([one, two])
        assert trace.rows[0]["own"] == share


# --- the steps of a U-Net ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet(small_suite):
    return UNet2DConditionModel.from_pretrained(small_suite / "unet").eval()


def call(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents, text = torch.randn(6, 4, 16, 16, generator=generator), torch.randn(6, 5, 16, generator=generator)
    with torch.inference_mode():
        return unet(latents, 7, text).sample


def hooks(unet):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules())


def test_steps_are_calls_of_the_unet_and_maps_are_of_the_chosen_ones(unet):
    trace = a_trace(steps=[0, 2])
    traced = Traced(MaxFusion(), trace)
    plain = call(unet, 1)
    with trace.over(unet):
        for step in range(3):
            traced.unmerge(features(step))
            traced.merge(features(step))
            traced.merge(features(step + 10))
            assert torch.equal(call(unet, 1), plain)  # nothing is changed by being looked at
    table = trace.table()
    assert list(table.step) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(table.place) == [0, 0, 1] * 3  # places begin anew with every step
    assert {key.split("/")[2] for key in trace.maps} == {"0", "2"}
    blocks = len(unet.down_blocks) + len(unet.up_blocks)
    for step in (0, 2):
        kept = {key for key in trace.maps if key.startswith(f"{UNET}/") and key.split("/")[2] == str(step)}
        assert kept == {f"{UNET}/{place}/{step}/saliency" for place in range(blocks)} | {f"{UNET}/0/{step}/timestep"}
        assert trace.maps[f"{UNET}/0/{step}/timestep"] == 7  # as `call` has it
    assert trace.maps["unet/0/0/saliency"].shape == (1, 2, 8, 8) and trace.maps["unet/3/0/saliency"].shape == (
        1,
        2,
        16,
        16,
    )


def test_what_is_kept_of_a_block_is_the_spread_of_its_output(unet):
    trace, seen = a_trace(), []
    hook = unet.up_blocks[-1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    with trace.over(unet):
        call(unet)
    hook.remove()
    expected = seen[0][3:5].std(dim=1, correction=0)
    np.testing.assert_allclose(trace.maps["unet/3/0/saliency"][0], expected, rtol=1e-3)


def test_nothing_is_left_on_the_unet(unet):
    before, trace = hooks(unet), a_trace()
    with trace.over(unet):
        call(unet)
        assert hooks(unet) > before
    assert hooks(unet) == before
    with pytest.raises(RuntimeError, match="half way"), trace.over(unet):
        raise RuntimeError("half way")
    assert hooks(unet) == before
    call(unet)
    assert trace.step == 1


def test_drift_is_relative_and_of_shared_weights():
    base = torch.nn.ModuleDict({"shared": torch.nn.Linear(3, 3), "own": torch.nn.Linear(2, 2)})
    branch = torch.nn.ModuleDict({"shared": torch.nn.Linear(3, 3), "own": torch.nn.Linear(4, 4)})
    branch["shared"].load_state_dict({name: 1.1 * value for name, value in base["shared"].state_dict().items()})
    assert drift(branch, base) == pytest.approx(0.1, abs=1e-5)
    assert drift(base, base) == 0


# --- a traced run --------------------------------------------------------------------------------------------


def bytes_of(folder, pattern):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def test_a_traced_run_has_the_name_and_the_pictures_of_the_run(finished_run, watched_run):
    assert watched_run.name == finished_run.name
    for room in ("images", "conditions", "vae_reconstruction"):
        assert bytes_of(watched_run / room, "*.png") == bytes_of(finished_run / room, "*.png")
    metrics = [pd.read_csv(run / "metrics.csv").query("metric != 'seconds'") for run in (finished_run, watched_run)]
    pd.testing.assert_frame_equal(*metrics)


def test_a_run_that_does_not_trace_leaves_nothing_of_it(finished_run):
    assert not (finished_run / "diagnostics").exists()
    assert not any((finished_run / name).exists() for name in PICTURES)


def test_a_traced_run_leaves_recordings_drift_and_pictures(watched_run):
    folder = watched_run / "diagnostics"
    for method in ("none", "single/hed", "single/depth", *FUSING):
        with np.load(folder / f"{method}.npz") as archive:
            assert {key.split("/")[2] for key in archive.files} == {"0", "1"}  # both steps of the run
            maps = [key for key in archive.files if not key.endswith("timestep")]
            assert all(archive[key].shape[-3] == 2 for key in maps)  # both samples
            assert archive["unet/0/0/timestep"] > archive["unet/0/1/timestep"] >= 0
        if method in FUSING:
            rows = pd.read_csv(folder / f"{method}.csv")
            assert (rows["wins/hed"] + rows["wins/depth"]).round(5).eq(1).all()
            assert set(rows.kind) == {UNMERGE, OUTPUT} if "maxfusion" in method else set(rows.kind) == {OUTPUT}
    drifts = json.loads((folder / "drift.json").read_text())
    assert set(drifts) == {"hed", "depth"} and all(0 < value < 1 for value in drifts.values())
    assert all((watched_run / name).stat().st_size > 5000 for name in PICTURES)


def recorded(watched_run, tmp_path):
    """A copy of the traced run and of the store beside it."""
    shutil.copytree(watched_run.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / watched_run.name


def traced_again(small_run, copy, capsys):
    """What the run says when it is asked for once more."""
    assert main(["run", *small_run, "diagnostics.samples=2", f"output_dir={copy.parent}"]) == 0
    return capsys.readouterr().err


def made_when(path):
    """Tells a file from one that took its place: a file system may give a freed number to the next file."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_what_is_recorded_is_not_recorded_again_and_what_a_folder_lacks_is_put_back(
    watched_run, small_run, tmp_path, capsys
):
    copy = recorded(watched_run, tmp_path)
    files = {path: made_when(path) for path in (copy / "diagnostics").rglob("*.*")}
    (copy / "diagnostics" / "maxfusion.npz").unlink()
    (copy / "diagnostics" / "sum.csv").write_text("step")
    (copy / "diagnostics" / "drift.json").unlink()
    said = traced_again(small_run, copy, capsys)
    assert "tracing" not in said and "generating" not in said
    assert bytes_of(copy / "diagnostics", "*.*") == bytes_of(watched_run / "diagnostics", "*.*")
    assert {path.name for path, file in files.items() if made_when(path) != file} == {
        "maxfusion.npz",
        "sum.csv",
        "drift.json",
    }


@pytest.mark.parametrize(
    ("kind", "suffix", "harm"), [("trace_maps", ".npz", "damaged"), ("trace_table", ".csv", "lost")]
)
def test_a_recording_that_the_store_has_lost_is_made_again_and_is_the_same(
    watched_run, small_run, tmp_path, capsys, kind, suffix, harm
):
    copy = recorded(watched_run, tmp_path)
    kept = (copy / "diagnostics" / f"maxfusion{suffix}").read_bytes()
    (stored,) = (each for each in (tmp_path / "store" / kind).rglob(f"*{suffix}") if each.read_bytes() == kept)
    if harm == "lost":
        stored.unlink()
    else:
        stored.write_bytes(kept[:-7] + b"damaged")
    said = traced_again(small_run, copy, capsys)
    assert "tracing: 1/1" in said and "generating" not in said
    assert bytes_of(copy / "diagnostics", "*.*") == bytes_of(watched_run / "diagnostics", "*.*")
    assert stored.read_bytes() == kept
