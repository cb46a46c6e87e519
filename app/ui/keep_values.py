"""Controls that hold what they held when the page is loaded anew, as gradio does after a lost connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from accel.app.ui.assets import read


def keep_values(page: gr.Blocks, name: str, components: Sequence[Any]) -> Any:
    """Keeps their values under this name, in the browser alone, for as long as its tab is open.

    Returns the event of the page's loading, after which they hold what they held.
    """
    changes = [component.change for component in components]
    gr.on(changes, None, list(components), None, js=_call(name, "keep"), api_visibility="private")
    every = list(components)
    return page.load(None, every, every, js=_call(name, "take"), api_visibility="private")


def _call(name: str, deed: str) -> str:
    return f"(...values) => ({read('keep_values.js')})({json.dumps(name)}, {json.dumps(deed)}, values)"
