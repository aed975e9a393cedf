"""Looks over a fusion rule's shoulder: who wins where, how much is merged, how alike the branches are.

Nothing here changes a picture: a :class:`Watched` rule gives what its own rule gives, and what it decides at
every site of every step is kept in small sums. A run that does not watch pays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maxbench.fusion import Feature, MaxFusion


@dataclass
class Site:
    """What was decided at one place of the network in one step, averaged over the batch and over space.

    place: the order of the call within the step, in the order of the forward pass. kind: "unmerge" or "merge".
    wins: share of locations won, per branch. merged: share of locations where all branches are averaged.
    rho: similarity of the losing branches to the winner. loudness: mean saliency, per branch.
    own: share of locations won by the branch whose region it is, where regions are known.
    """

    step: int
    place: int
    kind: str
    size: int
    wins: list[float]
    merged: float
    rho: float
    loudness: list[float]
    own: float | None


@dataclass
class Watched:
    """MaxFusion, with a record of everything it decides.

    regions: per branch the mask (B, 1, H, W) of where its condition speaks and the other does not, if there are any.
    """

    rule: MaxFusion
    regions: Sequence[Tensor] | None = None
    sites: list[Site] = field(default_factory=list)
    step: int = 0
    place: int = 0

    def next_step(self) -> None:
        """Call once before each step of the sampler."""
        self.step, self.place = self.step + 1, 0

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        self._look("unmerge", features)
        return self.rule.unmerge(features)

    def merge(self, features: Sequence[Feature]) -> Feature:
        self._look("merge", features)
        return self.rule.merge(features)

    def _look(self, kind: str, features: Sequence[Feature]) -> None:
        sigma, rho, winner, cluster = self.rule.decide(features)
        count = len(features)
        lost = torch.stack([winner != branch for branch in range(count)])
        self.sites.append(
            Site(
                step=self.step,
                place=self.place,
                kind=kind,
                size=features[0].shape[-1],
                wins=[float((winner == branch).float().mean()) for branch in range(count)],
                merged=float(cluster.all(0).float().mean()),
                rho=float(rho[lost].mean()) if lost.any() else 1.0,
                loudness=[float(each.mean()) for each in sigma],
                own=self._own(winner),
            )
        )
        self.place += 1

    def _own(self, winner: Tensor) -> float | None:
        if self.regions is None:
            return None
        hits, size = [], winner.shape[-2:]
        for branch, region in enumerate(self.regions):
            mask = torch.nn.functional.interpolate(region.float(), size, mode="area") > 0.5
            mask = mask.repeat(len(winner) // len(mask), 1, 1, 1)
            hits.append((winner == branch)[mask].float())
        return float(torch.cat(hits).mean())


def drift(branch: torch.nn.Module, base: torch.nn.Module) -> float:
    """How far a control's copied weights have moved from the U-Net's: |branch - base| / |base| over shared names."""
    own, other = branch.state_dict(), base.state_dict()
    shared = [name for name in own if name in other and own[name].shape == other[name].shape]
    moved = torch.cat([(own[name] - other[name]).float().flatten() for name in shared])
    return float(moved.norm() / torch.cat([other[name].float().flatten() for name in shared]).norm())
