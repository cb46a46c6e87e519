"""The tab that looks at many seeds: a sheet of drafts, of which one is finished, or the best as a verifier sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from accel.app.pair import SeedDraft
from accel.app.studio import Studio
from accel.app.ui.compare_tab import QUIET, CompareTab
from accel.app.ui.controls import settings_of
from accel.app.ui.listing import clickable
from accel.app.ui.number_box import number_box, required, whole_number
from accel.app.ui.pair_view import build_stage, stage_values
from accel.app.ui.progress import live_state, picture_source
from accel.app.ui.running import PageUpdate, Running

_LEAD = (
    '<p class="lead">Prompt, model and recipe are those of the Compare tab, and its seed is the first. A draft takes a '
    "tenth of a run; choose one, and it is finished with your recipe.</p>"
)
_EMPTY = "Make drafts, then choose one to finish it here."


class SeedsTab:
    """Draws the tab into the present page and wires it. `count` is for the page to keep."""

    def __init__(self, studio: Studio, running: Running, compare: CompareTab) -> None:
        self._studio, self._running, self._controls = studio, running, compare.controls
        self._seeds = gr.State(())
        with gr.Row(elem_classes="halves-page"):
            with gr.Column(scale=1, min_width=320, elem_classes="settings"):
                gr.HTML(_LEAD, apply_default_css=False)
                self.count = number_box("How many seeds", 8, elem_id="seeds")
                with gr.Row(elem_classes="pair"):
                    self._draft = gr.Button("Make drafts", variant="primary", elem_id="draft", min_width=120, scale=3)
                    self._cancel = gr.Button("Cancel", interactive=False, elem_id="cancel-draft", min_width=80, scale=1)
                self._best = gr.Button("Pick the best for me", elem_id="best-of")
                gr.HTML(
                    '<p class="note">Picking takes about one unaccelerated run for all seeds together: the worse half '
                    "is dropped after each look. It needs a model whose clips a program can judge, as the pocket "
                    "models are.</p>",
                    apply_default_css=False,
                )
            with gr.Column(scale=3, min_width=340, elem_classes="stage-column"):
                self._progress = live_state(elem_id="draft-progress")
                self._sheet = clickable(sheet_html(()), elem_id="drafts")
                self._stage = build_stage(_EMPTY, "seeds")
        self._wire()

    def _wire(self) -> None:
        settings, state = self._controls.settings, [self._progress, self._cancel]
        made = [*state, self._sheet, self._seeds]
        self._draft.click(self._drafts, [self.count, *settings], made, **QUIET)
        finished = [*state, self._controls.seed, *self._stage.outputs]
        self._best.click(self._pick, [self.count, *settings], finished, **QUIET)
        self._sheet.select(self._finish, [self._seeds, *settings], finished, **QUIET)
        self._cancel.click(self._running.stop_quietly, **QUIET)

    def _drafts(self, request: gr.Request, count: str, *values: Any) -> Iterator[list[Any]]:
        def start(user: str, stop: Any) -> Any:
            return self._studio.drafts(settings_of(values), _count(count), user, stop)

        shown: Sequence[SeedDraft] = ()
        for moment in self._running.watch(request, start):
            new, shown = len(moment.drafts) > len(shown), moment.drafts or shown
            sheet = [sheet_html(shown), [each.seed for each in shown]] if new else [gr.skip(), gr.skip()]
            yield [moment.html, gr.update(interactive=moment.busy), *sheet]

    def _pick(self, request: gr.Request, count: str, *values: Any) -> Iterator[list[Any]]:
        def start(user: str, stop: Any) -> Any:
            return self._studio.best_of(settings_of(values), _count(count), user, stop)

        yield from map(_finished, self._running.watch(request, start))

    def _finish(
        self, event: gr.EventData, request: gr.Request, seeds: Sequence[int], *values: Any
    ) -> Iterator[list[Any]]:
        def start(user: str, stop: Any) -> Any:
            return self._studio.run(replace(settings_of(values), seed=seeds[event.index]), user, stop)

        yield from map(_finished, self._running.watch(request, start))


def sheet_html(drafts: Sequence[SeedDraft]) -> str:
    """The drafts as pictures that can be chosen."""
    return '<div class="sheet">' + "".join(_draft_html(index, each) for index, each in enumerate(drafts)) + "</div>"


def _draft_html(index: int, draft: SeedDraft) -> str:
    return (
        f'<button type="button" data-index="{index}"><img alt="" src="{picture_source(draft.picture)}">'
        f"<span>seed {draft.seed}</span></button>"
    )


def _finished(moment: PageUpdate) -> list[Any]:
    seed = gr.skip() if moment.pair is None else str(moment.pair.settings.seed)
    return [moment.html, gr.update(interactive=moment.busy), seed, *stage_values(moment.pair)]


def _count(typed: str) -> int:
    return int(required("How many seeds", whole_number("How many seeds", typed)))
