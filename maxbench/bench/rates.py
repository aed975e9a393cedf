"""What the device can do at most, and how much of it denoising reaches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from maxbench.bench.cases import Batch, control_of, encode_text
from maxbench.bench.clock import seconds_of
from maxbench.experiments.method import Method
from maxbench.models.pipeline import Pipeline, Sampler
from maxbench.models.precision import tf32

SIDE = {"cuda": 8192, "cpu": 1536}
"""Of the square matrices by the kind of device: large enough that the product is limited by arithmetic alone."""

REPEATS = 7


class MatrixRate(NamedTuple):
    """FLOP a second, a multiplication and an addition being two; the best of several tries.

    product: of square matrices. convolution: 3 x 3, of the shapes of the U-Net's first block at this batch.
    """

    product: float
    convolution: float

    @property
    def most(self) -> float:
        return max(self)


@torch.inference_mode()
def matrix_rate(pipeline: Pipeline, sampler: Sampler, batch: Batch) -> MatrixRate:
    """In the dtype of the networks, with TF32 where they have it."""
    device, dtype = pipeline.device, pipeline.dtype
    side = SIDE.get(device.type, SIDE["cpu"])
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    width = pipeline.unet.config.block_out_channels[0]
    layout = (
        torch.channels_last
        if pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        else (torch.contiguous_format)
    )
    shape = (sampler.halves * len(batch), width, *batch.noise.shape[2:])
    hidden = torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout)
    convolution = torch.nn.Conv2d(width, width, 3, padding=1, device=device, dtype=dtype).to(memory_format=layout)
    with tf32(pipeline.allow_tf32):
        return MatrixRate(_rate(lambda: one @ other, device), _rate(lambda: convolution(hidden), device))


def _rate(call: Callable[[], Any], device: torch.device) -> float:
    """Calls are timed several at a time where one is short, so that starting them does not count."""
    work = flops(call)
    call()
    count = max(1, min(100, int(0.05 / max(seconds_of(call, device), 1e-9))))

    def several() -> None:
        for _ in range(count):
            call()

    return count * work / min(seconds_of(several, device) for _ in range(REPEATS))


def denoising_flops(pipeline: Pipeline, method: Method, sampler: Sampler, batch: Batch) -> int:
    """FLOPs of denoising one picture: products, convolutions and attention; what works value by value counts nothing.

    Counted in one pass over all steps, so that branches that do not always act are counted where they do.
    """
    text, negative = encode_text(pipeline, sampler, batch)
    control = control_of(pipeline, method, batch)
    total = flops(lambda: pipeline.denoise(batch.noise, text, negative, control, sampler, batch.generators()))
    return total // len(batch)


def flops(call: Callable[[], Any]) -> int:
    """Of a call, by PyTorch's own counter, which knows attention on accelerators only."""
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        call()
    return counter.get_total_flops()


def _attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    """From the shapes of its arguments."""
    return sdpa_flop_count(query, key, value)
