"""The suite of a command that names none: Stable Diffusion where a graphics card, its weights and COCO are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maxbench.errors import UserError

LARGE, EMBEDDED = "sd15", "miniature"
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What a machine with a graphics card that torch could use has: NVIDIA's driver, AMD's, Windows' for Linux."""


def with_suite(hydra: Hydra, overrides: Sequence[str], main: str) -> list[str]:
    """The overrides with a suite, chosen here where they name none; `main` is the file that they override."""
    if any(each.lstrip("+").partition("=")[0] == "suite" for each in overrides):
        return list(overrides)
    return [*overrides, f"suite={LARGE if _is_ready(hydra, overrides, main) else EMBEDDED}"]


def _is_ready(hydra: Hydra, overrides: Sequence[str], main: str) -> bool:
    """Whether a command could run on Stable Diffusion; torch is loaded only where there is a card."""
    if not any(Path(driver).exists() for driver in DRIVERS):
        return False
    try:
        cfg = hydra.compose_config(
            main, [*overrides, f"suite={LARGE}"], RunMode.RUN, from_shell=False, with_log_configuration=False
        )
        config = OmegaConf.to_container(cfg, resolve=False)
        suite = OmegaConf.to_container(cfg.suite, resolve=True)
        root = Path(str(OmegaConf.select(cfg, "data.root")))
    except (HydraException, OmegaConfBaseException):
        return False  # a mistake, or settings of the miniature: it is said when they are composed with that
    if not (root / "annotations").is_dir():
        return False
    return _has_weights(suite, list(config["conditions"]))


def _has_weights(suite: dict[str, Any], conditions: Sequence[str]) -> bool:
    import torch

    from maxbench.configuration.component import component

    if not torch.cuda.is_available():
        return False
    try:
        return not component(suite, "suite").missing(conditions)
    except UserError:
        return False
