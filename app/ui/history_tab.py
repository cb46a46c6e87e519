"""The tab that lists this visitor's runs, and brings one back with its settings."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from accel.app.pair import StudioError
from accel.app.studio import Studio
from accel.app.ui.compare_tab import QUIET, CompareTab
from accel.app.ui.controls import values_of
from accel.app.ui.listing import clickable, history_html
from accel.app.ui.pair_view import stage_values
from accel.app.visitors import visitor


class HistoryTab:
    """Draws the tab into the present page and wires it."""

    def __init__(self, studio: Studio, compare: CompareTab, tabs: gr.Tabs, tab: gr.Tab) -> None:
        self._studio, self._fields = studio, len(compare.controls.settings)
        gr.HTML('<p class="lead">Choose a run to see it again, with its settings.</p>', apply_default_css=False)
        table, keys = clickable(history_html([]), elem_id="history"), gr.State([])
        tab.select(self._refresh, None, [table, keys], **QUIET)
        table.select(self._load, keys, [tabs, *compare.stage.outputs, *compare.controls.settings], **QUIET)

    def _refresh(self, request: gr.Request) -> list[Any]:
        runs = self._studio.history(visitor(request).browser)
        return [history_html(runs), [run.key for run in runs]]

    def _load(self, keys: list[str], event: gr.EventData, request: gr.Request) -> list[Any]:
        try:
            pair = self._studio.pair(keys[event.index], visitor(request).browser)
        except StudioError as error:
            gr.Warning(escape(str(error)))
            return [gr.skip(), *stage_values(None), *[gr.skip()] * self._fields]
        return [gr.Tabs(selected="compare"), *stage_values(pair), *values_of(pair.settings)]
