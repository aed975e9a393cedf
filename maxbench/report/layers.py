"""What a reader calls the places at which a run has recorded something: layers of controls and U-Net, steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

INPUT, MID = "input convolution", "mid block"


def control_layers(sides: Sequence[int]) -> list[str]:
    """Of a ControlNet's outputs in the order of the forward pass; sides: of their maps, in locations.

    They are what the input convolution gives, of every down block each layer and then its downsampling, which halves
    the sides, and the mid block. The last down block is not downsampled. Sides that fit no ControlNet are numbered.
    """
    falls = all(after in (before, (before + 1) // 2, before // 2) for before, after in pairwise(sides[:-1]))
    if len(sides) < 3 or sides[1] != sides[0] or sides[-1] != sides[-2] or not falls:
        return [f"output {place + 1}" for place in range(len(sides))]
    names, block, layer = [INPUT], 1, 0
    for before, after in pairwise(sides[:-1]):
        if after < before:
            names.append(f"down block {block}, halved")
            block, layer = block + 1, 0
        else:
            layer += 1
            names.append(f"down block {block}, layer {layer}")
    return [*names, MID]


def adapter_layers(count: int) -> list[str]:
    """Of a T2I-Adapter's levels."""
    return [f"adapter level {place + 1}" for place in range(count)]


def unet_layers(count: int) -> list[str]:
    """Of the U-Net's blocks: down, then as many up."""
    down = count // 2
    return [f"down block {place + 1}" for place in range(down)] + [
        f"up block {place + 1}" for place in range(count - down)
    ]


def main_layers(names: Sequence[str], most: int) -> list[int]:
    """Which layers to show where all are too many: the input, the last layer of each down block, and the mid block."""
    if len(names) <= most:
        return list(range(len(names)))
    last: dict[str, int] = {}
    for place, name in enumerate(names):
        block, _, layer = name.partition(", ")
        if layer != "halved":
            last[block] = place
    kept = sorted(last.values())
    return kept if len(kept) <= most else sorted({round(i * (len(kept) - 1) / (most - 1)) for i in range(most)})


def unmerged_layers(names: Sequence[str], sites: Sequence[str]) -> list[int]:
    """At which of a ControlNet's layers each unmerging of a step happens, in the order of the forward pass.

    names: see :func:`control_layers`. sites: of the method. A block's hidden state counts as its last layer.
    """
    blocks: list[list[int]] = []
    for place, name in enumerate(names[1:-1], start=1):
        number = int(name.split(",")[0].removeprefix("down block ")) if name.startswith("down block ") else 0
        while len(blocks) < number:
            blocks.append([])
        if number:
            blocks[number - 1].append(place)
    found = [0] * ("conv_in" in sites) + [0] * ("hint" in sites)
    for number, places in enumerate(blocks):
        here = {kind for kind in ("down", "hidden", "residuals") if kind in sites or f"{kind}.{number}" in sites}
        found += places if "down" in here else []
        found += places[-1:] if "hidden" in here else []
        found += places if "residuals" in here else []
    return [*found, len(names) - 1] if "mid" in sites else found


def step_name(step: int, steps: int | None, timestep: float | None = None) -> str:
    """A step as people count them; timestep: of the diffusion, where it is known."""
    said = f"step {step + 1}" + (f" of {steps}" if steps else "")
    return said if timestep is None else f"{said}\ntimestep {timestep:g}"
