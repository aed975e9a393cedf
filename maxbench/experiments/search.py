"""Settings that are proposed one by one, by what earlier ones were worth.

The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) as Optuna has it. A proposal depends on the ranges,
what was tried, and a seed, and on nothing else: a search that was stopped goes on as it would have, and one with more
trials begins with the same ones. Optuna keeps no files here: its journal cannot be read any more when a process was
killed within a line of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import exp, log

from maxbench.errors import UserError
from maxbench.experiments.method import Method
from maxbench.experiments.tuning import Candidate, Tried, axes, candidate, candidates, tried_candidates
from maxbench.seeds import derive

TRIALS = 30
"""Settings that are tried where nobody says how many."""
DIGITS = 4
"""Of a proposed number that count: more would only make it unreadable."""
STRENGTHS = ("scale", "balance", "branch_scale")
"""What is searched in proportion and not in steps, where the range begins above 0."""


def require_optuna() -> None:
    """UserError where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise UserError(
            "A search needs Optuna, which is not installed; install it with `pip install 'maxbench[search]'`."
        )


def propose(ranges: Mapping[str, Sequence[float]], tried: Sequence[Tried], seed: int) -> dict[str, float]:
    """The setting to try next. ranges: name -> lowest and highest. seed: of the search; every trial has its own."""
    import optuna  # optional, and slow to load
    from optuna.distributions import FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {
        name: FloatDistribution(low, high, log=is_proportional(name, low)) for name, (low, high) in ranges.items()
    }
    sampler = optuna.samplers.TPESampler(seed=derive("search", seed, len(tried)) % 2**32)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(each.said), distributions=distributions, value=each.joint)
            for each in tried
        ]
    )
    found = study.ask(fixed_distributions=distributions).params
    return {name: min(max(_rounded(found[name]), low), high) for name, (low, high) in ranges.items()}


def is_proportional(name: str, low: float) -> bool:
    """Whether a number is searched on a logarithmic scale."""
    return name.partition(".")[0] in STRENGTHS and low > 0


def stand_ins(method: Method, tried: Sequence[Tried]) -> list[Candidate]:
    """As many candidates as will be tried: what was tried, and other settings in the place of what is not known."""
    if method.trials is None:
        known = list(tried)
        while more := candidates(method, known):
            known += [Tried(each.said, -1.0) for each in more]
        return tried_candidates(method, known)
    rest = range(len(tried), method.trials)
    return tried_candidates(method, tried) + [
        candidate(method, _between(axes(method), (number + 0.5) / method.trials), number) for number in rest
    ]


def _between(ranges: Mapping[str, Sequence[float]], share: float) -> dict[str, float]:
    return {
        name: exp(log(low) + share * (log(high) - log(low)))
        if is_proportional(name, low)
        else low + share * (high - low)
        for name, (low, high) in ranges.items()
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
