"""metrics.csv -> tables for people: all of it in Markdown, what answers the question in plain text and in LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from maxbench.report.columns import (
    COLUMNS,
    FIDELITIES,
    FURTHER,
    NOT_SHOWN,
    UNDECIDED,
    Key,
    cells_of,
    column,
    column_name,
    essential_keys,
    heading,
    interval_cell,
    keys_of,
    margin_cell,
    refuse_mixtures,
    table_keys,
)
from maxbench.report.formats import latex_table, markdown_table, plain_table, plain_widths
from maxbench.report.runs import EVALUATED, TUNING, Results
from maxbench.report.winner import best, ranks, undecided, winner
from maxbench.store.files import write_atomically

BY_ANNOTATOR = "_by_annotator"  # of a metric that the network which drew the maps has measured
ABOUT = "These are numbers about "
"""How the note begins that says on what pictures was measured; a run has one, or a pooled result one of each kind."""
MINIATURE = "maxbench.miniature.dataset.miniature_images"  # the data set of older runs, which do not say it
ENTERED = "entered"  # the role of pictures made elsewhere
WIDTH = 100
"""Characters of a line of the terminal's table."""
LONGEST = 40
"""Of a method's name in it."""
BEST = "*"
"""After the best fusion rule of a column, where it is shown to be."""


class Tables(NamedTuple):
    """The tables of a run: all of it, as `table.md` has it, and the essential columns as plain text."""

    markdown: str
    text: str


def write_tables(folder: Path) -> str:
    """Write `table.md` into a run folder from its CSV files; return the essential columns as plain text."""
    tables = read_tables(folder)
    write_atomically(folder / "table.md", tables.markdown)
    return tables.text


def read_tables(run: Path | Results) -> Tables:
    """The tables of a run, by its folder, or of results that were kept without its images; nothing is written."""
    results = run if isinstance(run, Results) else Results(run)
    metrics, differences = marked(results.metrics, results.differences)
    about, notes = about_of(results), notes_of(results)
    silent = undecided(differences)
    won = winner(metrics, differences)
    says = [*_undecided_note(silent, metrics), *_inseparable(metrics), *notes]
    markdown = [
        f"# {metrics.experiment.iloc[0]} on {metrics.suite.iloc[0]}",
        about,
        *([won] if won else []),
        markdown_table(*method_table(metrics, intervals=True, silent=silent)),
        *says,
        *_differences(differences),
        *_further(metrics),
        *_second_opinion(metrics),
        _protocols(metrics),
    ]
    table, left_out = terminal_table(metrics, differences, silent)
    text = [about, table, *([won] if won else []), *says, *_whole(left_out, results.folder)]
    return Tables("\n\n".join(markdown) + "\n", "\n\n".join(text))


def read_latex(folder: Path) -> str:
    """The essential columns of a run folder as a table of booktabs: best in bold, second underlined, intervals."""
    results = Results(folder)
    metrics, differences = marked(results.metrics, results.differences)
    metrics = metrics.assign(condition=metrics.condition.fillna(""))
    refuse_mixtures(metrics)
    silent = undecided(differences)
    keys, cells = essential_keys(metrics) or table_keys(metrics), cells_of(metrics)
    methods = list(dict.fromkeys(metrics.method))
    rows = [[name, *(interval_cell(cells.get((name, *key)), key[0]) for key in keys)] for name in methods]
    bold, underlined = (
        {(methods.index(name), 1 + keys.index(key)) for name, key in own if key in keys}
        for own in ranks(metrics, silent)
    )
    legend = UNTESTED if differences is None else f"{LEGEND} {SILENT}" if silent else LEGEND
    caption = f"{results.experiment} on {results.suite}. {about_of(results)} {legend}"
    headings = ["method", *(heading(*key, silent) for key in keys)]
    return latex_table(headings, rows, bold, underlined, caption, f"tab:{results.id}")


LEGEND = "Bold: best of the fusion rules, underlined: second best; neither says that a difference is shown."
SILENT = "≈: no fusion rule is shown to differ from a baseline, and none is set off."
UNTESTED = "Bold: best of the fusion rules, underlined: second best; no differences were tested."


def _whole(left_out: list[Key], folder: Path) -> list[str]:
    """Where the columns are that the terminal has no room for."""
    if not left_out:
        return []
    return [f"Not shown here: {', '.join(column_name(*key) for key in left_out)}. All of it: {folder / 'table.md'}"]


def marked(metrics: pd.DataFrame, differences: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The same with the rows of pictures made elsewhere marked in their names."""
    if "role" not in metrics:  # of an older version
        return metrics, differences
    names = {name: f"{name} ({ENTERED})" for name in metrics.method[metrics.role == ENTERED].unique()}
    metrics = metrics.assign(method=metrics.method.replace(names))
    return metrics, None if differences is None else differences.replace({"method": names, "baseline": names})


def _differences(differences: pd.DataFrame | None) -> list[str]:
    """A table of paired differences for each baseline."""
    if differences is None:
        return []
    parts = [
        "Paired differences on the same samples and noise, each with its own interval. Bold: shown after Holm's "
        f"correction for the {int(differences.comparisons.iloc[0])} comparisons of all these tables. In brackets after "
        "a joint score: the share of samples in which the method is ahead."
    ]
    for baseline, group in differences.groupby("baseline", sort=False):
        parts += [f"Minus `{baseline}`:", markdown_table(*difference_table(group))]
    return parts


def method_table(
    metrics: pd.DataFrame, intervals: bool, silent: Mapping[Key, int | None] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, one row a method; every metric is one protocol, scorer and N, or a UserError.

    silent: columns that cannot tell the rows apart, see :func:`undecided`.
    """
    metrics = metrics.assign(condition=metrics.condition.fillna(""))
    refuse_mixtures(metrics)
    keys, cells = table_keys(metrics), cells_of(metrics)
    cell = interval_cell if intervals else margin_cell
    rows = [
        [method, *(cell(cells.get((method, *key)), key[0]) for key in keys)] for method in dict.fromkeys(metrics.method)
    ]
    return ["method", *(heading(*key, silent or {}) for key in keys)], rows


def terminal_table(
    metrics: pd.DataFrame, differences: pd.DataFrame | None, silent: Mapping[Key, int | None], width: int = WIDTH
) -> tuple[str, list[Key]]:
    """The essential columns that fit a line of `width` characters, joint and q first, and those that are left out.

    A number has the wider half of its interval, and a mark where it is the best of its column and shown to be.
    """
    metrics = metrics.assign(condition=metrics.condition.fillna(""))
    refuse_mixtures(metrics)
    cells, first = cells_of(metrics), best(metrics, differences)
    methods = list(dict.fromkeys(metrics.method))
    columns = [["method", *map(_shortened, methods)]]
    shown: list[Key] = []
    for key in essential_keys(metrics) or table_keys(metrics):
        own = [margin_cell(cells.get((method, *key)), key[0], between="") for method in methods]
        if any((method, key) in first for method in methods):
            own = [each + (BEST if (name, key) in first else " ") for name, each in zip(methods, own, strict=True)]
        tried = [*columns, [heading(*key, silent), *own]]
        titles, *rows = (list(line) for line in zip(*tried, strict=True))
        if sum(plain_widths(titles, rows)) + 2 * (len(tried) - 1) <= width or not shown:
            columns, shown = tried, [*shown, key]
    titles, *rows = (list(line) for line in zip(*columns, strict=True))
    table = plain_table(titles, rows)
    if any(key in shown for _, key in first):
        table += f"\n{BEST} the best fusion rule of its column, shown ahead of every rule that it is tested against"
    return table, [key for key in table_keys(metrics) if key not in shown]


def _shortened(name: str) -> str:
    """A method's name; the middle of a very long one is left out, so that there is room for numbers beside it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"


def _undecided_note(silent: Mapping[Key, int | None], metrics: pd.DataFrame) -> list[str]:
    if not silent:
        return []
    count = int(metrics.n.max())
    named = [
        f"{column_name(*key)} ({'no difference at all' if needed is None else f'{needed:,}'})"
        for key, needed in silent.items()
    ]
    return [
        f"{UNDECIDED.strip()} marks what shows no difference of a fusion rule from a baseline at N = {count}: do not "
        f"rank by it. In brackets a lower bound for the samples that could (power 80%): {', '.join(named)}."
    ]


def _inseparable(metrics: pd.DataFrame) -> list[str]:
    """Fidelities that do not tell real pictures from no control or from others' maps, or whose zero is not chance."""
    said: list[str] = []
    lucky: list[str] = []
    if "role" not in metrics:  # of an older version
        return []
    for key in table_keys(metrics):
        if key[0] not in (*FIDELITIES, *FIDELITIES.values()):
            continue
        own = metrics[(metrics.metric == key[0]) & (metrics.condition.fillna("") == key[1])]
        rows = {row.method: row for row in own.itertuples()}
        none = next((rows[row.method] for row in own.itertuples() if row.role == "none"), None)
        shuffled = rows.get("shuffled")
        for other in (none, shuffled):
            if "real" in rows and other is not None and not _above(rows["real"], other, key[0]):
                said.append(f"{column_name(*key)} (real pictures and `{other.method}`)")
        if none is not None and shuffled is not None and _above(shuffled, none, key[0]):
            lucky.append(column_name(*key))
    notes = []
    if said:
        notes.append(f"Proves nothing here, because it does not separate the ends of its scale: {', '.join(said)}.")
    if lucky:
        notes.append(
            f"Another sample's picture (`shuffled`) is better than no control in {', '.join(lucky)}: a q a little "
            "above 0 is no sign of obedience there."
        )
    return notes


def _above(one: Any, other: Any, metric: str) -> bool:
    return one.low > other.high if column(metric).better == "higher" else one.high < other.low


def _further(metrics: pd.DataFrame) -> list[str]:
    """Fidelity and distance as others define them."""
    theirs = metrics[metrics.metric.isin(FURTHER)]
    if theirs.empty:
        return []
    keys, cells = keys_of(theirs), cells_of(theirs)
    rows = [
        [method, *(interval_cell(cells.get((method, *key)), key[0]) for key in keys)]
        for method in dict.fromkeys(theirs.method)
    ]
    title = "The same by other definitions, for comparison with other work:"
    return [title, markdown_table(["method", *(heading(*key) for key in keys)], rows)]


def _second_opinion(metrics: pd.DataFrame) -> list[str]:
    """Fidelity once more, by the annotators themselves: what agrees with them alone is not the condition's."""
    theirs = metrics[metrics.metric.str.endswith(BY_ANNOTATOR)]
    if theirs.empty:
        return []
    renamed = theirs.assign(metric=theirs.metric.str.removesuffix(BY_ANNOTATOR))
    renamed = renamed[renamed.metric.isin(COLUMNS)]
    title = "The same fidelities measured by the annotators that drew the given maps, instead of independent scorers:"
    return [title, markdown_table(*method_table(renamed, intervals=True))]


def difference_table(differences: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the differences to one baseline."""
    differences = differences.assign(condition=differences.condition.fillna(""))
    ordered = table_keys(differences.assign(value=1.0))
    headings = ["method", *(heading(*key) for key in ordered)]
    rows = []
    for method, group in differences.groupby("method", sort=False):
        cells = {(each.metric, each.condition): each for each in group.itertuples()}
        rows.append([str(method), *(_change(cells.get(key)) for key in ordered)])
    return headings, rows


def _change(each: Any) -> str:
    if each is None or pd.isna(each.value):
        return "-"
    digits = column(each.metric).digits
    text = f"{each.value:+.{digits}f} [{each.low:+.{digits}f}, {each.high:+.{digits}f}]"
    if each.metric == "joint":
        text += f" ({100 * each.win_rate:.0f}%)"
    return text if each.verdict == NOT_SHOWN else f"**{text}**"


def about_of(results: Results) -> str:
    settings = results.config
    said = [note for note in results.notes if note.startswith(ABOUT)]
    if not said and _is_miniature(settings):
        said = [f"{ABOUT}the rendered miniature world, not about photographs."]
    try:
        sampler = settings["sampler"]
        return (
            f"{settings['samples']} samples x {settings['replicates']}, {_seeds(results)}, "
            f"{sampler['steps']} steps, guidance {sampler['guidance_scale']:g}; "
            f"{100 * settings['metrics']['level']:g}% intervals over samples." + "".join(f" {each}" for each in said)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise results.no_configuration() from error


def _is_miniature(settings: Mapping[str, Any]) -> bool:
    data = settings.get("data")
    return isinstance(data, dict) and data.get("_target_") == MINIATURE


def _seeds(results: Results) -> str:
    """Which noise a result is of: one seed, or those that were pooled."""
    seeds = results.seeds
    return f"with each of the seeds {' and '.join(map(str, seeds))}" if results.is_pooled else f"seed {seeds[0]}"


def notes_of(results: Results) -> list[str]:
    """What q means here, which condition was left out of it, which one each method favours, and what was tuned."""
    said = results.evaluation
    if said is None:
        return []
    lines = [
        "q of an image: 0 = as without control, 1 = followed as well as by its single control alone on average; "
        "clipped to [-1, 2], so that a single's own mean can be below 1; joint = mean over images of the smaller q."
    ]
    try:
        joint = said["joint"]
        if joint["note"]:
            lines.append(f"Joint score {joint['note']}.")
        favours = [
            f"{method} {condition} ({100 * share:.0f}%)" for method, (condition, share) in joint["dominant"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise results.damaged(EVALUATED) from error
    lines += [note for note in results.notes if not note.startswith(ABOUT)]
    if favours:
        lines.append(f"Condition with the larger q (share of images): {', '.join(favours)}.")
    return ["\n".join(lines), *_tuned(results)]


def _tuned(results: Results) -> list[str]:
    """What was chosen for tuned methods; of a pooled result whose runs have tables of their own, by seed."""
    table = results.tuning
    if table is None:
        return []
    try:
        count = int(table.n.iloc[0])
        chosen = [f"seed {seed}: {_chosen(own)}" for seed, own in table.groupby("seed")] if "seed" in table else []
        said = ". ".join(chosen) or _chosen(table)
    except (ValueError, AttributeError, KeyError) as error:
        raise results.damaged(TUNING) from error
    return [
        f"Chosen for the joint score of {count} training scenes, in brackets of how many settings (tuning.csv): {said}."
    ]


def _chosen(table: pd.DataFrame) -> str:
    settings = [name for name in table.columns if name not in ("method", "candidate", "joint", "n", "chosen", "seed")]
    tried = table.groupby("method").size()
    return "; ".join(
        f"{row.method} (of {tried[row.method]}) "
        + ", ".join(f"{name} {row[name]:g}" for name in settings if pd.notna(row[name]))
        for _, row in table[table.chosen].iterrows()
    )


def _protocols(metrics: pd.DataFrame) -> str:
    lines = ["| metric | protocol | scorer | n |", "|---|---|---|---|"]
    for metric, group in metrics.groupby("metric", sort=False):  # of several conditions the protocol is one
        first = group.iloc[0]
        lines.append(f"| {metric} | {first.protocol} | {first.scorer} | {int(first.n)} |")
    return "\n".join(lines)
