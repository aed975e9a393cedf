"""Networks of Stable Diffusion 1.5's own shapes with random weights, for scripts and tests that need no download.

The configurations are those of the public files `unet/config.json`, `vae/config.json`, `text_encoder/config.json` and
`scheduler/scheduler_config.json` of stable-diffusion-v1-5 and of sd-controlnet-*'s `config.json`; what they leave out
is the class's default. The T2I-Adapter is what diffusers' own conversion of the original checkpoints builds. TINY has
the same parts and the same number of levels, each as narrow as its class allows.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from maxbench.miniature.language import make_tokenizer
from maxbench.models.loading import quieten
from maxbench.models.pipeline import Pipeline
from maxbench.seeds import derive

DOWN = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
TOKENS = 77
"""The context of CLIP's text encoder."""


@dataclass(frozen=True)
class Shapes:
    """Part -> what its class is made with. resolution: of pictures, in pixels a side."""

    name: str
    resolution: int
    configs: Mapping[str, Mapping[str, Any]]

    @property
    def latents(self) -> tuple[int, int, int]:
        """Channels, height and width of one picture's latents."""
        vae = self.configs["vae"]
        side = self.resolution // 2 ** (len(vae["block_out_channels"]) - 1)
        return vae["latent_channels"], side, side

    @property
    def width(self) -> int:
        """Of the text states."""
        return self.configs["unet"]["cross_attention_dim"]


def _shapes(
    name: str,
    resolution: int,
    *,
    channels: Sequence[int],
    layers: int,
    groups: int,
    heads: int,
    text: Mapping[str, Any],
    hint: Sequence[int],
    vae: Mapping[str, Any],
) -> Shapes:
    """heads: `attention_head_dim`, which in these classes is the number of heads."""
    trunk = {
        "in_channels": 4,
        "block_out_channels": tuple(channels),
        "down_block_types": DOWN,
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "attention_head_dim": heads,
        "cross_attention_dim": text["hidden_size"],
    }
    unet = {**trunk, "up_block_types": UP, "out_channels": 4, "sample_size": resolution // 8}
    adapter = {"in_channels": 3, "channels": list(channels), "num_res_blocks": 2, "downscale_factor": 8}
    configs = {
        "unet": unet,
        "controlnet": {**trunk, "conditioning_channels": 3, "conditioning_embedding_out_channels": tuple(hint)},
        "adapter": {**adapter, "adapter_type": "full_adapter"},
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "sample_size": resolution,
            "scaling_factor": 0.18215,
            **vae,
        },
        "text_encoder": {
            "hidden_act": "quick_gelu",
            "vocab_size": 49408,
            "max_position_embeddings": TOKENS,
            "projection_dim": text["hidden_size"],
            **text,
        },
    }
    return Shapes(name, resolution, configs)


SD15 = _shapes(
    "stable-diffusion-v1-5",
    512,
    channels=(320, 640, 1280, 1280),
    layers=2,
    groups=32,
    heads=8,
    text={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    hint=(16, 32, 96, 256),
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32},
)
TINY = _shapes(
    "tiny",
    64,
    channels=(16, 16, 32, 32),
    layers=1,
    groups=8,
    heads=2,
    text={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    hint=(4, 4, 8, 8),
    vae={"block_out_channels": (4, 4, 8, 8), "layers_per_block": 1, "norm_num_groups": 4},
)
CLASSES = {"unet": UNet2DConditionModel, "controlnet": ControlNetModel, "adapter": T2IAdapter, "vae": AutoencoderKL}


def network(
    shapes: Shapes,
    part: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A part for evaluation: "unet", "controlnet", "adapter", "vae" or "text_encoder"; on "meta" without weights.

    Weights are drawn on the device in float32, so that every dtype has the same ones, rounded; a processor and a GPU
    draw different ones.
    """
    quieten()  # diffusers has something to say about every cast
    config, device = shapes.configs[part], torch.device(device)
    if part == "text_encoder":  # it has a buffer that counts up, which an empty network would lose
        with device:
            net = CLIPTextModel(CLIPTextConfig(**config)).to(dtype)
    else:
        with torch.device("meta"):
            net = CLASSES[part](**config).to(dtype)
        assert not list(net.buffers())
    if device.type != "meta":
        net = net.to_empty(device=device) if part != "text_encoder" else net
        _fill(net, derive("shapes", part, seed))
    return net.eval().requires_grad_(False)


@torch.no_grad()
def _fill(net: nn.Module, seed: int) -> None:
    """Random weights that keep the size of what goes through them; zero convolutions are filled like all others.

    A freshly made control has zero convolutions: it would add nothing, and every method would be the same.
    """
    generator = torch.Generator(next(net.parameters()).device).manual_seed(seed)
    for module in net.modules():
        is_norm = isinstance(module, nn.GroupNorm | nn.LayerNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm:
                parameter.fill_(1.0 if name == "weight" else 0.0)
                continue
            std = 0.02 if parameter.ndim == 1 else 1 / math.sqrt(parameter[0].numel())
            drawn = torch.empty_like(parameter, dtype=torch.float32).normal_(std=std, generator=generator)
            parameter.copy_(drawn)


def tokenizer() -> CLIPTokenizer:
    """A tokenizer of few words, of CLIP's context: what words mean is nothing to random weights."""
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(["a red sphere on grass under a clear sky"], Path(folder), TOKENS)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def pipeline(
    shapes: Shapes,
    controls: Mapping[str, str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pipeline:
    """Everything that makes a picture. controls: name -> "controlnet" or "adapter". The autoencoder is float32."""
    return Pipeline(
        vae=network(shapes, "vae", 0, device),
        unet=network(shapes, "unet", 0, device, dtype),
        text_encoder=network(shapes, "text_encoder", 0, device, dtype),
        tokenizer=tokenizer(),
        scheduler_config=dict(SCHEDULER),
        controls={
            name: network(shapes, part, seed, device, dtype) for seed, (name, part) in enumerate(controls.items())
        },
    )


@torch.inference_mode()
def flops_of(shapes: Shapes) -> dict[str, int]:
    """FLOPs of one evaluation of each part, for one picture and one guidance half; a multiply-add is two.

    "controlnet" is without its embedding of the map, "hint", which is computed once per picture. Counted by PyTorch on
    networks without weights: matrix products and convolutions; what works value by value counts nothing.
    """
    latents, side = torch.empty(1, *shapes.latents, device="meta"), shapes.resolution
    picture = torch.empty(1, 3, side, side, device="meta")
    moment = torch.empty((), dtype=torch.long, device="meta"), torch.empty(1, TOKENS, shapes.width, device="meta")
    nets = {part: network(shapes, part, device="meta") for part in shapes.configs}
    embed = nets["controlnet"].controlnet_cond_embedding
    calls = {
        "text_encoder": lambda: nets["text_encoder"](torch.empty(1, TOKENS, dtype=torch.long, device="meta")),
        "unet": lambda: nets["unet"](latents, *moment),
        "controlnet": lambda: nets["controlnet"](latents, *moment, picture),
        "hint": lambda: embed(picture),
        "adapter": lambda: nets["adapter"](picture),
        "decode": lambda: nets["vae"].decode(latents),
        "encode": lambda: nets["vae"].encode(picture),
    }
    counted = {part: counting(call) for part, call in calls.items()}
    return {**counted, "controlnet": counted["controlnet"] - counted["hint"]}


def counting(call: Callable[[], Any]) -> int:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
