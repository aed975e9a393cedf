"""With how many bits networks compute, and how their work lies in memory.

A picture is known by what changes it: every setting here other than the usual one is part of its key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SLICED_FROM = 2**20
"""Pixels of a batch, 4 pictures of 512 x 512, above which the autoencoder takes its pictures one at a time. In float32
decoding 8 of them at once takes several GiB; one fills an accelerator."""


@dataclass(frozen=True)
class Precision:
    """How the networks that make pictures compute. All others compute in float32, and without TF32.

    dtype: of the text encoder, the U-Net and its controls; the autoencoder's is always float32.
    tf32: whether their float32 matrix products and convolutions may round factors to 10 bits on an accelerator. Never
        the autoencoder's.
    channels_last: whether the U-Net and its controls keep the channels of a location together in memory.
    sliced: whether the autoencoder takes the pictures of a batch one at a time; None: where they are large, see
        SLICED_FROM.
    tiled: whether it takes pictures larger than it was trained on in overlapping tiles, which are blended.
    compiled: whether a denoising step is compiled, see :mod:`maxbench.models.compiled`; in its last bits a picture is
        another.
    """

    dtype: torch.dtype = torch.float32
    tf32: bool = False
    channels_last: bool = False
    sliced: bool | None = None
    tiled: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def exact(self) -> Precision:
        """The same in float32 without TF32, and not compiled: it is for a few pictures."""
        return replace(self, dtype=torch.float32, tf32=False, compiled=False)

    def slices(self, batch: int, resolution: int) -> bool:
        """Whether the autoencoder takes the pictures of a batch one at a time; resolution: pixels a side."""
        return _usually_sliced(batch, resolution) if self.sliced is None else self.sliced

    def normal(self, batch: int, resolution: int) -> Precision:
        """The same, and None where slicing was asked for as it is anyway: one way of computing has one key."""
        return replace(self, sliced=None) if self.sliced == _usually_sliced(batch, resolution) else self

    @property
    def of_autoencoder(self) -> dict[str, Any]:
        """What is unusual about the autoencoder, as plain data."""
        said = {} if self.sliced is None else {"vae_slices": self.sliced}
        return said | ({"vae_tiling": True} if self.tiled else {})

    @property
    def unusual(self) -> dict[str, Any]:
        """Everything besides the dtype that is unusual, as plain data: nothing of a run with the default settings."""
        said = {name: True for name in ("tf32", "channels_last") if getattr(self, name)}
        return said | self.of_autoencoder | ({"compile": True} if self.compiled else {})


def _usually_sliced(batch: int, resolution: int) -> bool:
    return batch * resolution**2 > SLICED_FROM


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it float32 products and convolutions on an accelerator may use TF32, or must not; after it they must not.

    PyTorch's own defaults are no and, of convolutions, yes.
    """
    _allow(allowed)
    try:
        yield
    finally:
        _allow(False)


def forbid_tf32() -> None:
    """From now on float32 means 23 bits, also in convolutions."""
    _allow(False)


def _allow(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
