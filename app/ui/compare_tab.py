"""The tab that generates one pair and shows everything that was measured about it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr

from accel.app import uploads
from accel.app.costs import BOUNDED
from accel.app.inputs import FIELDS
from accel.app.pair import StudioError
from accel.app.studio import Studio
from accel.app.ui.controls import build_controls, build_prompt, next_seed, settings_of, values_of
from accel.app.ui.figures import cost_html
from accel.app.ui.input_fields import shown_fields
from accel.app.ui.keep_values import keep_values
from accel.app.ui.pair_view import build_stage, stage_values
from accel.app.ui.progress import live_state, note_html, problem_html
from accel.app.ui.running import Running
from accel.app.visitors import visitor
from accel.rendering.fields import MEDIA

_EMPTY = (
    "Press Generate.\nThe clip is made twice from the same noise: once by the untouched pipeline, "
    "once by the recipe.\nYou see both, frame by frame, and what the recipe saved."
)
# On a telephone the stage lies below the controls.
_TO_THE_STAGE = """() => {
  if (innerWidth < 700) document.querySelector(".stage-column").scrollIntoView({ behavior: "smooth" });
}"""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
"""Of every event of the page: no spinners over what is there, and no endpoint, because those have stable names of their
own; the studio, not gradio, decides who waits."""


class CompareTab:
    """Draws the tab into the present page and wires it. `controls` and `stage` are for other tabs to read and fill."""

    def __init__(self, studio: Studio, running: Running, model: str, prompts: list[str]) -> None:
        self._studio, self._running, self._model = studio, running, model
        with gr.Row(elem_classes="halves-page"):
            with gr.Column(scale=1, min_width=320, elem_classes="settings"):
                prompt = build_prompt(prompts)
                self._grammar = gr.HTML(grammar_html(model), elem_id="grammar", apply_default_css=False)
                with gr.Row(elem_classes="pair"):
                    self._generate = gr.Button(
                        "Generate", variant="primary", elem_id="generate", min_width=120, scale=3
                    )
                    self._cancel = gr.Button("Cancel", interactive=False, elem_id="cancel", min_width=80, scale=1)
                self._cost = gr.HTML(elem_id="cost", apply_default_css=False)
                self.controls = build_controls(studio.models(), model, prompt, studio.inputs(model))
                self._draw_code()
                self._draw_restore()
                self._told = [self._cost, self._python, self._command]
            with gr.Column(scale=3, min_width=340, elem_classes="stage-column"):
                self._progress = live_state(elem_id="progress")
                self.stage = build_stage(_EMPTY, "compare", studio.example(model))
        self._wire()

    def _draw_code(self) -> None:
        with gr.Accordion("Take it with you", open=False, elem_id="take"):
            code: dict[str, Any] = {"interactive": False, "wrap_lines": True, "show_line_numbers": False, "lines": 1}
            code |= {"buttons": ["copy"]}
            self._python = gr.Code(language="python", label="Python", elem_id="python", **code)
            self._command = gr.Code(language="shell", label="Command line", elem_id="command", **code)

    def _draw_restore(self) -> None:
        with gr.Accordion("Restore settings from a file", open=False, elem_id="restore"):
            self._dropped = gr.File(
                label="A clip or picture made by accel, or its .json",
                file_types=[*MEDIA, ".json"],
                elem_id="dropped",
                height=110,
            )

    def prepare(self, page: gr.Blocks) -> None:
        """When a page is opened, it holds the settings that it held before a reload, and its model is loaded, so that
        the first run need not wait and its cost is known.
        """
        resumed = keep_values(page, f"settings of a page for {self._model}", self.controls.kept)
        prepared = resumed.then(self._prepare, self.controls.settings, [self._progress, *self._told], **QUIET)
        prepared.then(self._show_inputs, self.controls.model, self._inputs, **QUIET)
        page.load(self._last, None, self.stage.outputs, **QUIET)

    def _last(self, request: gr.Request) -> list[Any]:
        """What this browser made last, so that it is there again after a reload."""
        user = visitor(request).browser
        try:
            runs = self._studio.history(user)
            return stage_values(self._studio.pair(runs[0].key, user) if runs else None)
        except StudioError:  # it has just been forgotten
            return stage_values(None)

    def _wire(self) -> None:
        settings = self.controls.settings
        seed = self.controls.seed
        self._generate.click(None, js=_TO_THE_STAGE, api_visibility="private")
        seeded = self._generate.click(next_seed, [seed, self.controls.locked], seed, **QUIET)
        generated = seeded.then(self._run, settings, [self._progress, self._cancel, *self.stage.outputs], **QUIET)
        generated.then(self._tell, settings, self._told, **QUIET | BOUNDED)
        for changed in (self.controls.model.change, generated.then):
            changed(self._show_inputs, self.controls.model, self._inputs, **QUIET)
        self._cancel.click(self._running.stop_quietly, **QUIET)
        changes = [component.change for component in settings]
        self.controls.model.change(grammar_html, self.controls.model, self._grammar, **QUIET)
        gr.on(changes, self._tell, settings, self._told, trigger_mode="always_last", **QUIET | BOUNDED)
        restored = [*settings, self._progress]
        self._dropped.upload(self._restore, self._dropped, restored, **QUIET | uploads.BOUNDED)

    @property
    def _inputs(self) -> list[Any]:
        return [getattr(self.controls, name) for name in FIELDS]

    def _show_inputs(self, model: str) -> list[Any]:
        """The fields of what this model takes, which of one of the hub is known once it was loaded."""
        return shown_fields(self._studio.inputs((model or "").strip()))

    def _prepare(self, request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        def start(user: str, stop: Any) -> Any:
            return self._studio.prepare(settings_of(values), user, stop)

        if self._is_new(values):
            for moment in self._running.watch(request, start):
                yield [moment.html, *[gr.skip()] * len(self._told)]
        yield [gr.skip(), *self._tell(*values)]

    def _is_new(self, values: Any) -> bool:
        """Whether nothing is known of what these settings cost; what is wrong with them is told elsewhere."""
        try:
            return self._studio.cost(settings_of(values)).computed_share is None
        except (StudioError, ValueError):
            return False

    def _run(self, request: gr.Request, *values: Any) -> Iterator[list[Any]]:
        moments = self._running.watch(request, lambda user, stop: self._studio.run(settings_of(values), user, stop))
        for moment in moments:
            yield [moment.html, gr.update(interactive=moment.busy), *stage_values(moment.pair)]

    def _tell(self, *values: Any) -> list[Any]:
        """What the settings would cost, and how to have them elsewhere."""
        try:
            settings = settings_of(values)
            return [cost_html(self._studio.cost(settings)), settings.as_python(), settings.as_command()]
        except (StudioError, ValueError) as error:
            return [problem_html(str(error)), gr.skip(), gr.skip()]

    def _restore(self, path: str) -> list[Any]:
        try:
            settings = uploads.restore_uploads(path, self._studio.files, self._studio.limits)
        except ValueError as error:
            gr.Warning(escape(str(error)))
            return [gr.skip()] * len(self.controls.settings) + [problem_html(str(error))]
        found = uploads.with_uploads(settings, self._studio.files)
        gone = [name for name in settings.pictures if name not in found.pictures]
        again = f" Upload again what is not in it: {', '.join(gone)}." if gone else ""
        return [*values_of(found), note_html(f"The settings of the file are restored.{again}")]


def grammar_html(model: str) -> str:
    """What a pocket model understands; nothing for others, which take any prompt."""
    if not (model or "").startswith("pocket:"):
        return ""
    from accel.pocket.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

    lists = {"COLOUR": COLOURS, "SHAPE": SHAPES, "MOTION": MOTIONS, "BACKGROUND": BACKGROUNDS}
    words = "".join(f"<dt>{name}</dt><dd>{', '.join(each)}</dd>" for name, each in lists.items())
    return (
        "<details><summary>This small model reads one sentence: a COLOUR SHAPE MOTION on a BACKGROUND background."
        f"</summary><dl>{words}</dl></details>"
    )
