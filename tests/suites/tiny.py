"""Annotators and scorers of Stable Diffusion's suite as small as their classes allow, with random weights, in the
layout in which they are published: the same files, the same old names in them, the same tensors left out.

Each function writes one part into a folder, or a file, that it makes, from a seed, and gives its path back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BitConfig,
    CLIPConfig,
    CLIPModel,
    ConvNextConfig,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedModel,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

HALF = [0.5, 0.5, 0.5]
MEAN, STD = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
ADE20K_CLASSES = 150
STAGES = ["stage1", "stage2", "stage3", "stage4"]
NEVER_READ = "neck.fusion_stage.layers.0.residual_layer1."
"""Tensors of a DPT that its published files lack."""


def write_tiny_dpt(folder: Path, hybrid: bool = True, size: int = 64, seed: int = 0) -> Path:
    """A DPTForDepthEstimation as `Intel/dpt-hybrid-midas` comes, or without `hybrid` as `Intel/dpt-large`.

    size: pixels a side at which it reads pictures; a multiple of 32. The published ones read them at 384.
    """
    torch.manual_seed(seed)
    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=size,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=hybrid,
        **(_bit(size) if hybrid else {}),
    )
    model = _lively(DPTForDepthEstimation(config))
    return _write(folder, model, pickled=hybrid, without=NEVER_READ, preprocessor={
        "do_normalize": True, "do_resize": True, "ensure_multiple_of": 1,
        "feature_extractor_type": "DPTFeatureExtractor", "image_mean": HALF, "image_std": HALF,
        "keep_aspect_ratio": False, "resample": 3, "size": size,
    })  # fmt: skip


def _bit(size: int) -> dict[str, Any]:
    """A hybrid's convolutional stem."""
    stem = BitConfig(
        global_padding="same", layer_type="bottleneck", depths=[1, 1, 1], hidden_sizes=[8, 8, 16], embedding_size=8,
        num_groups=2, embedding_dynamic_padding=True, out_features=["stage1", "stage2", "stage3"],
    )  # fmt: skip
    side = size // 16
    return {
        "backbone_config": stem.to_dict(),
        "backbone_featmap_shape": [1, 16, side, side],
        "neck_ignore_stages": [0, 1],
    }


def write_tiny_depth_anything(folder: Path, size: int = 56, seed: int = 0) -> Path:
    """A DepthAnythingForDepthEstimation as `depth-anything/Depth-Anything-V2-Small-hf` comes, which reads pictures at
    518 pixels; `size` is a multiple of 14."""
    torch.manual_seed(seed)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=size, patch_size=14,
        out_features=STAGES, reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone.to_dict(), reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    model = _lively(DepthAnythingForDepthEstimation(config))
    return _write(folder, model, preprocessor={
        "do_normalize": True, "do_pad": False, "do_rescale": True, "do_resize": True, "ensure_multiple_of": 14,
        "image_mean": MEAN, "image_processor_type": "DPTImageProcessor", "image_std": STD, "keep_aspect_ratio": True,
        "resample": 3, "rescale_factor": 1 / 255, "size": {"height": size, "width": size}, "size_divisor": None,
    })  # fmt: skip


def write_tiny_upernet(folder: Path, size: int = 64, seed: int = 0) -> Path:
    """A UperNetForSemanticSegmentation of ADE20K as `openmmlab/upernet-convnext-small` comes, which reads pictures at
    512 pixels."""
    torch.manual_seed(seed)
    backbone = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=STAGES)
    config = UperNetConfig(
        backbone_config=backbone.to_dict(), hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8,
        num_labels=ADE20K_CLASSES,
    )  # fmt: skip
    model = _lively(UperNetForSemanticSegmentation(config))
    return _write(folder, model, pickled=True, preprocessor={
        "do_normalize": True, "do_reduce_labels": False, "do_rescale": True, "do_resize": True, "image_mean": MEAN,
        "image_processor_type": "SegformerImageProcessor", "image_std": STD, "resample": 2, "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    })  # fmt: skip


def write_tiny_mask2former(folder: Path, size: int = 64, seed: int = 0) -> Path:
    """A Mask2FormerForUniversalSegmentation of ADE20K as `facebook/mask2former-swin-large-ade-semantic` comes, which
    reads pictures at 384 pixels; `size` is a multiple of 32."""
    torch.manual_seed(seed)
    backbone = SwinConfig(
        image_size=size, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, out_features=STAGES
    )
    config = Mask2FormerConfig(
        backbone_config=backbone.to_dict(), feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        num_queries=6, num_labels=ADE20K_CLASSES,
    )  # fmt: skip
    model = _lively(Mask2FormerForUniversalSegmentation(config))
    queries = model.model.transformer_module.queries_features
    for layer in (queries, model.class_predictor):  # else every query says the same
        layer.weight.data *= 6
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    return _write(folder, model, more={f"{block}.relative_position_index": torch.zeros(4, 4).long()}, preprocessor={
        "do_normalize": True, "do_rescale": True, "do_resize": True, "ignore_index": 255, "image_mean": MEAN,
        "image_processor_type": "Mask2FormerImageProcessor", "image_std": STD, "num_labels": ADE20K_CLASSES,
        "reduce_labels": True, "resample": 2, "rescale_factor": 1 / 255, "size": {"height": size, "width": size},
        "size_divisor": 32,
    })  # fmt: skip


DEPTHS = (2, 2, 3, 3, 3)  # convolutions in the blocks of a VGG-16
FACTORS = (1, 2, 4, 8, 8)  # of their widths
WORDS = ("One", "Two", "Thr", "Fou", "Fiv")


def write_tiny_hed(file: Path, kind: str, width: int = 2, seed: int = 0) -> Path:
    """The state dict of a HED network of the first width `width` instead of 64.

    kind: "bsds500" as `annotator/ckpts/network-bsds500.pth` of `lllyasviel/ControlNet`, "apache2" as
        `ControlNetHED.pth` of `lllyasviel/Annotators`, in half precision like that. By the file's name a pickle, or
        safetensors.
    """
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, into: int, out: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, into, side, side, generator=generator) / (into * side * side) ** 0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)

    into = 3
    if kind == "apache2":
        state["norm"] = 120 + 5 * torch.randn(1, 3, 1, 1, generator=generator)
    for block, (word, depth, factor) in enumerate(zip(WORDS, DEPTHS, FACTORS, strict=True)):
        out = width * factor
        for place in range(depth):
            name = (
                f"moduleVgg{word}.{2 * place + (block > 0)}" if kind == "bsds500" else f"block{block + 1}.convs.{place}"
            )
            convolution(name, into, out, 3)
            into = out
        convolution(f"moduleScore{word}" if kind == "bsds500" else f"block{block + 1}.projection", out, 1, 1)
    for name in state:  # a side output of single numbers, not of the hundreds that enter
        if "Score" in name or "projection" in name:
            state[name] = state[name] / 20
    if kind == "bsds500":
        convolution("moduleCombine.0", 5, 1, 1)
    else:
        state = {name: tensor.half() for name, tensor in state.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return file


CLIP_WORDS = ("a", "cat", "dog", "on", "the", "mat", "photo", "of")


def write_tiny_clip(folder: Path, size: int = 28, seed: int = 0) -> Path:
    """A CLIPModel with its tokenizer and processor as `openai/clip-vit-large-patch14` comes, which reads pictures at
    224 pixels and 77 tokens. The tokenizer knows single characters and a few words, from vocab.json and merges.txt."""
    torch.manual_seed(seed)
    vocabulary, merges = _byte_pairs(CLIP_WORDS)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as published, and not the tokenizer's own
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(vocabulary), "max_position_embeddings": 77, **ends},
        vision_config={**tower, "image_size": size, "patch_size": 14},
        projection_dim=8,
    )
    model = CLIPModel(config)
    counting = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange((size // 14) ** 2 + 1)[None],
    }
    _write(folder, model, more=counting, preprocessor={
        "crop_size": size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": list(OPENAI_CLIP_MEAN),
        "image_std": list(OPENAI_CLIP_STD), "resample": 3, "size": size,
    })  # fmt: skip
    _json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{pair}\n" for pair in merges), encoding="utf-8")
    end = {"content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    begin = {**end, "content": "<|startoftext|>"}
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": "<|endoftext|>"}
    _json(folder / "special_tokens_map.json", special)
    _json(folder / "tokenizer_config.json", {
        "unk_token": {**end, "__type": "AddedToken"}, "bos_token": {**begin, "__type": "AddedToken"},
        "eos_token": {**end, "__type": "AddedToken"}, "pad_token": "<|endoftext|>", "add_prefix_space": False,
        "errors": "replace", "do_lower_case": True, "name_or_path": "openai/clip-vit-base-patch32",
        "model_max_length": 77, "special_tokens_map_file": "./special_tokens_map.json",
        "tokenizer_class": "CLIPTokenizer",
    })  # fmt: skip
    return folder


def _byte_pairs(words: tuple[str, ...]) -> tuple[dict[str, int], list[str]]:
    """A vocabulary of single characters, with and without the end of a word, and of `words`, and the merges to them."""
    letters = [chr(code) for code in range(33, 127)]
    tokens, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            parts = [parts[0] + parts[1], *parts[2:]]
            if pair not in merges:
                merges.append(pair)
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def _lively(model: PreTrainedModel) -> PreTrainedModel:
    """Random weights large enough that pictures leave a trace in the output."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            torch.nn.init.normal_(parameter, std=fan**-0.5)
        elif "layer_scale" in name or "lambda" in name:
            torch.nn.init.ones_(parameter)
    return model.eval()


def _write(
    folder: Path,
    model: PreTrainedModel,
    preprocessor: Mapping[str, Any],
    pickled: bool = False,
    without: str = "",
    more: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Configuration, preprocessor and weights, by the names that the library writes, which are the published ones.

    pickled: weights as `pytorch_model.bin`. without: first part of the names of tensors that are left out. more:
        buffers that older versions of the library wrote.
    """
    model.save_pretrained(folder)
    _json(folder / "preprocessor_config.json", preprocessor)
    file = folder / "model.safetensors"
    state = {name: tensor for name, tensor in load_file(file).items() if not (without and name.startswith(without))}
    state |= more or {}
    if pickled:
        file.unlink()
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, file, metadata={"format": "pt"})
    return folder


def _json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
