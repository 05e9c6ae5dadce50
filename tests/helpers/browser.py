"""A page in the system's Chromium, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Opened:
    """A page that was opened.

    Attributes:
        page: Playwright's page.
        complaints: What the console and the scripts complained about.
        requests: Addresses that were asked for.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def signal(self, name: str, value: Any) -> None:
        """Set what a picker sets, and wait until all is drawn."""
        self.page.evaluate("([n, v]) => report.set(n, v).then(() => 0)", [name, value])


def chromium() -> str:
    """Find Chromium; a test skips without it, or fails under `.ci/run`."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = "no Chromium on this machine; install Debian's chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def opened(file: Path, width: int = 1366, **options: Any) -> Iterator[Opened]:
    """Open a file and wait until its views are drawn; `options` are those of a context of Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            result = Opened(browser.new_page(viewport={"width": width, "height": 900}, **options))
            result.page.on(
                "console", lambda m: result.complaints.append(m.text) if m.type in ("error", "warning") else 0
            )
            result.page.on("pageerror", lambda error: result.complaints.append(str(error)))
            result.page.on("request", lambda request: result.requests.append(request.url))
            result.page.goto(file.as_uri())
            result.page.wait_for_selector("html[data-ready]", timeout=60_000)
            yield result
        finally:
            browser.close()
