"""Writes to the terminal. Prompts and names come from other people's files, and are shown as text, never as commands.

A prompt may hold escape sequences, which move the cursor, change the title or the clipboard of a terminal, and square
brackets, which rich takes for its markup. So all that is shown goes through `clean`, and to rich as `Text`.
"""

from __future__ import annotations

import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""

_KEPT = "\n\t"
_TURNING = {chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Marks that show the characters after them in another order than they have."""


def clean(text: object) -> str:
    """The text without control characters, marks of direction and halves of surrogate pairs; line breaks stay."""
    return "".join(letter for letter in str(text) if letter in _KEPT or not _commands(letter))


def _commands(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs") or letter in _TURNING


def one_line(text: object) -> str:
    """The same in one line."""
    return " ".join(clean(text).split())


def plain(text: object, style: str = "") -> Text:
    """The cleaned text for rich, which shows it as it stands."""
    from rich.text import Text

    return Text(clean(text), style)


def show(*lines: object, file: IO[str] | None = None) -> None:
    """`print`, cleaned. What the terminal's encoding lacks is shown as its escape."""
    target = file or sys.stdout
    text = clean("\n".join(map(str, lines)))
    encoding = getattr(target, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=target)


def waiting(text: str) -> AbstractContextManager[Any]:
    """A sign on stderr that work is in progress. Yields an object whose `update(text)` says what happens now."""
    return _Waiting(text)


@contextmanager
def telling(progress: bool, text: str) -> Iterator[Callable[[str], None]]:
    """What tells a library's user where a long call is: on stderr, or nowhere without `progress`."""
    if not progress:
        yield lambda text: None
        return
    with waiting(text) as status:
        yield status.update


class _Waiting:
    def __init__(self, text: str) -> None:
        from rich.console import Console

        self._text = one_line(text)
        self._status = Console(stderr=True).status(plain(self._text))
        self._lines = lines_now_and_then(lambda: self._text)

    def __enter__(self) -> _Waiting:
        self._status.__enter__()
        self._lines.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._lines.__exit__(*error)
        self._status.__exit__(*error)

    def update(self, text: str) -> None:
        self._text = one_line(text)
        self._status.update(plain(self._text))


@contextmanager
def lines_now_and_then(text: Callable[[], str]) -> Iterator[None]:
    """A line on stderr every `EVERY` seconds of the block with what `text` says then, where there is no terminal and so
    no sign that work is in progress: in the log of a batch job, silence and a program that hangs look alike.
    """
    if sys.stderr is None or sys.stderr.isatty():
        yield
        return
    begun, ended = time.monotonic(), threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY):
            minutes, seconds = divmod(int(time.monotonic() - begun), 60)
            show(f"accel: {minutes}:{seconds:02d} {one_line(text())}", file=sys.stderr)

    teller = threading.Thread(target=tell, name="accel progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
