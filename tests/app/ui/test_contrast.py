"""Text can be read in both themes: WCAG's contrast of 4.5, by the colours that the style sheet names."""

from __future__ import annotations

import re

import pytest

from accel.app.ui.assets import read

PAIRS = [
    *(("ink", ground) for ground in ("page", "card", "well")),
    *(("soft", ground) for ground in ("page", "card", "well")),
    ("accent", "card"),
    ("on-accent", "accent"),
]


def colours(theme: str) -> dict[str, str]:
    block = re.search(rf"^{re.escape(theme)} \{{(.*?)\}}", read("style.css"), re.DOTALL | re.MULTILINE)
    assert block is not None
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block.group(1)))


def luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [":root", ".dark"], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS, ids=lambda name: str(name))
def test_text_stands_out(theme: str, text: str, ground: str) -> None:
    named = colours(theme)
    assert contrast(named[text], named[ground]) >= 4.5


@pytest.mark.parametrize("sheet", ["style.css", "recipe_editor.css", "../gradio_pair/viewer.css"])
def test_what_stands_on_the_accent_has_its_colour(sheet: str) -> None:
    for rule in re.findall(r"\{[^{}]*\}", read(sheet)):
        if "background: var(--accent)" in rule and "color:" in rule.replace("background-color:", ""):
            assert not re.search(r"[; {]color: #", rule), rule
