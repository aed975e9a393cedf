"""How strongly a method acts, so that a win of strength is not taken for a win of the rule.

A sum of two controls is also twice as strong as their average. What is compared here is what a method adds to the
U-Net: the mean norm of its residuals, on noised training pictures, which are the same for every method. Residuals are
proportional to a method's scale, hence the scale at which two methods are equally strong is a ratio of two norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from maxbench.control import Control
from maxbench.errors import UserError
from maxbench.pipeline import Pipeline, Sampler


@torch.inference_mode()
def residual_norm(
    pipeline: Pipeline,
    control: Control,
    pictures: Float[Tensor, "batch 3 H W"],
    noise: Float[Tensor, "batch channel height width"],
    prompts: Sequence[str],
    sampler: Sampler,
) -> float:
    """Mean over samples, guidance halves, the sampler's steps and residuals of the Euclidean norm of a residual.

    pictures: in [0, 1]; noised to each of the sampler's timesteps they are the latents that branches are run on.
    Steps in which no branch acts do not count. UserError where nothing is added to the U-Net.
    """
    latents = pipeline.encode(pictures)
    scheduler = sampler.scheduler(pipeline.scheduler_config)
    scheduler.set_timesteps(sampler.steps, device=pipeline.device)
    text = pipeline.encode_text(prompts)
    if sampler.halves == 2:
        text = torch.cat([pipeline.encode_text([sampler.negative_prompt]).expand(len(prompts), -1, -1), text])
    norms = []
    for step, timestep in enumerate(scheduler.timesteps):
        noisy = scheduler.add_noise(latents, noise.to(latents), timestep[None])
        sample = torch.cat([noisy] * sampler.halves)
        sample = scheduler.scale_model_input(sample, timestep).to(pipeline.dtype)
        added = control(sample, timestep, text, step, len(scheduler.timesteps))
        norms += [each.float().flatten(1).norm(dim=1).mean() for each in _residuals(added)]
    norm = float(torch.stack(norms).mean()) if norms else 0.0
    if norm == 0:
        raise UserError("it adds nothing to the U-Net that a strength could be measured by")
    return norm


def _residuals(added: dict) -> list[Tensor]:
    mid = added.get("mid_block_additional_residual")
    return [
        *added.get("down_block_additional_residuals", ()),
        *(() if mid is None else (mid,)),
        *added.get("down_intrablock_additional_residuals", ()),
    ]
