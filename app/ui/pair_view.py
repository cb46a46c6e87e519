"""Where a pair is shown: its headline, the viewer, and the details below."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from accel.app.gradio_pair import GradioPair
from accel.app.pair import Pair
from accel.app.ui.figures import headline_html, metrics_html
from accel.app.ui.strip import strip_html
from accel.app.ui.timing import times_html
from accel.app.ui.viewer import name_of, pair_value


@dataclass(frozen=True)
class PairView:
    """Three components, in the order of `stage_values`."""

    headline: gr.HTML
    viewer: GradioPair
    details: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.headline, self.viewer, self.details]


def build_stage(empty: str, name: str, pair: Pair | None = None) -> PairView:
    """Draws a stage, with this pair or empty, into the present column. `name` begins the ids of its components."""
    headline, shown, details = (None, None, None) if pair is None else stage_values(pair)
    return PairView(
        gr.HTML(headline, elem_id=f"{name}-headline", apply_default_css=False),
        GradioPair(shown, empty=empty, elem_id=f"{name}-viewer"),
        gr.HTML(details, elem_id=f"{name}-details", apply_default_css=False),
    )


def stage_values(pair: Pair | None) -> list[Any]:
    """What a stage is to hold for this pair; None leaves it as it is."""
    if pair is None:
        return [gr.skip()] * 3
    return [headline_html(pair), pair_value(pair), details_html(pair)]


def details_html(pair: Pair) -> str:
    """The strip of steps, the times, the table and the report."""
    name = name_of(pair)
    report = f'<details class="report"><summary>Report</summary><pre>{escape(pair.accelerated.report)}</pre></details>'
    return (
        f'<div class="details">{strip_html(pair.accelerated, name)}'
        f'<div class="halves">{times_html(pair, name)}{metrics_html(pair)}</div>{report}</div>'
    )
