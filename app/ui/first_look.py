"""The shipped comparison before there is a page: gradio's scripts take seconds to load, the clips do not."""

from __future__ import annotations

import json
from html import escape

from accel.app.pair import Pair
from accel.app.ui.assets import read
from accel.app.ui.viewer import pair_value


def first_look(pair: Pair) -> str:
    """What draws this pair over the page until its own viewer has drawn: elements for the page to begin with."""
    value = pair_value(pair)
    size = f'width="{value["width"]}" height="{value["height"]}"'
    sides = "".join(
        f'<figure><canvas {size} role="img" aria-label="{escape(name)}"></canvas>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name in value["names"]
    )
    words = f"{pair.metrics['speedup']:.1f}× faster: an example, while the page loads."
    drawn = {name: value[name] for name in ("width", "height", "frames", "fps", "columns")} | {
        "html": f"<h1>accel</h1><p>{words}</p><div>{sides}</div>",
        "sheets": [files[0] for files in value["sheets"][:2]],
    }
    data = json.dumps(drawn).replace("<", "\\u003c")  # nothing in it ends the script
    return f"<style>{read('first_look.css')}</style><script>({read('first_look.js')})({data})</script>"
