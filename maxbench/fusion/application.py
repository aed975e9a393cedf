"""How several branches act together: by which rule, where, how strongly and when."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from maxbench.fusion.base import Rule
from maxbench.fusion.plain import Average

SITES = ("conv_in", "down", "mid")
"""Where the paper's authors unmerge."""

ALL_SITES = ("conv_in", "hint", "down", "hidden", "residuals", "mid")
"""Where features can be unmerged; "hint" is an ablation: after the hint is added and not before."""

BLOCK_SITES = ("down", "hidden", "residuals")
"""Those that every down block has, each also of one block alone, as in "down.0"."""


def clash(sites: Collection[str]) -> tuple[str, str] | None:
    """Two sites that unmerge the same features of a down block twice: "down" and either part of it; None if none do."""
    for whole in (site for site in sites if site.partition(".")[0] == "down"):
        for part in sites:
            kind, _, block = part.partition(".")
            if kind in ("hidden", "residuals") and (block == "" or whole in ("down", f"down.{block}")):
                return whole, part
    return None


@dataclass(frozen=True)
class Fusion:
    """How N branches act together. The defaults are the paper's: all of them, everywhere, always.

    rule, sites: what happens where branches meet, and where they do; see :mod:`maxbench.models.lockstep`.
    scale: control strength, a factor on what the rule has merged.
    layer_scale: further factors, one for each residual in the order of the forward pass, the middle's last.
    branch_scale: condition -> factor on its own outputs before they are merged (diffusers'
        `controlnet_conditioning_scale` as a list), 1 where none is named. An image prompt's is its strength. Who wins
        under MaxFusion does not depend on it, unless it is 0 and the branch says nothing.
    control_start, control_end: shares of the steps between which branches act (diffusers'
        `control_guidance_start`, `control_guidance_end`); one number, or condition -> number. A branch that does not
        act does not run, and rules are not given its features.
    fusion_start, fusion_end: likewise of the rule. Outside, branches run independently and `otherwise` merges them.
    """

    rule: Rule
    sites: Sequence[str] = SITES
    scale: float = 1.0
    layer_scale: Sequence[float] | None = None
    branch_scale: Mapping[str, float] = field(default_factory=dict)
    control_start: float | Mapping[str, float] = 0.0
    control_end: float | Mapping[str, float] = 1.0
    fusion_start: float = 0.0
    fusion_end: float = 1.0
    otherwise: Rule = field(default_factory=Average)

    def acts(self, branch: str, step: int, steps: int) -> bool:
        """Whether a branch acts in step 0, ..., steps - 1."""
        return _within(step, steps, _of(self.control_start, branch, 0.0), _of(self.control_end, branch, 1.0))

    def at(self, step: int, steps: int) -> tuple[Rule, Sequence[str]]:
        """The rule of a step, and its sites."""
        fused = _within(step, steps, self.fusion_start, self.fusion_end)
        return (self.rule, self.sites) if fused else (self.otherwise, ())

    def moment(self, branches: Sequence[str], step: int, steps: int) -> tuple:
        """Everything that a step does with these branches: equal for two methods that do the same."""
        acting = [name for name in branches if self.acts(name, step, steps)]
        if not acting:
            return ()
        rule, sites = self.at(step, steps)
        return acting, [self.weight(name) for name in acting], rule, sorted(sites), self.strengths

    @property
    def needs_guidance(self) -> Rule | None:
        """A rule of it that needs both halves of classifier-free guidance; None if none does."""
        return next((rule for rule in (self.rule, self.otherwise) if rule.needs_guidance), None)

    @property
    def strengths(self) -> float | list[float]:
        """Of the residuals: one factor, or one for each."""
        return self.scale if self.layer_scale is None else [self.scale * factor for factor in self.layer_scale]

    def pyramid(self, names: Sequence[str], rule: Rule, sites: Sequence[str]) -> tuple:
        """What a pyramid of adapters depends on besides their maps: it changes where a branch or the rule changes."""
        return ("pyramid", tuple(names), rule is self.rule, tuple(sites))

    def weight(self, branch: str) -> float:
        return self.branch_scale.get(branch, 1.0)


def _of(value: float | Mapping[str, float], branch: str, default: float) -> float:
    return value.get(branch, default) if isinstance(value, Mapping) else value


def _within(step: int, steps: int, start: float, end: float) -> bool:
    """Step i of n lies in [i / n, (i + 1) / n], and all of it must lie inside, as in diffusers."""
    return step / steps >= start and (step + 1) / steps <= end
