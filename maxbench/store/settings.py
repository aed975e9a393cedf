"""Settings that say where a run happens, how fast, and what it leaves beside its numbers; not what is made."""

from __future__ import annotations

PLACES = (
    "output_dir", "store_dir", "data_dir", "data.root", "suite.weights_dir",
    "runtime.threads", "runtime.device", "runtime.workers", "runtime.address", "diagnostics", "tracking",
)  # fmt: skip
"""By dotted key, with everything below it. Two runs that differ in these alone are of the same thing: whether pictures
and weights found there are the same, their digests say."""


def is_place(key: str) -> bool:
    """Whether a setting, by its dotted key, is one of PLACES or a part of one."""
    return any(key == each or key.startswith(f"{each}.") for each in PLACES)
