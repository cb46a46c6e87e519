"""What happened at each step, as rows of cells: computed, predicted from earlier steps, or dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from accel.app.pair import Side
from accel.report import spared_words

_WORDS = {
    "computed": "computed",
    "predicted": "predicted from earlier steps",
    "dropped": "dropped by the guidance gate",
}


def strip_html(side: Side, name: str) -> str:
    """One row for each stream of the denoiser, one cell for each of its calls, with the reason on hover and focus."""
    counts = Counter(call["action"] for call in side.calls)
    told = ", ".join(f"{counts[action]} {action}" for action in _WORDS if counts[action]) or "no denoiser call"
    rows = "".join(_row(stream, calls) for stream, calls in _streams(side.calls).items())
    levers = "".join(_lever(lever) for lever in side.levers)
    legend = "".join(f'<span><i class="{action}"></i>{words}</span>' for action, words in _WORDS.items())
    return (
        f'<section class="steps"><h3>{escape(name)}: step by step <small>{told} '
        f'of {len(side.calls)} denoiser calls</small></h3><div class="strip">{rows}</div>'
        f'<div class="legend">{legend}</div>{f"<ul class=levers>{levers}</ul>" if levers else ""}</section>'
    )


def _streams(calls: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    several = len({call["denoiser"] for call in calls}) > 1
    streams: dict[str, list[Mapping[str, Any]]] = {}
    for call in calls:
        stream = f"{call['denoiser']} {call['stream']}" if several else str(call["stream"])
        streams.setdefault(stream, []).append(call)
    return streams


def _row(stream: str, calls: Sequence[Mapping[str, Any]]) -> str:
    """Cells stand at their step, so that streams of which one ends early stay under each other."""
    steps = {call["step"]: call for call in calls}
    if len(steps) == len(calls):
        cells = "".join(_cell(steps.get(step)) for step in range(max(steps) + 1))
    else:  # several calls of one stream in a step
        cells = "".join(map(_cell, calls))
    return f'<span class="name">{escape(stream)}</span><div class="cells">{cells}</div>'


def _cell(call: Mapping[str, Any] | None) -> str:
    if call is None:
        return "<i></i>"
    tip = f"step {call['step'] + 1}, noise level {call['sigma']:.3g}\n{call['action']}: {call['reason']}"
    if call["action"] == "computed":
        tip += f"\n{call['seconds'] * 1000:.0f} ms"
    return f'<i class="{escape(call["action"])}" title="{escape(tip)}"></i>'


def _lever(lever: Mapping[str, Any]) -> str:
    told = f"; spared {spared_words(lever['spared'], lever['spared_seconds'])}" if lever.get("spared") else ""
    told += f"; {lever['extra_bytes'] / 2**20:.1f} MiB extra" if lever.get("extra_bytes") else ""
    state = "" if lever["engaged"] else "<b>not engaged</b>, "
    return f"<li><b>{escape(lever['lever'])}</b> {escape(lever['method'])}: {state}{escape(lever['reason'])}{told}</li>"
