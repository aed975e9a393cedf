"""Several runs -> one table: a row for a method of a run, the settings in which the runs differ beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maxbench.errors import UserError
from maxbench.report.columns import (
    COLUMNS,
    FURTHER,
    NOT_SHOWN,
    Key,
    cells_of,
    column,
    column_name,
    essential_keys,
    heading,
    interval_cell,
    keys_of,
)
from maxbench.report.formats import latex_table, markdown_table
from maxbench.report.runs import differing, settings_of, written
from maxbench.report.verdicts import same_pictures
from maxbench.report.winner import ranks

DELTA = ".rule.delta"
JOINT = ("joint", "")
FEW = 2
"""Settings that the title of a run may name."""
DIGITS = 8
"""Of a run's name at the least, by which it can be told from others."""
OF_A_REFERENCE = ("name", "seed", "data", "pairing")
"""Settings that decide which pictures are the reference."""
DISTANCES = ("fid", "kid", "cmmd", "fd_", "kd_")
"""How the names of distances of all pictures to the reference begin, which have a bias by N that no interval tells."""


@dataclass(frozen=True)
class Member:
    """A run of a comparison, or several that differ in their seed alone, as one.

    run: what tables call it, of each another. origin: the same with the code that made it. metrics: as of metrics.csv.
    references: the pictures that distances are to; None where that was not kept. silent: the columns that show no
    difference of its fusion rules from a baseline, see :func:`maxbench.report.winner.undecided`.
    """

    run: str
    origin: str
    config: Mapping[str, Any]
    metrics: pd.DataFrame
    references: tuple[int, ...] | None = None
    silent: Collection[Key] = ()

    @property
    def title(self) -> str:
        """Of people, who tell runs by it; see :func:`titles`."""
        seeds = self.config["seed"]
        many = isinstance(seeds, list) and len(seeds) > 1
        return f"{self.config['name']}, seed{'s' * many} {written(seeds)}"


def titles(members: Sequence[Member]) -> dict[str, str]:
    """Run -> its title, to which is added what tells it from others of the same title.

    That is the settings in which they differ, if they are few, else the last digits of the run's name, or all of it
    where those are the same or it has none.
    """
    found: dict[str, str] = {}
    for member in members:
        same = [each for each in members if each.title == member.title]
        found[member.run] = member.title + (f", {_apart(member, same)}" if len(same) > 1 else "")
    return found


def _apart(member: Member, same: Sequence[Member]) -> str:
    """What tells a run from others of the same title."""
    keys = [key for key in differing([each.config for each in same]) if key != "methods"]
    said = {each.run: settings_of(each.config) for each in same}
    of_settings = {
        run: ", ".join(f"{key} {written(own[key]) if key in own else '-'}" for key in keys) for run, own in said.items()
    }
    if len(keys) <= FEW and len(set(of_settings.values())) == len(same):
        return of_settings[member.run]
    digits = {each.run: each.run.rpartition("-")[2] for each in same}
    are_digits = all(len(each) >= DIGITS for each in digits.values()) and len(set(digits.values())) == len(same)
    return digits[member.run] if are_digits else member.run


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    methods: rows, all but real pictures if empty. metrics: columns by the names of their metrics, what answers the
    question if empty.
    """

    members: Sequence[Member]
    methods: Sequence[str] = ()
    metrics: Sequence[str] = ()

    def __post_init__(self):
        suites = dict.fromkeys(str(each.metrics.suite.iloc[0]) for each in self.members)
        if len(suites) > 1:
            raise UserError(
                f"The runs are of several suites ({', '.join(suites)}), whose numbers cannot share a table; compare "
                "the runs of one suite."
            )
        known = {name for each in self.members for name in each.metrics.method}
        for name in self.methods:
            if name not in known:
                raise UserError(f"No run here has a method '{name}'; they have {', '.join(sorted(known))}.")
        measured = {name for each in self.members for name in each.metrics.metric}
        for name in self.metrics:
            if name not in measured:
                raise UserError(f"No run here has a metric '{name}'; they have {', '.join(sorted(measured))}.")

    # --- settings ---------------------------------------------------------------------------------------------

    @property
    def settings(self) -> list[str]:
        """Keys of the settings in which the runs differ; what is in the column of deltas, and methods, are left out."""
        configs = [each.config for each in self.members]
        keys = [key for key in differing(configs) if key not in ("methods", "deltas") and not key.endswith(DELTA)]
        seeds = {written(config["seed"]) for config in configs}
        return [*keys, *(["seed"] if len(seeds) > 1 and "seed" not in keys else [])]

    def _said(self, member: Member) -> list[str]:
        said = settings_of(member.config)
        return [written(said[key]) if key in said else "-" for key in self.settings]

    # --- rows and columns -------------------------------------------------------------------------------------

    def _shown(self, member: Member) -> pd.DataFrame:
        metrics = member.metrics
        if self.methods:
            return metrics[metrics.method.isin(self.methods)]
        return metrics[metrics.role != "reference"] if "role" in metrics else metrics

    @property
    def _all(self) -> pd.DataFrame:
        return pd.concat([self._shown(each) for each in self.members], ignore_index=True)

    @property
    def keys(self) -> tuple[list[Key], list[Key], list[Key]]:
        """The columns, and those that are left out.

        First those that the runs measure by other protocols or scorers; then distances of other numbers of pictures or
        to other ones.
        """
        table = self._all.fillna({"condition": ""})
        if self.metrics:
            found = keys_of(table)
            wanted = [key for name in self.metrics for key in found if key[0] == name]
        else:
            wanted = essential_keys(table) or [key for key in keys_of(table) if key[0] in {**COLUMNS, **FURTHER}]
        mixed, biased = [], []
        for key in wanted:
            own = table[(table.metric == key[0]) & (table.condition == key[1])]
            if own.protocol.nunique() > 1 or own.scorer.nunique() > 1:
                mixed.append(key)
            elif key[0].startswith(DISTANCES) and (own.n.nunique() > 1 or not self._of_one_reference(key)):
                biased.append(key)
        return [key for key in wanted if key not in (*mixed, *biased)], mixed, biased

    def _of_one_reference(self, key: Key) -> bool:
        """Whether all runs that have a distance measure it to the same pictures, as far as is known.

        Where a run does not say to which, its experiment, seed and data decide.
        """
        own = [each for each in self.members if key[0] in set(self._shown(each).metric)]
        if all(each.references is not None for each in own):
            return len({frozenset(each.references or ()) for each in own}) < 2
        return len({tuple(written(each.config.get(name)) for name in OF_A_REFERENCE) for each in own}) < 2

    def _rows(self) -> tuple[list[str], list[list[str]], list[tuple[Member, str]]]:
        """Headings, cells and what each row is of: all runs of a method together."""
        keys, *_ = self.keys
        deltas = self._all.delta
        with_delta = deltas.notna().any() and (deltas.nunique(dropna=False) > 1)
        names = [{"name": "experiment"}.get(key, key) for key in self.settings]
        silent = {key for key in keys if all(key in each.silent for each in self.members)}
        headings = ["method", *names, *(["delta"] if with_delta else []), "n", *(heading(*key, silent) for key in keys)]
        rows, of = [], []
        for method in self.methods or dict.fromkeys(self._all.method):
            for member in self.members:
                own = member.metrics[member.metrics.method == method]
                if own.empty:
                    continue
                cells = cells_of(own)
                delta = own.delta.iloc[0]
                rows.append(
                    [
                        method, *self._said(member), *(["-" if pd.isna(delta) else f"{delta:g}"] if with_delta else []),
                        str(int(own.n.max())), *(interval_cell(cells.get((method, *key)), key[0]) for key in keys),
                    ]
                )  # fmt: skip
                of.append((member, method))
        return headings, rows, of

    # --- out --------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the table, in sentences."""
        _, mixed, biased = self.keys
        said = []
        if mixed:
            names = ", ".join(column_name(*key) for key in mixed)
            said.append(f"Left out, for the runs measure it by other protocols or scorers: {names}.")
        if biased:
            names = ", ".join(column_name(*key) for key in biased)
            said.append(
                "Left out, for a distance depends on the number of pictures and on those that it is to, which are not "
                f"the same in these runs: {names}."
            )
        shown, _, _ = self.keys
        for title, member in zip(titles(self.members).values(), self.members, strict=True):
            if silent := [column_name(*key) for key in shown if key in member.silent]:
                said.append(
                    f"{title}: no difference of a fusion rule from a baseline is shown in {', '.join(silent)}; do not "
                    "rank by these."
                )
        if len({int(each.metrics.n.max()) for each in self.members}) > 1:
            said.append(
                "The runs have different numbers of images (n); of fewer images an interval is wider, and a difference "
                "is less likely to be shown."
            )
        return said

    @property
    def origin(self) -> str:
        return f"From {', '.join(each.origin for each in self.members)}."

    def markdown(self) -> str:
        headings, rows, _ = self._rows()
        return "\n\n".join([self.origin, markdown_table(headings, rows), *self.notes]) + "\n"

    def latex(self) -> str:
        """The same as a table of booktabs; the best and second best fusion rule of each run are set off."""
        headings, rows, of = self._rows()
        keys, *_ = self.keys
        first = len(headings) - len(keys)
        bold, underlined = set(), set()
        for member in self.members:
            for marks, own in zip((bold, underlined), ranks(self._shown(member), member.silent), strict=True):
                marks |= {
                    (row, first + place)
                    for row, (theirs, method) in enumerate(of)
                    for place, key in enumerate(keys)
                    if theirs is member and (method, key) in own
                }
        caption = (
            f"{self.members[0].metrics.suite.iloc[0]}: {self.origin} Bold: best of a run's fusion rules, underlined: "
            f"second best; neither says that a difference is shown. {' '.join(self.notes)}".strip()
        )
        return latex_table(headings, rows, bold, underlined, caption, "tab:compare", texts=first - 1)

    def table(self) -> pd.DataFrame:
        """metrics.csv of all runs, one below the other, with a column for every setting in which they differ."""
        parts = []
        for member in self.members:
            own = self._shown(member)
            own = own[own.metric.isin(self.metrics)] if self.metrics else own
            said = dict(zip(self.settings, self._said(member), strict=True))
            said = {key: value for key, value in said.items() if key not in ("name", "seed")}  # which have a column
            parts.append(own.assign(**said))
        return pd.concat(parts, ignore_index=True)


# --- verdicts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdicts:
    """Differences of the joint score, rule minus rival, of every run, and what they may cost.

    joint: rows of `run`, `rule`, `rival`, `value`, `low`, `high`, `win_rate`, `p_holm`, `verdict`, corrected together.
    others: the same differences in every other column, by their own intervals and without a verdict.
    left_out: titles of runs without a joint score, and why.
    """

    members: Sequence[Member]
    joint: pd.DataFrame
    others: pd.DataFrame
    left_out: Mapping[str, str]

    @property
    def about(self) -> list[str]:
        same = same_pictures(self.joint)
        counts = self.joint[~same].verdict.value_counts()
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        called = titles(self.members)
        ties = [
            f"{row.rule} makes the same pictures as {row.rival} ({called[row.run]})"
            for row in self.joint[same].itertuples()
        ]
        return [
            "Differences of the joint score, per image and paired on the same samples and noise, each with its own "
            f"interval; verdicts on the rule are after Holm's correction for the {(~same).sum()} comparisons here"
            f"{f' ({said})' if said else ''}.",
            *([f"Not counted, for nothing differs: {'; '.join(ties)}."] if ties else []),
            *(f"{title} is left out: {why}." for title, why in self.left_out.items()),
        ]

    def markdown(self) -> str:
        parts, called = list(self.about), titles(self.members)
        for member in self.members:
            own = self.joint[self.joint.run == member.run]
            if own.empty:
                continue
            parts.append(f"## {called[member.run]}, N = {int(own.n.max())}")
            parts.append(markdown_table(*self._of(member, own)))
        return "\n\n".join(parts) + "\n"

    def _of(self, member: Member, joint: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
        others = self.others[self.others.run == member.run]
        keys = [key for key in keys_of(others) if key[0] not in ("q", "q_mean", "joint")]
        lookup = {
            (row.rule, row.rival, row.metric, row.condition): row
            for row in others.fillna({"condition": ""}).itertuples()
        }
        rows = []
        for row in joint.itertuples():
            cost = (lookup.get((row.rule, row.rival, *key)) for key in keys)
            rows.append(
                [
                    row.rule, row.rival, difference_cell(row), f"{100 * row.win_rate:.0f}%",
                    "-" if pd.isna(row.p_holm) else f"{row.p_holm:.2g}",
                    row.verdict, *("-" if each is None else difference_cell(each, bold=False) for each in cost),
                ]
            )  # fmt: skip
        return ["rule", "minus", "joint", "wins", "p (Holm)", "verdict", *(heading(*key) for key in keys)], rows

    def latex(self) -> str:
        """Joint scores alone: a row for every comparison, shown ones in bold."""
        rows, bold = [], set()
        called = titles(self.members)
        for place, row in enumerate(self.joint.itertuples()):
            bold |= {(place, 4)} if row.verdict != NOT_SHOWN else set()
            rows.append(
                [called[row.run], row.rule, row.rival, str(int(row.n)), difference_cell(row, bold=False), row.verdict]
            )
        headings = ["run", "rule", "minus", "n", "joint", "verdict"]
        return latex_table(headings, rows, bold, (), " ".join(self.about), "tab:verdicts", texts=3)

    def table(self) -> pd.DataFrame:
        """All differences in one table; those of joint scores with what the correction for all of them gives."""
        return pd.concat([self.joint, self.others], ignore_index=True)


def difference_cell(row: Any, bold: bool = True) -> str:
    """A difference with its interval; bold where it is shown."""
    if pd.isna(row.value):
        return "-"
    digits = column(row.metric).digits
    text = f"{row.value:+.{digits}f} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"
    return f"**{text}**" if bold and row.verdict != NOT_SHOWN else text
