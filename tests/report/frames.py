"""metrics.csv and differences.csv made by hand, as small as a law needs."""

from __future__ import annotations

import pandas as pd

ROLES = {"none": "none", "real": "reference", "random_blobs": "chance"}


def metrics_of(scores, margin=0.1, **columns):
    """metrics.csv of {metric: {method: value}}; a metric may be (metric, condition)."""
    rows = []
    for key, values in scores.items():
        metric, condition = key if isinstance(key, tuple) else (key, None)
        for method, value in values.items():
            role = ROLES.get(method, "single" if method.startswith("single/") else "fusion")
            rows.append(
                {
                    "run": "made-none-0a", "experiment": "made", "suite": "none", "seed": 0, "method": method,
                    "role": role, "delta": None, "condition": condition, "metric": metric, "protocol": "p",
                    "scorer": "s", "value": value, "low": value - margin, "high": value + margin, "n": 40, **columns,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def differences_of(rows):
    """differences.csv of (method, baseline, metric, value, verdict)."""
    return pd.DataFrame(
        [
            {
                "method": method, "baseline": baseline, "role": ROLES.get(method, "fusion"), "condition": None,
                "metric": metric, "value": value, "low": value - 0.01 * (value != 0),
                "high": value + 0.01 * (value != 0), "verdict": verdict, "needed": 100.0, "comparisons": 12,
                "win_rate": 0.6, "p": 0.04,
            }
            for method, baseline, metric, value, verdict in rows
        ]
    )  # fmt: skip
