"""Records what a fusion rule decides: who wins where, how much is merged, how alike the branches are.

A traced rule returns what its own rule returns, so that no picture changes; without a trace none of this runs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from maxbench.fusion import Feature, MaxFusion, Rule
from maxbench.models.libraries import diffusers

BINS = 20  # of the histogram of rho over [-1, 1]
UNMERGE, OUTPUT, UNET = "unmerge", "output", "unet"


@dataclass
class Trace:
    """What a method does with the first samples of a run.

    branches: the names of all that the method sees; a winner's number is its place among them.
    size: samples in a batch, not counting the second guidance half.
    keep: how many of them maps are kept of, from the prompted half.
    steps: those of which maps are kept (0 is the first); summaries are kept of all.
    regions: branch -> mask (B, 1, H, W) of where its condition speaks and the other does not, if there are any.

    rows: a summary of every site and step. maps: "<kind>/<place>/<step>/<what>" -> array over the kept samples. A
    place counts the calls within a step, in the order of the forward pass; what is `saliency` (branch, sample, h, w),
    `winner` or `merged` (sample, h, w); of the U-Net also `timestep`, a number.
    """

    branches: Sequence[str]
    size: int
    keep: int
    steps: Collection[int]
    regions: Mapping[str, Tensor] | None = None
    rows: list[dict] = field(default_factory=list)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    step: int = 0
    places: dict[str, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def over(self, unet: diffusers.UNet2DConditionModel) -> Iterator[None]:
        """Count steps by the U-Net's calls, and keep the saliency of its blocks."""

        def finished(module, arguments, output):
            if self.step in self.steps:
                self.maps[f"{UNET}/0/{self.step}/timestep"] = np.float32(float(arguments[1]))
            self.step, self.places = self.step + 1, {}

        def block(module, arguments, output):
            hidden = output[0] if isinstance(output, tuple) else output
            self._keep(UNET, self._place(UNET), "saliency", _channel_std(hidden)[None])

        blocks = [*unet.down_blocks, *unet.up_blocks]
        hooks = [each.register_forward_hook(block) for each in blocks] + [unet.register_forward_hook(finished)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def record(self, kind: str, names: Sequence[str], features: Sequence[Feature], rule: Rule) -> None:
        """Note what a rule decides about features of the branches `names`, which meet at the next place of a kind.

        A rule that decides nothing is seen as MaxFusion would decide in its place.
        """
        place = self._place(kind)
        if len(features) == 1:  # nobody to compare with
            self._keep(kind, place, "saliency", torch.stack([_channel_std(features[0])]))
            return
        decision, by = rule.decide(features), rule
        if decision is None:
            by = MaxFusion()
            decision = by.decide(features)
        sigma, rho, winner, cluster = decision
        count = len(features)
        lost = torch.stack([winner != branch for branch in range(count)])
        merged = cluster.all(0)
        of_losers = rho[lost]
        histogram = torch.histc(of_losers.float().cpu(), BINS, -1, 1) / max(of_losers.numel(), 1)
        known = torch.tensor([self.branches.index(name) for name in names], device=winner.device)
        self.rows.append(
            {
                "step": self.step, "kind": kind, "place": place, "size": features[0].shape[-1],
                "rule": type(rule).__name__, "decided_by": type(by).__name__,
                "merged": float(merged.float().mean()),
                "rho": float(of_losers.mean()) if of_losers.numel() else 1.0,
                "own": self._own(names, winner),
                **{f"merged/{sample}": share for sample, share in enumerate(self._by_sample(merged))},
                **{f"wins/{name}": float((winner == i).float().mean()) for i, name in enumerate(names)},
                **{f"saliency/{name}": float(sigma[i].mean()) for i, name in enumerate(names)},
                **{f"rho/{-1 + 2 * i / BINS:+.1f}": float(share) for i, share in enumerate(histogram)},
            }
        )  # fmt: skip
        self._keep(kind, place, "saliency", sigma[:, :, 0])
        self._keep(kind, place, "winner", known[winner[:, 0]])
        self._keep(kind, place, "merged", merged[:, 0])

    def _place(self, kind: str) -> int:
        self.places[kind] = self.places.get(kind, -1) + 1
        return self.places[kind]

    def _keep(self, kind: str, place: int, what: str, maps: Tensor) -> None:
        """Of the batch axis the prompted half, which is the last: saliency in half precision, the rest in bytes."""
        if self.step not in self.steps:
            return
        half = maps[..., -self.size :, :, :][..., : self.keep, :, :]
        dtype = torch.float16 if what == "saliency" else torch.uint8
        self.maps[f"{kind}/{place}/{self.step}/{what}"] = half.to(dtype).cpu().numpy()

    def _by_sample(self, places: Tensor) -> list[float]:
        """The share of a sample's places (B, 1, H, W) that are true, over both guidance halves where there are two."""
        return places.float().mean((1, 2, 3)).reshape(-1, self.size).mean(0).tolist()

    def _own(self, names: Sequence[str], winner: Tensor) -> float:
        """Share of locations won by the branch whose region it is; NaN where regions are not known."""
        if self.regions is None:
            return float("nan")
        hits, size = [], winner.shape[-2:]
        for branch, name in enumerate(names):
            mask = torch.nn.functional.interpolate(self.regions[name].float(), size, mode="area") > 0.5
            mask = mask.repeat(len(winner) // len(mask), 1, 1, 1).to(winner.device)
            hits.append((winner == branch)[mask].float())
        return float(torch.cat(hits).mean())

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def packed(self) -> bytes:
        """All maps as one compressed NumPy archive."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.maps)
        return buffer.getvalue()


@dataclass(frozen=True)
class Traced(Rule):
    """A rule whose decisions are recorded. names: of the branches that it is given; None for all of the trace's."""

    rule: Rule
    trace: Trace
    names: Sequence[str] | None = None

    def for_branches(self, names: Sequence[str]) -> Traced:
        return Traced(self.rule, self.trace, tuple(names))

    def _record(self, kind: str, features: Sequence[Feature]) -> None:
        names = self.trace.branches if self.names is None else self.names
        self.trace.record(kind, names, features, self.rule)

    @property
    def needs_guidance(self) -> bool:
        return self.rule.needs_guidance

    def for_images(self) -> Traced:
        return Traced(self.rule.for_images(), self.trace, self.names)

    def unmerge(self, features: Sequence[Feature]) -> list[Feature]:
        self._record(UNMERGE, features)
        return self.rule.unmerge(features)

    def merge(self, features: Sequence[Feature]) -> Feature:
        self._record(OUTPUT, features)
        return self.rule.merge(features)

    def merge_mid(self, features: Sequence[Feature]) -> Feature:
        self._record(OUTPUT, features)
        return self.rule.merge_mid(features)


def _channel_std(feature: Feature) -> Tensor:
    """sigma, (B, h, w)."""
    return feature.float().std(dim=1, correction=0)


def drift(branch: torch.nn.Module, base: torch.nn.Module) -> float:
    """How far a control's copied weights have moved from the U-Net's: |branch - base| / |base| over shared names."""
    own, other = branch.state_dict(), base.state_dict()
    shared = [name for name in own if name in other and own[name].shape == other[name].shape]
    moved = torch.cat([(own[name] - other[name]).float().flatten() for name in shared])
    return float(moved.norm() / torch.cat([other[name].float().flatten() for name in shared]).norm())
