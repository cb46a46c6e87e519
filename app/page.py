"""The page: five tabs over one studio, and the endpoints for programs."""

from __future__ import annotations

import gradio as gr

from accel.app.api import build_endpoints
from accel.app.studio import Studio
from accel.app.ui.assets import read
from accel.app.ui.blind_tab import BlindTab
from accel.app.ui.compare_tab import CompareTab
from accel.app.ui.history_tab import HistoryTab
from accel.app.ui.keep_values import keep_values
from accel.app.ui.running import Running
from accel.app.ui.seeds_tab import SeedsTab
from accel.app.ui.sweep_tab import SweepTab
from accel.app.visitors import Listeners

_HEADER = (
    '<header class="masthead"><h1>accel</h1><p>The same clip twice: by the untouched pipeline, and accelerated. '
    "See what it costs and what it saves.</p></header>"
)


def build(studio: Studio, model: str = "pocket:video", listeners: Listeners | None = None) -> gr.Blocks:
    """The page over this studio, not yet served: `accel.app.serve.serve` does that. `model` is chosen at first.
    listeners: who is listening for updates, as the server knows.
    """
    running = Running(studio.limits, listeners or Listeners())
    blocks = gr.Blocks(title="accel", analytics_enabled=False, fill_width=False)
    with blocks:
        gr.HTML(_HEADER, apply_default_css=False)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Compare", id="compare"):
                compare = CompareTab(studio, running, model, _prompts(studio, model))
            with gr.Tab("Sweep", id="sweep") as sweep:
                sweeping = SweepTab(studio, running, compare, sweep)
            with gr.Tab("Seeds", id="seeds-tab"):
                seeds = SeedsTab(studio, running, compare)
            with gr.Tab("Blind", id="blind") as blind:
                BlindTab(studio, blind)
            with gr.Tab("History", id="history-tab") as history:
                HistoryTab(studio, compare, tabs, history)
        compare.prepare(blocks)
        sweeping.prepare(blocks)
        keep_values(blocks, "fields of the other tabs", [*sweeping.typed, seeds.count])
        blocks.load(None, js=read("keys.js"), api_visibility="private")
        build_endpoints(studio, running)
    return blocks


def _prompts(studio: Studio, model: str) -> list[str]:
    """Prompts in the language that the pocket models understand, that of the example first; none for other models."""
    if not model.startswith("pocket:"):
        return []
    from accel import pocket

    example = studio.example(model)
    return [*([example.settings.prompt] if example else []), *pocket.prompts(24, 0)]
