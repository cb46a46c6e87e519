"""The pictures of the app in the documents: `python -m benchmarks.screenshots` (`make screenshots`).

Serves the app, does what a person would in a headless Chromium, and writes docs/app.png and docs/app-seeds.png, so that
they show the app as it is. It takes a minute, and says how long a stranger waits: for the first comparison on the page,
and for the first of their own, model and warm-up included.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from accel.cli import run
from benchmarks.browser import FLAGS, chromium_path
from benchmarks.command import command_of

DOCS = Path(__file__).parents[1] / "docs"
WIDTH, HEIGHT = 1280, 1080
_PATIENCE = 300_000  # milliseconds


def screenshots(options: argparse.Namespace) -> None:
    """Writes the documents' pictures of the app."""
    from playwright.sync_api import sync_playwright

    from accel.app.limits import Limits
    from accel.app.serve import launch
    from accel.app.studio import Studio

    options.out.mkdir(parents=True, exist_ok=True)
    with Studio(Limits(hub=False)) as studio, sync_playwright() as playwright:
        blocks, url = launch(studio, block=False, quiet=True)
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)  # None: playwright's own
        try:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.set_default_timeout(_PATIENCE)
            begun = time.monotonic()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#first-look[data-drawn=yes]")
            print(f"A comparison is on the screen after {time.monotonic() - begun:.1f} s,")
            _ready(page, "compare")
            print(f"and one that can be used after {time.monotonic() - begun:.1f} s.")
            _compare(page, options.out / "app.png")
            _seeds(page, options.out / "app-seeds.png")
        finally:
            browser.close()
            blocks.close(verbose=False)
    print(f"Wrote {options.out / 'app.png'} and {options.out / 'app-seeds.png'}.")


def _compare(page: Any, path: Path) -> None:
    page.get_by_role("button", name="fast", exact=True).click()
    begun = time.monotonic()
    page.locator("#generate").click()
    page.wait_for_function("!document.querySelector('#compare-headline').innerText.includes('An example')")
    _ready(page, "compare")
    print(f"The first of one's own is there {time.monotonic() - begun:.1f} s after Generate.")
    _settled(page, "compare")
    page.screenshot(path=path)


def _seeds(page: Any, path: Path) -> None:
    page.get_by_role("tab", name="Seeds").click()
    page.locator("#seeds input").fill("12")
    page.locator("#draft").click()
    page.wait_for_function("document.querySelectorAll('#drafts button').length === 12")
    page.locator("#drafts button").nth(3).click()
    _settled(page, "seeds")
    page.screenshot(path=path)


def _settled(page: Any, name: str) -> None:
    _ready(page, name)
    page.wait_for_function("[...document.querySelectorAll('#cancel, #cancel-draft')].every((each) => each.disabled)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)  # what fades in


def _ready(page: Any, name: str) -> None:
    """Both clips are drawn."""
    page.wait_for_function("name => document.querySelector(`#${name}-viewer [data-ready=yes]`)", arg=name)


def main(arguments: list[str] | None = None) -> int:
    parser = command_of("benchmarks.screenshots", screenshots)
    parser.add_argument("--out", type=Path, default=DOCS)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
