"""What makes the repository's pages a site (mkdocs.yml): pages from outside docs/, links to files, navigation, API.

The pages stay as they are read in the repository. Here README.md, CHANGELOG.md, CONTRIBUTING.md and the pages of
results/ join those of docs/; links between them become links of the site. A link to any other file of the repository
leads to its address on the web, if pyproject.toml or CITATION.cff names one; else its text stays without a link. A link
to what does not exist is left as it is, and ends the build.
"""

from __future__ import annotations

import ast
import posixpath
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {"start.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Page of the site -> file of the repository; results/ keeps its names."""
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":(?:func|class|mod|meth|attr):(?=<code)")
HOME, START, API = "README.md", "start.md", "api.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation with the pages that are there."""
    known = {*_pages(), API}
    nav: list[Any] = [{"Pages": HOME}, {"Start": START}]  # the first alone at the top: there the logo leads
    placed = {HOME, START}
    for title, wanted in config.extra["sections"].items():
        there = [page for page in wanted if page in known]
        placed |= {*there}
        nav += [{title: there}] if there else []
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    if more := sorted(own - placed):
        nav.append({"More": more})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, pictures and notebooks that pages show, and the page of the Python API."""
    for page, source in _pages().items():
        if not source.startswith("docs/"):
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for picture in sorted(_pictures()):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    files.append(File.generated(config, API, content=api_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository be links of the site."""
    source = _pages().get(page.file.src_uri)
    if source is None:
        return markdown
    parts = FENCE.split(markdown)
    return "".join(
        part if place % 2 else LINK.sub(lambda match: relinked(match, source, page.file.src_uri), part)
        for place, part in enumerate(parts)
    )


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name functions as Sphinx does; here the name is enough."""
    return ROLE.sub("", html)


def on_post_build(config: MkDocsConfig) -> None:
    """Rendered notebooks are HTML already: their links to pages of the repository become links to those of the site."""
    by_source = {known: name for name, known in _pages().items()}
    for page in sorted(Path(config.site_dir).glob("notebooks/*.html")):

        def linked(match: re.Match[str], folder: str = page.parent.name) -> str:
            file, hash_, anchor = match[1].partition("#")
            inside = by_source.get(posixpath.normpath(posixpath.join(folder, file)))
            if inside is None:
                return match[0]
            built = re.sub(r"(^|/)README\.md$", r"\1index.md", inside).removesuffix(".md")
            return f'href="{posixpath.relpath(built, folder)}.html{hash_}{anchor}"'

        page.write_text(re.sub(r'href="([^":]+\.md(?:#[^"]*)?)"', linked, page.read_text(encoding="utf-8")), "utf-8")


def relinked(match: re.Match[str], source: str, page: str) -> str:
    """A link of a file of the repository, as the page of the site that is made of it has it."""
    target = match["target"]
    file, hash_, anchor = target.partition("#")
    if not file or re.match(r"[a-z]+:", target):
        return match[0]
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
    path = ROOT / place
    if place.startswith("..") or not path.exists():
        return match[0]  # which MkDocs says is broken
    by_source = {known: name for name, known in _pages().items()}
    inside = by_source.get(place) or by_source.get(f"{place}/README.md")
    if inside is None and place.startswith("docs/"):
        inside = place.removeprefix("docs/")
    if inside is None and place in _pictures():
        inside = place
    if inside is not None:
        relative = posixpath.relpath(inside, posixpath.dirname(page) or ".")
        return f"{match['image']}[{match['text']}]({relative}{hash_}{anchor})"
    address = repository()
    if address is None:
        return match["text"]
    kind = "tree" if path.is_dir() else "blob"
    return f"{match['image']}[{match['text']}]({address}/{kind}/HEAD/{place}{hash_}{anchor})"


@cache
def repository() -> str | None:
    """Where the repository is on the web; None where neither pyproject.toml nor CITATION.cff says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    found = urls.get("repository") or urls.get("source") or urls.get("homepage") or cited.get("repository-code")
    return found.rstrip("/") if found else None


@cache
def _pages() -> dict[str, str]:
    """Page of the site -> the file of the repository that it is made of."""
    own = {path.relative_to(ROOT / "docs").as_posix(): path for path in (ROOT / "docs").rglob("*.md")}
    pages = {name: path.relative_to(ROOT).as_posix() for name, path in sorted(own.items())}
    results = sorted((ROOT / "results").rglob("*.md"))
    return pages | OUTSIDE | {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix() for path in results}


@cache
def _pictures() -> set[str]:
    """Pictures and rendered notebooks outside docs/ that a page shows or links to."""
    found = set()
    for source in _pages().values():
        for match in LINK.finditer((ROOT / source).read_text(encoding="utf-8")):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
            if place.endswith((".png", ".html")) and not place.startswith(("docs/", "..")) and (ROOT / place).is_file():
                found.add(place)
    return found


# --- the Python API -------------------------------------------------------------------------------------------------


def api_page() -> str:
    """What is public, from its docstrings."""
    parts = ["# Python API", "Made from the docstrings of this version."]
    if {"load", "annotate", "score"} & set(_public("maxbench")):
        parts += ["## maxbench", _members("maxbench", [name for name in _public("maxbench") if name[:2] != "__"])]
    parts += [
        "## Fusion rules",
        "A rule takes features of N branches at one layer, a sequence of N tensors of shape (batch, channel, height, "
        "width), and gives one (`merge`) or N to go on with (`unmerge`).",
        _members("maxbench.fusion", list(_rules())),
        "## Models",
        "::: maxbench.models.lockstep.lockstep_controlnets",
        "::: maxbench.models.lockstep.lockstep_adapters",
        "## Finished runs",
        "::: maxbench.report.runs.Results",
        "::: maxbench.report.runs.find",
    ]
    return "\n\n".join(parts) + "\n"


def _members(module: str, names: list[str]) -> str:
    listed = "".join(f"\n        - {name}" for name in names)
    hidden = "      show_root_heading: false\n      show_root_toc_entry: false\n"
    return f"::: {module}\n    options:\n{hidden}      members:{listed}"


def _rules() -> Iterator[str]:
    """Classes first that users name; then what rules are written with."""
    public = _public("maxbench.fusion")
    first = ("MaxFusion", "PublishedMaxFusion", "Average", "Sum", "Weighted", "GatedSum")
    yield from (name for name in first if name in public)
    yield from (name for name in public if name not in first and name[:1].isupper() and not name.isupper())


def _public(module: str) -> list[str]:
    """The names in a package's `__all__`, read without importing it."""
    tree: Any = ast.parse((ROOT / module.replace(".", "/") / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []
