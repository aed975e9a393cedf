"""Stable Diffusion's suite in small: found where it is looked for, loaded by its published files, or named."""

import json
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from maxbench.configuration.component import component
from maxbench.configuration.compose import compose, hydra_on, plain
from maxbench.errors import UserError
from maxbench.models.files import digest_of
from maxbench.models.loading import load_tokenizer
from maxbench.suites.hub import HubPart
from suites.replica import SIZE, write_replica

CPU = torch.device("cpu")
PAIR = ["hed", "depth"]


@lru_cache
def configuration(name):
    with hydra_on() as hydra:
        return plain(compose(hydra, [f"suite={name}", "experiment=hed_depth"]))["suite"]


def suite_at(weights_dir: Path | None, name: str = "sd15", **settings):
    where = {"weights_dir": str(weights_dir) if weights_dir else None, "resolution": SIZE}
    return component({**configuration(name), **where, **settings}, "suite")


def parts_of(name: str) -> dict[str, HubPart]:
    return {part: HubPart(**entry) for part, entry in configuration(name)["hub"].items()}


@pytest.fixture(scope="module", params=["sd15", "sd15_v11"])
def replica(request, tmp_path_factory):
    """A suite and its folder of weights."""
    folder = write_replica(tmp_path_factory.mktemp(request.param), parts_of(request.param))
    return suite_at(folder, request.param)


def test_every_part_is_named_by_id_revision_file_and_size():
    for name in ("sd15", "sd15_v11"):
        for part, entry in parts_of(name).items():
            assert entry.size or not entry.file, part  # files of text have no size worth telling
            assert entry.revision or entry.address, part
            assert entry.is_pinned or part in ("t2iadapter_depth", "inception"), part


def test_networks_are_loaded_from_their_published_files(replica):
    conditions = ["depth", "seg", "hed", "canny", "style"]
    replica.require(conditions)
    pipeline = replica.pipeline(conditions, CPU, torch.float32)
    assert set(pipeline.controls) == set(conditions) and pipeline.tokenizer.model_max_length == 77
    assert all(net.dtype == torch.float32 for net in (pipeline.unet, pipeline.vae, pipeline.controls["depth"]))
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for condition, channels in (("depth", 1), ("seg", 151), ("hed", 1)):
        for network in (replica.annotator(condition, CPU), replica.scorer(condition, CPU)):
            assert network(images).shape == (2, channels, SIZE, SIZE)
    assert replica.clip_scorer(CPU).texts(["a cat"]).shape == (1, 8)
    assert replica.feature_names == ("dinov2", "cmmd")  # Inception has one size alone and is not written
    assert "inception" in replica.notes([])[0]
    for name in replica.feature_names:
        assert len(replica.feature_network(name, CPU).images(images)) == 2


def test_controls_of_half_precision_are_read_and_raised():
    assert parts_of("sd15_v11")["controlnet_hed"].file.endswith(".fp16.safetensors")
    assert parts_of("sd15")["controlnet_hed"].file == "diffusion_pytorch_model.safetensors"


def test_adapters_are_found_by_their_published_names(replica):
    suite = suite_at(
        Path(replica.weights_dir),
        controls={name: part for name, part in replica.adapters.items() if part},
    )
    suite.require(["depth", "canny"])
    assert suite.control_kind("depth") == suite.control_kind("canny") == "T2IAdapter"
    with pytest.raises(UserError, match=r"holds a T2IAdapter|has no control"):  # none for HED was published
        suite_at(Path(replica.weights_dir), controls={"depth": "t2iadapter_depth"}).require(["hed"])


def test_what_is_missing_is_named_with_id_revision_size_and_place(replica, tmp_path):
    folder = shutil.copytree(replica.weights_dir, tmp_path / "weights")
    part = replica.published["controlnet_hed"]
    shutil.rmtree(folder / part.id)
    suite = suite_at(folder, replica.name)
    suite.require(["depth", "seg"])  # only what an experiment needs is asked for
    with pytest.raises(UserError) as caught:
        suite.require(PAIR)
    said = str(caught.value)
    assert f"lacks {part.id} ({'723 MB' if replica.name == 'sd15_v11' else '1.4 GB'}, revision" in said
    assert part.revision[:8] in said and str(folder / part.id) in said and "\n" not in said
    assert f"python -m maxbench data weights suite={replica.name} suite.weights_dir={folder}" in said
    with pytest.raises(UserError, match=r"lacks stable-diffusion-v1-5/stable-diffusion-v1-5 \(vae unet .* GB in all"):
        suite_at(tmp_path / "none", replica.name).require(PAIR)


def test_a_file_that_is_missing_beside_the_weights_is_named(replica, tmp_path):
    folder = shutil.copytree(replica.weights_dir, tmp_path / "weights")
    suite = suite_at(folder, replica.name)
    for part, name in (
        ("depth_annotator", "preprocessor_config.json"),
        ("tokenizer", "merges.txt"),
        ("unet", "config.json"),
    ):
        file = suite.place(part) / name
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UserError, match=f"{name} is missing, and the suite '{replica.name}' needs it"):
            suite.require(PAIR)
        file.write_bytes(content)
    suite.require(PAIR)


def test_a_pickle_that_is_cut_off_is_named_before_anything_is_loaded(replica, tmp_path):
    folder = shutil.copytree(replica.weights_dir, tmp_path / "weights")
    suite = suite_at(folder, replica.name)
    (file,) = suite.weight_files("depth_annotator")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot be loaded \(pytorch_model\.bin: it is cut off\)"):
        suite.require(PAIR)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="which is a file; name a folder"):
        suite_at(tmp_path / "file", replica.name)


def test_files_that_a_part_does_not_name_change_nothing(replica, tmp_path):
    folder = shutil.copytree(replica.weights_dir, tmp_path / "weights")
    suite = suite_at(folder, replica.name)
    before = suite.fingerprint(PAIR)
    for part in ("depth_annotator", "unet", "hed_annotator", "clip"):
        place = suite.place(part)
        (place if place.is_dir() else place.parent).joinpath("flax_model.msgpack").write_bytes(b"x")
        (place if place.is_dir() else place.parent).joinpath("notes.json").write_bytes(b"{")
    assert suite_at(folder, replica.name).fingerprint(PAIR) == before
    with (suite.place("clip") / "config.json").open("ab") as file:
        file.write(b"\n")
    after = suite_at(folder, replica.name).fingerprint(PAIR)
    assert {part for part in before if before[part] != after[part]} == {"clip"}


def test_a_vocabulary_that_the_library_prefers_counts_though_no_part_names_it(replica, tmp_path):
    folder = shutil.copytree(replica.weights_dir, tmp_path / "weights")
    suite = suite_at(folder, replica.name)
    before, place = suite.digest("tokenizer"), suite.place("tokenizer")
    text = "a photo of a cat"
    read = load_tokenizer(place, 10**6)(text).input_ids
    vocabulary = json.loads((suite.place("clip") / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    first = list(words)[:200]
    words |= dict(zip(first, [words[word] for word in reversed(first)], strict=True))
    (place / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert load_tokenizer(place, 10**6)(text).input_ids != read  # the file is read in the place of vocab.json
    assert suite_at(folder, replica.name).digest("tokenizer") != before


def test_scorers_are_named_by_their_ids(replica):
    names = replica.scorer_names(["depth"])
    part = replica.published["depth_scorer"]
    assert names["depth"] == f"{part.id}@{digest_of(replica.place('depth_scorer'), part.beside)[:8]}"
    assert replica.annotator_names(PAIR).keys() == {"depth"}  # HED is measured by its annotator
    origins = replica.origins(PAIR)
    assert origins["unet"] == {
        "id": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "revision": None,
    }  # put there by hand


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("unet.id=net", r"suite\.hub\.unet\.id is 'net'; it must be the id of a repository on the Hub"),
        ("unet.file=../x", r"suite\.hub\.unet\.file is '\.\./x'; it must be"),
        ("unet.folder=/x", r"suite\.hub\.unet\.folder is '/x'; it must be a path within the repository"),
        ("unet.revision=main", r"suite\.hub\.unet\.revision is 'main'; it must be a commit"),
        ("tokenizer.beside=[]", r"suite\.hub\.tokenizer\.file is missing"),
        ("+unet.sise=1", r"There is no setting 'suite\.hub\.unet\.sise'; did you mean"),
    ],
)
def test_a_mistake_in_a_part_is_named(setting, sentence):
    plus = "+" if setting.startswith("+") else ""
    with hydra_on() as hydra, pytest.raises(UserError, match=sentence):
        compose(hydra, ["suite=sd15", "experiment=hed_depth", f"{plus}suite.hub.{setting.lstrip('+')}"])
