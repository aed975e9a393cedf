import pytest
import torch

from maxbench.diagnostics import Watched, drift
from maxbench.fusion import MaxFusion


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 8, 4, 4, generator=generator) for _ in range(2)]


def test_a_watched_rule_gives_what_its_rule_gives():
    watched, f = Watched(MaxFusion(0.3)), features()
    assert torch.equal(watched.merge(f), MaxFusion(0.3).merge(f))
    for one, two in zip(watched.unmerge(f), MaxFusion(0.3).unmerge(f), strict=True):
        assert torch.equal(one, two)


def test_what_it_writes_down_is_what_was_decided():
    watched = Watched(MaxFusion(0.3))
    for step in range(2):
        watched.next_step()
        watched.unmerge(features(step))
        watched.merge(features(step))
    assert [(site.step, site.place, site.kind) for site in watched.sites] == [
        (1, 0, "unmerge"), (1, 1, "merge"), (2, 0, "unmerge"), (2, 1, "merge"),
    ]  # fmt: skip
    decision = MaxFusion(0.3).decide(features(0))
    site = watched.sites[0]
    assert site.wins[1] == pytest.approx(decision.winner.float().mean().item())
    assert site.merged == pytest.approx(decision.cluster.all(0).float().mean().item())
    assert site.own is None and site.size == 4


def test_regions_say_who_should_have_won():
    left = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    quiet, loud = torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 4, 4)
    quiet[..., :2], loud[..., 2:] = torch.randn(2, 8, 4, 2), torch.randn(2, 8, 4, 2)
    watched = Watched(MaxFusion(1.0), [left, ~left])
    watched.merge([quiet, loud])
    assert watched.sites[0].own == 1.0
    watched = Watched(MaxFusion(1.0), [~left, left])
    watched.merge([quiet, loud])
    assert watched.sites[0].own == 0.0


def test_drift_is_relative_and_of_shared_weights():
    base = torch.nn.ModuleDict({"shared": torch.nn.Linear(3, 3), "own": torch.nn.Linear(2, 2)})
    branch = torch.nn.ModuleDict({"shared": torch.nn.Linear(3, 3), "own": torch.nn.Linear(4, 4)})
    branch["shared"].load_state_dict({name: 1.1 * value for name, value in base["shared"].state_dict().items()})
    assert drift(branch, base) == pytest.approx(0.1, abs=1e-5)
    assert drift(base, base) == 0
