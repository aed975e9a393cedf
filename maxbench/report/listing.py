"""What lies in a folder of runs: one line a run, finished or not, also where some of them are damaged."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from maxbench.errors import UserError
from maxbench.report.runs import METRICS, Results, begun, differing, matching, settings_of, written

SILENT = timedelta(minutes=30)
"""Since when a run that says it is running was not heard of, if it is not: loading networks and tables says nothing."""
DAMAGED = "damaged"


@dataclass(frozen=True)
class Listed:
    """One run as a list says it.

    name: what a person types to mean it. state: running, finished, stopped, failed, lost (it says that it is running,
    and is not), begun (of an older version, without tables) or damaged. why: what is wrong. differs: setting -> value,
    where it differs from the other runs of its experiment and suite. delta: of its rules. bytes: of its files; those
    that it shares with the store count.
    """

    folder: Path
    name: str = ""
    experiment: str = ""
    suite: str = ""
    seed: str = ""
    samples: int | None = None
    replicates: int | None = None
    delta: str = ""
    differs: Mapping[str, str] = field(default_factory=dict)
    state: str = ""
    why: str = ""
    at: datetime | None = None
    bytes: int = 0

    @property
    def run(self) -> str:
        return self.folder.name


def listed(output_dir: Path) -> list[Listed]:
    """Every run of a folder, those of one experiment together, in order of their names."""
    folders = begun(output_dir)
    configs, broken = {}, {}
    for folder in folders:
        try:
            configs[folder] = _settings(folder)
        except UserError as error:
            broken[folder] = str(error)
    differences = _differences(configs)
    names = _names(configs, differences, folders)
    out = []
    for folder in folders:
        config = configs.get(folder)
        if config is None:
            out.append(
                Listed(folder, folder.name, state=DAMAGED, why=broken[folder], at=_changed(folder), bytes=_size(folder))
            )
            continue
        state, at, why = _state(folder)
        out.append(
            Listed(
                folder, names[folder], config["name"], config["suite"]["name"], written(config["seed"]),
                config["samples"], config["replicates"], _deltas(config, _tuned(folder)), differences[folder],
                state, why, at, _size(folder),
            )
        )  # fmt: skip
    return out


def _settings(folder: Path) -> dict[str, Any]:
    """A run's configuration; UserError where it is no configuration of a run."""
    results = Results(folder)
    config = results.config
    whole = isinstance(config.get("suite"), dict) and "name" in config["suite"]
    if not whole or not {"name", "seed", "samples", "replicates"} <= set(config):
        raise results.no_configuration()
    return config


def _differences(configs: Mapping[Path, Mapping[str, Any]]) -> dict[Path, dict[str, str]]:
    """Setting -> value of every run, where it differs from others of its experiment and suite."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for folder, config in configs.items():
        kinds.setdefault((config["name"], config["suite"]["name"]), []).append(folder)
    found = {}
    for folders in kinds.values():
        keys = differing([configs[folder] for folder in folders]) if len(folders) > 1 else []
        for folder in folders:
            said = settings_of(configs[folder])
            found[folder] = {key: written(said[key]) for key in keys if key in said}
    return found


def _names(
    configs: Mapping[Path, Mapping[str, Any]], differences: Mapping[Path, Mapping[str, str]], folders: Sequence[Path]
) -> dict[Path, str]:
    """The shortest name that means each run alone: its experiment, with suite, with what differs; or its folder's."""
    names = {}
    for folder, config in configs.items():
        kind = f"{config['name']}-{config['suite']['name']}"
        told = [f"{key}={value}" for key, value in differences[folder].items() if not set(",:") & set(value)]
        told.sort(key=len)  # a list of methods says little
        tries = [
            config["name"],
            *(f"{config['name']}:{each}" for each in told[:4]),
            *(f"{config['name']}:{','.join(told[:count])}" for count in range(2, len(told) + 1)),
        ]
        tries += [kind, f"{kind}:{','.join(told)}"]
        short = (each for each in tries if len(each) < len(folder.name) + 12 and matching(each, folders) == [folder])
        names[folder] = next(short, folder.name)
    return names


def _deltas(config: Mapping[str, Any], tuned: Mapping[str, float]) -> str:
    """The thresholds of a run's rules, as its configuration has them; tuned: method -> the one that was chosen."""
    found: set[float] = set()
    methods = config.get("methods")
    for name, entry in methods.items() if isinstance(methods, dict) else ():
        rule, vary = (entry.get(key) or {} for key in ("rule", "vary")) if isinstance(entry, dict) else ({}, {})
        values = [tuned[name]] if name in tuned else vary.get("rule.delta", [rule.get("delta")])
        found |= {float(each) for each in values if isinstance(each, int | float)}
    if len(found) > 3:
        return f"{min(found):g} to {max(found):g} ({len(found)})"
    return ", ".join(f"{each:g}" for each in sorted(found))


def _tuned(folder: Path) -> dict[str, float]:
    """Method -> the threshold that tuning chose for it; of a run that says nothing of it, nothing."""
    try:
        methods = (Results(folder).manifest or {}).get("methods", [])
        return {each["entry"]: each["tuned"]["rule.delta"] for each in methods if "rule.delta" in each.get("tuned", {})}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}  # a damaged manifest says so where it is read


def _state(folder: Path) -> tuple[str, datetime | None, str]:
    """How far a run is, when it said so, and why it ended if it did not end well."""
    results = Results(folder)
    try:
        status = results.status
        if (folder / METRICS).exists():
            _ = results.metrics
    except UserError as error:
        return DAMAGED, _changed(folder), str(error)
    if not status:
        return ("finished" if (folder / METRICS).exists() else "begun"), _changed(folder), ""
    state, why = str(status.get("state", "begun")), str(status.get("why", ""))
    try:
        at = datetime.fromisoformat(str(status.get("at")))
    except ValueError:
        at = _changed(folder)
    if state == "running":
        if _is_lost(status, at):
            return "lost", at, "it says that it is running, and is not: run the same command again to go on"
        why = (
            f"{status.get('work', '')} {status.get('done', 0):g} of {status.get('total', 0):g}"
            if "work" in status
            else ""
        )
    if state == "finished" and not (folder / METRICS).exists():
        return DAMAGED, at, f"{folder / METRICS} is gone; run the experiment again, which makes it anew."
    return state, at, why


def _is_lost(status: Mapping[str, Any], at: datetime) -> bool:
    """Whether the process of a run is gone, or has not been heard of for long from another machine."""
    if status.get("host") == socket.gethostname() and isinstance(status.get("process"), int):
        try:
            os.kill(status["process"], 0)
        except ProcessLookupError:
            return True
        except OSError:  # of another user
            return False
        return False
    return datetime.now().astimezone() - (at if at.tzinfo else at.astimezone()) > SILENT


def _changed(folder: Path) -> datetime | None:
    """When a run's tables, or else its folder, were changed last."""
    for path in (folder / METRICS, folder):
        try:
            return datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        except OSError:
            continue
    return None


def _size(folder: Path) -> int:
    """Bytes of all files of a run; what cannot be read does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue
    return total


def as_table(runs: Sequence[Listed]) -> pd.DataFrame:
    """The list with a column for everything that is known, for programs."""
    return pd.DataFrame(
        [
            {
                "run": each.run, "name": each.name, "experiment": each.experiment, "suite": each.suite,
                "seed": each.seed, "samples": each.samples, "replicates": each.replicates, "delta": each.delta,
                "differs": " ".join(f"{key}={value}" for key, value in each.differs.items()), "state": each.state,
                "why": each.why, "at": None if each.at is None else each.at.isoformat(timespec="seconds"),
                "bytes": each.bytes, "folder": str(each.folder),
            }
            for each in runs
        ]
    ).astype({"samples": "Int64", "replicates": "Int64"})  # fmt: skip
