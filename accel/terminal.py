"""Writes to the terminal. Prompts and names come from other people's files, and are shown as text, never as commands.

A prompt may hold escape sequences, which move the cursor, change the title or the clipboard of a terminal, and square
brackets, which rich takes for its markup. So all that is shown goes through `clean`, and to rich as `Text`.
"""

from __future__ import annotations

import sys
import unicodedata
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

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


class _Waiting:
    def __init__(self, text: str) -> None:
        from rich.console import Console

        self._status = Console(stderr=True).status(plain(one_line(text)))

    def __enter__(self) -> _Waiting:
        self._status.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._status.__exit__(*error)

    def update(self, text: str) -> None:
        self._status.update(plain(one_line(text)))
