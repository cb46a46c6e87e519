from __future__ import annotations

import pytest

from accel.rendering.filenames import file_stem, slug, wrong_template
from accel.rendering.jobs import Job

HOSTILE = [
    "../../../etc/passwd",
    "..\\..\\windows\\system32",
    "/absolute/path",
    "C:\\file",
    "con",
    "LPT1.txt",
    "a" * 5000,
    "日本語" * 200,
    "‮gnp.exe",
    "new\nline\ttab\r",
    "quote\"'`$(rm -rf /)`;&|<>*?",
    ".hidden",
    "trailing. . .",
    "",
    "   ",
    "🐞" * 300,
    "-rf",
    "%00%2e%2e",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("template", ["{slug}", "{index:05d}-{slug}-{id:.8}", "{model}/{recipe}/{slug}"])
def test_whatever_the_prompt_the_name_is_harmless(text: str, template: str) -> None:
    assert wrong_template(template) == ""
    job = Job(f"some/{text}", text, recipe={"name": text}, output=template)
    stem = file_stem(job)
    assert not stem.is_absolute() and len(stem.parts) == template.count("/") + 1
    for part in stem.parts:
        assert part not in ("", ".", "..") and not part.startswith((".", " ")) and not part.endswith((".", " "))
        assert not set(part) & set('<>:"/\\|?*%\n\r\t‮\0')
        assert len(part.encode()) <= 200
        assert part.lower().partition(".")[0] not in ("con", "lpt1")


def test_literal_parts_of_a_template_are_made_safe_too() -> None:
    job = Job("m", "a corgi", seed=7, output="videos\\{seed:03d}: <best>/con")
    assert file_stem(job).parts == ("videos", "007- -best-", "_con")


def test_letters_of_every_script_stay() -> None:
    assert slug("Ein Käfer, zwei!") == "ein-käfer-zwei"
    assert slug("नमस्ते दुनिया") == "नमस्ते-दुनिया"
    assert slug("日本 の 猫") == "日本-の-猫"
    assert slug("!!!") == "untitled"


@pytest.mark.parametrize(
    "template",
    [
        "",
        "..",
        "a/../b",
        "/a",
        "\\\\host\\a",
        "C:a",
        "{",
        "{0}",
        "{slug!r}",
        "{slug:{id}}",
        "{index.real}",
        "{index:x^q}",
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    assert wrong_template(template).startswith("output")
