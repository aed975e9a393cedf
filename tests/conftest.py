"""Small random models in the Hub's layout, and a small rendered data set: made once, used by many."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel, UNet2DModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from maxbench.miniature.annotators import OUTPUTS
from maxbench.miniature.dataset import folder_name, write_dataset
from maxbench.miniature.diffusion import make_scheduler
from maxbench.miniature.dilated import DilatedNet
from maxbench.miniature.language import make_tokenizer
from maxbench.miniature.style import IPAdapter
from runs import LEFT_OUT, only_run

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start: two workers share two cores
torch.set_num_threads(1)
TOKENS = 32
WORDS = ["a red sphere on grass under a clear sky", "a striped blue box on sand at sunset with hills"]


def write_small_suite(root: Path, seed: int = 0) -> Path:
    """The miniature's parts, each as small as its class allows and with random weights."""
    torch.manual_seed(seed)
    make_tokenizer(WORDS, root / "tokenizer", TOKENS)
    tokenizer = CLIPTokenizer.from_pretrained(root / "tokenizer")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 64, "patch_size": 16}, projection_dim=8)
    CLIPTextModel(config.text_config).save_pretrained(root / "text_encoder")
    CLIPModel(config).save_pretrained(root / "scorers" / "clip")
    tokenizer.save_pretrained(root / "scorers" / "clip")
    AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    ).save_pretrained(root / "vae")
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    unet.save_pretrained(root / "unet")
    for condition in ("depth", "seg", "hed", "canny"):
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8))
        for parameter in net.parameters():  # zero convolutions would make every method the same
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        net.save_pretrained(root / f"controlnet_{condition}")
        adapter = T2IAdapter(3, [16, 32, 32, 32], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter_xl")
        adapter.save_pretrained(root / f"t2iadapter_{condition}")
    UNet2DModel(
        in_channels=3,
        out_channels=OUTPUTS,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8,
        add_attention=False,
    ).save_pretrained(root / "annotators")
    DilatedNet(OUTPUTS, channels=8, dilations=(1, 2)).save_pretrained(root / "scorers" / "maps")
    make_scheduler().save_pretrained(root / "scheduler")
    vision = {**tower, "image_size": 64, "patch_size": 16, "projection_dim": 8}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**vision)).save_pretrained(root / "image_encoder")
    prompt = IPAdapter.from_unet(unet, image_width=8)  # last: it changes the U-Net
    for parameter in prompt.parameters():  # from the text's own keys and values a picture would be one more word
        torch.nn.init.normal_(parameter, std=0.5)
    prompt.save_pretrained(root / "ip_adapter")
    return root


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device is visible"))


@pytest.fixture(scope="session")
def small_suite(tmp_path_factory) -> Path:
    return write_small_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / folder_name("val", 24), "val", 24)
    return folder


@pytest.fixture(scope="session")
def small_run(small_suite, data_dir):
    """Overrides of a run that takes seconds: small random models, 6 samples, 2 steps, and no method that is tuned."""
    return [
        "experiment=hed_depth",
        *(f"~methods.{name}" for name in LEFT_OUT),
        f"suite.root={small_suite}",
        f"data_dir={data_dir}",
        "data.count=24",
        "samples=6",
        "pairing.reference=12",
        "sampler.steps=2",
        "metrics.resamples=100",
        "runtime.batch_size=4",
        "runtime.device=cpu",
    ]


@pytest.fixture(scope="session")
def finished_run(small_run, tmp_path_factory) -> Path:
    """The folder of a finished small run; tests that change a run copy it first."""
    from maxbench.__main__ import main

    output = tmp_path_factory.mktemp("runs")
    assert main(["run", *small_run, f"output_dir={output}"]) == 0
    folder = only_run(output)
    assert json.loads((folder / "manifest.json").read_text())["samples"]
    return folder


@pytest.fixture(scope="session")
def watched_run(small_run, tmp_path_factory) -> Path:
    """The same run from its beginning with its first two samples under watch; tests that change it copy it first."""
    from maxbench.__main__ import main

    output = tmp_path_factory.mktemp("watched")
    assert main(["run", *small_run, "diagnostics.samples=2", f"output_dir={output}"]) == 0
    folder = only_run(output)
    return folder
