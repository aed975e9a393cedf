"""The joint score: how far one picture satisfies several conditions at once.

For a condition, q = (fidelity - no control) / (own single control - no control): 0 is a condition ignored,
1 a condition followed as well as by its control alone; more than 1 and less than 0 occur. The joint score is
the mean, and the minimum, of q over the conditions.

Fidelity is per sample and oriented: higher is better (an error enters with its sign changed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maxbench.metrics.statistics import Interval, bootstrap_all, finite_rows, paired_difference

Fidelity = Mapping[str, Mapping[str, ArrayLike]]
"""fidelity[condition][method] -> (n,), the same samples in the same order everywhere."""


@dataclass(frozen=True)
class JointScore:
    """The joint score of one method, over the conditions whose single control gains something.

    `quality` holds q per condition; `mean` and `minimum` are taken over them, of the data set's q and not of
    the samples'. `share_both` is the share of samples whose q exceeds one half for every condition;
    `dominant` the condition with the larger q, None where there is no such, and `dominant_share` the share of
    samples in which it exceeds all others. `left_out` names the conditions that were not scored and `note`
    says why; with no condition left all numbers are NaN.
    """

    method: str
    quality: Mapping[str, Interval]
    mean: Interval
    minimum: Interval
    share_both: Interval
    dominant: str | None
    dominant_share: Interval
    left_out: tuple[str, ...]
    note: str


def joint_scores(
    fidelity: Fidelity,
    *,
    seed: int,
    none: str = "none",
    singles: Mapping[str, str] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> dict[str, JointScore]:
    """The joint score of every method in `fidelity[condition][method]`, (n,) each, higher is better.

    A sample's q divides by the data set's gain of the single control, mean over samples, and not by the
    sample's own: gains of single samples come arbitrarily close to zero, where q explodes. The data set's q
    is then the mean of the samples' q.

    Intervals are percentile bootstraps over samples, drawn together for the method, for no control and for
    the singles; the denominator is computed anew in every draw. A condition is left out, for all methods, if
    the lower bound of its single control's gain (paired bootstrap at `level`) is not above 0: dividing by it
    would make noise look like a score.

    `none` and `singles` (by condition, single/<condition> if left out) name the controls among the methods. A method
    without some condition, a control that is missing, unequal lengths or a NaN is a ValueError.
    """
    singles = singles or {condition: f"single/{condition}" for condition in fidelity}
    table = _checked(fidelity, none, singles)
    settings = {"seed": seed, "resamples": resamples, "level": level}
    gains = {
        condition: paired_difference(methods[singles[condition]], methods[none], **settings)
        for condition, methods in table.items()
    }
    kept = [condition for condition, gain in gains.items() if gain.low > 0]
    left_out = tuple(condition for condition in gains if condition not in kept)
    note = _note(left_out, gains, kept)
    if not kept:
        n = next(iter(gains.values())).n
        return {method: _undefined(method, n, left_out, note) for method in next(iter(table.values()))}

    baseline = np.stack([table[condition][none] for condition in kept])
    alone = np.stack([table[condition][singles[condition]] for condition in kept]) - baseline
    scores = {}
    for method in next(iter(table.values())):
        gained = np.stack([table[condition][method] for condition in kept]) - baseline
        scores[method] = _score(method, gained, alone, kept, left_out, note, settings)
    return scores


def _score(
    method: str,
    gained: NDArray[np.float64],
    singles: NDArray[np.float64],
    kept: list[str],
    left_out: tuple[str, ...],
    note: str,
    settings: dict[str, float],
) -> JointScore:
    """The score from what the method and the singles gain over no control, (conditions, n) each."""
    n = gained.shape[1]
    values = list(gained.mean(axis=1) / singles.mean(axis=1))
    leader = int(np.argmax(values))
    # One condition dominates nothing; nor does one of equals, as with no control, where every q is 0.
    unrivalled = len(values) > 1 and values.count(values[leader]) == 1

    *quality, mean, minimum, share_both, led = bootstrap_all(
        lambda index: _statistics(gained[:, index], singles[:, index], leader), n, **settings
    )
    return JointScore(
        method=method,
        quality=dict(zip(kept, quality, strict=True)),
        mean=mean,
        minimum=minimum,
        share_both=share_both,
        dominant=kept[leader] if unrivalled else None,
        dominant_share=led if unrivalled else Interval(np.nan, np.nan, np.nan, n),
        left_out=left_out,
        note=note,
    )


def _statistics(gained: NDArray[np.float64], singles: NDArray[np.float64], leader: int) -> NDArray[np.float64]:
    """Gains (conditions, draws, n) => q per condition, their mean, their minimum and two shares, by draws.

    The shares are of samples with q > 1/2 for every condition, and with q largest for the `leader` alone.
    """
    # Without a gain there is no q. Few draws are like that, or the condition would have been left out.
    gain = singles.mean(axis=-1)
    gain = np.where(gain > 0, gain, np.nan)
    quality = gained.mean(axis=-1) / gain
    sample_quality = gained / gain[..., None]
    above_half = (sample_quality > 0.5).all(axis=0)
    others = np.delete(sample_quality, leader, axis=0).max(axis=0, initial=-np.inf)
    led = sample_quality[leader] > others
    undefined = np.isnan(gain).any(axis=0)
    shares = [np.where(undefined, np.nan, hits.mean(axis=-1)) for hits in (above_half, led)]
    return np.stack([*quality, quality.mean(axis=0), quality.min(axis=0), *shares])


def _undefined(method: str, n: int, left_out: tuple[str, ...], note: str) -> JointScore:
    nothing = Interval(np.nan, np.nan, np.nan, n)
    return JointScore(method, {}, nothing, nothing, nothing, None, nothing, left_out, note)


def _note(left_out: tuple[str, ...], gains: Mapping[str, Interval], kept: list[str]) -> str:
    """One sentence on the conditions that were not scored; empty if all were."""
    if not left_out:
        return ""
    reasons = ", ".join(
        f"{name} (its single control gains {gains[name].value:.4g} "
        f"[{gains[name].low:.4g}, {gains[name].high:.4g}] over no control)"
        for name in left_out
    )
    return f"left out: {reasons}" + ("" if kept else "; no condition is left, the joint score is undefined")


def _checked(fidelity: Fidelity, none: str, singles: Mapping[str, str]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The fidelity as arrays, after saying what is missing from it."""
    if not fidelity:
        raise ValueError("a joint score needs at least one condition")
    first = next(iter(fidelity))
    required = {none, *(singles[condition] for condition in fidelity)}
    table = {}
    for condition, methods in fidelity.items():
        if missing := sorted((required | set(fidelity[first])) - set(methods)):
            raise ValueError(f"condition '{condition}' has no fidelity of {', '.join(missing)}")
        if extra := sorted(set(methods) - set(fidelity[first])):
            raise ValueError(f"condition '{first}' has no fidelity of {', '.join(extra)}")
        table[condition] = {
            method: finite_rows(values, f"{condition} of {method}") for method, values in methods.items()
        }
    lengths = {len(values) for methods in table.values() for values in methods.values()}
    if len(lengths) > 1:
        raise ValueError(f"a joint score needs the same samples everywhere, got {sorted(lengths)} of them")
    return table
