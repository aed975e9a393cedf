"""Debian's Chromium without a window, as tests and scripts open a page on disk with it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")


def why_not() -> str:
    """Why no page can be opened; empty where one can."""
    missing = [str(each) for each in (CHROMIUM, DRIVER) if not each.exists()]
    return f"there is no {' and no '.join(missing)}" if missing else ""


@contextlib.contextmanager
def opened(width: int = 1400, height: int = 900) -> Iterator:
    """A browser of its own, closed at the end; widths below 500 are a phone's."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp()
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for each in (*OPTIONS, f"--user-data-dir={profile}", f"--window-size={max(width, 500)},{height}"):
        options.add_argument(each)
    if width < 500:
        options.add_experimental_option(
            "mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}}
        )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(str(DRIVER)))
    try:
        driver.set_script_timeout(60)
        driver.get("about:blank")
        driver.get_log("performance")  # of the browser's own first page
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def errors(driver) -> list[str]:
    """What the console has said since it was last asked."""
    return [each["message"] for each in driver.get_log("browser") if each["level"] in ("SEVERE", "WARNING")]


def requests(driver) -> list[str]:
    """Addresses that were asked for since it was last asked."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            params = message["params"]
            found.append(params.get("request", params)["url"])
    return found
