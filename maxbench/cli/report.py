"""The verb `report`: finished runs -> a folder with a page that opens from disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from maxbench.report.runs import Results, anchors, find
from maxbench.report.tables import about_of, notes_of
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
        judged = answers.judged({section.anchor: section.comparisons for section in sections})
        total = sum(len(table) for table in judged.values())
        told = [_write_run(site, section, judged[section.anchor], total, maps) for section in sections]
        index = site.finish({"runs": told, "boards": _boards(sections, judged), "comparisons": total})
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
    found, failed = [], 0
    for path in paths:
        results = Results(path)
        try:
            found.append((results, *_compared(results)))
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


def _compared(results: Results) -> tuple[pd.DataFrame, float, list[str]]:
    """Every two rules of a run, from what it has measured; else those pairs that its table of differences has."""
    _check(results)
    try:
        level = float(results.config["metrics"]["level"])
    except (KeyError, TypeError, ValueError) as error:
        raise results.no_configuration() from error
    rules = answers.rules_of(results)
    kept = answers.comparisons(results.differences, rules, level)
    if len(rules) < 2:
        return kept, level, []
    try:
        return answers.comparisons(_differences(results.folder, rules), rules, level), level, []
    except UserError:
        about = "those with its baselines" if len(kept) else "none"
        return (
            kept,
            level,
            [f"Of the pairs of rules {about} are compared: what was measured image by image was not kept."],
        )


def _check(results: Results) -> None:
    """UserError where a file that the page is made of is damaged: before anything is written."""
    methods_grid(results)
    differences_grid(results)
    about_of(results)
    notes_of(results)
    why_not(results)
    _ = results.conflict


def _differences(folder: Path, rules: Sequence[str]) -> pd.DataFrame:
    """Differences of a run to every rule, as `differences.csv` has them to the baselines; without distances."""
    from maxbench.cli.pool import read_config, read_state, tables_of  # torch

    state = replace(read_state(folder), reference={})
    present = {row.name for row in state.rows}
    return tables_of(state, read_config(folder), [rule for rule in rules if rule in present]).differences()


# --- a run ----------------------------------------------------------------------------------------------------------


def _write_run(site: Site, section: Section, judged: pd.DataFrame, total: int, maps: int) -> dict[str, Any]:
    """Write the data of a run; returns what index.html says of it."""
    results, key = section.results, section.key
    conditions = list(results.config.get("conditions") or {})
    said = answers.answer(results, conditions, judged, total)
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
    rules = rules or [row.name for row in gallery.rows if row.role in answers.RULES]
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


def _boards(sections: Sequence[Section], judged: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """A leaderboard for each suite, of all its runs; a run that is in a pooled one counts there alone."""
    boards = []
    for suite in dict.fromkeys(section.results.suite for section in sections):
        own = [section for section in sections if section.results.suite == suite]
        pooled = {name for section in own for name in section.results.config.get("pooled", [])}
        counted = {section.anchor: section.results for section in own if section.results.id not in pooled}
        left_out = [section.anchor for section in own if section.anchor not in counted]
        standings = answers.leaderboard(counted, judged)
        if not standings:
            continue
        boards.append(
            {
                "suite": suite,
                "sentence": answers.overall(standings, suite, len(counted)),
                "standings": standings,
                "runs": [(anchor, results.experiment) for anchor, results in counted.items()],
                "left_out": left_out,
                "differ": differing_rules({anchor: results.config for anchor, results in counted.items()}),
                "comparisons": sum(len(judged[anchor]) for anchor in counted),
            }
        )
    return boards


def differing_rules(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Entries of methods that do not mean the same in all runs that have them, so that their rows are no one rule."""
    known: dict[str, set[str]] = {}
    for config in configs.values():
        for name, entry in (config.get("methods") or {}).items():
            known.setdefault(name, set()).add(fingerprint(json.loads(json.dumps(entry, default=str))))
    return sorted(name for name, meanings in known.items() if len(meanings) > 1)
