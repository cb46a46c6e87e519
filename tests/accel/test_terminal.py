"""Whatever stands in a prompt or a name, a terminal shows it as text."""

from __future__ import annotations

import io
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import accel
from accel.rendering.progress import progress
from accel.terminal import clean, lines_now_and_then, one_line, plain, show, waiting
from tests.rendering.studio import worded

HOSTILE = [
    "a [/x]",
    "[red]a[/red] [link=https://example.com]b[/link]",
    "\x1b]0;title\x07 \x1b[2J \x1b[31mred",
    "\x9b31mred \x90\x9c",
    "abc\rdef\x08\x08",
    "gnp\u202egnp.exe \u2066x\u2069",
    "half \ud800 a pair",
]
COMMANDS = {chr(code) for code in (*range(32), 127, *range(128, 160))} - {"\n", "\t"}


@pytest.mark.parametrize("text", HOSTILE)
def test_cleaned_text_holds_no_commands_and_all_else(text: str) -> None:
    for found in (clean(text), one_line(text), plain(text).plain):
        assert not set(found) & (COMMANDS | {"\u202e", "\u2066", "\u2069"})
        found.encode()
    assert clean("ein Käfer 🐞 👩‍👩‍👧\n日本\t[x]") == "ein Käfer 🐞 👩‍👩‍👧\n日本\t[x]"


@pytest.mark.parametrize("text", HOSTILE)
def test_rich_shows_it_as_it_stands(text: str) -> None:
    out = io.StringIO()
    Console(file=out, width=200, color_system="truecolor", force_terminal=True).print(plain(text))
    assert out.getvalue().rstrip("\n") == clean(text)


def test_a_terminal_that_lacks_a_character_shows_its_escape() -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
    show("Käfer 🐞", "\x1b[31m", file=terminal)
    assert raw.getvalue().decode("latin-1") == "Käfer \\U0001f41e\n[31m\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_the_signs_of_progress_take_it(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with waiting(text) as status:
        status.update(text)
    with progress(True, 2, 0) as bar:
        bar.say(text)
        bar.advance(True)
    assert "\x1b]0" not in capsys.readouterr().err


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = threading.Event()

    def text() -> str:
        asked.set()
        return "step 3\nof 8"

    with lines_now_and_then(text):
        pass
    assert not asked.is_set(), "a short wait says nothing"
    monkeypatch.setattr("accel.terminal.EVERY", 0.001)
    with lines_now_and_then(text):
        assert asked.wait(60)
    assert re.match(r"accel: 0:\d\d step 3 of 8\n", capsys.readouterr().err)


def test_a_terminal_has_signs_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.terminal.EVERY", 0.0)
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
    before = threading.active_count()
    with lines_now_and_then(lambda: "never"):
        assert threading.active_count() == before


def test_a_comparison_of_recipes_and_prompts_with_such_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, progress bar, sentences, files and page."""
    recipes = [accel.Recipe(name=name) for name in (*HOSTILE[:2], HOSTILE[3])]
    arguments = {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 2.0}
    result = accel.compare(worded(), recipes, HOSTILE[2:3], [0], steps=1, call_arguments=arguments, fewer_steps=False)
    Console(width=200).print(result.table())
    show(result)
    result.save(tmp_path)
    written = capsys.readouterr()
    told = written.out + written.err
    assert "a [/x]" in told and "[link=https" in told
    assert "\x1b]0" not in told and "\x07" not in told and "\x9b" not in told


def test_errors_of_the_command_line_are_cleaned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from accel.cli import main

    path = tmp_path / "manifest.jsonl"
    path.write_text('{"prompt": "a", "format": "\\u001b]0;title\\u0007", "\\u001b[2J": 1}\n')
    assert main(["render", str(path), "--model", "pocket:few\x1b[2J", "--out", str(tmp_path / "out")]) == 2
    assert not set(capsys.readouterr().err) & COMMANDS
