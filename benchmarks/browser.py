"""The browser of this machine, for pictures of pages and for tests of them."""

from __future__ import annotations

import shutil

# The shell draws the same pages without a window's frame, extensions and services around them: a page costs two thirds.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def chromium_path() -> str | None:
    """Where Chromium is, None where it is not installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)
