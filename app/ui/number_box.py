"""Boxes for numbers that hold what was typed, as text.

A number of the browser's would be rounded above 2**53, is 0 in a box that was emptied or never drawn, and breaks the
connection above 2**64. Text is none of this: it is read here, and what is no number is refused in a sentence.
"""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

_LONGEST = 40  # characters of a number, and of the text that a sentence repeats


def number_box(label: str, value: float | str | None = None, **arguments: Any) -> gr.Textbox:
    """A box in one line; empty for None."""
    attributes = gr.InputHTMLAttributes(autocorrect="off", spellcheck=False)
    return gr.Textbox(
        number_text(value), label=label, lines=1, max_lines=1, html_attributes=attributes, min_width=90, **arguments
    )


def number_text(value: object) -> str:
    """What a box is to hold for this value."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def whole_number(name: str, text: object) -> int | None:
    """The whole number in a box, exactly; None where it is empty. Raises ValueError for anything else."""
    typed = _typed(text)
    try:
        return int(typed) if typed else None
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {typed!r}.") from None


def decimal_number(name: str, text: object) -> float | None:
    """The finite number in a box; None where it is empty. Raises ValueError for anything else."""
    typed = _typed(text)
    try:
        number = float(typed) if typed else None
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{name} must be a number such as 7.5, not {typed!r}.")
    return number


def required(name: str, number: Any) -> Any:
    """The number. Raises ValueError for None: the box is empty, and nothing else can know it."""
    if number is None:
        raise ValueError(f"{name} is empty; type a number.")
    return number


def _typed(text: object) -> str:
    typed = "" if text is None else str(text).strip()
    return typed if len(typed) <= _LONGEST else f"{typed[:_LONGEST]}…"
