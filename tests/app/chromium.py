"""The browser of the tests of the page, and the marks of the files that need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright import sync_api

from benchmarks.browser import FLAGS, chromium_path

CHROMIUM = chromium_path()
needs_chromium = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="browser tests need Debian's chromium-headless-shell, or chromium"),
]


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A browser without a window, until the block ends."""
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        yield found
        found.close()
