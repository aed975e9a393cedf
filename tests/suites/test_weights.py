"""State dicts that do not fit are refused by name, never filled up; pickles are read as tensors alone."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from maxbench.errors import UserError
from maxbench.miniature.dilated import DilatedNet
from maxbench.miniature.readers import MapReader
from maxbench.models.image_prompt import ImageEncoder, install_image_prompt
from maxbench.models.loading import load_network, load_tokenizer
from maxbench.suites.scorers import ClipScorer

CPU = torch.device("cpu")
PARTS = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "text_encoder": CLIPTextModel,
    "controlnet_hed": ControlNetModel,
    "t2iadapter_hed": T2IAdapter,
    "annotators": UNet2DModel,
    "scorers/maps": DilatedNet,
    "scorers/clip": CLIPModel,
    "image_encoder": CLIPVisionModelWithProjection,
}


def copied(small_suite, part, tmp_path):
    return shutil.copytree(small_suite / part, tmp_path / "part")


def rewrite(folder: Path, change):
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return file


def last(tensors):
    return sorted(tensors)[-1]


@pytest.mark.parametrize(("part", "kind"), PARTS.items())
def test_a_state_dict_that_does_not_fit_is_refused_by_name(small_suite, tmp_path, part, kind):
    folder = copied(small_suite, part, tmp_path)
    whole = load_file(next(folder.glob("*.safetensors")))

    def refused(change, sentence):
        rewrite(folder, lambda tensors: (tensors.clear(), tensors.update(whole), change(tensors)))
        with pytest.raises(UserError, match=sentence) as caught:
            load_network(kind, folder, CPU)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)

    name, device = last(whole), f"does not hold the weights of {kind.__name__}: it "
    refused(lambda tensors: tensors.pop(name), rf"{device}lacks {name}; restore")
    refused(lambda tensors: tensors.update(extra=torch.ones(1)), rf"{device}has unknown extra; restore")
    refused(lambda tensors: tensors.update({name: torch.ones(3, 5)}), rf"{device}has {name} of shape \(3, 5\) for \(")
    refused(lambda tensors: tensors.clear(), rf"{device}lacks .*, .*, .* and \d+ more; restore")


def test_a_clip_without_its_projection_is_refused(small_suite, tmp_path):
    folder = copied(small_suite, "scorers/clip", tmp_path)
    rewrite(folder, lambda tensors: [tensors.pop(f"{name}_projection.weight") for name in ("text", "visual")])
    with pytest.raises(UserError, match=r"it lacks text_projection\.weight, visual_projection\.weight; restore"):
        ClipScorer.load(folder, CPU, [0.5] * 3, [0.5] * 3)


def test_buffers_of_old_checkpoints_do_no_harm(small_suite, tmp_path):
    folder = copied(small_suite, "scorers/clip", tmp_path)
    count = torch.arange(64)[None]
    rewrite(folder, lambda tensors: tensors.update({"text_model.embeddings.position_ids": count}))
    load_network(CLIPModel, folder, CPU)
    rewrite(folder, lambda tensors: tensors.update({"a.position_ids": count}))
    load_network(CLIPModel, folder, CPU)


def test_attention_under_its_old_names_is_known(tmp_path):
    torch.manual_seed(0)
    net = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8)
    net.save_pretrained(tmp_path)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def age(tensors):
        for name in [name for name in tensors if ".attentions." in name]:
            for new, old in names.items():
                if f".{new}." in name:
                    tensors[name.replace(f".{new}.", f".{old}.")] = tensors.pop(name)

    assert ".query." in " ".join(load_file(rewrite(tmp_path, age)))
    loaded = load_network(AutoencoderKL, tmp_path, CPU)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("part", "kind"), PARTS.items())
def test_a_pickled_state_dict_gives_the_same_network_and_runs_no_code(small_suite, tmp_path, part, kind, capfd):
    folder = copied(small_suite, part, tmp_path)
    (file,) = folder.glob("*.safetensors")
    name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
    whole = load_network(kind, folder, CPU).state_dict()
    torch.save(load_file(file), folder / name)
    file.unlink()
    capfd.readouterr()
    loaded = load_network(kind, folder, CPU).state_dict()
    assert all(torch.equal(loaded[each], whole[each]) for each in whole)
    assert capfd.readouterr().err == ""
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark"), protocol=2))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_network(kind, folder, CPU)
    torch.save({"x": Bomb(tmp_path / "mark")}, folder / name)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_network(kind, folder, CPU)
    assert not (tmp_path / "mark").exists()


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_network_is_read_again_when_its_files_have_changed(small_suite, tmp_path):
    folder = copied(small_suite, "annotators", tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    before = MapReader.unet(folder, CPU, "levels")(pixels)
    assert MapReader.unet(folder, CPU, "levels").network is MapReader.unet(folder, CPU, "logits").network
    rewrite(folder, lambda tensors: tensors["conv_out.bias"].add_(1))
    torch.testing.assert_close(MapReader.unet(folder, CPU, "levels")(pixels), before + 1)


# --- tokenizers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_without_its_files_is_refused(small_suite, tmp_path, gone):
    folder = copied(small_suite, "tokenizer", tmp_path)
    (folder / gone).unlink()
    with pytest.raises(UserError, match=f"lacks {gone}; restore that folder"):
        load_tokenizer(folder, 1000)


def test_a_tokenizer_of_another_model_is_refused(small_suite, tmp_path):
    folder = copied(small_suite, "tokenizer", tmp_path)
    size = len(CLIPTokenizer.from_pretrained(folder))
    assert len(load_tokenizer(folder, size)) == size
    with pytest.raises(UserError, match=f"has {size} tokens, but its text encoder {size - 1}"):
        load_tokenizer(folder, size - 1)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="says no model_max_length"):
        load_tokenizer(folder, size)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(folder, size)


def test_the_old_files_of_a_tokenizer_are_read(small_suite, tmp_path):
    new = load_tokenizer(small_suite / "tokenizer", 1000)
    folder = tmp_path / "old"
    folder.mkdir()
    new._tokenizer.model.save(str(folder))  # vocab.json and merges.txt, as Stable Diffusion 1.5 has them
    shutil.copy(small_suite / "tokenizer" / "tokenizer_config.json", folder)
    assert load_tokenizer(folder, 1000)("a red sphere").input_ids == new("a red sphere").input_ids
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"lacks merges\.txt"):
        load_tokenizer(folder, 1000)


# --- image prompts ----------------------------------------------------------------------------------------

MISFITS = [
    (lambda tensors: tensors.pop("image_proj.norm.bias"), r"lacks image_proj\.norm\.bias"),
    (lambda tensors: tensors.pop("ip_adapter.1.to_k_ip.weight"), r"lacks ip_adapter\.1\.to_k_ip\.weight"),
    (lambda tensors: tensors.update({"ip_adapter.99.to_k_ip.weight": torch.ones(1)}), r"has unknown ip_adapter\.99"),
    (lambda tensors: tensors.update(other=torch.ones(1)), "has unknown other"),
    (
        lambda tensors: tensors.update({"ip_adapter.1.to_v_ip.weight": torch.ones(2, 3)}),
        r"has ip_adapter\.1\.to_v_ip\.weight of shape \(2, 3\) for \(32, 16\)",
    ),
    (lambda tensors: tensors.update({"image_proj.proj.weight": torch.ones(8, 8)}), r"of shape \(8, 8\) for \(64, 8\)"),
    (lambda tensors: tensors.update({"image_proj.proj.weight": torch.tensor(1.0)}), r"of shape \(\) for"),
]


@pytest.mark.parametrize(("change", "sentence"), MISFITS)
def test_an_image_prompt_that_does_not_fit_is_refused_by_name(small_suite, tmp_path, change, sentence):
    file = rewrite(copied(small_suite, "ip_adapter", tmp_path), change)
    unet = load_network(UNet2DConditionModel, small_suite / "unet", CPU)
    with pytest.raises(UserError, match=f"hold the weights of an IP-Adapter for this U-Net: it .*{sentence}"):
        install_image_prompt(unet, file)


def test_an_image_encoder_says_how_wide_it_sees(small_suite):
    encoder = ImageEncoder.load(small_suite / "image_encoder", CPU, [0.5] * 3, [0.5] * 3)
    assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, encoder.width)
