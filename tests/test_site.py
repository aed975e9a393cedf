"""The pages as a site: it builds without a warning and asks no network; what is broken ends the build."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import maxbench.fusion

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
site_hooks = pytest.importorskip("site_hooks")  # of the extra `docs`, which `test` has
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


def build(root, place):
    """The finished process of a strict build of the pages below a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)


class Read(HTMLParser):
    """The ids of a page, where its links lead, and what a browser would load for it."""

    def __init__(self, page: Path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        said = dict(attributes)
        self.ids.add(said.get("id"))
        if tag == "a" and said.get("href"):
            self.links.append(said["href"])
        if tag in LOADED and said.get(LOADED[tag]) and said.get("rel") != "canonical":
            self.loads.append(said[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    done = build(ROOT, place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Read(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_repository_is_there_and_those_of_docs_are_in_the_navigation(pages):
    own = [f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md") if path.stem != "README"]
    assert {*own, "index.html", "start.html", "changelog.html", "api.html"} <= set(pages)
    assert {*own, "start.html", "api.html"} <= set(pages["index.html"].links)
    assert "results/miniature/index.html" in pages["index.html"].links
    kept = {path.relative_to(ROOT).parent.as_posix() for path in (ROOT / "results").rglob("table.md")}
    assert {f"{folder}/table.html" for folder in kept} <= set(pages)


def test_nothing_is_loaded_from_a_network(site, pages):
    for name, page in pages.items():
        for address in page.loads:
            assert not re.match(r"(https?:)?//", address), f"{name} loads {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text()), path


def test_every_link_and_picture_leads_to_a_place_of_the_site(site, pages):
    count = 0
    for name, page in pages.items():
        if name == "404.html":
            continue
        for address in (*page.links, *page.loads):
            if re.match(r"[a-z]+:", address):
                continue
            file, _, anchor = unquote(address).partition("#")
            target = (site / name).parent / file if file else site / name
            target = Path(os.path.normpath(target))
            assert target.is_file(), f"{name} links to {address}"
            count += 1
            if anchor and target.suffix == ".html":
                inside = pages[target.relative_to(site).as_posix()]
                assert anchor in inside.ids or anchor.startswith("__"), f"{name} links to {address}"
    assert count > 1000


def test_pictures_of_results_and_notebooks_are_shown(pages):
    rendered = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.html")}
    assert rendered and rendered <= set(pages) and rendered <= set(pages["python.html"].links)
    shown = [address for address in pages["experiments.html"].loads if "results/" in address]
    assert len(shown) >= 3


def test_rules_have_their_docstrings_on_the_page_of_the_api(site, pages):
    public = {name for name in maxbench.fusion.__all__ if name[:1].isupper() and not name.isupper()}
    assert {f"maxbench.fusion.{name}" for name in public} <= pages["api.html"].ids
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    for rule in (maxbench.fusion.MaxFusion, maxbench.fusion.Sum):
        first = rule.__doc__.strip().splitlines()[0]
        assert " ".join(first.split()[:5]) in " ".join(text.split())
    assert ":func:" not in text and ":class:" not in text


def test_the_search_has_its_index_as_a_script_which_works_from_disk(site):
    index = (site / "search" / "search_index.js").read_text()
    assert index.startswith("var __index = ") and "maxfusion_published" in index
    assert (site / "assets" / "iframe-worker.js").is_file()


@pytest.mark.browser
def test_a_browser_finds_words_in_the_pages_on_disk(site):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    driver, browser = (shutil.which(name) for name in ("chromedriver", "chromium"))
    if not driver or not browser:
        pytest.skip("there is no chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        page.get((site / "index.html").as_uri())
        page.find_element(By.CSS_SELECTOR, ".md-search__input").click()
        page.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("relative saliency")
        WebDriverWait(page, 30).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".md-search-result__item"))
        assert page.get_log("browser") == []
    finally:
        page.quit()


@pytest.fixture
def copy(tmp_path):
    """A folder that has one page of docs/ of its own and all else from the repository."""
    for entry in ROOT.iterdir():
        if entry.name != "docs" and not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "docs").mkdir()
    for page in (ROOT / "docs").iterdir():
        (tmp_path / "docs" / page.name).symlink_to(page)
    return tmp_path


@pytest.mark.parametrize(
    ("link", "said"),
    [("nowhere.md", "nowhere.md"), ("../results/nothing/table.md", "nothing/table.md"),
     ("methods.md#nowhere", "nowhere"), ("/methods.md", "/methods.md")],
)  # fmt: skip
@pytest.mark.slow
def test_a_broken_link_ends_the_build(copy, tmp_path_factory, link, said):
    (copy / "docs" / "new.md").write_text(f"# New\n\nSee [this]({link}).\n")
    done = build(copy, tmp_path_factory.mktemp("broken"))
    assert done.returncode == 1 and said in done.stderr


def link(text, source, page):
    return site_hooks.LINK.sub(lambda match: site_hooks.relinked(match, source, page), text)


@pytest.mark.parametrize(
    ("text", "source", "page", "expected"),
    [
        ("[a](methods.md#sites)", "docs/data.md", "data.md", "[a](methods.md#sites)"),
        ("[a](../README.md)", "docs/data.md", "data.md", "[a](start.md)"),
        ("[a](docs/data.md#coco)", "README.md", "start.md", "[a](data.md#coco)"),
        ("[a](../results/cost.md)", "docs/data.md", "data.md", "[a](results/cost.md)"),
        ("[a](../results/miniature)", "docs/data.md", "data.md", "[a](results/miniature/README.md)"),
        ("![a](../results/style/contact_sheet.png)", "docs/experiments.md", "experiments.md",
         "![a](results/style/contact_sheet.png)"),
        ("[a](../../docs/methods.md)", "results/miniature/README.md", "results/miniature/README.md",
         "[a](../../methods.md)"),
        ("[`conf/main.yaml`](../conf/main.yaml)", "docs/data.md", "data.md", "`conf/main.yaml`"),
        ("[a](../conf/nothing.yaml)", "docs/data.md", "data.md", "[a](../conf/nothing.yaml)"),
        ("[a](../../elsewhere)", "docs/data.md", "data.md", "[a](../../elsewhere)"),
        ("[a](https://example.org) [b](#here)", "docs/data.md", "data.md", "[a](https://example.org) [b](#here)"),
    ],
)  # fmt: skip
def test_links_between_files_become_links_of_the_site(monkeypatch, text, source, page, expected):
    monkeypatch.setattr(site_hooks, "repository", lambda: None)
    assert link(text, source, page) == expected


def test_a_file_that_is_no_page_is_on_the_web_where_the_repository_is(monkeypatch):
    monkeypatch.setattr(site_hooks, "repository", lambda: "https://example.org/it")
    assert (
        link("[a](../conf/main.yaml#x)", "docs/d.md", "d.md")
        == "[a](https://example.org/it/blob/HEAD/conf/main.yaml#x)"
    )
    assert link("[a](../conf)", "docs/d.md", "d.md") == "[a](https://example.org/it/tree/HEAD/conf)"
