"""The tab that asks which of two clips is better, without saying which one was accelerated."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from accel.app.gradio_pair import GradioPair
from accel.app.pair import Pair, StudioError, Vote, Winner, leading
from accel.app.studio import Studio
from accel.app.ui.compare_tab import QUIET
from accel.app.ui.figures import decibels
from accel.app.ui.progress import live_state, note_html, problem_html
from accel.app.ui.viewer import blind_value, name_of
from accel.app.visitors import visitor

_LEAD = (
    '<p class="lead">One of the two was accelerated, the other was not. Say which is better; '
    "then you are told which is which. The answer is kept with the settings of the pair. "
    "Keys: A, B, S for no difference, N for the next pair.</p>"
)
_EMPTY = "Generate a pair, or a sweep, in the other tabs; then press Next pair."
_ANSWERS = {"A": "A is better", "B": "B is better", "same": "No difference"}

Question = tuple[str, bool]
"""The key of the pair, and whether A is the accelerated clip."""


class BlindTab:
    """Draws the tab into the present page and wires it."""

    def __init__(self, studio: Studio, tab: gr.Tab) -> None:
        self._studio, self._order = studio, random.Random()
        gr.HTML(_LEAD, apply_default_css=False)
        with gr.Row(elem_classes="votes"):
            following = gr.Button("Next pair", variant="primary", elem_id="next-pair", min_width=120)
            buttons = {
                answer: gr.Button(words, interactive=False, elem_id=f"vote-{answer}", min_width=100)
                for answer, words in _ANSWERS.items()
            }
        verdict = live_state(elem_id="verdict")
        stage = GradioPair(empty=_EMPTY, elem_id="blind-viewer")
        tally = gr.HTML(tally_html(studio.votes()), elem_id="tally", apply_default_css=False)
        tab.select(lambda: tally_html(studio.votes()), None, tally, **QUIET)  # a page that is loaded anew has the first
        question = gr.State(None)
        following.click(self._ask, question, [verdict, stage, question, *buttons.values()], **QUIET)
        for answer, button in buttons.items():
            answered = [verdict, tally, question, *buttons.values()]
            button.click(self._answer, [question, gr.State(answer)], answered, **QUIET)

    def _ask(self, before: Question | None, request: gr.Request) -> list[Any]:
        try:
            user = visitor(request).browser
            runs = self._studio.history(user)
            others = [run for run in runs if before is None or run.key != before[0]] or runs
            if not others:
                return [problem_html(_EMPTY), gr.skip(), None, *_enabled(False)]
            pair = self._studio.pair(self._order.choice(others).key, user)
        except StudioError as error:
            return [problem_html(str(error)), gr.skip(), None, *_enabled(False)]
        value, swapped = blind_value(pair, self._order)
        prompt = f"“{pair.settings.prompt}”" if pair.settings.prompt else "Which is better?"
        return [note_html(prompt), value, (pair.key, swapped), *_enabled(True)]

    def _answer(self, question: Question, answer: str, request: gr.Request) -> list[Any]:
        key, swapped = question
        winner: Winner = "same" if answer == "same" else ("accelerated" if (answer == "A") == swapped else "baseline")
        try:
            user = visitor(request).browser
            pair = self._studio.pair(key, user)
            self._studio.vote(key, winner, user)
            told = reveal_html(pair, swapped, winner)
        except StudioError as error:
            told = problem_html(str(error))
        return [told, tally_html(self._studio.votes()), question, *_enabled(False)]


def reveal_html(pair: Pair, swapped: bool, winner: Winner) -> str:
    """Which was which, with speed and quality."""
    judged = {"same": "You saw no difference", "accelerated": "You chose the accelerated clip"}
    speedup = pair.metrics.get("speedup")
    faster = f"{speedup:.2f}× as fast, " if speedup is not None else ""
    name, quality = leading(pair.metrics)
    sentence = (
        f"{judged.get(winner, 'You chose the unaccelerated clip')}. {'A' if swapped else 'B'} is accelerated by "
        f"{name_of(pair)}: {faster}{name} {decibels(quality)}."
    )
    return f'<p class="note reveal" data-said="{escape(sentence)}">{escape(sentence)}</p>'


def tally_html(votes: Sequence[Vote]) -> str:
    """All votes, by recipe."""
    if not votes:
        return '<p class="empty-list">No votes yet.</p>'
    counts: dict[str, Counter[str]] = {}
    for vote in votes:
        counts.setdefault(vote.settings.recipe.label, Counter())[vote.winner] += 1
    head = "".join(f"<th>{words}</th>" for words in ("recipe", "better", "worse", "no difference"))
    rows = "".join(
        f"<tr><td>{escape(recipe)}</td>"
        + "".join(f"<td>{count[winner]}</td>" for winner in ("accelerated", "baseline", "same"))
        + "</tr>"
        for recipe, count in counts.items()
    )
    return f'<div class="scroll"><table class="history"><tr>{head}</tr>{rows}</table></div>'


def _enabled(on: bool) -> list[Any]:
    return [gr.update(interactive=on) for _ in _ANSWERS]
