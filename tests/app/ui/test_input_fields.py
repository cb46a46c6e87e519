"""The fields for pictures in a real browser: shown for the models that take them, and what they hold is rendered."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")
pytest.importorskip("playwright", reason="browser tests need playwright")
from playwright import sync_api

from accel.app.limits import Limits
from tests.app.chromium import chromium, needs_chromium
from tests.app.conditioned import load, model_folder, picture
from tests.app.served import Served

pytestmark = needs_chromium
LONG = 300_000  # milliseconds, for whatever a busy machine may need
expect = sync_api.expect


def test_a_picture_is_given_where_the_model_takes_one(tmp_path: Path) -> None:
    expect.set_options(timeout=LONG)
    model, other = (model_folder(tmp_path, kind) for kind in ("StableDiffusionImg2ImgPipeline", "DiTPipeline"))
    served = Served(Limits(hub=False, roots=(tmp_path,)), model, load)
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(LONG)
            page.goto(served.url)
            for name, shown in {"image": True, "strength": True, "mask-image": False, "control-image": False}.items():
                expect(page.locator(f"#{name}")).to_be_visible(visible=shown)
            page.locator("#prompt textarea").fill("a thing")
            page.locator("#steps textarea, #steps input").fill("4")
            page.locator("#image input[type=file]").set_input_files(picture(tmp_path / "photo.png"))
            expect(page.locator("#image")).to_contain_text("photo")
            page.locator("#generate").click()
            page.wait_for_function("document.querySelector('#compare-headline .figures')?.dataset.when", polling=100)
            page.get_by_role("button", name="Take it with you").click()
            expect(page.locator("#python")).to_contain_text("load_image('photo.png')")
            page.get_by_role("button", name="Model, size and guidance").click()
            page.locator("#model input").fill(other)
            page.locator("#model input").press("Enter")
            expect(page.locator("#image")).to_be_hidden()
            expect(page.locator("#strength")).to_be_hidden()
    finally:
        served.close()
