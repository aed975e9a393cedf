"""Every random number of a run, from what it belongs to and nothing else."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor


def derive(*parts: object) -> int:
    """A 63-bit seed from any printable parts; the same parts give the same seed on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def noise_for(
    run_seed: int, group: str, replicate: int, shape: tuple[int, ...]
) -> Float[Tensor, "channel height width"]:
    """Initial noise of one image: N(0, 1), float32, from a CPU generator of its own.

    It depends on the run's seed, the sample's group and the replicate: the same for every method and delta,
    whatever the batch size, the number of workers, the order or a resumption.
    """
    generator = torch.Generator().manual_seed(derive("noise", run_seed, group, replicate))
    return torch.randn(shape, generator=generator)
