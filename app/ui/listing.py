"""Tables and pictures whose parts can be clicked: the history of runs, the plot of a sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from accel.app.pair import PairSummary, leading
from accel.app.ui.assets import read
from accel.app.ui.figures import decibels


def clickable(value: str = "", **arguments: Any) -> gr.HTML:
    """HTML in which a click, or Enter, on a [data-index] element triggers "select" with its `index`."""
    return gr.HTML(value=value, js_on_load=read("clickable.js"), apply_default_css=False, **arguments)


def history_html(runs: Sequence[PairSummary]) -> str:
    """The runs, one to a line, in their order."""
    if not runs:
        return '<p class="empty-list">Nothing yet. Every pair that you generate is listed here.</p>'
    rows = "".join(_row(index, run) for index, run in enumerate(runs))
    return (
        '<div class="scroll"><table class="history"><thead><tr><th>when</th><th>prompt</th><th>recipe</th><th>seed</th>'
        f"<th>steps</th><th>speed-up</th><th>fidelity</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(index: int, run: PairSummary) -> str:
    settings, speedup = run.settings, run.metrics.get("speedup")
    cells = [
        time.strftime("%H:%M:%S", time.localtime(run.when)),
        settings.prompt or "–",
        run.label or settings.recipe.label,
        str(settings.seed),
        str(settings.steps),
        f"{speedup:.2f}×" if speedup is not None else "–",
        decibels(leading(run.metrics)[1]),
    ]
    shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr data-index="{index}" tabindex="0" role="button">{shown}</tr>'
