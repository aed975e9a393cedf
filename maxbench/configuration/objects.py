"""Settings -> objects that a run and a pipeline of the Python interface have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from maxbench.configuration.component import RULE, component
from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.models.precision import DTYPES, Precision


def make_precision(runtime: Mapping[str, Any], batch_size: int, resolution: int) -> Precision:
    """How networks compute, from the settings of `runtime`; pictures are made so many together."""
    asked = Precision(
        DTYPES[runtime["dtype"]], runtime["tf32"], runtime["channels_last"], runtime["vae_slices"],
        runtime["vae_tiling"], runtime["compile"],
    )  # fmt: skip
    return asked.normal(batch_size, resolution)


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where it is visible, else the processor."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device is '{name}', but {torch.cuda.device_count()} CUDA devices are visible; "
            "take cpu, or look at `python -m maxbench doctor`."
        )
    return device


def make_method(entry: Mapping[str, Any], key: str) -> Method:
    """A method from its settings, of which its rules alone are components."""
    rules = {name: component(entry[name], f"{key}.{name}", RULE) for name in ("rule", "otherwise") if entry.get(name)}
    settings = {name: value for name, value in entry.items() if name not in ("_target_", "rule", "otherwise")}
    return Method(**settings, **rules)
