"""Lockstep on networks of Stable Diffusion 1.5's structure against the paper's formulas and against diffusers.

By default on narrow networks; `pytest -m slow` runs the same at the true shapes, one picture at 512: minutes, 10 GB.
"""

import pytest
import torch
from torch.nn import functional as F

from maxbench.bench.shapes import SD15, TINY, network, pipeline
from maxbench.fusion import Average, MaxFusion, Sum
from true_shapes import DELTA, agreement, by_diffusers, by_the_formulas, decide, fused, inputs_of, one_step

BOTH = pytest.mark.parametrize(
    "shapes", [TINY, pytest.param(SD15, marks=pytest.mark.slow)], ids=lambda shapes: shapes.name
)
CLOSE = 1e-4
"""Relative deviation of a residual in float32. A location that is decided the other way costs about 1e-2."""


@pytest.fixture(autouse=True)
def no_grad():
    with torch.inference_mode():
        yield


@BOTH
def test_maxfusion_is_the_papers_formulas_and_sum_is_diffusers(shapes):
    nets, inputs = [network(shapes, "controlnet", seed) for seed in range(2)], inputs_of(shapes)
    ours, theirs = fused(nets, MaxFusion(DELTA), inputs), by_the_formulas(nets, inputs)
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    maxfusion, total = agreement(ours, theirs), fused(nets, Sum(), inputs, sites=())
    assert maxfusion.largest < CLOSE and maxfusion.places == 0
    assert agreement(total, by_diffusers(nets, inputs)).largest < 1e-6
    # the controls do speak and the rule does decide: it gives neither the sum nor the mean
    mean = fused(nets, Average(), inputs, sites=())
    for one, other in ((ours, total), (ours, mean), (mean, total)):
        assert agreement(one, other).largest > 0.1


@BOTH
def test_one_step_of_the_pipeline_makes_a_picture(shapes):
    pipe = pipeline(shapes, {"hed": "controlnet", "depth": "controlnet"})
    assert pipe.encode_text(["a red sphere"] * 2).shape == (2, 77, shapes.width)
    assert pipe.latent_shape(shapes.resolution) == shapes.latents
    picture = one_step(pipe, shapes)
    assert picture.shape == (1, 3, shapes.resolution, shapes.resolution) and torch.isfinite(picture).all()
    assert picture.std() > 1e-3


def test_the_formulas_are_the_papers_location_by_location():
    """The oracle itself, with plain numbers: delta and both ways to win."""
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(2, 5, 3, 4, generator=generator) for _ in range(2))
    other[:, :, 0] = 2 * one[:, :, 0]  # the first row points one way
    agree, mean, winner, ratios = decide([one, other], DELTA)
    totals = [feature.double().std(dim=1, correction=0).sum(dim=(1, 2)) for feature in (one, other)]
    for b in range(2):
        for y in range(3):
            for x in range(4):
                f, g = one[b, :, y, x].double(), other[b, :, y, x].double()
                sigma = [float((each - each.mean()).square().mean().sqrt()) for each in (f, g)]
                wins = 0 if sigma[0] / totals[0][b] >= sigma[1] / totals[1][b] else 1
                assert bool(agree[b, 0, y, x]) == bool(f @ g / (f.norm() * g.norm()) > DELTA)
                torch.testing.assert_close(winner[b, :, y, x], (f, g)[wins])
                torch.testing.assert_close(mean[b, :, y, x], (f + g) / 2)
                for i in range(2):
                    assert float(ratios[i, b, 0, y, x]) == pytest.approx(sigma[i] / sigma[wins])
    assert agree[:, :, 0].all() and not agree.all()


def test_a_deviation_is_seen():
    nets, inputs = [network(TINY, "controlnet", seed) for seed in range(2)], inputs_of(TINY)
    theirs = by_the_formulas(nets, inputs)
    assert agreement(theirs, theirs) == (0.0, 0.0)
    for other in (by_the_formulas(nets, inputs, delta=0.5), by_the_formulas(nets[::-1], inputs)):
        found = agreement(other, theirs)
        assert found.largest > CLOSE and found.places > 0
    assert F.cosine_similarity(theirs[0].flatten(), theirs[0].flatten(), dim=0) > 0.999
