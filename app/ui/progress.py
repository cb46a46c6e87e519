"""A run's progress as HTML: the queue, two bars, the step and the seconds left, and the picture so far."""

from __future__ import annotations

import base64
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from html import escape
from typing import Any, get_args

import gradio as gr

from accel.app.pair import Stage, Update
from accel.app.ui.assets import read
from accel.app.ui.figures import seconds
from accel.measure.media import Pixels, encode_png

_MOST_SECONDS = 0.12  # between two updates: more would only keep the browser busy
_STAGES: tuple[str, ...] = get_args(Stage)  # in their order
_SIDES = {"baseline": "unaccelerated", "accelerated": "accelerated"}


def live_state(**arguments: Any) -> gr.HTML:
    """Where a run says how it is. Beside what is seen it has a region that screen readers follow: it is there from the
    start, as they need it, and has new words only at each stage and quarter of one.
    """
    return gr.HTML(
        "",
        html_template='<div class="shown"></div><p class="heard" role="status"></p>',
        js_on_load=read("live.js"),
        apply_default_css=False,
        elem_classes="live",
        **arguments,
    )


def steady(updates: Generator[Update, None, None]) -> Generator[Update, None, None]:
    """The updates as a page wants them: not too many a second, and with the last preview until there is a newer one."""
    preview, last, shown = None, None, 0.0
    with closing(updates):
        for update in updates:
            preview = update.preview if update.preview is not None else preview
            new = last is None or update.stage != last.stage or len(update.points) != len(last.points)
            if new or time.monotonic() - shown >= _MOST_SECONDS:
                last, shown = update, time.monotonic()
                yield replace(update, preview=preview)


def progress_html(update: Update) -> str:
    """The state in words and bars; empty when the run is done."""
    if update.stage == "done":
        return ""
    tracks = [(name, _percent(update, side)) for side, name in _SIDES.items()]
    if update.of > 1:
        done = update.number - 1 + _percent(update, "accelerated") / 100.0
        tracks.append((f"{update.of} points", 100.0 * done / update.of))
    bars = "".join(
        f'<span class="name">{name}</span><div class="track"><i style="width:{percent:.1f}%"></i></div>'
        for name, percent in tracks
    )
    preview = ""
    if update.preview is not None:
        preview = f'<img class="preview" alt="the picture so far" src="{picture_source(update.preview)}">'
    return (
        f'<div class="progress" data-said="{escape(_said(update))}" data-stage="{update.stage}" '
        f'data-step="{update.step}">{preview}'
        f'<div class="state"><p>{escape(progress_text(update))}</p><div class="tracks">{bars}</div></div></div>'
    )


def picture_source(picture: Pixels) -> str:
    """A picture as the address of itself."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"


def progress_text(update: Update) -> str:
    """One line about where the run is."""
    if update.stage == "waiting":
        ahead = update.position or 0
        return (
            f"Waiting: {ahead} {'request is' if ahead == 1 else 'requests are'} before yours." if ahead else "Starting."
        )
    if update.stage == "loading":
        return f"{(update.note or 'loading the model').capitalize()}."
    if update.stage == "measuring":
        return "Comparing the two clips."
    left = f", about {seconds(update.seconds_left)} left" if update.seconds_left is not None else ""
    name = _SIDES.get(update.stage, update.stage).capitalize()
    if not update.steps:  # of a search, which is of many runs
        return f"Searching{left}: {update.note or 'it begins'}"
    note = f" ({update.note})" if update.note else ""
    name += f", point {update.number} of {update.of}" if update.of > 1 else ""
    return f"{name}: step {update.step} of {update.steps}{left}{note}"


def problem_html(sentence: str) -> str:
    """What went wrong, in words."""
    return f'<p class="problem" role="alert">{escape(sentence)}</p>'


def note_html(sentence: str) -> str:
    """Something that is no problem."""
    return f'<p class="note" data-said="{escape(sentence)}">{escape(sentence)}</p>'


def _said(update: Update) -> str:
    """What is worth hearing: the text without what changes many times a second."""
    if not update.steps:
        update = replace(update, seconds_left=None)
    if update.stage not in _SIDES or not update.steps:
        return progress_text(update)
    quarter = 4 * update.step // update.steps
    point = f", point {update.number} of {update.of}" if update.of > 1 else ""
    return f"{_SIDES[update.stage].capitalize()}{point}: {25 * quarter} %"


def _percent(update: Update, side: str) -> float:
    if update.stage == side:
        return 100.0 * update.step / max(1, update.steps)
    return 100.0 * (_STAGES.index(update.stage) > _STAGES.index(side))
