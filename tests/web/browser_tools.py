"""Chromium for the tests of the pages; what imports this is skipped where the machine has none."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
if not CHROMIUM:
    pytest.skip(f"no browser: none of {', '.join(NAMES)} on PATH, nor $CHROMIUM", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SECONDS = 60_000  # milliseconds: for a loaded machine


@contextmanager
def started():
    """Start a browser."""
    playwright.expect.set_options(timeout=SECONDS)
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(chromium, url, allowed=(), **options):
    """Open a page; in the end, make sure that its console has nothing to complain about."""
    context = chromium.new_context(base_url=url, **{"viewport": DESKTOP, **options})
    context.set_default_timeout(SECONDS)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    try:
        yield page
    finally:
        context.close()
    bad = [each for each in said if each.startswith(("error", "warning", "dialog"))]
    assert not [each for each in bad if not any(word in each for word in allowed)]


def expect(found):
    return playwright.expect(found)


def drop(page, name, content):
    """Drop a file onto the page."""
    page.locator("body").dispatch_event("drop", {"dataTransfer": page.evaluate_handle(
        """([name, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(content)], name));
            return transfer;
        }""",
        [name, list(content)],
    )})  # fmt: skip
