"""A finished run as its files say it, and runs by the names that a person types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from maxbench.errors import UserError
from maxbench.store.files import file_digest, read_sealed
from maxbench.store.runfolder import MANIFEST, MARK
from maxbench.store.settings import is_place

METRICS, DIFFERENCES, SAMPLES = "metrics.csv", "differences.csv", "samples.parquet"
CONFIG, EVALUATED, TUNING, STAMP, STATUS = (
    "config.yaml", "evaluation.json", "tuning.csv", "stamp.json", "run.json"
)  # fmt: skip
CONFLICT = "conflict.csv"
SHEET, CURVES, CONFLICTS = "contact_sheet.png", "curves.png", "conflict.png"
MAPS = ("variance_maps.png", "winner_maps.png", "fusion_curves.png")
STATE = "state.npz"
DIAGNOSTICS = "diagnostics"  # a folder
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
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where it is installed

DEFAULTS = ("suite.steps", "suite.guidance_scale", "suite.control_scale")
"""What experiments use unless they say otherwise; what was used stands elsewhere in the configuration."""


@dataclass(frozen=True)
class Results:
    """A finished run, a pooled result, or what was kept of either without its images. Files are read when asked for.

    Every table is checked: one that is missing, cannot be read, is not what the run wrote, or lacks a column is a
    UserError that names it. given: tables to be taken in the place of its files.
    """

    folder: Path
    given: Mapping[str, pd.DataFrame] = field(default_factory=dict, compare=False)

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
        """metrics.csv, an empty `condition` as NaN; with `run` and `delta` also where an older version has none."""
        table = self._table(METRICS)
        if "run" not in table:
            table.insert(0, "run", self.id)
        return table if "delta" in table else table.assign(delta=self._deltas(table))

    @cached_property
    def differences(self) -> pd.DataFrame | None:
        """Paired differences; None where there is only one method, where they were not kept, or were not tested."""
        if DIFFERENCES in self.given:
            return self.given[DIFFERENCES]
        path = self.folder / DIFFERENCES
        if not path.exists() and DIFFERENCES in self._files:
            raise UserError(f"{path} is missing; {AGAIN}")
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
        value = said.get("value", said)  # of older runs it has no digest
        if "sha256" in said and read_sealed(self.folder / EVALUATED) is None:
            raise self.damaged(EVALUATED)
        if not isinstance(value, dict):
            raise self.damaged(EVALUATED)
        return value

    @cached_property
    def status(self) -> dict[str, Any]:
        """How far the run is, as `run.json` says; empty where it says nothing, as of a pooled result."""
        if not (self.folder / STATUS).exists():
            return {}
        status = self._settings(STATUS).get("status", {})
        if not isinstance(status, dict):
            raise self.damaged(STATUS)
        return status

    @cached_property
    def stamps(self) -> list[dict[str, Any]]:
        """The environments that made the run; none where that is missing or damaged: no number depends on it."""
        try:
            stamps = json.loads((self.folder / STAMP).read_text())
        except (OSError, ValueError):
            return []
        return stamps if isinstance(stamps, list) and all(isinstance(each, dict) for each in stamps) else []

    @property
    def origin(self) -> str:
        """The run and the code that made it, as far as its stamp says, for people."""
        try:
            stamp = self.stamps[-1]
            git = stamp["git"]
            dirty = ", dirty" if git and git["dirty"] else ""
            code = f"commit {git['commit'][:10]}{dirty}" if git else f"maxbench {stamp['maxbench']}"
        except (LookupError, TypeError):
            return self.id
        return f"{self.id} ({code})"

    @property
    def notes(self) -> list[str]:
        """What a reader must know, in sentences."""
        notes = (self.evaluation or {}).get("notes", [])
        if not isinstance(notes, list):
            raise self.damaged(EVALUATED)
        return [str(note) for note in notes]

    def _deltas(self, table: pd.DataFrame) -> pd.Series:
        """The threshold of every row's rule, as far as the configuration of an older run says it."""
        entries = self.config.get("methods") if (self.folder / CONFIG).exists() else None
        known = self._chosen()
        for row in table.drop_duplicates("method").to_dict("records"):
            entry = entries.get(row["method"]) if isinstance(entries, Mapping) else None
            rule = entry.get("rule") if isinstance(entry, Mapping) else None
            if row.get("parameter") == "rule.delta":
                known[row["method"]] = row["setting"]
            elif isinstance(rule, Mapping) and not (entry.get("tune") or {}):
                known[row["method"]] = rule.get("delta")
        return pd.to_numeric(table.method.map(known), errors="coerce")

    def _chosen(self) -> dict[str, float]:
        """The thresholds that were tuned, by method, as the manifest says them; none where it does not."""
        try:
            listed = (self.manifest or {}).get("methods", [])
            tuned = {each["name"]: each.get("tuned") or {} for each in listed}
            return {name: said["rule.delta"] for name, said in tuned.items() if "rule.delta" in said}
        except (UserError, LookupError, TypeError, AttributeError):
            return {}

    def decisions(self, method: str) -> pd.DataFrame | None:
        """What a method's rule decided, by site and step; None where that was not recorded."""
        name = f"{DIAGNOSTICS}/{method}.csv"
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return pd.read_csv(path)
        except pd.errors.EmptyDataError:  # a method without controls has nothing to decide
            return None
        except ValueError as error:
            raise self.damaged(name) from error

    def damaged(self, name: str) -> UserError:
        return UserError(f"{self.folder / name} is damaged; {AGAIN}")

    def no_configuration(self) -> UserError:
        return UserError(f"{self.folder / CONFIG} is no configuration of a run; {AGAIN}")

    def _require_own(self, name: str) -> None:
        """UserError where a file is not the one that the run wrote: a number that was changed reads well."""
        if name in self._files and file_digest(self.folder / name) != self._files[name]:
            raise self.damaged(name)

    @cached_property
    def _files(self) -> Mapping[str, str]:
        """File -> its digest, as far as the run says it."""
        files = (self.evaluation or {}).get("files", {})
        if not isinstance(files, dict):
            raise self.damaged(EVALUATED)
        return files

    def _table(self, name: str) -> pd.DataFrame:
        if name in self.given:
            return self.given[name]
        path = self.folder / name
        try:
            self._require_own(name)
            table = pd.read_csv(path, dtype={"condition": str}) if name != SAMPLES else pd.read_parquet(path)
            numbers = [name for name in NUMBERS if name in table]
            table[numbers] = table[numbers].apply(pd.to_numeric)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{self.folder} has no {name}: it is no finished run; name another or finish it first."
            ) from error
        except UserError:
            raise
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
            settings = json.loads(text) if path.suffix == ".json" else yaml.load(text, LOADER)
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


def begun(output_dir: Path) -> list[Path]:
    """The folders in `output_dir` that hold a run, finished or not, in order of their names."""
    return sorted({*finished(output_dir), *(path.parent for path in output_dir.glob(f"*/{MARK}"))})


def find(names: Sequence[str], output_dir: str | Path = "runs") -> list[Path]:
    """The run folders that are meant; without a name all finished ones in `output_dir`.

    A name is a path, or as `maxbench list` prints it: the beginning of the name of a folder in `output_dir`
    (`hed_depth`, `hed_depth-miniature`) or of its last digits, if it means one run, with the settings that tell it from
    others after a colon (`hed_depth:seed=1,samples=96`). The experiment's own name means the runs of that experiment
    alone, not of `hed_depth_again`.
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
    meant = matching(name, known)
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UserError(
            f"'{name}' means {len(meant)} runs; name one: {', '.join(each.name for each in meant)}; or say what tells "
            "it from the others, as `maxbench list` does."
        )
    if unfinished := matching(name, begun(place)):
        raise UserError(
            f"'{name}' is not finished ({unfinished[0].name}); run the same command again to finish it, or see "
            "`maxbench list`."
        )
    among = f"; there are {', '.join(each.name for each in known[:8])}" if known else ""
    raise UserError(f"There is no run '{name}' here or in {place}/{among}.")


def matching(name: str, known: Sequence[Path]) -> list[Path]:
    """Those of some run folders that a name may mean, see :func:`find`."""
    begins, _, settings = name.partition(":")
    meant = [each for each in known if each.name == begins or each.name.startswith(f"{begins}-")]
    meant = meant or [each for each in known if each.name.startswith(begins)]
    meant = meant or [each for each in known if each.name.rpartition("-")[2].startswith(begins)]
    wanted = dict(each.partition("=")[::2] for each in settings.split(",")) if settings else {}
    return [each for each in meant if wanted.items() <= said_of(each).items()] if wanted else meant


def said_of(folder: Path) -> dict[str, str]:
    """The settings of a run by dotted keys, each as it is written; empty where they cannot be read."""
    try:
        return {key: written(value) for key, value in settings_of(Results(folder).config).items()}
    except UserError:
        return {}


def written(value: Any) -> str:
    """A setting as names and tables say it; pooled seeds are joined by +."""
    if isinstance(value, list):
        return "+".join(map(written, value)) if value else "[]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys."""
    if not isinstance(value, Mapping) or (not value and prefix):
        return {prefix.removesuffix("."): value}
    return {key: inner for name, part in value.items() for key, inner in flat(part, f"{prefix}{name}.").items()}


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by dotted keys, with the names of its methods under `methods`."""
    methods = config.get("methods")
    return {**flat(config), "methods": list(methods) if isinstance(methods, Mapping) else []}


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys in which configurations differ, see :func:`settings_of`, without what changes nothing by itself.

    Of other experiments the name alone: everything else follows from it. Of a method that only some have, no setting.
    """
    if len({config.get("name") for config in configs}) > 1:
        return ["name"]
    said = [settings_of(config) for config in configs]
    shared = set(said[0]["methods"]).intersection(*(each["methods"] for each in said))
    keys = {key for each in said for key in each if not is_place(key)} - {*DEFAULTS, "pooled", "scenes"}
    return [
        key
        for key in sorted(keys, key=lambda key: (key.count("."), key))
        if len({str(each.get(key)) for each in said}) > 1
        and (not key.startswith("methods.") or key.split(".")[1] in shared)
    ]


def anchors(names: Sequence[str]) -> list[str]:
    """A name for every run by which tables and links know it: its own, with a number where several have the same."""
    taken: dict[str, int] = {}
    found = []
    for name in names:
        taken[name] = taken.get(name, 0) + 1
        found.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return found


def by_seed(results: Sequence[Results]) -> list[list[Results]]:
    """Runs in groups of those that differ in their seed alone and have kept what they measured, which may be pooled.

    Each is compared with the first of a group.
    """
    groups: list[list[Results]] = []
    for each in results:
        alone = each.is_pooled or not (each.folder / STATE).is_file()
        for group in groups:
            first = group[0]
            free = not alone and not first.is_pooled and (first.folder / STATE).is_file()
            if free and each.experiment == first.experiment and differing([first.config, each.config]) == ["seed"]:
                group.append(each)
                break
        else:
            groups.append([each])
    return groups
