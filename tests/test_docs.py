"""The pages for people: links lead somewhere, commands compose, every experiment and column is there."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

import maxbench
from evaluation.states import CONDITIONS, make_state
from maxbench.cli.command import jobs, parse, read_overrides
from maxbench.cli.figures import NAMES
from maxbench.configuration.compose import CONF, compose, hydra_on
from maxbench.evaluation.aggregate import Tables
from maxbench.report.tables import COLUMNS, FURTHER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST = 1400  # words of the README
COMMAND = re.compile(r"python -m maxbench run ([^`\n]+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)
TABLES = ("metrics.csv", "samples.parquet", "differences.csv")


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text(page), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[list[str]]:
    """The words after `run` in every command of the pages, each command once."""
    found = [shlex.split(command, comments=True) for page in PAGES for command in COMMAND.findall(text(page))]
    return [list(words) for words in dict.fromkeys(map(tuple, found)) if "--help" not in words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(text(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        if anchor:
            assert anchor in anchors(target), (
                f"{page.name} links to {link}; {target.name} has {sorted(anchors(target))}"
            )


def test_every_command_composes_and_is_valid(tmp_path, monkeypatch):
    for name, block in BLOCK.findall(text(ROOT / "docs" / "own_rule.md")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)  # where a command's --config-dir lies
    given = [parse(words) for words in commands()]
    assert len(given) > 20
    for folder in {command.config_dir for command in given}:
        with hydra_on(folder) as hydra:
            own = [command for command in given if command.config_dir == folder]
            members = [tuple(each) for command in own for each in jobs(read_overrides(command, hydra.config_loader))]
            for overrides in dict.fromkeys(members):
                compose(hydra, list(overrides))  # a mistake in one is a UserError that says what is wrong


def test_every_experiment_has_its_command_and_line():
    experiments = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    listed = set(re.findall(r"experiment=(\w+)", text(ROOT / "docs" / "experiments.md")))
    assert experiments - listed == set(), "docs/experiments.md lacks them"


def test_every_column_and_metric_is_described(finished_run):
    described = set(re.findall(r"`([^`\n]+)`", text(ROOT / "docs" / "outputs.md")))
    for name in TABLES:
        path = finished_run / name
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        assert set(table.columns) - described == set(), f"docs/outputs.md does not describe these columns of {name}"
        for metric in table.metric.unique():
            general = "<metric>_by_annotator" if metric.endswith("_by_annotator") else metric
            assert general in described, f"docs/outputs.md does not describe the metric {metric} of {name}"
    curve = Tables(make_state(24, exchanged=True), CONDITIONS, 100, 0.95).conflict_curve()
    assert set(curve.columns) - described == set(), "docs/outputs.md does not describe these columns of conflict.csv"
    differences = Tables(make_state(24, exchanged=True), CONDITIONS, 100, 0.95).conflict_differences()
    assert set(differences.columns) - described == set(), "docs/outputs.md lacks columns of conflict_differences.csv"
    printed = {*COLUMNS, *FURTHER}  # also what only runs with a joint score, or with further weights, have
    assert printed - described == set(), "docs/outputs.md does not describe these metrics"


def test_every_metric_has_its_formula():
    explained = set(re.findall(r"`([^`\n]+)`", text(ROOT / "docs" / "metrics.md")))
    lacking = {*COLUMNS, *FURTHER} - explained
    assert not lacking, f"docs/metrics.md lacks {sorted(lacking)}"


def test_every_figure_is_described():
    described = text(ROOT / "docs" / "figures.md")
    assert [name for name in NAMES if f"| `{name}" not in described] == []


def test_every_file_of_a_run_is_described(finished_run):
    described = text(ROOT / "docs" / "outputs.md")
    for path in finished_run.iterdir():
        assert f"`{path.name}" in described, f"docs/outputs.md does not describe {path.name}"


def test_the_readme_is_short_and_its_numbers_are_a_commands():
    readme, kept = text(ROOT / "README.md"), text(ROOT / "results" / "hed_depth" / "table.md")
    assert len(readme.split()) <= LONGEST
    (block,) = re.findall(r"^\| method \| HED.*?\n\n", readme, re.MULTILINE | re.DOTALL)
    first = kept[kept.index("| method |") :].split("\n\n")[0]  # differences follow
    cells = {row[0]: row[1:] for row in rows(first)}
    for name, *values in rows(block)[2:]:
        method = name.strip("`")
        assert set(values) <= set(cells.get(method, ())), f"copy the row {method} anew from results/hed_depth/table.md"


def test_what_the_pages_claim_are_numbers_of_the_claim():
    claim = text(ROOT / "results" / "miniature" / "claim.md")
    known = {cell for row in rows(claim) for cell in row}
    for page in (ROOT / "README.md", ROOT / "results" / "miniature" / "README.md"):
        (block,) = re.findall(r"^\| pair \(N\) .*?\n\n", text(page), re.MULTILINE | re.DOTALL)
        cells = [cell.strip("*") for row in rows(block)[2:] for cell in row[1:]]
        assert len(cells) == 35 and set(cells) <= known, (
            f"copy the table of {page} anew from results/miniature/claim.md"
        )


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_how_to_cite_is_of_this_version():
    cited = yaml.safe_load(text(ROOT / "CITATION.cff"))
    assert cited["version"] == maxbench.__version__
    assert cited["license"] == "Apache-2.0" and "Apache License" in text(ROOT / "LICENSE")
