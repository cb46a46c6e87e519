"""A gradio component that shows two clips in step: side by side, under a slider, flipped, or their difference.

import gradio as gr
from accel.app.gradio_pair import GradioPair

with gr.Blocks() as page:
    GradioPair((before, after), names=("50 steps", "accelerated"))
page.launch()
"""

from __future__ import annotations

from accel.app.gradio_pair.component import GradioPair

__all__ = ["GradioPair"]
