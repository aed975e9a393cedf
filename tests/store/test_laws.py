"""What is made and what is found: the laws of the store, on small random models."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file, save_file

from maxbench.__main__ import main
from maxbench.cli.build import build
from maxbench.cli.perform import make_generation, open_folder
from maxbench.configuration.compose import CONF
from maxbench.store.artefacts import Store
from maxbench.store.scores import Scores
from runs import all_runs, counted, digests, only_run

FEW = ["~methods.maxfusion_published", "~methods.outputs_only", "~methods.sum"]  # none, singles, average, maxfusion


def compute(output: Path, overrides: list[str]) -> dict:
    """Generate without scoring; what was made of every kind, and by which methods."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*overrides, f"output_dir={output}"]))
    folder = open_folder(job)
    before = {path.name for path in (output / "store").glob("image/*/*.json")}
    generation = make_generation(job, folder)
    generation.run()
    methods = Counter(
        method.name
        for method in job.experiment.methods
        for entry in folder.entries(f"images/{method.name}")
        if f"{entry.key}.json" not in before
    )
    return {
        "path": folder.path,
        "samples": job.experiment.samples,
        "methods": dict(methods),
        **{kind: folder.count(kind).made for kind in ("source", "map", "image", "reconstruction", "mask")},
    }


@pytest.fixture
def own_suite(small_suite, small_run, tmp_path) -> tuple[Path, list[str]]:
    """A copy of the small suite that may be changed, and a run on it."""
    suite = Path(shutil.copytree(small_suite, tmp_path / "suite"))
    return suite, [*small_run, f"suite.root={suite}", "samples=4", *FEW]


@pytest.fixture(scope="module")
def kept(small_run, tmp_path_factory) -> Path:
    """An output folder with the store of one experiment; tests copy it."""
    output = tmp_path_factory.mktemp("kept")
    made = compute(output, [*small_run, *FEW, "samples=4"])
    assert made["image"] == 5 * 4 and made["source"] == 4
    return output


@pytest.fixture
def output(kept, tmp_path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "runs"))


# --- what an image does not depend on --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ["baseline=maxfusion"],
        ["metrics.resamples=200"],
        ["metrics.level=0.9"],
        ["name=other"],
        ["runtime.threads=1"],
        ["~methods.average", "baseline=maxfusion"],
        ["pairing.reference=8"],
    ],
    ids=" ".join,
)
def test_what_no_image_depends_on_makes_none(output, small_run, more):
    made = compute(output, [*small_run, *FEW, "samples=4", *more])
    assert made["image"] == made["map"] == made["source"] == made["reconstruction"] == 0


@pytest.mark.parametrize(
    ("more", "methods"),
    [
        (["+fusion@methods.softmax=softmax"], {"softmax": 4}),
        (["+fusion@methods.other=maxfusion", "methods.other.rule.delta=0.2"], {"other": 4}),
        (["methods.maxfusion.rule.delta=0.2"], {"maxfusion": 4}),
        (["+methods.maxfusion.vary={rule.delta: [0.7, 0.1]}"], {"maxfusion/delta=0.1": 4}),
        (["+fusion@methods.again=average"], {}),
        (["samples=6"], dict.fromkeys(["none", "single/hed", "single/depth", "average", "maxfusion"], 2)),
        (["replicates=2"], dict.fromkeys(["none", "single/hed", "single/depth", "average", "maxfusion"], 4)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_only_what_is_new_is_made(output, small_run, more, methods):
    assert compute(output, [*small_run, *FEW, "samples=4", *more])["methods"] == methods


def test_more_samples_keep_the_first_ones_and_the_reference(small_run):
    plans = {}
    for pairing in ("complementary", "cross_image", "object_on_scene", "half_split", "styled"):
        conditions = ["hed", "depth"] if pairing != "styled" else ["hed", "style"]
        rest = [each for each in small_run if not each.startswith(("samples", "data.count"))]
        for samples in (2, 3):
            with initialize_config_dir(str(CONF), version_base="1.3"):
                more = [f"pairing={pairing}", f"samples={samples}", "data.count=24", "pairing.reference=5"]
                more += ["pairing.low=0.02"] if pairing == "object_on_scene" else []
                cfg = compose("main", [*rest, *more])
            from hydra.utils import instantiate

            images = instantiate(cfg.data)
            plans[samples] = instantiate(cfg.pairing).plan(images, conditions, samples, seed=0)
        fewer = plans[2].samples
        assert fewer == plans[3].samples[: len(fewer)], pairing
        assert len(fewer) == (4 if pairing == "half_split" else 2), pairing  # there both halves of a picture
        assert plans[2].reference == plans[3].reference and len(plans[2].reference) == 5, pairing


def test_experiments_share_what_they_have_in_common(output, small_run):
    rest = [*small_run[1:], "samples=4"]
    pairs = compute(output, ["experiment=seg_depth", *rest, *FEW])["methods"]
    assert pairs == {"single/seg": 4, "average": 4, "maxfusion": 4}  # none and single/depth are found
    compute(output, ["experiment=hed_seg", *rest, *FEW])
    three = compute(output, ["experiment=three_conditions", *rest])["methods"]
    assert three == dict.fromkeys(["average", "sum", "outputs_only", "maxfusion"], 4)  # every pair is found
    rest = [each for each in rest if not each.startswith("~")]  # it has other methods
    rest += ["~methods.tuned_sum", "~methods.random_blobs"]
    deltas = compute(output, ["experiment=threshold", *rest, "deltas=[-1,0.7]"])["methods"]
    assert deltas == {"sum": 4, "outputs_only/delta=-1": 4, "outputs_only/delta=0.7": 4, "maxfusion/delta=-1": 4}


def test_one_picture_asked_for_twice_is_made_once(output, small_run):
    twice = ["+fusion@methods.one=softmax", "+fusion@methods.two=softmax"]
    made = compute(output, [*small_run, *FEW, "samples=4", *twice])
    assert made["image"] == 4
    assert digests(made["path"] / "images/one").keys() == digests(made["path"] / "images/two").keys()


# --- what it does depend on --------------------------------------------------------------------------------------


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(path: Path) -> None:
    tensors = load_file(path)
    name = max(tensors, key=lambda each: tensors[each].numel())
    tensors[name] = tensors[name] * -1.5
    save_file(tensors, path, metadata={"format": "pt"})


def nothing_else(path: Path) -> None:
    path.write_text("what people read\n")


ALL = {"none", "single/hed", "single/depth", "average", "maxfusion"}
FUSED = {"average", "maxfusion"}
CHANGES = {
    "vae/config.json": (lambda path: change_json(path, scaling_factor=0.6), ALL, {"reconstruction"}),
    "vae/diffusion_pytorch_model.safetensors": (change_weights, ALL, {"reconstruction"}),
    "scheduler/scheduler_config.json": (lambda path: change_json(path, beta_end=0.011), ALL, set()),
    "tokenizer/tokenizer_config.json": (lambda path: change_json(path, model_max_length=30), ALL, set()),
    "text_encoder/model.safetensors": (change_weights, ALL, set()),
    "unet/diffusion_pytorch_model.safetensors": (change_weights, ALL, set()),
    "controlnet_hed/config.json": (
        lambda path: change_json(path, controlnet_conditioning_channel_order="bgr"), {"single/hed", *FUSED}, set(),
    ),
    "controlnet_hed/diffusion_pytorch_model.safetensors": (change_weights, {"single/hed", *FUSED}, set()),
    "controlnet_seg/diffusion_pytorch_model.safetensors": (change_weights, set(), set()),
    "scorers/clip/model.safetensors": (change_weights, set(), set()),
    "annotators/diffusion_pytorch_model.safetensors": (
        change_weights, {"single/hed", "single/depth", *FUSED}, {"map"},
    ),
    "unet/README.md": (nothing_else, set(), set()),
}  # fmt: skip


@pytest.mark.parametrize("file", CHANGES)
def test_a_changed_part_remakes_exactly_what_depends_on_it(own_suite, tmp_path, file):
    suite, run = own_suite
    change, methods, kinds = CHANGES[file]
    first = compute(tmp_path / "runs", run)
    change(suite / file)
    second = compute(tmp_path / "runs", run)
    assert set(second["methods"]) == methods
    assert {kind for kind in ("source", "map", "reconstruction") if second[kind]} == kinds
    untouched = file in ("unet/README.md", "controlnet_seg/diffusion_pytorch_model.safetensors")
    assert (first["path"] == second["path"]) == untouched


def test_a_state_dict_beside_another_file_is_noticed(own_suite, tmp_path):
    suite, run = own_suite
    part = suite / "controlnet_hed"
    torch.save(load_file(part / "diffusion_pytorch_model.safetensors"), part / "diffusion_pytorch_model.bin")
    (part / "diffusion_pytorch_model.safetensors").unlink()
    compute(tmp_path / "runs", run)
    tensors = torch.load(part / "diffusion_pytorch_model.bin", weights_only=True)
    torch.save({name: 1.5 * each for name, each in tensors.items()}, part / "diffusion_pytorch_model.bin")
    assert set(compute(tmp_path / "runs", run)["methods"]) == {"single/hed", *FUSED}


@pytest.mark.parametrize(
    ("more", "methods"),
    [
        (["sampler.steps=3"], ALL),
        (["sampler.guidance_scale=2"], ALL),
        (["sampler.negative_prompt=mist"], ALL),
        (["sampler=ddim", "sampler.steps=2"], ALL),
        (["runtime.dtype=float16"], ALL),
        (["runtime.batch_size=2"], ALL),
        (["seed=1"], ALL),
        (["+methods.maxfusion.control_end={hed: 0.5}"], {"maxfusion"}),
        (["+methods.average.branch_scale={hed: 0.5}"], {"average"}),
        (["methods.maxfusion.sites=[mid]"], {"maxfusion"}),
        (["suite.control_scale=1"], {"single/hed", "single/depth", *FUSED}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_remakes_what_it_bears_on(output, small_run, more, methods):
    if "float16" in more[0] and not torch.cuda.is_available():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            jobs = [build(compose("main", [*small_run, *FEW, *each])) for each in ([], more)]
        keys = [make_generation(job, None).sampling._identity for job in jobs]  # half precision is slow here
        assert keys[0] != keys[1]
        return
    assert set(compute(output, [*small_run, *FEW, "samples=4", *more])["methods"]) == methods


def test_thresholds_of_canny_remake_its_maps_and_what_sees_them(small_run, tmp_path):
    run = [*small_run, "/condition@conditions.canny=canny", *FEW, "samples=3", "methods.maxfusion.branches=[hed,depth]"]
    run[1:2] = ["+condition@conditions.canny=canny", small_run[1]]
    run.remove("/condition@conditions.canny=canny")
    compute(tmp_path, run)
    made = compute(tmp_path, [*run, "conditions.canny.low=20"])
    assert set(made["methods"]) == {"single/canny", "average"} and made["map"] == 3


# --- a user's code ------------------------------------------------------------------------------------------------


def write_rule(folder: Path, factor: str = "1.0", helper: str = "return 2.0", comment: str = "") -> None:
    (folder / "my_helper.py").write_text(f"def strength():\n    {helper}\n")
    (folder / "my_rules.py").write_text(
        textwrap.dedent(f'''
        from dataclasses import dataclass

        from maxbench.fusion import Sum

        import my_helper


        @dataclass(frozen=True)
        class Mine(Sum):
            """Adds up, more strongly."""

            def merge(self, features):
                {comment or "# twice"}
                return super().merge(features) * my_helper.strength() * {factor}
        ''')
    )


@pytest.fixture
def my_rules(tmp_path, monkeypatch):
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def rewrite(**changes):
        for name in ("my_rules", "my_helper"):
            sys.modules.pop(name, None)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        write_rule(folder, **changes)

    rewrite()
    yield rewrite
    for name in ("my_rules", "my_helper"):
        sys.modules.pop(name, None)


MINE = "+methods.mine={rule: {_target_: my_rules.Mine}, sites: [], branches: null, scale: 1.0}"


def test_a_changed_rule_of_a_user_s_remakes_its_rows_alone(output, small_run, my_rules):
    run = [*small_run, *FEW, "samples=4", MINE]
    assert compute(output, run)["methods"] == {"mine": 4}
    assert compute(output, run)["methods"] == {}
    my_rules(comment="# the same, said otherwise")
    assert compute(output, run)["methods"] == {}
    my_rules(factor="1.5")
    assert compute(output, run)["methods"] == {"mine": 4}
    my_rules(factor="1.5", helper="return 3.0")  # in a module that it imports
    assert compute(output, run)["methods"] == {"mine": 4}
    my_rules()
    assert compute(output, run)["methods"] == {}  # as it was at first, and that is still there


def test_the_rule_outside_a_window_counts_where_there_is_a_window(output, small_run, my_rules):
    windowed = "+methods.maxfusion.otherwise={_target_: my_rules.Mine}"
    run = [*small_run, *FEW, "samples=4", windowed]
    assert compute(output, run)["methods"] == {}  # it is never asked
    run = [*run, "+methods.maxfusion.fusion_end=0.5"]
    assert compute(output, run)["methods"] == {"maxfusion": 4}
    my_rules(factor="1.5")
    assert compute(output, run)["methods"] == {"maxfusion": 4}


# --- pictures and annotations -------------------------------------------------------------------------------------


@pytest.fixture
def own_data(data_dir, tmp_path) -> Path:
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


def test_changed_pixels_remake_what_was_made_of_them(small_run, own_data, tmp_path):
    run = [*small_run, *FEW, "samples=4", f"data_dir={own_data}"]
    first = compute(tmp_path / "runs", run)
    sample = first["samples"][1]
    (picture,) = own_data.glob(f"*/val/{sample.sources['hed']:012d}.png")
    with Image.open(picture) as image:
        pixels = np.asarray(image).copy()
    pixels[20:40] = 255 - pixels[20:40]
    Image.fromarray(pixels).save(picture)
    second = compute(tmp_path / "runs", run)
    assert second["path"] != first["path"]
    assert second["methods"] == dict.fromkeys(ALL - {"none"}, 1)  # text alone does not see it
    assert (second["source"], second["map"], second["reconstruction"]) == (1, 2, 1)


def test_a_changed_caption_remakes_its_sample(small_run, own_data, tmp_path):
    run = [*small_run, *FEW, "samples=4", f"data_dir={own_data}"]
    first = compute(tmp_path / "runs", run)
    sample = first["samples"][2]
    (annotations,) = own_data.glob("*/annotations/captions_val.json")
    said = json.loads(annotations.read_text())
    caption = next(each for each in said["annotations"] if each["image_id"] == sample.sources["hed"])
    caption["caption"] = "a blue sphere on sand"
    annotations.write_text(json.dumps(said))
    second = compute(tmp_path / "runs", run)
    assert second["methods"] == dict.fromkeys(ALL, 1) and second["map"] == 0


# --- bytes ---------------------------------------------------------------------------------------------------------


def test_bytes_depend_on_neither_order_nor_company_nor_place(small_run, kept, tmp_path):
    """Four samples in one batch, against the same four met in batches with others, in another order of methods."""
    whole = digests(only_run(kept) / "images")
    other = [*small_run, "experiment=hed_depth", *FEW, "samples=7"]
    seven = digests(compute(tmp_path / "seven", other)["path"] / "images")
    assert {file: seven[file] for file in whole} == whole
    two = compute(tmp_path / "two", [*small_run, *FEW, "samples=2"])  # half a batch, filled up
    assert digests(two["path"] / "images").items() <= whole.items()
    grown = compute(tmp_path / "two", [*small_run, *FEW, "samples=4"])  # the other two, in other places
    assert grown["image"] == 5 * 2 and digests(grown["path"] / "images") == whole


def test_a_stochastic_sampler_draws_for_every_picture_by_itself(small_run, tmp_path):
    ancestral = [
        "sampler.scheduler._target_=diffusers.EulerAncestralDiscreteScheduler.from_config", "sampler.steps=3", *FEW,
    ]  # fmt: skip
    four = compute(tmp_path / "four", [*small_run, *ancestral, "samples=4"])
    three = compute(tmp_path / "three", [*small_run, *ancestral, "samples=3"])
    assert digests(three["path"] / "images").items() <= digests(four["path"] / "images").items()


# --- loss and damage -----------------------------------------------------------------------------------------------


def test_a_lost_store_is_filled_from_the_run_folder(output, small_run):
    shutil.rmtree(output / "store")
    made = compute(output, [*small_run, *FEW, "samples=4"])
    assert made["image"] == made["map"] == made["source"] == made["reconstruction"] == 0
    assert list((output / "store").glob("image/*/*.png"))


def test_a_lost_run_folder_is_assembled_from_the_store(output, small_run):
    folder = only_run(output)
    before = digests(folder)
    shutil.rmtree(folder)
    made = compute(output, [*small_run, *FEW, "samples=4"])
    assert made["image"] == made["map"] == 0 and digests(folder) == before


@pytest.mark.parametrize("what", ["flipped", "cut", "empty", "folder", "gone"])
@pytest.mark.parametrize("pattern", ["image/*/*.png", "image/*/*.json", "map/*/*.png", "source/*/*.json"])
def test_damage_in_the_store_is_found_and_made_again(output, small_run, pattern, what):
    folder = only_run(output)
    before = digests(folder)
    file = sorted((output / "store").glob(pattern))[1]
    content = file.read_bytes()
    twin = [path for path in folder.rglob("*.png") if path.samefile(file)]
    if what == "flipped":
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif what in ("cut", "empty"):
        file.write_bytes(content[: len(content) // 2 if what == "cut" else 0])
    else:
        file.unlink()
        if what == "folder":
            file.mkdir()
    for path in twin:  # with its link, as a bad disk would
        if file.is_file():
            path.write_bytes(file.read_bytes())
        else:
            path.unlink()
    compute(output, [*small_run, *FEW, "samples=4"])
    assert digests(folder) == before
    assert file.is_file() and file.read_bytes()[:4] == content[:4]


def test_scores_are_found_and_damaged_ones_measured_again(finished_run, small_run, tmp_path):
    output = Path(shutil.copytree(finished_run.parent, tmp_path / "runs"))
    run = [*small_run, f"output_dir={output}"]
    assert main(["run", *run]) == 0
    again = counted(only_run(output))
    assert again["images"]["made"] == again["scores"]["made"] == 0 and again["scores"]["found"] > 0
    assert main(["run", *run, "baseline=average"]) == 0
    (other,) = (folder for folder in all_runs(output) if folder.name != finished_run.name)
    assert counted(other)["scores"]["made"] == counted(other)["images"]["made"] == 0
    subject = sorted((output / "store" / "scores").glob("*/*.json"))[3]
    known = Scores(output / "store").of(subject.stem)
    subject.write_bytes(subject.read_bytes().replace(b'"value"', b'"valve"'))
    for name in ("metrics.csv", "evaluation.json"):
        (only := output / finished_run.name / name).unlink()
        assert not only.exists()
    assert main(["run", *run]) == 0
    assert counted(output / finished_run.name)["scores"]["made"] == len(known)
    assert (output / finished_run.name / "metrics.csv").read_bytes() == (finished_run / "metrics.csv").read_bytes()


def test_a_store_elsewhere_is_shared_by_output_folders(small_run, tmp_path):
    where = [f"store_dir={tmp_path}/store", *FEW, "samples=2"]
    compute_at = [compute_in(tmp_path / name, [*small_run, *where]) for name in ("one", "two")]
    assert compute_at == [10, 0]
    assert len(list(Store(tmp_path / "store").path.glob("runs/*.json"))) == 2


def compute_in(output: Path, run: list[str]) -> int:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = build(compose("main", [*run, f"output_dir={output}"]))
    folder = open_folder(job)
    make_generation(job, folder).run()
    return folder.count("image").made


def test_prune_removes_what_no_run_refers_to_and_nothing_else(output, small_run, capsys):
    compute(output, [*small_run, *FEW, "samples=4", "+fusion@methods.softmax=softmax"])
    first, second = sorted(all_runs(output), key=lambda path: (path / "images" / "softmax").exists())
    store = str(output / "store")
    shutil.rmtree(second)
    assert main(["data", "store", "--store-dir", store]) == 0
    assert main(["data", "prune", "--store-dir", store]) == 2  # nobody to ask
    assert main(["data", "prune", "--store-dir", store, "--yes"]) == 0
    assert "8 files removed" in capsys.readouterr().out  # four pictures and their records
    assert compute(output, [*small_run, *FEW, "samples=4"])["image"] == 0
    assert compute(output, [*small_run, *FEW, "samples=4", "+fusion@methods.softmax=softmax"])["methods"] == {
        "softmax": 4
    }
    assert first.is_dir()
