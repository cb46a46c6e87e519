"""The page in a real browser: what a person does, and sees."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")
pytest.importorskip("playwright", reason="browser tests need playwright")
from playwright import sync_api

import accel
from accel.app.settings import StudioSettings
from accel.presets import PRESETS
from accel.recipe import Recipe
from tests.app.chromium import chromium, needs_chromium
from tests.app.served import Served

pytestmark = needs_chromium

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
RECIPE = Recipe(cache=accel.OptimalSchedule(0.6))
SMALL = StudioSettings(
    prompt="a red circle moves left on a dark background", steps=10, width=32, height=32, frames=5, recipe=RECIPE
)
OTHER = "a blue square moves up on a light background"
LONG = 300_000  # milliseconds, for whatever a busy machine may need
UNDER_WAY = re.compile(r"step ([3-9]|\d\d) of 100")
Open = Callable[..., Any]
expect = sync_api.expect
expect.set_options(timeout=LONG)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    found = Served()
    yield found
    found.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class Window:
    """Opens pages, each of a visitor of its own, and notes what goes wrong in them or is asked of others.

    desk, guest: two visitors, whom most tests send to work one after the other: to open a page takes longer than what
        they do with it.
    """

    def __init__(self, browser: Any, url: str) -> None:
        self.problems: list[str] = []
        self._browser, self._url = browser, url
        self._pages: dict[str, Any] = {}

    @property
    def desk(self) -> Any:
        return self._of("desk")

    @property
    def guest(self) -> Any:
        return self._of("guest")

    def _of(self, visitor: str) -> Any:
        if visitor not in self._pages or self._pages[visitor].is_closed():
            self._pages[visitor] = self._open()
        return self._pages[visitor]

    def _open(self) -> Any:
        page = self._browser.new_page(viewport=WIDE)
        page.set_default_timeout(LONG)
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.problems.append(request.url) if self._foreign(request.url) else None)
        page.goto(self._url)
        return page

    def _foreign(self, url: str) -> bool:
        return not url.startswith((self._url, "data:", "blob:"))


@pytest.fixture(scope="module")
def window(browser: Any, served: Served) -> Window:
    return Window(browser, served.url)


@pytest.fixture
def visit(window: Window, kept: dict[str, str], tmp_path: Path) -> Iterator[Open]:
    """The page with these settings (None: those that it has), of the visitor who is at the desk or of the other. At the
    end nothing may have gone wrong in either."""

    def show(settings: StudioSettings | None = SMALL, viewport: dict[str, int] = WIDE, guest: bool = False) -> Any:
        page = window.guest if guest else window.desk
        page.set_viewport_size(viewport)
        tab(page, "Compare")
        if settings is not None:
            kept.pop("untouched", None)
            restore(page, written(settings, tmp_path))
            expect(page.locator("#prompt textarea")).to_have_value(settings.prompt)
        return page

    yield show
    problems, window.problems = window.problems, []
    assert problems == []


@pytest.fixture(scope="module")
def kept() -> dict[str, str]:
    """when: of the run that `compared` has last shown. untouched: there if no test has asked for settings since."""
    return {}


@pytest.fixture
def compared(visit: Open, kept: dict[str, str]) -> Any:
    """The page with the clips of `SMALL`, made once for the tests that only look at them."""
    page = visit(None if "untouched" in kept else SMALL)
    if kept.get("when") is None or kept["when"] != page.evaluate(WHEN):
        generate(page)
        kept["when"] = page.evaluate(WHEN)
    kept["untouched"] = "yes"
    return page


def written(settings: StudioSettings, folder: Path) -> Path:
    path = folder / f"{settings.key()}.json"
    path.write_text(json.dumps(settings.to_dict()))
    return path


def restore(page: Any, path: Path) -> None:
    """Gives the page a file in place of the one that it was given before; its prompt is empty until it has read it."""
    files = page.locator("#dropped")
    if not files.is_visible():
        page.get_by_role("button", name="Restore settings from a file").click()
    page.locator("#prompt textarea").fill("")
    old = files.get_by_label("Clear").or_(files.locator("button[title=Clear]")).first
    if old.is_visible():
        old.click()
    files.locator("input[type=file]").set_input_files(path)


WHEN = "document.querySelector('#compare-headline .figures')?.dataset.when"


def generate(page: Any) -> None:
    """One run, to its end."""
    before = page.evaluate(WHEN)
    page.locator("#generate").click()
    page.wait_for_function(f"before => {WHEN} && {WHEN} !== before", arg=before, polling=100)
    expect(page.locator("#cancel")).to_be_disabled()


def shown(page: Any, name: str = "compare") -> Any:
    """The viewer, once it has drawn its clip: side by side, and at the first frame."""
    viewer = page.locator(f"#{name}-viewer")
    expect(viewer.locator("canvas").first).to_be_visible()
    page.wait_for_function("name => document.querySelector(`#${name}-viewer [data-ready=yes]`)", arg=name, polling=100)
    for key in ("1", "Home"):
        viewer.locator(".viewer").press(key)
    return viewer


def pixels(viewer: Any, pane: int = 0) -> list[int]:
    """What a canvas shows, RGBA, row by row."""
    script = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    return list(viewer.locator("canvas").nth(pane).evaluate(script))


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


TABS = ("Compare", "Sweep", "Seeds", "Blind", "History")


def open_every_accordion(page: Any) -> None:
    """In every tab; ends in the first."""
    seen = 0
    for name in reversed(TABS):
        tab(page, name)
        every = page.locator("button.label-wrap:visible")
        for each in every.all():
            if "open" not in (each.get_attribute("class") or "").split():
                each.click()
            expect(each).to_have_class(re.compile(r"\bopen\b"))
        seen += every.count()
    assert seen >= 5


def overflow(page: Any) -> int:
    """Pixels that the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def own_runs(served: Served, seed: int) -> int:
    """How many runs the visitor has made whose last one had this seed; somebody without a page has made one too."""
    list(served.studio.run(replace(SMALL, seed=99, steps=2), user="somebody without a page"))
    every = [served.studio.history(user) for user in served.studio._histories]
    (own,) = (runs for runs in every if runs[0].settings.seed == seed)
    assert len(own) < sum(map(len, every))
    return len(own)


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1440", "390"])
def test_generate_shows_both_clips_and_what_was_measured(compared: Any, viewport: dict[str, int]) -> None:
    page = compared
    page.set_viewport_size(viewport)
    viewer = shown(page)
    for pane in (0, 1):
        assert len(set(pixels(viewer, pane))) > 10
    expect(page.locator("#compare-headline [data-figure=speedup] b")).to_have_text(re.compile(r"\d\.\d\d×"))
    expect(page.locator("#compare-headline [data-figure=psnr] b")).to_have_text(re.compile(r"[\d.]+ dB"))
    expect(page.locator("#compare-details .cells").first.locator("i")).to_have_count(10)
    expect(page.locator("#compare-details .times")).to_be_visible()
    expect(page.locator("#cost")).to_contain_text(re.compile(r"kept from \d\d:\d\d"))
    assert overflow(page) <= 0


def test_the_viewer_plays_steps_and_finds_the_worst_frame(compared: Any) -> None:
    page = compared
    viewer = shown(page)
    frame = viewer.locator(".frame")
    expect(frame).to_have_text("1 / 5")
    viewer.get_by_label("One frame on").click()
    expect(frame).to_have_text("2 / 5")
    second = pixels(viewer, 1)
    viewer.locator(".viewer").press("ArrowRight")
    viewer.locator(".viewer").press("ArrowRight")
    expect(frame).to_have_text("4 / 5")
    assert pixels(viewer, 1) != second  # one transport for both
    viewer.locator(".viewer").press("End")
    expect(frame).to_have_text("5 / 5")
    viewer.locator(".viewer").press("Home")
    expect(frame).to_have_text("1 / 5")
    viewer.get_by_role("button", name="Worst frame").click()
    worst = viewer.locator(".wide .curve").get_attribute("aria-label")
    expect(frame).to_have_text(f"{worst.rpartition(' ')[2]} / 5")
    viewer.get_by_label("Play").click()
    page.wait_for_function("was => document.querySelector('#compare-viewer .frame').textContent !== was",
                           arg=frame.inner_text())  # fmt: skip
    viewer.get_by_label("Pause").click()


def test_slider_flip_and_difference(compared: Any) -> None:
    page = compared
    viewer = shown(page)
    base, fast = pixels(viewer, 0), pixels(viewer, 1)
    assert base != fast
    viewer.get_by_role("img", name="unaccelerated, frame 1 of 5").wait_for()
    viewer.locator(".viewer").press("3")
    assert pixels(viewer) == base
    viewer.locator(".viewer").press("f")
    assert pixels(viewer) == fast
    viewer.get_by_role("button", name="Difference").click()
    expected = [value if at % 4 == 3 else min(255, 4 * abs(value - fast[at])) for at, value in enumerate(base)]
    assert pixels(viewer) == expected
    viewer.get_by_role("button", name="Slider").click()
    viewer.locator("canvas").first.click(position={"x": 2, "y": 40})
    width = 32
    wiped = pixels(viewer)
    assert wiped[4 * (width - 8) : 4 * width] == fast[4 * (width - 8) : 4 * width]


def test_turning_a_knob_renders_only_the_accelerated_side(served: Served, compared: Any, visit: Open) -> None:
    page = visit()
    expect(page.locator("#compare-headline [data-figure=calls] b")).to_have_text("12 of 20")
    box = page.get_by_label("cache compute")
    box.fill("0.9")
    box.press("Enter")
    expect(page.locator("#cost")).to_contain_text("90 %")
    before = served.at_rest()
    generate(page)
    expect(page.locator("#compare-headline [data-figure=calls] b")).to_have_text("18 of 20")
    assert served.calls - before <= 18 + 4 + 6  # no baseline; a warm-up of one or two steps, and three for the pace
    expect(page.locator("#compare-headline [data-figure=seconds] span")).to_contain_text("the first kept from")


def test_every_method_has_its_settings(visit: Open) -> None:
    page = visit()
    page.get_by_label("Guidance method").select_option("AdaptiveGuidance")
    box = page.get_by_label("guidance threshold")
    expect(box).to_have_value("0.95")
    box.fill("7")
    box.press("Enter")
    expect(page.locator("#cost .problem")).to_contain_text("AdaptiveGuidance.threshold must be a number from -1 to 2")
    page.get_by_role("button", name="turbo").click()
    expect(page.get_by_label("cache compute")).to_have_value(f"{PRESETS['turbo'].recipe.cache.compute:g}")
    expect(page.get_by_label("Guidance method")).to_have_value("")


def test_cancel_stops_the_work_within_a_step(served: Served, visit: Open) -> None:
    page = visit(replace(SMALL, seed=21, steps=100))
    with served.slowly(0.5):
        begun = served.calls
        page.locator("#generate").click()
        expect(page.locator("#progress")).to_contain_text(UNDER_WAY)
        assert served.calls > begun
        page.locator("#cancel").click()
        expect(page.locator("#progress .problem")).to_contain_text("cancelled")
        before = served.calls
        assert served.at_rest() - before <= 1
    expect(page.locator("#cancel")).to_be_disabled()


@pytest.fixture(scope="module")
def swept(window: Window, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The guest's page after a sweep of two values."""
    page = window.guest
    restore(page, written(SMALL, tmp_path_factory.mktemp("swept")))
    expect(page.locator("#prompt textarea")).to_have_value(SMALL.prompt)
    tab(page, "Sweep")
    page.locator("#axis input").click()
    page.get_by_role("option", name="OptimalSchedule: compute").click()
    values = page.locator("#values textarea, #values input")
    expect(values).not_to_have_value("lossless, balanced, fast, turbo")
    page.wait_for_timeout(500)  # on a busy machine the page draws what it suggests once more
    values.fill("0.9, 0.6")
    values.press("Tab")
    expect(values).to_have_value("0.9, 0.6")
    page.locator("#sweep").click()
    expect(page.locator(POINTS)).to_have_count(2)
    expect(page.locator("#cancel-sweep")).to_be_disabled()
    return page


POINTS = "#plot svg:visible [data-index]"


def test_a_click_on_a_point_of_a_sweep_loads_that_pair(swept: Any, visit: Open) -> None:
    page, points = swept, swept.locator(POINTS)
    tab(page, "Sweep")
    page.locator("#over").get_by_text("times fewer denoiser calls").click()
    expect(page.locator("#plot svg:visible")).to_contain_text("times fewer denoiser calls")
    points.nth(0).locator(".hit").click()
    shown(page, "sweep")
    expect(page.locator("#sweep-headline [data-figure=calls] b")).to_have_text("18 of 20")
    points.nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sweep-headline [data-figure=calls] b")).to_have_text("12 of 20")


def test_a_produced_file_restores_its_settings(served: Served, visit: Open, tmp_path: Path) -> None:
    page = visit(replace(SMALL, seed=5))
    generate(page)
    viewer = shown(page)
    with page.expect_download() as download:
        viewer.locator(".downloads a").nth(1).click()
    clip = tmp_path / "clip.mp4"
    download.value.save_as(clip)
    other = visit(replace(SMALL, prompt=OTHER, recipe=Recipe(name="off")))
    restore(other, clip)
    expect(other.locator("#prompt textarea")).to_have_value(SMALL.prompt)
    expect(other.locator("#seed input")).to_have_value("5")
    expect(other.get_by_label("cache compute")).to_have_value("0.6")


def test_bad_input_is_one_sentence(visit: Open) -> None:
    page = visit()
    page.locator("#steps input").fill("100000")
    page.locator("#generate").click()
    expect(page.locator("#progress .problem")).to_contain_text("Steps must be a whole number from 1 to 200")
    page.locator("#steps input").fill("10")
    generate(page)
    shown(page)
    expect(page.locator("#progress .problem")).to_have_count(0)


def test_a_new_page_has_a_comparison_and_every_accordion_may_be_open(served: Served, visit: Open) -> None:
    """What is drawn late, or was emptied, must not count as 0."""
    page = visit(replace(SMALL, seed=2**53 + 1, width=None, height=None, steps=2), guest=True)
    viewer = shown(page)
    for pane in (0, 1):
        assert len(set(pixels(viewer, pane))) > 10
    expect(page.locator("#compare-headline")).to_contain_text("An example that was made before")
    quality = page.locator("#compare-headline [data-figure=psnr] span")
    expect(quality).to_have_text(re.compile(r"fidelity \(PSNR\): \w+"))
    open_every_accordion(page)
    for name in ("width", "height", "frames", "guidance"):
        page.locator(f"#{name} input").fill("")
    generate(page)
    runs = [run for user in served.studio._histories for run in served.studio.history(user)]
    made = max(runs, key=lambda run: run.when).settings
    assert (made.width, made.frames, made.guidance, made.seed) == (None, None, None, 2**53 + 1)


def test_an_example_is_drawn_without_gradios_scripts_and_goes_when_the_page_is_there(
    browser: Any, served: Served, visit: Open
) -> None:
    """A stranger sees a comparison before the page has loaded."""
    early = browser.new_page(viewport=NARROW)
    early.route("**/*.js", lambda route: route.abort())
    early.goto(served.url)
    drawn = early.locator("#first-look[data-drawn=yes]")
    expect(drawn).to_contain_text("faster")
    clips = [pixels(drawn, pane) for pane in (0, 1)]
    assert clips[0] != clips[1] and all(len(set(each)) > 10 for each in clips)
    assert overflow(early) == 0
    early.close()
    page = visit()
    shown(page)
    expect(page.locator("#first-look")).to_have_count(0)


def test_a_draft_is_chosen_and_finished_and_a_reload_finds_everything_again(
    served: Served, swept: Any, visit: Open, window: Window
) -> None:
    """gradio loads the page anew once a connection was lost."""
    page = visit(replace(SMALL, seed=61, steps=12), guest=True)
    tab(page, "Seeds")
    page.locator("#seeds input").fill("3")
    page.locator("#draft").click()
    drafts = page.locator("#drafts button")
    expect(drafts).to_have_count(3)
    expect(drafts.nth(2)).to_have_text("seed 63")
    expect(page.locator("#cancel-draft")).to_be_disabled()
    drafts.nth(1).focus()
    page.keyboard.press("Enter")
    made = pixels(shown(page, "seeds"))
    expect(page.locator("#cancel-draft")).to_be_disabled()
    expect(page.locator("#seed input")).to_have_value("62")
    tab(page, "Blind")
    page.locator("#next-pair").click()
    page.locator("#vote-same").click()
    expect(page.locator("#verdict .note")).to_contain_text("You saw no difference")
    tab(page, "Compare")
    page.locator("#seed input").fill("9" * 20)
    page.locator("#generate").click()
    expect(page.locator("#progress .problem")).to_contain_text("Seed must be a whole number from 0 to")
    page.locator("#seed input").fill("4")
    page.get_by_role("button", name="turbo").click()
    expect(page.locator("#cost")).not_to_contain_text("Seed")
    served.at_rest()
    before = len(window.problems)
    page.reload()
    expect(page.locator("#compare-headline")).not_to_contain_text("An example")
    del window.problems[before:]  # requests that a reload cuts off are errors in the page's console
    assert pixels(shown(page)) == made  # what was made last, in the first tab
    expect(page.locator("#seed input")).to_have_value("4")
    expect(page.locator("#steps input")).to_have_value("12")
    expect(page.get_by_role("button", name="turbo")).to_have_attribute("aria-pressed", "true")
    tab(page, "Seeds")
    expect(page.locator("#seeds input")).to_have_value("3")
    tab(page, "History")
    expect(page.locator("#history tbody tr")).to_have_count(own_runs(served, 62))
    tab(page, "Blind")
    expect(page.locator("#tally table")).to_be_visible()
    tab(page, "Sweep")
    expect(page.locator(POINTS)).to_have_count(2)
    page.locator(POINTS).nth(0).locator(".hit").click()
    expect(page.locator("#sweep-headline [data-figure=calls] b")).to_have_text("18 of 20")


@pytest.mark.slow  # drafts are found and shown the same way, best_of is in test_seeds.py
def test_the_best_seed_is_found_and_shown(visit: Open) -> None:
    page = visit(replace(SMALL, seed=70, steps=20))
    tab(page, "Seeds")
    page.locator("#seeds input").fill("2")
    page.locator("#best-of").click()
    expect(page.locator("#draft-progress .note")).to_contain_text(re.compile(r"Best: seed 7[01] of 2, for"))
    shown(page, "seeds")


def test_a_pocket_model_says_what_it_reads(visit: Open) -> None:
    page = visit()
    page.locator("#grammar summary").click()
    expect(page.locator("#grammar dl")).to_contain_text("moves left, moves right")
    page.locator("#prompt textarea").fill("a corgi surfing")
    expect(page.locator("#cost .problem")).to_contain_text("write 'a COLOUR SHAPE MOTION on a BACKGROUND background'")


def test_methods_and_settings_are_in_words(visit: Open) -> None:
    page = visit()
    first = page.locator("[data-lever=cache] optgroup").first
    expect(first).to_have_attribute("label", "take this first")
    expect(first.locator("option")).to_have_text("OptimalSchedule")
    knob = page.locator("[data-knob='cache.compute']")
    expect(knob.locator(".name")).to_have_text("fraction of the steps that compute")
    expect(knob.locator("code")).to_have_text("compute")
    expect(page.locator("[data-lever=cache] .told")).to_contain_text("Computes the fraction compute of the steps")


def test_generate_stays_within_reach_on_a_telephone(visit: Open) -> None:
    page = visit(None, viewport=NARROW)
    for down in (0, 400, 1500):
        page.evaluate("down => scrollTo(0, down)", down)
        box = page.locator("#generate").bounding_box()
        assert box is not None and 0 < box["y"] < NARROW["height"] - box["height"]
    tab(page, "History")
    expect(page.locator("#generate")).to_be_hidden()


# Axe's rules whose answer hangs on colours and sizes; all others read the same elements in every look.
OF_LOOKS = {"runOnly": ["color-contrast", "link-in-text-block", "scrollable-region-focusable", "target-size"]}
Look = tuple[str, dict[str, int], dict[str, list[str]]]


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([("light", WIDE, {}), ("dark", NARROW, OF_LOOKS)], id="light and wide, dark and narrow"),
        pytest.param(
            [(theme, size, {}) for theme, size in (("dark", WIDE), ("dark", NARROW), ("light", NARROW))],
            id="every other",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_tab_has_a_serious_barrier(looks: list[Look], visit: Open) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="accessibility is checked with axe-playwright-python")
    page = visit(viewport=WIDE)
    open_every_accordion(page)
    generate(page)
    tab(page, "Seeds")
    page.locator("#seeds input").fill("2")
    page.locator("#draft").click()
    expect(page.locator("#drafts button")).to_have_count(2)
    expect(page.locator("#cancel-draft")).to_be_disabled()
    tab(page, "Blind")
    page.keyboard.press("n")
    shown(page, "blind")
    expect(page.locator("#vote-A")).to_be_enabled()
    page.add_style_tag(content="* { transition: none !important }")  # a button that fades in has no contrast yet
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    for (theme, viewport, rules), name in product(looks, TABS):
        page.set_viewport_size(viewport)
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
        tab(page, name)
        assert overflow(page) <= 0
        asked = {"resultTypes": ["violations"], **rules}
        found = page.evaluate("asked => axe.run(asked).then((result) => result.violations)", asked)
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert [(each["id"], [node["html"][:99] for node in each["nodes"]]) for each in serious] == [], (theme, name)
    page.evaluate("document.body.classList.remove('dark')")


def test_blind_vote_and_history(served: Served, visit: Open) -> None:
    page, before = visit(replace(SMALL, seed=8)), len(served.studio.votes())
    generate(page)
    tab(page, "Blind")
    page.locator("#next-pair").click()
    viewer = shown(page, "blind")
    expect(viewer.locator("figcaption").first).to_have_text("A")
    page.keyboard.press("s")
    expect(page.locator("#verdict .note")).to_contain_text("You saw no difference")
    expect(page.locator("#verdict [role=status]")).to_contain_text("You saw no difference")
    assert [vote.winner for vote in served.studio.votes()[before:]] == ["same"]
    tab(page, "Compare")
    page.locator("#seed input").fill("9")
    tab(page, "History")
    page.locator("#history [data-index='0']").click()
    expect(page.locator("#seed input")).to_have_value("8")


@pytest.mark.slow  # of the studio, test_studio_jobs.py asks it, and test_api.py and test_security.py of its server
def test_two_visitors_at_once_get_their_own(served: Served, visit: Open) -> None:
    one = visit(replace(SMALL, seed=31))
    two = visit(replace(SMALL, seed=32, recipe=Recipe(cache=accel.OptimalSchedule(0.9))), guest=True)
    with served.slowly(0.02):
        one.locator("#generate").click()
        two.locator("#generate").click()
        for page, calls in ((one, "12 of 20"), (two, "18 of 20")):
            expect(page.locator("#compare-headline [data-figure=calls] b")).to_have_text(calls)
            expect(page.locator("#cancel")).to_be_disabled()
    first, second = pixels(shown(one)), pixels(shown(two))
    assert first != second
    tab(two, "History")
    expect(two.locator("#history tbody tr")).to_have_count(own_runs(served, 32))


@pytest.mark.slow  # test_api.py has a client that goes away
def test_a_page_that_is_closed_stops_its_work(served: Served, visit: Open) -> None:
    page = visit(replace(SMALL, seed=22, steps=100), guest=True)
    with served.slowly(0.2):
        page.locator("#generate").click()
        expect(page.locator("#progress")).to_contain_text(UNDER_WAY)
        before = served.calls
        page.close()
        assert served.at_rest() - before < 20  # of the 175 that were left
