"""Rules under watch: nothing changes, what is written down is what was decided, and runs leave it behind."""

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
from maxbench.generation.recording import OUTPUT, UNET, UNMERGE, Watch, Watched, drift

NAMES = ["hed", "depth"]
FUSING = ["average", "sum", "outputs_only", "maxfusion", "maxfusion_published"]
PICTURES = ["variance_maps.png", "winner_maps.png", "fusion_curves.png"]


def features(seed=0, batch=6, count=2):
    """Of two guidance halves of three samples."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 8, 4, 4, generator=generator) for _ in range(count)]


def watch(**changes):
    return Watch(**{"branches": NAMES, "size": 3, "keep": 2, "steps": [0], **changes})


def same(one, two):
    return len(one) == len(two) and all(torch.equal(*pair) for pair in zip(one, two, strict=True))


# --- a rule under watch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [MaxFusion(0.3), PublishedMaxFusion(0.2), Average(), Sum()], ids=repr)
def test_a_watched_rule_gives_what_its_rule_gives(rule):
    watched, f = Watched(rule, watch()), features()
    assert same(watched.unmerge(f), rule.unmerge(f))
    assert torch.equal(watched.merge(f), rule.merge(f))
    assert torch.equal(watched.merge_mid(f), getattr(rule, "merge_mid", rule.merge)(f))
    assert torch.equal(watched.for_images.merge(f[:1]), getattr(rule, "for_images", rule).merge(f[:1]))
    assert watched.guided == getattr(rule, "guided", False)


def test_the_published_rule_keeps_its_own_middle_and_its_own_way_with_adapters():
    rule, f = PublishedMaxFusion(0.2), features()
    watched = Watched(rule, watch())
    assert not torch.equal(watched.merge_mid(f), watched.merge(f))
    assert not watched.for_images.guided and torch.equal(watched.for_images.merge(f), rule.for_images.merge(f))


def test_rows_say_what_the_rule_decided():
    rule, w, f = MaxFusion(0.3), watch(), features()
    watched = Watched(rule, w)
    watched.unmerge(f)
    watched.merge(f)
    watched.merge_mid(f)
    table = w.table()
    assert list(zip(table.step, table.kind, table.place, strict=True)) == [
        (0, UNMERGE, 0), (0, OUTPUT, 0), (0, OUTPUT, 1),
    ]  # fmt: skip
    sigma, rho, winner, cluster = rule.decide(f)
    row = w.rows[0]
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


def test_a_rule_without_a_decision_is_seen_through_the_paper_s():
    one, two = watch(), watch()
    Watched(Average(), one).merge(features())
    Watched(MaxFusion(), two).merge(features())
    pd.testing.assert_frame_equal(one.table().drop(columns="rule"), two.table().drop(columns="rule"))
    assert (one.rows[0]["rule"], one.rows[0]["clip"]) == ("Average", "MaxFusion")
    assert one.maps.keys() == two.maps.keys()
    assert all(np.array_equal(one.maps[key], two.maps[key]) for key in one.maps)


def test_the_released_rule_is_seen_as_it_decides_itself():
    merged = []
    for delta in (0.2, 0.95):
        w, rule = watch(), PublishedMaxFusion(delta)
        Watched(rule, w).unmerge(features())
        assert w.rows[0]["clip"] == "PublishedMaxFusion"
        assert w.rows[0]["merged"] == pytest.approx(rule.decide(features()).cluster.all(0).float().mean().item())
        merged.append(w.rows[0]["merged"])
    assert merged[0] > merged[1]


def test_a_winner_keeps_its_number_when_another_branch_is_silent():
    w = Watch(branches=("style", "hed", "depth"), size=3, keep=2, steps={0})
    Watched(MaxFusion(1.0), w).among(("hed", "depth")).merge(features())
    winner = MaxFusion(1.0).decide(features()).winner[-3:, 0][:2].numpy()
    assert np.array_equal(w.maps["output/0/0/winner"], winner + 1)
    assert {"wins/hed", "wins/depth"} <= set(w.rows[0]) and "wins/style" not in w.rows[0]


def test_branches_that_always_agree_are_merged_everywhere():
    w, (f, _) = watch(), features()
    Watched(MaxFusion(), w).merge([f, f.clone()])
    assert w.rows[0]["merged"] == 1 and w.rows[0]["rho"] == pytest.approx(1) and w.rows[0]["rho/+0.9"] == 1


def test_maps_are_the_first_prompted_samples_in_few_bytes():
    w, f = watch(), features()
    Watched(MaxFusion(0.3), w).merge(f)
    sigma, _, winner, cluster = MaxFusion(0.3).decide(f)
    saliency, won, merged = (w.maps[f"output/0/0/{what}"] for what in ("saliency", "winner", "merged"))
    assert (saliency.dtype, won.dtype, merged.dtype) == (np.float16, np.uint8, np.uint8)
    assert saliency.shape == (2, 2, 4, 4) and won.shape == merged.shape == (2, 4, 4)
    prompted = slice(3, 5)  # of six, the last three are prompted and two of them kept
    np.testing.assert_allclose(saliency, sigma[:, prompted, 0], rtol=1e-3)
    np.testing.assert_array_equal(won, winner[prompted, 0])
    np.testing.assert_array_equal(merged, cluster.all(0)[prompted, 0])
    with np.load(io.BytesIO(w.packed())) as archive:
        assert set(archive.files) == set(w.maps)
        np.testing.assert_array_equal(archive["output/0/0/saliency"], saliency)


def test_one_half_alone_is_the_prompted_one():
    w, f = watch(), features(batch=3)
    Watched(MaxFusion(), w).merge(f)
    np.testing.assert_array_equal(w.maps["output/0/0/winner"], MaxFusion().decide(f).winner[:2, 0])


def test_a_single_branch_is_merely_looked_at():
    w, f = watch(branches=["hed"]), features(count=1)
    watched = Watched(Sum(), w)
    assert same(watched.unmerge(f), f) and torch.equal(watched.merge(f), f[0])
    assert not w.rows and w.table().empty
    assert set(w.maps) == {"unmerge/0/0/saliency", "output/0/0/saliency"}
    seen = f[0][3:5].std(dim=1, correction=0)[None]
    np.testing.assert_allclose(w.maps["output/0/0/saliency"], seen, rtol=1e-3)


def test_regions_say_who_should_have_won():
    left = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    generator = torch.Generator().manual_seed(0)
    one, two = torch.zeros(6, 8, 4, 4), torch.zeros(6, 8, 4, 4)
    one[..., :2], two[..., 2:] = (torch.randn(6, 8, 4, 2, generator=generator) for _ in range(2))
    for regions, share in (([left, ~left], 1.0), ([~left, left], 0.0)):
        w = watch(
            regions=dict(zip(watch().branches, regions, strict=True))
        )  # of three samples; features have both halves
        Watched(MaxFusion(1.0), w).merge([one, two])
        assert w.rows[0]["own"] == share


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
    w = watch(steps=[0, 2])
    watched = Watched(MaxFusion(), w)
    plain = call(unet, 1)
    with w.over(unet):
        for step in range(3):
            watched.unmerge(features(step))
            watched.merge(features(step))
            watched.merge(features(step + 10))
            assert torch.equal(call(unet, 1), plain)  # nothing is changed by being looked at
    table = w.table()
    assert list(table.step) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(table.place) == [0, 0, 1] * 3  # places begin anew with every step
    assert {key.split("/")[2] for key in w.maps} == {"0", "2"}
    blocks = len(unet.down_blocks) + len(unet.up_blocks)
    for step in (0, 2):
        kept = {key for key in w.maps if key.startswith(f"{UNET}/") and key.split("/")[2] == str(step)}
        assert kept == {f"{UNET}/{place}/{step}/saliency" for place in range(blocks)}
    assert w.maps["unet/0/0/saliency"].shape == (1, 2, 8, 8) and w.maps["unet/3/0/saliency"].shape == (1, 2, 16, 16)


def test_what_is_kept_of_a_block_is_the_spread_of_its_output(unet):
    w, seen = watch(), []
    hook = unet.up_blocks[-1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    with w.over(unet):
        call(unet)
    hook.remove()
    expected = seen[0][3:5].std(dim=1, correction=0)
    np.testing.assert_allclose(w.maps["unet/3/0/saliency"][0], expected, rtol=1e-3)


def test_nothing_is_left_on_the_unet(unet):
    before, w = hooks(unet), watch()
    with w.over(unet):
        call(unet)
        assert hooks(unet) > before
    assert hooks(unet) == before
    with pytest.raises(RuntimeError, match="half way"), w.over(unet):
        raise RuntimeError("half way")
    assert hooks(unet) == before
    call(unet)
    assert w.step == 1


def test_drift_is_relative_and_of_shared_weights():
    base = torch.nn.ModuleDict({"shared": torch.nn.Linear(3, 3), "own": torch.nn.Linear(2, 2)})
    branch = torch.nn.ModuleDict({"shared": torch.nn.Linear(3, 3), "own": torch.nn.Linear(4, 4)})
    branch["shared"].load_state_dict({name: 1.1 * value for name, value in base["shared"].state_dict().items()})
    assert drift(branch, base) == pytest.approx(0.1, abs=1e-5)
    assert drift(base, base) == 0


# --- a run under watch ---------------------------------------------------------------------------------------


def bytes_of(folder, pattern):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def test_a_watched_run_has_the_name_and_the_pictures_of_the_run(finished_run, watched_run):
    assert watched_run.name == finished_run.name
    for room in ("images", "conditions", "vae_reconstruction"):
        assert bytes_of(watched_run / room, "*.png") == bytes_of(finished_run / room, "*.png")
    metrics = [pd.read_csv(run / "metrics.csv").query("metric != 'seconds'") for run in (finished_run, watched_run)]
    pd.testing.assert_frame_equal(*metrics)


def test_a_run_that_does_not_watch_leaves_nothing_of_it(finished_run):
    assert not (finished_run / "diagnostics").exists() and not (finished_run / "records" / "diagnostics").exists()
    assert not any((finished_run / name).exists() for name in PICTURES)


def test_a_watched_run_leaves_recordings_drift_and_pictures(watched_run):
    folder = watched_run / "diagnostics"
    for method in ("none", "single/hed", "single/depth", *FUSING):
        (maps,), (table,) = folder.glob(f"{method}-*.npz"), folder.glob(f"{method}-*.csv")
        with np.load(maps) as archive:
            assert {key.split("/")[2] for key in archive.files} == {"0", "1"}  # both steps of the run
            assert all(archive[key].shape[-3] == 2 for key in archive.files)  # both samples
        if method in FUSING:
            rows = pd.read_csv(table)
            assert (rows["wins/hed"] + rows["wins/depth"]).round(5).eq(1).all()
            assert set(rows.kind) == {UNMERGE, OUTPUT} if "maxfusion" in method else set(rows.kind) == {OUTPUT}
    drifts = json.loads((folder / "drift.json").read_text())
    assert set(drifts) == {"hed", "depth"} and all(0 < value < 1 for value in drifts.values())
    assert all((watched_run / name).stat().st_size > 5000 for name in PICTURES)


def test_what_is_recorded_is_not_recorded_again_and_what_is_lost_is(watched_run, small_run, tmp_path, capsys):
    copy = shutil.copytree(watched_run, tmp_path / watched_run.name)
    times = {path: path.stat().st_mtime_ns for path in copy.rglob("diagnostics/**/*-*.*")}
    next((copy / "diagnostics").glob("maxfusion-*.npz")).unlink()
    assert main(["run", *small_run, "diagnostics.samples=2", f"output_dir={tmp_path}"]) == 0
    said = capsys.readouterr().err
    assert "watching: 1/1" in said and "generating" not in said
    assert bytes_of(copy / "diagnostics", "*.*") == bytes_of(watched_run / "diagnostics", "*.*")
    again = {path.name.split("-")[0] for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert again == {"maxfusion"}
