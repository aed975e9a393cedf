"""A finished run as its files say it, and runs by the names that a person types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from maxbench.errors import UserError

METRICS, DIFFERENCES, SAMPLES = "metrics.csv", "differences.csv", "samples.parquet"
CONFIG, MANIFEST, EVALUATED, TUNING, STAMP = (
    "config.yaml", "manifest.json", "evaluation.json", "tuning.csv", "stamp.json"
)  # fmt: skip
CONFLICT = "conflict.csv"
AGAIN = "run the experiment again, which makes it anew."

REQUIRED = {
    METRICS: (
        "experiment", "suite", "method", "condition", "metric", "protocol", "scorer", "value", "low", "high", "n"
    ),
    DIFFERENCES: ("baseline", "method", "role", "condition", "metric", "value", "low", "high", "verdict", "needed"),
    SAMPLES: ("sample", "replicate", "method", "role", "condition", "metric", "value"),
    CONFLICT: ("method", "role", "bin", "conflict", "value", "low", "high", "n"),
}  # fmt: skip
UNTESTED = frozenset(REQUIRED[DIFFERENCES]) - {"condition", "verdict", "needed"}
"""What differences of older versions have, which tested nothing."""
NUMBERS = ("value", "low", "high", "n", "comparisons", "needed")


@dataclass(frozen=True)
class Results:
    """A finished run, a pooled result, or what was kept of either without its images. Files are read when asked for.

    Every table is checked: one that is missing, cannot be read, or lacks a column is a UserError that names it.
    """

    folder: Path

    @property
    def id(self) -> str:
        """The name of its folder, which its experiment, suite and fingerprint make."""
        return self.folder.resolve().name

    @property
    def experiment(self) -> str:
        return str(self.metrics.experiment.iloc[0])

    @property
    def suite(self) -> str:
        return str(self.metrics.suite.iloc[0])

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the run, or of all that were pooled."""
        try:
            seeds = self.config["seed"]
        except KeyError as error:
            raise self.no_configuration() from error
        return tuple(seeds) if isinstance(seeds, list) else (seeds,)

    @property
    def is_pooled(self) -> bool:
        return isinstance(self.config.get("seed"), list)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """metrics.csv, with an empty `condition` as NaN."""
        return self._table(METRICS)

    @cached_property
    def differences(self) -> pd.DataFrame | None:
        """Paired differences; None where there is only one method, where they were not kept, or were not tested."""
        path = self.folder / DIFFERENCES
        content = path.read_text(errors="replace").strip() if path.is_file() else ""
        columns = set(content.partition("\n")[0].split(","))
        if not content or (columns >= UNTESTED and "verdict" not in columns):
            return None
        return self._table(DIFFERENCES)

    @cached_property
    def samples(self) -> pd.DataFrame | None:
        """One row per image, row of pictures and metric; None of a result that was kept without them."""
        return self._table(SAMPLES) if (self.folder / SAMPLES).exists() else None

    @cached_property
    def tuning(self) -> pd.DataFrame | None:
        """What was tried for tuned methods; None where nothing was tuned."""
        path = self.folder / TUNING
        if not path.exists():
            return None
        try:
            return pd.read_csv(path)
        except ValueError as error:
            raise self.damaged(TUNING) from error

    @cached_property
    def conflict(self) -> pd.DataFrame | None:
        """The joint score by degree of conflict; None where there is no such table."""
        return self._table(CONFLICT) if (self.folder / CONFLICT).exists() else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self._settings(CONFIG)

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """Samples, reference images and methods; None of a result that was kept without it."""
        return self._settings(MANIFEST) if (self.folder / MANIFEST).exists() else None

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """What must be known of the numbers; None of a result that was kept without it."""
        if not (self.folder / EVALUATED).exists():
            return None
        said = self._settings(EVALUATED)
        value = said.get("value", said)  # older runs have it without its digest
        if not isinstance(value, dict):
            raise self.damaged(EVALUATED)
        return value

    @property
    def notes(self) -> list[str]:
        """What a reader must know, in sentences."""
        notes = (self.evaluation or {}).get("notes", [])
        if not isinstance(notes, list):
            raise self.damaged(EVALUATED)
        return [str(note) for note in notes]

    def damaged(self, name: str) -> UserError:
        return UserError(f"{self.folder / name} is damaged; {AGAIN}")

    def no_configuration(self) -> UserError:
        return UserError(f"{self.folder / CONFIG} is no configuration of a run; {AGAIN}")

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / name
        try:
            table = pd.read_csv(path, dtype={"condition": str}) if name != SAMPLES else pd.read_parquet(path)
            numbers = [name for name in NUMBERS if name in table]
            table[numbers] = table[numbers].apply(pd.to_numeric)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{self.folder} has no {name}: it is no finished run; name another or finish it first."
            ) from error
        except ValueError as error:  # of a parser (pyarrow's too), of the encoding, of a text where a number should be
            raise self.damaged(name) from error
        except OSError as error:
            raise self._unreadable(name, error) from error
        missing = [each for each in REQUIRED[name] if each not in table]
        if name == METRICS and missing == ["condition"]:  # of an older version, which had it in the metric's name
            table, missing = table.assign(condition=""), []
        if missing or table.empty:
            wrong = f"has no column {missing[0]}" if missing else "has no rows"
            raise UserError(f"{path} {wrong}: it is damaged, or of an older version; {AGAIN}")
        return table

    def _unreadable(self, name: str, error: OSError) -> UserError:
        return UserError(f"{self.folder / name} cannot be read ({error.strerror}); change that or name another run.")

    def _settings(self, name: str) -> dict[str, Any]:
        """A YAML or JSON file."""
        path = self.folder / name
        try:
            text = path.read_text()
            settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise self.damaged(name) from error
        if not isinstance(settings, dict):
            raise self.damaged(name)
        return settings


def finished(output_dir: Path) -> list[Path]:
    """The folders in `output_dir` that hold the tables of a run, in order of their names."""
    return sorted(path.parent for path in output_dir.glob(f"*/{METRICS}"))


def find(names: Sequence[str], output_dir: str | Path = "runs") -> list[Path]:
    """The run folders that are meant; without a name all finished ones in `output_dir`.

    A name is a path, or the beginning of the name of a folder in `output_dir` (`hed_depth`, `hed_depth-miniature`), if
    it means one run: the experiment's own name means the runs of that experiment alone, not of `hed_depth_again`.
    """
    place = Path(output_dir)
    if not names:
        if not (runs := finished(place)):
            raise UserError(f"There is no finished run in {place}/; run one, or name its folder.")
        return runs
    return [_one(name, place) for name in names]


def _one(name: str, place: Path) -> Path:
    path = Path(name)
    if path.exists() or len(path.parts) != 1:
        return path
    known = finished(place)
    meant = [each for each in known if each.name == name or each.name.startswith(f"{name}-")]
    meant = meant or [each for each in known if each.name.startswith(name)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UserError(f"'{name}' means {len(meant)} runs; name one: {', '.join(each.name for each in meant)}.")
    among = f"; there are {', '.join(each.name for each in known[:8])}" if known else ""
    raise UserError(f"There is no run '{name}' here or in {place}/{among}.")
