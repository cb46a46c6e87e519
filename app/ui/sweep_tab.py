"""The tab that varies a setting, or searches by itself, and plots speed against quality."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from accel.app.pair import StudioError
from accel.app.studio import Studio
from accel.app.sweep import PRESET
from accel.app.ui.axes import axes_of, parse_values, suggest_values
from accel.app.ui.compare_tab import QUIET, CompareTab
from accel.app.ui.controls import settings_of
from accel.app.ui.listing import clickable
from accel.app.ui.number_box import decimal_number, number_box, required
from accel.app.ui.pair_view import build_stage, stage_values
from accel.app.ui.plot import CALLS, SEARCH, TIME, KeptPlots, Plotted, add_pair, plot_html
from accel.app.ui.progress import live_state
from accel.app.ui.recipe_editor import editor_value
from accel.app.ui.running import Running
from accel.app.visitors import visitor
from accel.presets import PRESETS

_LEAD = (
    '<p class="lead">Prompt, seed and recipe are those of the Compare tab. '
    "The unaccelerated clip is made once for all points.</p>"
)
_EMPTY = "Click a point of the plot to see that pair here."
_GOALS = [("PSNR of at least (dB)", "psnr"), ("speed-up of at least (×)", "speedup")]


class SweepTab:
    """Draws the tab into the present page and wires it. `typed` are the fields for the page to keep."""

    def __init__(self, studio: Studio, running: Running, compare: CompareTab, tab: gr.Tab) -> None:
        self._studio, self._running, self._controls = studio, running, compare.controls
        self._points, self._kept = gr.State([]), KeptPlots()
        with gr.Row(elem_classes="halves-page"):
            with gr.Column(scale=1, min_width=320, elem_classes="settings"):
                gr.HTML(_LEAD, apply_default_css=False)
                self._draw_axes()
                with gr.Row(elem_classes="pair"):
                    self._sweep = gr.Button("Sweep", variant="primary", elem_id="sweep", min_width=120, scale=3)
                    self._cancel = gr.Button("Cancel", interactive=False, elem_id="cancel-sweep", min_width=80, scale=1)
                self._draw_search()
                with gr.Row(elem_classes="pair"):
                    self._saved = gr.DownloadButton("Save as manifest", elem_id="manifest", size="sm", min_width=100)
                    self._clear = gr.Button("Clear plot", elem_id="clear", size="sm", min_width=100)
            with gr.Column(scale=3, min_width=340, elem_classes="stage-column"):
                self._progress = live_state(elem_id="sweep-progress")
                self._over = gr.Radio([TIME, CALLS], value=TIME, label="Plot over", elem_id="over")
                self._plot = clickable(plot_html([]), elem_id="plot")
                self._stage = build_stage(_EMPTY, "sweep")
        self._wire(tab)

    def _draw_axes(self) -> None:
        self._axis = gr.Dropdown([("presets", PRESET)], value=PRESET, label="Turn", elem_id="axis")
        self._values = gr.Textbox(", ".join(PRESETS), label="through", elem_id="values")
        with gr.Accordion("and a second setting", open=False, elem_id="second"):
            self._other = gr.Dropdown([("none", "")], value="", label="Turn also", elem_id="other-axis")
            self._others = gr.Textbox("", label="through", elem_id="other-values")

    def _draw_search(self) -> None:
        with gr.Accordion("Search for the best recipe", open=False, elem_id="search-panel"):
            self._goal = gr.Dropdown(_GOALS, value="psnr", label="It must reach a", elem_id="goal")
            with gr.Row(elem_classes="pair"):
                self._least = number_box("of", 30.0, elem_id="least")
                self._minutes = number_box("Minutes", 2.0, elem_id="minutes")
            self._search = gr.Button("Search", elem_id="search")

    def _wire(self, tab: gr.Tab) -> None:
        settings = self._controls.settings
        typed = [self._axis, self._values, self._other, self._others]
        self.typed = [self._values, self._others, self._goal, self._least, self._minutes]
        drawn = [self._progress, self._cancel, self._plot, self._points]
        self._sweep.click(self._run, [self._points, self._over, *typed, *settings], drawn, **QUIET)
        self._over.input(plot_html, [self._points, self._over], self._plot, **QUIET)
        goal = [self._points, self._over, self._goal, self._least, self._minutes]
        found = [*drawn, self._controls.recipe, *self._stage.outputs]
        self._search.click(self._tune, [*goal, *settings], found, **QUIET)
        self._cancel.click(self._running.stop_quietly, **QUIET)
        self._plot.select(self._select, self._points, self._stage.outputs, **QUIET)
        self._clear.click(self._forget, None, [self._plot, self._points], **QUIET)
        self._saved.click(self._manifest, [*typed, *settings], self._saved, **QUIET)
        tab.select(_offer, [self._axis, self._other, *settings], [self._axis, self._other], **QUIET)
        self._axis.input(_suggest, [self._axis, *settings], self._values, **QUIET)
        self._other.input(_suggest, [self._other, *settings], self._others, **QUIET)

    def prepare(self, page: gr.Blocks) -> None:
        """When a page is opened, it shows what this browser has plotted before."""
        page.load(self._resume, None, [self._plot, self._points], **QUIET)

    def _resume(self, request: gr.Request) -> list[Any]:
        plotted = self._kept.of(visitor(request).browser)
        return [plot_html(plotted), plotted]

    def _forget(self, request: gr.Request) -> list[Any]:
        self._kept.keep(visitor(request).browser, [])
        return self._resume(request)

    def _run(
        self,
        request: gr.Request,
        before: Plotted,
        over: str,
        axis: str,
        values: str,
        other: str,
        others: str,
        *rest: Any,
    ) -> Iterator[list[Any]]:
        def start(user: str, stop: Any) -> Any:
            settings = settings_of(rest)
            return self._studio.sweep(settings, "", _axes(axis, values, other, others), user=user, cancel=stop)

        shown, browser = 0, visitor(request).browser
        for moment in self._running.watch(request, start):
            pairs = moment.points or ((moment.pair,) if moment.pair else ())
            plotted = self._kept.keep(browser, add_pair(before, pairs, axis))
            drawn = [gr.skip(), gr.skip()] if len(pairs) == shown else [plot_html(plotted, over), plotted]
            shown = len(pairs)
            yield [moment.html, gr.update(interactive=moment.busy), *drawn]

    def _tune(
        self, request: gr.Request, before: Plotted, over: str, goal: str, least: str, minutes: str, *rest: Any
    ) -> Iterator[list[Any]]:
        def start(user: str, stop: Any) -> Any:
            number = required("The goal", decimal_number("The goal", least))
            wanted = {"min_psnr": number} if goal == "psnr" else {"target_speedup": number}
            time = required("Minutes", decimal_number("Minutes", minutes))
            return self._studio.tune(settings_of(rest), **wanted, minutes=time, user=user, cancel=stop)

        for moment in self._running.watch(request, start):
            state = [moment.html, gr.update(interactive=moment.busy)]
            if moment.pair is None:
                yield [*state, *[gr.skip()] * 6]
                continue
            plotted = self._kept.keep(visitor(request).browser, add_pair(before, [moment.pair], SEARCH))
            recipe = editor_value(moment.pair.settings.recipe)
            yield [*state, plot_html(plotted, over), plotted, recipe, *stage_values(moment.pair)]

    def _select(self, plotted: Plotted, event: gr.EventData, request: gr.Request) -> list[Any]:
        try:
            return stage_values(self._studio.pair(plotted[event.index][0], visitor(request).browser))
        except StudioError as error:
            gr.Warning(escape(str(error)))
            return stage_values(None)

    def _manifest(self, axis: str, values: str, other: str, others: str, *rest: Any) -> str:
        try:
            return str(self._studio.manifest_file(settings_of(rest), _axes(axis, values, other, others)))
        except (StudioError, ValueError) as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None


def _axes(axis: str, values: str, other: str, others: str) -> dict[str, list[Any]]:
    return {axis: parse_values(values)} | ({other: parse_values(others)} if other else {})


def _offer(axis: str, other: str, *rest: Any) -> list[Any]:
    """The settings of the recipe as it is now."""
    try:
        offered = axes_of(settings_of(rest).recipe)
    except ValueError:
        return [gr.skip(), gr.skip()]
    known = [name for _, name in offered]
    return [
        gr.update(choices=offered, value=axis if axis in known else PRESET),
        gr.update(choices=[("none", ""), *offered], value=other if other in known else ""),
    ]


def _suggest(axis: str, *rest: Any) -> Any:
    try:
        return suggest_values(settings_of(rest), axis) if axis else ""
    except ValueError:
        return gr.skip()
