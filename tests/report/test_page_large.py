"""Thousands of samples stay quick: a run of 3,000 samples and 12 methods, in a browser."""

from __future__ import annotations

import time

import pytest

from maxbench.__main__ import main
from report.browser import errors, opened, why_not
from report.made import make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a browser"),
]
SAMPLES, MORE = 3000, 6  # and the six methods of every made run


def until(driver, script, *arguments):
    """Seconds until a script gives something true."""
    begun = time.monotonic()
    while not driver.execute_script(f"return {script}", *arguments):
        assert time.monotonic() - begun < 30, script
        time.sleep(0.01)
    return time.monotonic() - begun


def test_a_large_run_opens_and_is_paged_through_quickly(tmp_path):
    run = make_run(tmp_path / "large-none-1", images=SAMPLES, more=MORE, size=64)
    seconds = {}
    for what in ("written", "written again"):
        begun = time.monotonic()
        assert main(["report", str(run), "--output", str(tmp_path / "report"), "--maps", "0"]) == 0
        seconds[what] = time.monotonic() - begun
    loaded = "[...document.images].every((each) => each.complete && each.naturalWidth)"
    with opened() as driver:
        begun = time.monotonic()
        driver.get(f"file://{tmp_path / 'report'}/index.html")
        until(driver, "document.querySelector('.run table.dataTable')")
        seconds["report open"] = time.monotonic() - begun
        begun = time.monotonic()
        driver.execute_script("document.querySelector('a.open').click()")
        until(driver, "document.querySelectorAll('.entry').length === 24")
        seconds["list open"] = time.monotonic() - begun
        pages, samples = [], []
        for page in range(2, 12):
            driver.execute_script("document.querySelector('#next').click()")
            pages.append(
                until(driver, "document.querySelector('#where').textContent.startsWith(arguments[0])", f"page {page} ")
            )
        driver.execute_script("document.querySelector('.entry').click()")
        until(driver, "document.querySelectorAll('.methods figure').length === 12")
        for _ in range(40):
            before = driver.execute_script("return document.querySelector('#where').textContent")
            driver.execute_script("document.querySelector('#next').click()")
            samples.append(
                until(driver, f"document.querySelector('#where').textContent !== arguments[0] && {loaded}", before)
            )
        driver.execute_script(
            "const it = document.querySelector('#metric'); it.value = '3'; it.dispatchEvent(new Event('change'))"
        )
        seconds["another metric"] = until(driver, "document.querySelector('#metric').value === '3'")
        assert errors(driver) == []
    seconds |= {
        "a page of the list": max(pages),
        "first ten samples": max(samples[:10]),
        "last ten samples": max(samples[-10:]),
    }
    print("\n".join(f"{what}: {each:.2f} s" for what, each in seconds.items()))
    assert seconds["report open"] < 3 and seconds["list open"] < 3
    assert max(pages) < 1 and max(samples) < 1
