"""Every random number of a run, from what it belongs to and nothing else."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

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


class RunNoise(NamedTuple):
    """The noise of one image of a run, by what it belongs to: see :func:`noise_for`."""

    run_seed: int
    group: str
    replicate: int = 0

    def draw(self, shape: tuple[int, ...]) -> Float[Tensor, "channel height width"]:
        """What its picture starts from."""
        return noise_for(*self, shape)

    def generator(self) -> torch.Generator:
        """From which a stochastic sampler draws, on the processor."""
        return torch.Generator().manual_seed(derive("sampler", *self))


class DrawnNoise(NamedTuple):
    """The noise of one image as diffusers draws it: what a torch generator gives next.

    seed: of a generator on the processor, or its whole state as hexadecimal digits. before: how many images' noise it
    gives before this one's.
    """

    seed: int | str
    before: int = 0

    @classmethod
    def of(cls, generator: torch.Generator, before: int = 0) -> DrawnNoise:
        """What a generator would give; it is not advanced."""
        return cls(_state(generator), before)

    def draw(self, shape: tuple[int, ...]) -> Float[Tensor, "channel height width"]:
        """What its picture starts from; of a batch, `torch.randn(batch shape, generator=...)` gives the same."""
        generator = self._begun()
        if self.before:
            torch.randn(self.before * math.prod(shape), generator=generator)
        return torch.randn(shape, generator=generator)

    def generator(self) -> torch.Generator:
        """From which a stochastic sampler draws: one for every image, so that it does not depend on its company."""
        return torch.Generator().manual_seed(derive("sampler", _state(self._begun()), self.before))

    def _begun(self) -> torch.Generator:
        generator = torch.Generator()
        if isinstance(self.seed, int):
            return generator.manual_seed(self.seed)
        return generator.set_state(torch.frombuffer(bytearray.fromhex(self.seed), dtype=torch.uint8))


def _state(generator: torch.Generator) -> str:
    return generator.get_state().numpy().tobytes().hex()


Noise = RunNoise | DrawnNoise
