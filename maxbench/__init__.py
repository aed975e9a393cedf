"""maxbench: several spatial controls at once on a text-to-image diffusion model, measured.

    pipe = maxbench.load("miniature", controls=["hed", "depth"])
    picture = pipe("a red sphere on grass", maps={"hed": edges, "depth": depth}, rule="maxfusion", seed=0).images[0]

Nothing heavy is loaded until one of these is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maxbench.api.loading import annotate, load, score
    from maxbench.api.pipeline import Decisions, MultiControlPipeline, PipelineOutput, seed_of
    from maxbench.errors import UserError
    from maxbench.miniature.dataset import example

__version__ = "0.1.0"

__all__ = [
    "Decisions", "MultiControlPipeline", "PipelineOutput", "UserError", "__version__", "annotate", "example", "load",
    "score", "seed_of",
]  # fmt: skip

_HOMES = {
    "annotate": "maxbench.api.loading",
    "example": "maxbench.miniature.dataset",
    "load": "maxbench.api.loading",
    "score": "maxbench.api.loading",
    "Decisions": "maxbench.api.pipeline",
    "MultiControlPipeline": "maxbench.api.pipeline",
    "PipelineOutput": "maxbench.api.pipeline",
    "seed_of": "maxbench.api.pipeline",
    "UserError": "maxbench.errors",
}
"""The module of every name above."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'maxbench' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
