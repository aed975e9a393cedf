"""Stable Diffusion's suite in small: every part of conf/suite/sd15.yaml at its published path, with random weights.

The classes, file names, formats and old tensor names are those of the published files; only widths differ. Pictures
are of 64 pixels (`suite.resolution=64`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)

from maxbench.miniature.style import IPAdapter
from maxbench.suites.hub import HubPart
from suites.tiny import (
    write_tiny_clip,
    write_tiny_depth_anything,
    write_tiny_dpt,
    write_tiny_hed,
    write_tiny_mask2former,
    write_tiny_upernet,
)

SIZE = 64
WIDTHS = (8, 8, 16, 16)
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_replica(weights_dir: Path, parts: dict[str, HubPart]) -> Path:
    """Write every part under `weights_dir`/<organisation>/<name>; parts: of a suite, by their names in it."""
    torch.manual_seed(0)
    unet = _unet()
    writers: dict[str, Callable[[Path], object]] = {
        "unet": lambda folder: _diffusers(unet, folder),
        "vae": lambda folder: _diffusers(_vae(), folder),
        "text_encoder": _text_encoder,
        "tokenizer": _tokenizer,
        "scheduler": _scheduler,
        "depth_annotator": write_tiny_dpt,
        "depth_scorer": write_tiny_depth_anything,
        "seg_annotator": write_tiny_upernet,
        "seg_scorer": write_tiny_mask2former,
        "clip": _clip,
        "image_encoder": _image_encoder,
        "ip_adapter": lambda file: _ip_adapter(unet, file),
        "dinov2": _dinov2,
        "cmmd": _pickled_clip,
    }  # fmt: skip
    order = sorted(parts, key=lambda name: name == "ip_adapter")  # last: it changes the U-Net
    for name in order:
        part = parts[name]
        place = part.within(weights_dir / part.id)
        if name.startswith("controlnet"):
            _diffusers(_control(unet), place, str(part.file))
        elif name.startswith("t2iadapter"):
            channels = 1 if name.endswith("canny") else 3  # as published: edges are read as grey
            adapter = T2IAdapter(
                channels, list(WIDTHS), num_res_blocks=2, downscale_factor=8, adapter_type="full_adapter"
            )
            _diffusers(adapter, place, str(part.file))
        elif name == "hed_annotator":
            write_tiny_hed(place, "bsds500" if "bsds500" in str(part.file) else "apache2")
        elif name in writers:  # Inception's TorchScript has one size alone
            writers[name](place)
    return weights_dir


def _diffusers(net, folder: Path, file: str = "diffusion_pytorch_model.safetensors") -> None:
    variant = "fp16" if ".fp16." in file else None
    if variant:
        net = net.half()
    net.save_pretrained(folder, safe_serialization=file.endswith(".safetensors"), variant=variant)
    assert (folder / file).is_file()


def _unet() -> UNet2DConditionModel:
    """As Stable Diffusion 1.5's, with two heads where it has eight."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=WIDTHS,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        layers_per_block=1,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
        scaling_factor=0.18215,
    )


def _control(unet: UNet2DConditionModel) -> ControlNetModel:
    """With zero convolutions that are none: else every method would give the same picture."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return net


def _tokenizer(folder: Path) -> None:
    clip = write_tiny_clip(folder.parent / ".clip")
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(clip / name, folder / name)
    shutil.rmtree(clip)


def _text_encoder(folder: Path) -> None:
    clip = write_tiny_clip(folder.parent / ".clip")
    words = len(json.loads((clip / "vocab.json").read_text(encoding="utf-8")))
    shutil.rmtree(clip)
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": 1}
    CLIPTextModel(CLIPTextConfig(**TOWER, vocab_size=words, max_position_embeddings=77, **ends)).save_pretrained(folder)


def _scheduler(folder: Path) -> None:
    """As published: what the file does not say is each scheduler's own default, the spacing of timesteps among them."""
    folder.mkdir(parents=True)
    said = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    (folder / "scheduler_config.json").write_text(json.dumps(said), encoding="utf-8")


def _clip(folder: Path) -> None:
    write_tiny_clip(folder)
    CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))


def _pickled_clip(folder: Path) -> None:
    """A whole CLIP as a pickled state dict, which is all that is published of the one for CMMD."""
    model = CLIPModel(
        CLIPConfig(text_config=TOWER, vision_config={**TOWER, "image_size": 28, "patch_size": 14}, projection_dim=8)
    )
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _dinov2(folder: Path) -> None:
    Dinov2Model(Dinov2Config(**TOWER, image_size=28, patch_size=14)).save_pretrained(folder)


def _image_encoder(folder: Path) -> None:
    vision = CLIPVisionConfig(**TOWER, image_size=28, patch_size=14, projection_dim=8)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder)


def _ip_adapter(unet: UNet2DConditionModel, file: Path) -> None:
    prompt = IPAdapter.from_unet(unet, image_width=8)
    for parameter in prompt.parameters():
        nn.init.normal_(parameter, std=0.5)
    prompt.save_pretrained(file.parent / ".ip")
    shutil.move(file.parent / ".ip" / "ip_adapter.safetensors", file)
    shutil.rmtree(file.parent / ".ip")
