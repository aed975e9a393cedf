"""The verb `report`: finished runs -> a folder with a page that opens from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from maxbench.cli.failures import explain, say_failure
from maxbench.errors import UserError
from maxbench.progress import say
from maxbench.report.page import answer as answers
from maxbench.report.page.charts import charts
from maxbench.report.page.gallery import Gallery, SeenMaps, error_scale, why_not
from maxbench.report.page.grids import differences_grid, methods_grid, numbers_grid, pairs_grid
from maxbench.report.page.site import Site
from maxbench.report.runs import STATE, Results, anchors, by_seed, differing, find, written
from maxbench.report.tables import about_of, notes_of
from maxbench.report.verdicts import joined, same_pictures
from maxbench.report.winner import RANKED
from maxbench.store.files import fingerprint


@dataclass(frozen=True)
class Section:
    """A run as the page has it.

    anchor: by which links know it. key: of its data. comparisons: of its rules. notes: sentences about it.
    """

    anchor: str
    key: str
    results: Results
    comparisons: pd.DataFrame
    level: float
    notes: list[str] = field(default_factory=list)


def report(names: Sequence[str], output_dir: str, output: str, maps: int) -> int:
    """Write the page of some runs, or of all in `output_dir`; one that cannot be read does not hide the others."""
    if maps < 0:
        raise UserError(f"--maps is {maps}; give the number of samples, 0 for none.")
    paths = find(names, output_dir)
    site = Site.open(Path(output))
    try:
        sections, failed = _sections(paths)
        boards = {suite: _board(suite, sections) for suite in dict.fromkeys(each.results.suite for each in sections)}
        told = [_write_run(site, section, boards[section.results.suite], maps) for section in sections]
        said = [board.said() for board in boards.values()]
        index = site.finish({"runs": told, "boards": [each for each in said if each["standings"]]})
    except BaseException as error:
        site.abandon()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise UserError(explain(error)[0].replace("output_dir=", "--output")) from error
        raise
    for section, run in zip(sections, told, strict=True):
        print(f"{section.anchor}: {run['answer']}")
    print(f"\nreport: {index}")
    return failed


def _sections(paths: Sequence[Path]) -> tuple[list[Section], int]:
    """The runs that can be read, and the exit code of those that cannot."""
    found, failed, family = [], 0, _family(paths)
    for path in paths:
        results = Results(path)
        try:
            found.append((results, *_compared(results, family)))
        except UserError as error:
            if len(paths) == 1:
                raise
            failed = say_failure(error)
    if not found:
        raise UserError("None of the runs can be read; run them again, or name others.")
    names = anchors([results.id for results, *_ in found])
    return [
        Section(name, f"r{place}", results, table, level, notes)
        for place, (name, (results, table, level, notes)) in enumerate(zip(names, found, strict=True))
    ], failed


def _compared(results: Results, family: int) -> tuple[pd.DataFrame, float, list[str]]:
    """Every two rules of a run, from what it has measured; else those pairs that its table of differences has.

    family: comparisons that the page may have, for which p is fine enough.
    """
    _check(results)
    try:
        level = float(results.config["metrics"]["level"])
    except (KeyError, TypeError, ValueError) as error:
        raise results.no_configuration() from error
    rules = answers.rules_of(results)
    kept = answers.comparisons(results.differences, rules, level)
    if len(rules) < 2:
        return kept, level, []
    if not (results.folder / STATE).exists():
        about = "those with its baselines" if len(kept) else "none"
        said = f"Of the pairs of rules {about} are compared: what was measured image by image was not kept."
        return kept, level, [said]
    return answers.comparisons(_differences(results.folder, rules, family), rules, level), level, []


def _family(paths: Sequence[Path]) -> int:
    """Pairs of rules of all runs, as far as they can be read: so many comparisons a page may have."""
    count = 0
    for path in paths:
        with suppress(UserError):
            rules = len(answers.rules_of(Results(path)))
            count += rules * (rules - 1) // 2
    return count


def _check(results: Results) -> None:
    """UserError where a file that the page is made of is damaged: before anything is written."""
    methods_grid(results)
    differences_grid(results)
    about_of(results)
    notes_of(results)
    why_not(results)
    _ = results.conflict


def _differences(folder: Path, rules: Sequence[str], family: int) -> pd.DataFrame:
    """Differences of a run to every rule, as `differences.csv` has them to the baselines; without distances."""
    from maxbench.cli.pool import read_config, read_state, tables_of  # torch

    return _between(tables_of, read_state(folder), read_config(folder), rules, family)


def _between(
    tables_of: Callable[..., Any], state: Any, config: Mapping[str, Any], rules: Sequence[str], family: int
) -> pd.DataFrame:
    present = {row.name for row in state.rows}
    known = [rule for rule in rules if rule in present]
    return tables_of(replace(state, reference={}), config, known, family).differences()


# --- a run ----------------------------------------------------------------------------------------------------------


def _write_run(site: Site, section: Section, board: Board, maps: int) -> dict[str, Any]:
    """Write the data of a run; returns what index.html says of it."""
    results, key, judged = section.results, section.key, board.judged[section.anchor]
    conditions = list(results.config.get("conditions") or {})
    said = answers.answer(results, conditions, judged, board.total)
    drawn = charts(results, series_of(results))
    site.data(f"{key}/charts", [chart.spec for chart in drawn])
    grids = {"differences": differences_grid(results), "numbers": numbers_grid(results), "pairs": pairs_grid(judged)}
    for name, grid in grids.items():
        if grid is not None:
            site.data(f"{key}/{name}", grid.plain())
    absent, notes = why_not(results), [*section.notes, *notes_of(results)]
    if absent is None:
        notes += _write_gallery(site, section, said.best, maps)
    return {
        "anchor": section.anchor,
        "key": key,
        "title": f"{results.experiment} on {results.suite}",
        "about": about_of(results),
        "id": results.id,
        "suite": results.suite,
        "comparisons": board.total,
        "question": said.question,
        "answer": said.sentence,
        "notes": notes,
        "gallery": absent,
        "samples": 0 if absent else len(results.manifest["samples"]),
        "methods": methods_grid(results),
        "charts": [{"title": chart.title, "kind": chart.kind} for chart in drawn],
        "tables": {name: len(grid.rows) for name, grid in grids.items() if grid is not None},
    }


def series_of(results: Results) -> dict[str, str]:
    """Method -> its name without the setting that varies in it."""
    listed = (results.manifest or {}).get("methods")
    if isinstance(listed, list):
        return {each["name"]: each.get("series", each["name"]) for each in listed}
    entries = sorted(results.config.get("methods") or {}, key=len, reverse=True)
    return {
        method: next((entry for entry in entries if method.startswith(entry)), method)
        for method in dict.fromkeys(results.metrics.method)
    }


def _write_gallery(site: Site, section: Section, best: str | None, maps: int) -> list[str]:
    """Write the samples of a run; returns what a reader must know of them."""
    gallery = Gallery(section.results)
    rule, baseline = _shown_first(gallery, best)
    seen, note = _seen(gallery, rule, baseline, maps)
    site.data(f"{section.key}/run", gallery.about(rule, baseline, note))
    for name, value in gallery.parts(site.pictures, seen):
        site.data(f"{section.key}/{name}", value)
    damaged = sorted(str(path) for path in site.pictures.damaged if path.is_relative_to(section.results.folder))
    shown = f"{len(damaged)} pictures cannot be decoded and are shown as damaged: {', '.join(damaged[:3])}."
    return [note, *([shown] if damaged else [])]


def _shown_first(gallery: Gallery, best: str | None) -> tuple[str, str]:
    """The rule and the baseline that samples are sorted by at first: the best rule, and what it was compared with."""
    names = [row.name for row in gallery.rows]
    rules = [name for name in answers.rules_of(gallery.results) if name in names]
    rules = rules or [row.name for row in gallery.rows if row.role in RANKED]
    rule = best if best in names else next(iter([*rules, *names]))
    differences = gallery.results.differences
    known = [] if differences is None else list(dict.fromkeys(differences.baseline))
    others = [name for name in [*known, *rules, *names] if name in names and name != rule]
    return rule, others[0] if others else rule


def _seen(gallery: Gallery, rule: str, baseline: str, maps: int) -> tuple[SeenMaps, str]:
    """The maps that scorers see in pictures of some samples, and a sentence about which."""
    count = len(gallery.samples)
    if maps == 0:
        return {}, "No maps were re-estimated from the pictures, because --maps 0 says so."
    chosen = gallery.chosen(maps, rule, baseline)
    try:
        from maxbench.cli.remeasure import seen_maps  # torch, and the suite

        seen = seen_maps(gallery.results.folder, chosen, {row.name: row.place for row in gallery.rows})
    except (UserError, OSError) as error:
        said = f"No maps were re-estimated from the pictures: {explain(error)[0]}"
        say(f"note: {gallery.results.id}: {said}")
        return {}, said
    scale = error_scale(gallery.conditions, gallery.has_masks)
    if len(chosen) == count:
        return seen, f"Maps were re-estimated from the pictures of all {count} samples. {scale}"
    return seen, (
        f"Maps were re-estimated from the pictures of {len(chosen)} of {count:,} samples, those in which {rule} and "
        f"{baseline} differ most; --maps N makes more. {scale}"
    )


# --- all runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """The runs of one suite. judged: run, or several runs as one -> its comparisons, corrected together.

    counted: those of `judged` that the leaderboard counts. shown: the runs whose joint scores stand beside it.
    notes: what is not counted, and why.
    """

    suite: str
    judged: Mapping[str, pd.DataFrame]
    counted: Sequence[str]
    shown: Mapping[str, Results]
    notes: Sequence[str]

    @property
    def total(self) -> int:
        """Comparisons that are corrected together."""
        return sum(int((~same_pictures(table)).sum()) for table in self.judged.values())

    def said(self) -> dict[str, Any]:
        """What the page has of it."""
        tables = {name: self.judged[name] for name in self.counted}
        standings = answers.leaderboard(self.shown, tables)
        configs = {anchor: results.config for anchor, results in self.shown.items()}
        notes = [*self.notes, *answers.same_of(tables)]
        if differ := differing_rules(configs):
            notes.append(f"The settings of these methods are not the same in all runs: {', '.join(differ)}.")
        if groups := answers.variants(standings, list(configs.values())):
            named = "; ".join(joined(group) for group in groups)
            notes.append(f"Variants of one rule count as rules of their own, also against each other: {named}.")
        return {
            "suite": self.suite,
            "sentence": answers.overall(standings, self.suite, len(tables)),
            "standings": standings,
            "runs": list(_headings(self.shown).items()),
            "count": len(tables),
            "comparisons": sum(each.compared for each in standings) // 2,
            "corrected": self.total,
            "notes": notes,
        }


def _board(suite: str, sections: Sequence[Section]) -> Board:
    """The runs of a suite, and what counts of them: a run that is in a pooled one counts there alone."""
    own = [section for section in sections if section.results.suite == suite]
    pooled = {name for section in own for name in section.results.config.get("pooled", [])}
    inside = [section.anchor for section in own if section.results.id in pooled]
    notes = [f"Not counted here, because a pooled result has them: {', '.join(inside)}."] if inside else []
    shown = {section.anchor: section for section in own if section.anchor not in inside}
    first: dict[str, str] = {}
    for anchor, section in list(shown.items()):
        if first.setdefault(section.results.id, anchor) != anchor:
            notes.append(f"Not counted again, because it is the same run as {first[section.results.id]}: {anchor}.")
            del shown[anchor]
    tables, counted = {section.anchor: section.comparisons for section in own}, []
    of = {section.results.folder: section for section in shown.values()}
    for group in by_seed([section.results for section in of.values()]):
        members = [of[each.folder] for each in group]
        names = [section.anchor for section in members]
        twin = next((name for name in counted if name in shown and _are_seeds(shown[name].results, group)), None)
        if twin is not None:
            notes.append(
                f"Not counted, because in all but the seed it is as {twin}, and what was measured image by image was "
                f"not kept, without which the two cannot be pooled: {joined(names)}."
            )
            continue
        if len(members) > 1:
            try:
                tables[joined(names)] = _pooled(members, sum(map(len, tables.values())))
                counted.append(joined(names))
                notes.append(f"Counted as one run, because they differ in their seed alone: {joined(names)}.")
                continue
            except UserError as error:
                notes.append(f"Not pooled, although they seem to differ in their seed alone: {error}")
        counted += names
    return Board(suite, answers.judged(tables), counted, {name: each.results for name, each in shown.items()}, notes)


def _are_seeds(one: Results, group: Sequence[Results]) -> bool:
    """Whether runs differ from another in their seed alone and can never be pooled with it."""
    kept = all((each.folder / STATE).exists() for each in (one, *group))
    same = all(not each.is_pooled and each.experiment == one.experiment for each in (one, *group))
    return same and not kept and differing([one.config, group[0].config]) == ["seed"]


def _pooled(members: Sequence[Section], family: int) -> pd.DataFrame:
    """Comparisons of the rules of runs that differ in their seed alone, with one cluster for each sample."""
    from maxbench.cli.pool import merged, tables_of  # torch

    found = merged([section.results.folder for section in members])
    rules = list(dict.fromkeys(rule for section in members for rule in answers.rules_of(section.results)))
    differences = _between(tables_of, found.state, found.configs[0], rules, family)
    return answers.comparisons(differences, rules, members[0].level)


def _headings(shown: Mapping[str, Results]) -> dict[str, str]:
    """Run -> what stands above its joint scores: its experiment, with the seed where that is of several runs."""
    names = [results.experiment for results in shown.values()]
    found = {}
    for anchor, results in shown.items():
        many = names.count(results.experiment) > 1
        found[anchor] = f"{results.experiment}, seed {written(list(results.seeds))}" if many else results.experiment
    titles = list(found.values())
    return {anchor: title if titles.count(title) == 1 else anchor for anchor, title in found.items()}


def differing_rules(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Entries of methods that do not mean the same in all runs that have them, so that their rows are no one rule."""
    known: dict[str, set[str]] = {}
    for config in configs.values():
        for name, entry in (config.get("methods") or {}).items():
            known.setdefault(name, set()).add(fingerprint(json.loads(json.dumps(entry, default=str))))
    return sorted(name for name, meanings in known.items() if len(meanings) > 1)
