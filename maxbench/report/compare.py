"""Several runs -> one table: a row for a method of a run, the settings in which the runs differ beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Member:
    """A run of a comparison, or several that differ in their seed alone, as one.

    run: what tables call it. origin: the same with the code that made it. metrics: as of metrics.csv.
    """

    run: str
    origin: str
    config: Mapping[str, Any]
    metrics: pd.DataFrame

    @property
    def title(self) -> str:
        seeds = self.config["seed"]
        many = isinstance(seeds, list) and len(seeds) > 1
        return f"{self.config['name']}, seed{'s' * many} {written(seeds)}"


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
    def keys(self) -> tuple[list[Key], list[Key]]:
        """The columns, and those that are left out because the runs measure them by other protocols or scorers."""
        table = self._all.fillna({"condition": ""})
        if self.metrics:
            found = keys_of(table)
            wanted = [key for name in self.metrics for key in found if key[0] == name]
        else:
            wanted = essential_keys(table) or [key for key in keys_of(table) if key[0] in {**COLUMNS, **FURTHER}]
        mixed = []
        for key in wanted:
            own = table[(table.metric == key[0]) & (table.condition == key[1])]
            if own.protocol.nunique() > 1 or own.scorer.nunique() > 1:
                mixed.append(key)
        return [key for key in wanted if key not in mixed], mixed

    def _rows(self) -> tuple[list[str], list[list[str]], list[tuple[Member, str]]]:
        """Headings, cells and what each row is of: all runs of a method together."""
        keys, _ = self.keys
        deltas = self._all.delta
        with_delta = deltas.notna().any() and (deltas.nunique(dropna=False) > 1)
        names = [{"name": "experiment"}.get(key, key) for key in self.settings]
        headings = ["method", *names, *(["delta"] if with_delta else []), "n", *(heading(*key) for key in keys)]
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
        _, mixed = self.keys
        said = []
        if mixed:
            names = ", ".join(column_name(*key) for key in mixed)
            said.append(f"Left out, for the runs measure it by other protocols or scorers: {names}.")
        if len({int(each.metrics.n.max()) for each in self.members}) > 1:
            said.append("The runs have different numbers of samples (n): their intervals tell how sure each number is.")
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
        keys, _ = self.keys
        first = len(headings) - len(keys)
        bold, underlined = set(), set()
        for member in self.members:
            for marks, own in zip((bold, underlined), ranks(self._shown(member), {}), strict=True):
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
        titles = {each.run: each.title for each in self.members}
        ties = [
            f"{row.rule} makes the same pictures as {row.rival} ({titles[row.run]})"
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
        parts = list(self.about)
        for member in self.members:
            own = self.joint[self.joint.run == member.run]
            if own.empty:
                continue
            parts.append(f"## {member.title}, N = {int(own.n.max())}")
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
        titles = {each.run: each.title for each in self.members}
        for place, row in enumerate(self.joint.itertuples()):
            bold |= {(place, 4)} if row.verdict != NOT_SHOWN else set()
            rows.append(
                [titles[row.run], row.rule, row.rival, str(int(row.n)), difference_cell(row, bold=False), row.verdict]
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
