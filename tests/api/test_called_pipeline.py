"""A picture of the API is a run's; arguments mean what they mean in diffusers and in runs; mistakes get sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import maxbench
from maxbench import UserError
from maxbench.fusion import Average, Fusion, GatedSum, MaxFusion, PixFusion, PublishedMaxFusion, Sum
from maxbench.images import encode_png
from maxbench.seeds import RunNoise, noise_for
from runs import only_run


@pytest.fixture(scope="session")
def alone(small_run, tmp_path_factory) -> Path:
    """A run whose pictures are made one by one, with every step of what the API does beside it."""
    from maxbench.__main__ import main

    own = [each for each in small_run if not each.startswith(("runtime.batch_size", "samples="))]
    output = tmp_path_factory.mktemp("alone")
    words = [
        *own, "runtime.batch_size=1", "samples=2", "pairing=half_split", "pairing.reference=2", "diagnostics.samples=2",
        "~methods.average", "~methods.outputs_only",
    ]  # fmt: skip
    assert main(["run", *words, f"output_dir={output}"]) == 0
    return only_run(output)


@pytest.fixture(scope="session")
def pipe(small_suite):
    return maxbench.load(
        small_suite, ["hed", "depth"], suite="miniature", device="cpu", settings=["sampler.steps=2"], batch_size=1
    )


@pytest.fixture(scope="session")
def edges(pipe) -> Image.Image:
    return pipe.annotate(photograph(), "hed")


@pytest.fixture(scope="session")
def given(pipe, edges) -> dict[str, Image.Image]:
    return {"hed": edges, "depth": pipe.annotate(photograph(), "depth")}


def photograph(size: tuple[int, int] = (96, 64)) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(levels)


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def inputs_of(run: Path, sample: dict) -> tuple[dict, dict]:
    """A sample's maps and masks, as the run's folder holds them."""
    maps = {name: run / "conditions" / name / f"{image:012d}.png" for name, image in sample["sources"].items()}
    masks = {name: run / "control_masks" / name / f"{sample['id']}.png" for name in sample.get("control_masks", {})}
    return maps, masks


@pytest.mark.parametrize("rule", ["sum", "maxfusion", "maxfusion_published", "none"])
def test_a_picture_is_the_run_s_to_the_last_byte(pipe, alone, rule):
    manifest = json.loads((alone / "manifest.json").read_text())
    compared = 0
    for sample in manifest["samples"][:2]:
        maps, masks = inputs_of(alone, sample)
        assert masks.keys() == {"hed", "depth"}
        noise = maxbench.seed_of(0, sample["group"])
        made = pipe(sample["prompt"], maps, rule, masks=masks, seed=noise)
        file = alone / "images" / rule / f"{sample['id']}-0.png"
        assert encode_png(np.asarray(made.images[0])) == file.read_bytes()
        assert made.defects == (None,)
        compared += 1
    assert compared == 2


def test_a_rule_as_an_object_is_the_method_of_the_experiments(pipe, alone, given):
    sample = json.loads((alone / "manifest.json").read_text())["samples"][0]
    maps, masks = inputs_of(alone, sample)
    noise = maxbench.seed_of(0, sample)
    for rule, method in (
        (MaxFusion(delta=0.7), "maxfusion"),
        (Sum(), "sum"),
        (PublishedMaxFusion(), "maxfusion_published"),
    ):
        made = pipe(sample["prompt"], maps, rule, masks=masks, seed=noise).images[0]
        assert np.array_equal(np.asarray(made), levels(alone / "images" / method / f"{sample['id']}-0.png"))
    alone_is_single = pipe(sample["prompt"], {"hed": maps["hed"]}, masks={"hed": masks["hed"]}, seed=noise).images[0]
    assert np.array_equal(
        np.asarray(alone_is_single), levels(alone / "images" / "single" / "hed" / f"{sample['id']}-0.png")
    )


def test_batches_are_filled_up_as_in_a_run(small_suite, finished_run):
    """A run of batches of four: a list of four prompts is one, and one picture alone is filled up to one."""
    pipe = maxbench.load(
        small_suite, ["hed", "depth"], suite="miniature", device="cpu", settings=["sampler.steps=2"], batch_size=4
    )
    samples = json.loads((finished_run / "manifest.json").read_text())["samples"]
    assert len(samples) == 6
    for some in (samples[:4], samples[4:5]):
        maps = [inputs_of(finished_run, each)[0] for each in some]
        noise = [maxbench.seed_of(0, each["group"]) for each in some]
        made = pipe([each["prompt"] for each in some], maps, "maxfusion", seed=noise)
        for each, picture in zip(some, made.images, strict=True):
            file = finished_run / "images" / "maxfusion" / f"{each['id']}-0.png"
            assert encode_png(np.asarray(picture)) == file.read_bytes()
    with pytest.raises(UserError, match="decisions are recorded in one batch: ask for at most 4 pictures"):
        pipe("a red box", maps[0], seed=0, num_images_per_prompt=5, decisions=True)


def test_maps_and_scores_are_the_run_s(pipe, alone):
    manifest = json.loads((alone / "manifest.json").read_text())
    sample = manifest["samples"][0]
    maps, masks = inputs_of(alone, sample)
    for name, file in maps.items():
        source = alone / "real" / file.name
        assert encode_png(np.asarray(pipe.annotate(source, name))) == file.read_bytes()
    picture = alone / "images" / "sum" / f"{sample['id']}-0.png"
    inside = {name: alone / "evaluation_masks" / name / file.name for name, file in masks.items()}
    found = pipe.score(picture, maps, sample["prompt"], masks=inside)
    table = pd.read_parquet(alone / "samples.parquet")
    own = table[(table["sample"] == sample["id"]) & (table.replicate == 0) & (table.method == "sum")]
    own = own.set_index(["condition", "metric"]).value
    assert len(found) == 7
    for row in found.itertuples():
        assert own[row.condition, row.metric] == pytest.approx(row.value, abs=1e-12)


def test_decisions_are_those_that_a_run_records(pipe, small_suite, alone):
    pair = maxbench.load(small_suite, suite="miniature", device="cpu", settings=["sampler.steps=2"])
    samples = json.loads((alone / "manifest.json").read_text())["samples"][:2]
    maps, masks = zip(*(inputs_of(alone, each) for each in samples), strict=True)
    made = pair(
        [each["prompt"] for each in samples], list(maps), "maxfusion",
        masks={name: [each[name] for each in masks] for name in ("hed", "depth")},
        seed=[maxbench.seed_of(0, each["group"]) for each in samples], decisions=True,
    )  # fmt: skip
    recorded = pd.read_csv(alone / "diagnostics" / "maxfusion.csv")
    pd.testing.assert_frame_equal(made.decisions.table, recorded, check_exact=False, rtol=1e-5, check_dtype=False)
    with np.load(alone / "diagnostics" / "maxfusion.npz") as archive:
        assert set(archive.files) == set(made.decisions.maps)
        for key in archive.files:
            if key.endswith(("winner", "merged")):
                assert np.array_equal(archive[key], made.decisions.maps[key])
    places = made.decisions.at("winner")
    assert {step for step, _ in places} == {0, 1} and all(len(each) == 2 for each in places.values())
    assert made.decisions.branches == ("hed", "depth")


def test_the_seed_is_diffusers_own(pipe, given):
    shape = pipe.suite.latent_shape()
    (noise,) = pipe("a sphere", given, seed=7).noise
    assert torch.equal(noise.draw(shape), torch.randn(shape, generator=torch.Generator().manual_seed(7)))
    several = pipe("a sphere", given, seed=7, num_images_per_prompt=3)
    batch = torch.randn((3, *shape), generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.stack([each.draw(shape) for each in several.noise]), batch)
    generator = torch.Generator().manual_seed(7)
    by_generator = pipe("a sphere", given, generator=generator, num_images_per_prompt=3)
    assert all(np.array_equal(*pair) for pair in zip(several.images, by_generator.images, strict=True))
    after = torch.Generator().manual_seed(7)
    torch.randn((3, *shape), generator=after)
    assert torch.equal(generator.get_state(), after.get_state())  # as diffusers leaves it
    again = pipe("a sphere", given, seed=several.noise[2])
    assert np.array_equal(again.images[0], several.images[2])
    assert pipe("a sphere", given, seed=np.int64(7)).noise == (noise,)
    fresh = pipe("a sphere", given), pipe("a sphere", given)
    assert fresh[0].noise != fresh[1].noise
    assert np.array_equal(fresh[0].images[0], pipe("a sphere", given, seed=fresh[0].noise[0]).images[0])
    assert torch.equal(maxbench.seed_of(3, "x", 1).draw(shape), noise_for(3, "x", 1, shape))


def test_arguments_mean_what_they_mean_elsewhere(pipe, given):
    def made(rule=None, **changed):
        return np.asarray(pipe("a sphere", given, rule, seed=0, output_type="pt", **changed).images)

    usual = pipe.suite.control_scale
    assert np.array_equal(made(), made("sum")) and np.array_equal(made(Sum()), made())
    assert np.array_equal(made(controlnet_conditioning_scale=usual), made())
    # of a sum one number for all is the same number for each, up to rounding
    close = made(controlnet_conditioning_scale=[usual, usual])
    np.testing.assert_allclose(close, made(), atol=1e-4)
    assert not np.array_equal(made(controlnet_conditioning_scale=[usual, 0.0]), made())
    one = made(controlnet_conditioning_scale={"depth": np.float32(0)})  # the other keeps its own
    only = pipe("a sphere", {"hed": given["hed"]}, seed=0, output_type="pt").images
    np.testing.assert_allclose(one, only, atol=1e-4)
    late = made(control_guidance_start={"hed": 0.0, "depth": 0.9})
    np.testing.assert_allclose(late, only, atol=1e-5)  # two steps: the second begins before
    early = made(control_guidance_end=[1.0, 0.4])
    np.testing.assert_allclose(early, only, atol=1e-5)
    assert np.array_equal(made(Fusion(Average(), sites=(), scale=usual)), made("average"))
    assert np.array_equal(made(MaxFusion(), sites=[]), made("outputs_only"))
    assert not np.array_equal(made(MaxFusion(), sites=[]), made(MaxFusion()))
    assert not np.array_equal(made(guidance_scale=1), made()) and not np.array_equal(
        made(num_inference_steps=1), made()
    )
    assert not np.array_equal(made(negative_prompt="a red sphere"), made())
    none = pipe("a sphere", seed=0, output_type="np").images
    assert none.shape == (1, 64, 64, 3) and none.dtype == np.float32 and none.min() >= 0 and none.max() <= 1


def test_maps_come_in_every_usual_form(pipe, given, tmp_path):
    usual = np.asarray(pipe("a sphere", given, seed=0).images[0])
    given["depth"].save(tmp_path / "depth.png")
    array = np.asarray(given["depth"])
    forms = [
        array, array.astype(np.float32) / 255, torch.from_numpy(array.copy()), torch.from_numpy(array / 255)[None],
        np.repeat(array[..., None], 3, -1), torch.from_numpy(array.copy()).expand(3, -1, -1), tmp_path / "depth.png",
        str(tmp_path / "depth.png"), given["depth"].convert("RGB"),
    ]  # fmt: skip
    for form in forms:
        made = pipe("a sphere", {"depth": form, "hed": given["hed"]}, seed=0).images[0]
        assert np.array_equal(np.asarray(made), usual)
    two = pipe(["a sphere", "a box"], {"hed": [given["hed"]] * 2, "depth": given["depth"]}, seed=[0, 0])
    assert np.array_equal(np.asarray(two.images[0]), usual) and not np.array_equal(*map(np.asarray, two.images))
    large = given["hed"].resize((128, 128), Image.Resampling.NEAREST), given["depth"].resize((128, 128), 0)
    assert pipe("a sphere", dict(zip(("hed", "depth"), large, strict=True)), seed=0).images[0].size == (64, 64)


def test_a_segmentation_is_numbers_or_the_palette_s_colours(small_suite, tmp_path):
    pipe = maxbench.load(small_suite, ["seg", "canny"], suite="miniature", device="cpu", settings=["sampler.steps=1"])
    drawn = pipe.annotate(photograph(), "seg")
    assert drawn.mode == "P" and drawn.size == (64, 64)
    numbers = np.asarray(drawn)
    palette = np.array(pipe.conditions["seg"].palette, np.uint8)
    assert np.array_equal(np.asarray(drawn.convert("RGB")), palette[numbers])
    drawn.save(tmp_path / "seg.png")
    usual = np.asarray(pipe("a box", {"seg": drawn}, seed=0).images[0])
    for form in (numbers, drawn.convert("RGB"), tmp_path / "seg.png", palette[numbers]):
        assert np.array_equal(np.asarray(pipe("a box", {"seg": form}, seed=0).images[0]), usual)
    with pytest.raises(UserError, match=r"colour \(1, 2, 3\), which is no class's"):
        pipe("a box", {"seg": np.full((64, 64, 3), (1, 2, 3), np.uint8)})
    with pytest.raises(UserError, match="class 11; there are classes 0 to 10"):
        pipe("a box", {"seg": np.full((64, 64), 11, np.uint8)})
    edges = pipe.annotate([photograph(), photograph()], "canny")
    assert len(edges) == 2 and set(np.unique(np.asarray(edges[0]))) <= {0, 255}


def test_where_a_rule_unmerges_is_read_from_the_experiments():
    from maxbench.api.arguments import usual_sites

    class Own(Sum):
        pass

    assert usual_sites(MaxFusion) == ("conv_in", "down", "mid") and usual_sites(GatedSum) == ()
    assert usual_sites(PixFusion) == ("conv_in", "hidden", "mid") and usual_sites(Own) == ("conv_in", "down", "mid")


NAN = np.full((64, 64), np.nan, np.float32)
OTHER = np.zeros((64, 96), np.uint8)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": ""}, "prompt has ''; say in words"),
        ({"prompt": []}, "give a text, or a list"),
        ({"prompt": 3}, "prompt is 3"),
        ({"maps": {"seg": OTHER}}, "maps has 'seg', and the pipeline was loaded with hed, depth"),
        ({"maps": OTHER}, "maps is a ndarray; give condition: map"),
        ({"maps": {"depth": NAN}}, "NaN or infinite"),
        ({"maps": {"depth": NAN * 0 + 7}}, r"in \[0, 1\]|NaN"),
        ({"maps": {"depth": np.full((64, 64), 300)}}, "numbers from 300 to 300"),
        ({"maps": {"depth": np.zeros((4, 64, 64), np.uint8)}}, r"shape \(4, 64, 64\)"),
        ({"maps": {"depth": object()}}, "is a object; give a PIL image"),
        ({"maps": {"depth": "nowhere.png"}}, "There is no image nowhere.png"),
        ({"maps": {"depth": np.random.default_rng(0).random((64, 64, 3))}}, "has colours; a map of 'depth' is grey"),
        ({"maps": {"hed": OTHER.T, "depth": OTHER}}, "cut to squares they would not lie on each other"),
        ({"maps": {"hed": [OTHER] * 3}}, "has 3 for 1 pictures"),
        ({"maps": [{"hed": OTHER}, {"depth": OTHER}]}, "all of the same conditions"),
        ({"masks": {"seg": OTHER}}, "masks has 'seg', of which there is no map"),
        ({"masks": {"hed": np.zeros((64, 64, 3), np.uint8)}}, "a mask has one channel"),
        ({"rule": 0.7}, "rule is a float"),
        ({"rule": MaxFusion}, r"the class MaxFusion; give a rule of it, MaxFusion\(\)"),
        ({"rule": "maxfusoin"}, "did you mean 'maxfusion'"),
        ({"rule": "tuned_sum"}, "has no settings before a run has found them"),
        ({"rule": Fusion(rule="sum")}, "a rule extends maxbench.fusion.Rule"),
        ({"sites": "down"}, "sites is 'down'; give a list"),
        ({"sites": ["up"]}, "sites has 'up'; sites are"),
        ({"seed": 0, "generator": torch.Generator()}, "both say the noise"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": [1, 2]}, "2 seeds for 1 pictures"),
        ({"seed": RunNoise(0, "a"), "num_images_per_prompt": 2}, "the noise of one image of a run, for 2 pictures"),
        ({"generator": 3}, "a torch.Generator on the processor"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"num_inference_steps": 0}, "from 1 to 1000"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": 1, "rule": PublishedMaxFusion()}, "runs only under classifier-free guidance"),
        ({"negative_prompt": ["a"]}, "one for all pictures"),
        ({"controlnet_conditioning_scale": -1}, "has -1; give numbers, 0 or more"),
        ({"controlnet_conditioning_scale": [1, 1, 1]}, "has 3 numbers for the controls hed, depth"),
        ({"controlnet_conditioning_scale": {"dpeth": 1}}, "did you mean 'depth'"),
        ({"control_guidance_start": 0.5, "control_guidance_end": 0.5}, "would never act"),
        ({"control_guidance_end": 2}, "from 0 to 1"),
        ({"output_type": "latent"}, "take one of pil, np, pt"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,  # others print differently in every process
)  # fmt: skip
def test_a_mistake_is_a_sentence(pipe, given, changed, said):
    call = {"prompt": "a sphere", "maps": given, "seed": 0, **changed}
    if call.get("generator") is not None and "seed" not in changed:
        del call["seed"]
    with pytest.raises(UserError, match=said) as caught:
        pipe(**call)
    assert str(caught.value).endswith((".", "?")) and "methods." not in str(caught.value)


def test_reading_needs_conditions_and_maps(pipe, given):
    with pytest.raises(UserError, match="no condition 'seg' here; this pipeline was loaded with hed, depth"):
        pipe.annotate(photograph(), "seg")
    with pytest.raises(UserError, match="There is no map"):
        pipe.score(photograph(), {})
    with pytest.raises(UserError, match="3 prompts for 1 pictures"):
        pipe.score(photograph(), given, ["a", "b", "c"])
    with pytest.raises(UserError, match="give a sample's group"):
        maxbench.seed_of(0, 3)
    with pytest.raises(UserError, match="run_seed is -1"):
        maxbench.seed_of(-1, "a")
