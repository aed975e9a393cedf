import pytest
import torch

from maxbench.errors import UserError
from maxbench.miniature.controls import blank
from maxbench.miniature.training import Recipe, fit


def fitted(folder, stop_after=None, steps=300):
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

    recipe = Recipe(steps=steps, batch=8, lr=1e-2, warmup=10, ema=0.9)
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


def test_a_training_is_prolonged_and_never_cut_short(tmp_path, capsys):
    fitted(tmp_path / "one", steps=200)
    _, history = fitted(tmp_path / "one", steps=300)
    assert history["ends"] == [100, 200, 300] and "goes on at step 200 of 300" in capsys.readouterr().err
    with pytest.raises(
        UserError, match="is of 300 steps, and 'line' is to have 200; delete it, or name another folder="
    ):
        fitted(tmp_path / "one", steps=200)


def test_what_the_optimiser_remembers_lies_as_its_weights_do(tmp_path, monkeypatch):
    """A training that was begun in another memory layout goes on to the same weights."""
    monkeypatch.setattr("maxbench.miniature.training.CHECKPOINT_SECONDS", 0)
    recipe = Recipe(steps=110, batch=2, lr=1e-2, warmup=10)

    def trained(folder, layout, stop_after=None):
        torch.manual_seed(0)
        layer, seen = torch.nn.Conv2d(3, 4, 3).to(memory_format=layout), []

        def loss_of(generator, batch):
            if len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(1)
            x = torch.randn(batch, 3, 6, 6, generator=generator)
            return (layer(x).float() - 3 * x[:, :1, 1:-1, 1:-1]).square().mean()

        fit("conv", [{"params": layer.parameters()}], loss_of, recipe, folder, seed=1, device=torch.device("cpu"))
        return layer.weight

    whole = trained(tmp_path / "whole", torch.contiguous_format)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", torch.contiguous_format, stop_after=105)
    resumed = trained(tmp_path / "broken", torch.channels_last)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=2e-3)  # bfloat16 in another order of the sums


def test_half_of_the_maps_lose_a_part_and_no_map_loses_all():
    maps = torch.ones(400, 3, 64, 64)
    kept = blank(maps, torch.Generator().manual_seed(0)).mean((1, 2, 3))
    assert 0.4 < (kept < 1).float().mean() < 0.6
    assert kept.min() > 0
