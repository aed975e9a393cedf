"""The page in a browser: keyboard, order, filter, slider, links, widths; and that nothing is asked of a network."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from maxbench.__main__ import main
from maxbench.report.runs import Results
from report.browser import LOCAL, errors, opened, requests, why_not
from report.made import PROMPTS, build_of, make_run, read_part

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a browser"),
]
RUN = "made-none-0a1b"
SEEN = "window.getComputedStyle(document.querySelector('%s')).display !== 'none'"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A report of a run with 60 samples, two replicates and entered pictures, and of another that varies a number."""
    place = tmp_path_factory.mktemp("page")
    run = make_run(place / RUN, images=120, replicates=2, entered=("worse",), size=64)
    kept = make_run(place / "kept-none-1", images=12, pictures=False)
    _vary(kept)
    assert main(["report", str(run), str(kept), "--output", str(place / "report"), "--maps", "0"]) == 0
    return place / "report"


def _vary(folder):
    """Let a run have a method that varies its threshold."""
    metrics = Results(folder).metrics
    points = []
    for place, setting in enumerate((-1.0, 0.0, 0.5, 1.0)):
        own = metrics[(metrics.method == "better") & metrics.low.notna()].copy()
        own["method"], own["parameter"], own["setting"] = f"swept/delta={setting:g}", "rule.delta", setting
        own[["value", "low", "high"]] += 0.01 * place
        points.append(own)
    import pandas as pd

    pd.concat([metrics, *points]).to_csv(folder / "metrics.csv", index=False)


@pytest.fixture(scope="module")
def desktop(output):
    with opened(1400, 900) as driver:
        driver.get(f"file://{output}/index.html")
        yield driver


def wait(driver, script, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 15).until(lambda it: it.execute_script(f"return {script}", *arguments))


def visit(driver, output, hash_=""):
    driver.get("about:blank")
    driver.get(f"file://{output}/index.html{hash_}")


def press(driver, key):
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(key).perform()


def text(driver, selector):
    return driver.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)


def entries(driver):
    return driver.execute_script("return [...document.querySelectorAll('.entry')].map((each) => each.dataset.sample)")


@pytest.fixture(scope="module")
def changes(output):
    """Sample -> the joint score of better minus average, mean over replicates."""
    data = build_of(output) / "data/r0"
    about, samples, values = (read_part(data / f"{name}.js") for name in ("run", "samples", "values-0"))
    rows = [row["name"] for row in about["rows"]]
    ours, theirs = (values[rows.index(name)] for name in (about["rule"], about["baseline"]))
    return {
        sample[0]: sum(ours[2 * place + each] - theirs[2 * place + each] for each in (0, 1)) / 2
        for place, sample in enumerate(samples)
    }


def test_tables_sort_and_filter_and_plots_are_drawn(desktop, output):
    visit(desktop, output)
    wait(desktop, "document.querySelector('.run table.dataTable')")
    first = (
        "[...document.querySelectorAll('.run table.dataTable tbody th')].slice(0, 11).map((each) => each.textContent)"
    )
    before = desktop.execute_script(f"return {first}")
    headings = desktop.execute_script(
        "return [...document.querySelector('.run table.dataTable').tHead.rows[0].cells].map((each) => each.textContent)"
    )
    place = next(number for number, heading in enumerate(headings) if heading.startswith("depth RMSE"))
    for _ in range(2):
        desktop.execute_script(
            "document.querySelector('.run table.dataTable').tHead.rows[0].cells[arguments[0]].click()", place
        )
    column = desktop.execute_script(
        "return [...document.querySelector('.run table.dataTable').tBodies[0].rows]"
        ".map((row) => row.cells[arguments[0]].textContent)", place
    )  # fmt: skip
    numbers = [float(each.split()[0]) for each in column if each != "-"]
    assert numbers == sorted(numbers, reverse=True) or numbers == sorted(numbers)
    assert desktop.execute_script(f"return {first}") != before
    desktop.execute_script("document.querySelector('[data-table=differences]').open = true")
    wait(desktop, "document.querySelector('[data-table=differences] table.dataTable')")
    wait(desktop, "document.querySelectorAll('[data-table=differences] .chosen select').length === 4")
    desktop.execute_script(
        "const it = document.querySelectorAll('[data-table=differences] .chosen select')[0];"
        "it.value = 'single/depth'; it.dispatchEvent(new Event('change'))"
    )
    shown = desktop.execute_script(
        "return [...document.querySelectorAll('[data-table=differences] tbody tr')]"
        ".map((row) => row.cells[0].textContent)"
    )
    assert shown and set(shown) == {"single/depth"}
    field = desktop.find_element("css selector", ".run .dt-search input")
    field.send_keys("single")
    wait(desktop, f"{first}.length === 2")
    for kind in ("intervals", "differences", "curve"):
        desktop.execute_script("document.querySelector(`figure.${arguments[0]}`).scrollIntoView()", kind)
        wait(desktop, "document.querySelector(`figure.${arguments[0]} svg`)", kind)


def test_samples_come_in_the_order_of_what_was_chosen(desktop, output, changes):
    visit(desktop, output, f"#{RUN}//list")
    wait(desktop, "document.querySelectorAll('.entry').length === 24")
    ranked = sorted(changes, key=lambda name: -changes[name])
    assert entries(desktop) == ranked[:24]
    press(desktop, "\ue014")  # right
    wait(desktop, "document.querySelector('#where').textContent.startsWith('page 2')")
    assert entries(desktop) == ranked[24:48]
    visit(desktop, output, f"#{RUN}//list?order=loss")
    wait(desktop, "document.querySelectorAll('.entry').length === 24")
    assert entries(desktop) == ranked[::-1][:24]


def test_a_sample_is_paged_through_by_keyboard(desktop, output, changes):
    ranked = sorted(changes, key=lambda name: -changes[name])
    visit(desktop, output, f"#{RUN}//list")
    wait(desktop, "document.querySelectorAll('.entry').length === 24")
    press(desktop, "s")
    wait(desktop, "document.querySelectorAll('.methods figure').length === 6")
    assert ranked[0] in text(desktop, "#gallery .note")
    for place, key in ((1, "\ue014"), (2, "\ue014"), (1, "\ue012"), (59, "\ue010"), (0, "\ue011")):
        press(desktop, key)
        wait(desktop, "document.querySelector('#gallery .note').textContent.startsWith(arguments[0])", ranked[place])
        assert f"/{ranked[place]}/sample" in desktop.current_url
    press(desktop, "r")
    wait(desktop, "document.querySelector('#replicate').textContent === 'noise 2 of 2'")
    assert desktop.execute_script("return document.querySelectorAll('.methods .lines').length") == 6
    press(desktop, "o")
    wait(desktop, "document.querySelectorAll('.methods .lines').length === 0")
    press(desktop, "?")
    wait(desktop, "document.querySelector('#keys').open")
    assert "move the slider" in text(desktop, "#keys")
    press(desktop, "\ue00c")
    wait(desktop, "!document.querySelector('#keys').open")
    press(desktop, "\ue00c")
    wait(desktop, "document.querySelectorAll('.entry').length === 24")
    press(desktop, "\ue00c")
    wait(desktop, "!document.querySelector('#report').hidden")


def test_the_best_rule_of_a_sample_is_marked(desktop, output):
    data = build_of(output) / "data/r0"
    about, parts = read_part(data / "run.js"), read_part(data / "part-0.js")
    joint = [row[0] for row in parts[5]["values"][0]]
    fusing = {
        row["name"]: joint[place] for place, row in enumerate(about["rows"]) if row["role"] in ("fusion", "entered")
    }
    visit(desktop, output, f"#{RUN}/s005/sample")
    wait(desktop, "document.querySelectorAll('.methods figure').length === 6")
    marked = desktop.execute_script("return [...document.querySelectorAll('.best')].map((each) => each.dataset.row)")
    assert marked == [max(fusing, key=fusing.get)]


def test_prompts_are_filtered_and_shown_as_they_are(desktop, output):
    visit(desktop, output, f"#{RUN}//list")
    wait(desktop, "document.querySelectorAll('.entry').length === 24")
    press(desktop, "/")
    wait(desktop, "document.activeElement.id === 'filter'")
    for letter in "grass sphere":
        press(desktop, letter)
    wait(desktop, "document.querySelectorAll('.entry').length === 1")
    assert text(desktop, ".entry .words") == PROMPTS[0]
    assert desktop.execute_script("return document.querySelectorAll('#gallery script').length") == 0
    visit(desktop, output, f"#{RUN}//list?filter=nowhere")
    wait(desktop, "document.querySelector('#gallery').textContent.includes('No prompt has all of these words')")


def test_two_pictures_are_compared_with_a_slider(desktop, output):
    visit(desktop, output, f"#{RUN}/s003/compare?left={quote('single/depth', safe='')}&right=worse")
    wait(desktop, "document.querySelector('#slider')")
    assert text(desktop, ".sides").startswith("single/depth") and "worse (entered)" in text(desktop, ".sides")
    top = "document.querySelector('.compare .frame > div').style.clipPath"
    assert desktop.execute_script(f"return {top}") == "inset(0px 50% 0px 0px)"
    press(desktop, "]")
    assert desktop.execute_script(f"return {top}") == "inset(0px 45% 0px 0px)"
    frame = desktop.find_element("css selector", ".compare .frame")
    from selenium.webdriver import ActionChains

    ActionChains(desktop).move_to_element(frame).click_and_hold().move_by_offset(
        -frame.size["width"] // 4, 0
    ).release().perform()
    edge = float(desktop.execute_script("return document.querySelector('#slider').value"))
    assert 20 <= edge <= 30
    press(desktop, "x")
    wait(desktop, "document.querySelector('.sides').textContent.startsWith('worse')")


def test_a_link_leads_to_its_sample_and_back_leads_out(desktop, output):
    visit(desktop, output, f"#{RUN}/s007/sample?rule=worse&baseline=none&replicate=1")
    wait(desktop, "document.querySelectorAll('.methods figure').length === 6")
    assert text(desktop, "#gallery .note").startswith("s007") and "worse minus none" in text(desktop, "#gallery .note")
    assert text(desktop, "#replicate") == "noise 2 of 2"
    visit(desktop, output, f"#{RUN}/nowhere/sample?rule=gone&metric=99&replicate=8")
    wait(desktop, "document.querySelector('[role=alert]')")
    assert "There is no sample nowhere in this run." in text(desktop, "[role=alert]")
    visit(desktop, output, "#%E0%A4%A/x/sample")
    wait(desktop, "!document.querySelector('#report').hidden")
    visit(desktop, output, f"#{RUN}")
    wait(desktop, "!document.querySelector('#report').hidden")
    desktop.execute_script("document.querySelector('a.open').click()")
    wait(desktop, "document.querySelectorAll('.entry').length === 24")
    desktop.execute_script("document.querySelector('.entry').click()")
    wait(desktop, "document.querySelectorAll('.methods figure').length === 6")
    desktop.back()
    wait(desktop, "document.querySelectorAll('.entry').length === 24")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1400, 900)], ids=["phone", "desktop"])
def test_no_view_scrolls_sideways_says_an_error_or_asks_a_network(output, width, height):
    with opened(width, height) as driver:
        for hash_, there in (
            ("", ".run table.dataTable"), (f"#{RUN}//list", ".entry"), (f"#{RUN}/s004/sample", ".methods figure"),
            (f"#{RUN}/s004/compare", "#slider"),
        ):  # fmt: skip
            visit(driver, output, hash_)
            driver.execute_script("document.querySelector('.run table').scrollIntoView()")
            wait(driver, "document.querySelector(arguments[0])", there)
            if not hash_:
                driver.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
                for plot in range(driver.execute_script("return document.querySelectorAll('.plot').length")):
                    driver.execute_script("document.querySelectorAll('.plot')[arguments[0]].scrollIntoView()", plot)
                    wait(driver, "document.querySelectorAll('.plot')[arguments[0]].querySelector('svg')", plot)
            wide = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1], hash_ or "the report"
        assert errors(driver) == []
        asked = requests(driver)
        assert len(asked) > 10 and not [each for each in asked if not each.startswith(LOCAL)]
        assert json.dumps(asked).count("plots.js") >= 1
