import pytest
import torch

from maxbench.miniature.controls import blank
from maxbench.miniature.training import Recipe, fit


def fitted(folder, stop_after=None):
    """A line fitted to noise that each step draws for itself; stopped once if asked to."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 1)
    seen = []

    def loss_of(generator, batch):
        if stop_after is not None and len(seen) == stop_after:
            raise KeyboardInterrupt
        seen.append(1)
        x = torch.randn(batch, 3, generator=generator)
        return (layer(x).float() - x.sum(1, keepdim=True)).square().mean()

    recipe = Recipe(steps=300, batch=8, lr=1e-2, warmup=10, ema=0.9)
    history = fit("line", [{"params": layer.parameters()}], loss_of, recipe, folder, seed=1, device=torch.device("cpu"))
    return layer, history


def test_training_learns_and_an_interrupted_one_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("maxbench.miniature.training.CHECKPOINT_SECONDS", 0)
    whole, history = fitted(tmp_path / "whole")
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "broken", stop_after=250)
    resumed, _ = fitted(tmp_path / "broken")
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_half_of_the_maps_lose_a_part_and_no_map_loses_all():
    maps = torch.ones(400, 3, 64, 64)
    kept = blank(maps, torch.Generator().manual_seed(0)).mean((1, 2, 3))
    assert 0.4 < (kept < 1).float().mean() < 0.6
    assert kept.min() > 0
