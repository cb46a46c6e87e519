"""A comparison as one self-contained HTML page: videos, table, per-step strips, times, recipes."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from accel.measure.by_lever import CAPTION, lever_cells
from accel.measure.contradictions import contradictions
from accel.measure.measurements import BASELINE, CANDIDATES
from accel.measure.media import Pixels, amplified_difference, encode_mp4, encode_png, enlarge, grid, shrink
from accel.measure.sound import encode_flac, spectrogram
from accel.measure.tables import measures, megabytes, with_sign
from accel.report import spared_words

if TYPE_CHECKING:
    from accel.measure.results import Comparison
    from accel.measure.rows import ResultRow

DIFFERENCE_GAIN = 8.0
_LONGEST_SIDE = 512
_CRISP_SIDE = 256
_CHART = (900.0, 320.0, 46.0, 20.0)  # width, height, margin left and below, margin right and above
_DECIBELS_SHOWN = 70.0
_SHOWN = 8  # of a long list of recipes, how many get a headline and a video; tables and charts have all
_ACTIONS = ("computed", "predicted", "dropped")


def render_page(comparison: Comparison) -> str:
    """The page as HTML. Videos, styles and scripts are inside; nothing is loaded from anywhere."""
    recipes = [row for row in comparison.rows if row.kind in CANDIDATES]
    page: str = _template().render(
        c=comparison,
        baseline=comparison.row(BASELINE),
        recipes=recipes,
        fewer={row.label: comparison.equal_time_row(row.label) for row in recipes},
        shown=_SHOWN,
        players=[_player(comparison, number) for number in range(len(comparison.settings["prompts"]))],
        labels=_shown_labels(comparison),
        strips=[_strip(comparison, row) for row in recipes if row.kind == "recipe"],
        bars=_bars(comparison.rows),
        chart=_chart(comparison.rows),
        gain=f"{DIFFERENCE_GAIN:g}",
        decibels="PSNR" if comparison.settings["frames"] else "SNR",
        silent="seconds" not in comparison.settings,
        megabytes=megabytes,
        signed=with_sign,
        measures=measures(comparison.rows),
        savings=[(saving, lever_cells(saving)) for saving in comparison.by_lever()],
        savings_caption=CAPTION,
        spared=spared_words,
        contradictions=contradictions(comparison),
        dropping=any(row.dropped for row in comparison.rows),
        attributes=list(dict.fromkeys(name for row in comparison.rows for name in row.attributes)),
    )
    return page


@cache
def _template() -> Any:
    """Compiled once in a process."""
    from jinja2 import Environment

    source = files("accel.measure").joinpath("page.html").read_text(encoding="utf-8")
    jinja = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    jinja.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return jinja.from_string(source)


def _shown_labels(comparison: Comparison) -> list[str]:
    """What can be held against the unaccelerated video, the recipes first."""
    others = [row for row in comparison.rows if row.kind != "baseline"]
    return [row.label for row in sorted(others, key=lambda row: row.kind not in CANDIDATES)][:_SHOWN]


def _player(comparison: Comparison, number: int) -> dict[str, Any]:
    """One video that holds every variant and its difference as tiles, so that nothing can get out of step."""
    labels = [label for label in (BASELINE, *_shown_labels(comparison)) if (label, number) in comparison.clips]
    clips = [comparison.clips[label, number] for label in labels]
    tiles = clips + [_difference(comparison, label, number) for label in labels]
    columns = math.ceil(math.sqrt(len(tiles)))
    video = _atlas([_for_screen(tile) for tile in tiles], columns) if tiles else None
    return {
        "prompt": comparison.settings["prompts"][number],
        "labels": labels,
        "columns": columns,
        "frames": len(clips[0]) if clips else 0,
        "width": tiles[0].shape[2] if tiles else 0,
        "height": tiles[0].shape[1] if tiles else 0,
        "small": bool(tiles) and max(tiles[0].shape[1:3]) < _CRISP_SIDE,
        "captions": {label: _clip_caption(comparison, label, number) for label in labels},
        **(_embedded(video, comparison.settings["fps"]) if video is not None else {}),
        "sounds": _sounds(comparison, labels, number),
    }


def _difference(comparison: Comparison, label: str, number: int) -> Pixels:
    """From the unaccelerated frames, amplified; of sound alone, how the difference itself sounds."""
    if comparison.settings["frames"]:
        clips = comparison.clips
        return amplified_difference(clips[label, number], clips[BASELINE, number], DIFFERENCE_GAIN)
    return spectrogram(comparison.sound(label, number).minus(comparison.sound(BASELINE, number)))[None]


def _sounds(comparison: Comparison, labels: Sequence[str], number: int) -> dict[str, list[str]]:
    """By label the sound and its difference from the unaccelerated one, as FLAC in base64."""
    found = {}
    for label in labels:
        if (label, number) in comparison.sounds:
            sound = comparison.sound(label, number)
            both = (sound, sound.minus(comparison.sound(BASELINE, number)))
            found[label] = [base64.b64encode(encode_flac(each)).decode() for each in both]
    return found


def _for_screen(tile: Pixels) -> Pixels:
    """Doubled where small, because H.264 halves the resolution of colour; scaled down where large."""
    side = min(tile.shape[1:3])
    return shrink(enlarge(tile, 2 * side) if side <= _CRISP_SIDE else tile, _LONGEST_SIDE)


def _atlas(tiles: Sequence[Pixels], columns: int) -> Pixels:
    import numpy as np

    blank = [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    padded = [*tiles, *blank]
    return grid([padded[start : start + columns] for start in range(0, len(padded), columns)])


def _embedded(video: Pixels, fps: float) -> dict[str, str]:
    """The video in base64, and a still for browsers and machines without H.264."""
    found = {"still": base64.b64encode(encode_png(video[len(video) // 2])).decode()}
    if len(video) > 1:
        try:
            found["video"] = base64.b64encode(encode_mp4(video, fps)).decode()
        except RuntimeError:
            return found
    return found


def _clip_caption(comparison: Comparison, label: str, number: int) -> str:
    """Time and quality of this very clip."""
    samples = [s for s in comparison.samples if s.label == label and s.prompt == number]
    parts = [f"{samples[0].seconds:.2f} s"] if samples else []
    quality = samples[0].quality if samples else None
    if quality is not None and quality.decibels is not None:
        parts.append(f"{quality.decibels:.1f} dB")
    if quality is not None and quality.correct is not None:
        wrong = [name for name, match in quality.matches.items() if not match]
        parts.append("prompt matched" if quality.correct else "wrong: " + ", ".join(wrong))
    return " · ".join(parts)


def _strip(comparison: Comparison, row: ResultRow) -> dict[str, Any]:
    """The denoiser calls of one run as a line of cells for each stream; None where a stream was not called."""
    calls = comparison.timelines.get(row.label, [])
    several = len({call["denoiser"] for call in calls}) > 1
    steps = list(dict.fromkeys((call["run"], call["step"]) for call in calls))
    lines: dict[str, list[dict[str, str] | None]] = {}
    for call in calls:
        name = f"{call['denoiser']}, {call['stream']}" if several else str(call["stream"])
        index = steps.index((call["run"], call["step"]))
        lines.setdefault(name, [None] * len(steps))[index] = {
            "action": call["action"],
            "tip": f"step {index + 1} of {len(steps)}, sigma {call['sigma']:.3g}\n"
            f"{call['action']}, {call['seconds'] * 1e3:.1f} ms\n{call['reason']}",
        }
    counts = {action: sum(1 for call in calls if call["action"] == action) for action in _ACTIONS}
    return {"row": row, "lines": lines, "counts": counts, "levers": comparison.levers.get(row.label, [])}


def _bars(rows: Sequence[ResultRow]) -> list[dict[str, Any]]:
    longest = max(row.before + row.denoise + row.after for row in rows) or 1.0
    return [
        {
            "row": row,
            "parts": [
                {"name": name, "seconds": seconds, "share": 100.0 * seconds / longest}
                for name, seconds in (("before", row.before), ("denoise", row.denoise), ("after", row.after))
            ],
        }
        for row in rows
    ]


def _chart(rows: Sequence[ResultRow]) -> dict[str, Any] | None:
    """Points of speed-up against decibels in the pixels of an SVG; None when nothing has both. What was not accelerated
    has no point: its speed-up is noise.
    """
    shown = [row for row in rows if row.decibels is not None and not row.idle]
    if not shown:
        return None
    width, height, low, high = _CHART
    values = [min(row.decibels, _DECIBELS_SHOWN) for row in shown if row.decibels is not None]
    speedups = [row.speedup for row in shown]
    right = max(1.5, max(speedups) * 1.08)
    left = min(1.0, min(speedups) - 0.06 * (right - min(speedups)))
    bottom, top = 5 * math.floor((min(values) - 4) / 5), 5 * math.ceil((max(values) + 2) / 5)

    def x(speedup: float) -> float:
        return low + (speedup - left) / (right - left) * (width - low - high)

    def y(decibels: float) -> float:
        share = (min(decibels, _DECIBELS_SHOWN) - bottom) / (top - bottom)
        return height - low - share * (height - low - high)

    points: list[dict[str, Any]] = [{"row": row, "x": x(row.speedup), "y": y(row.decibels or 0.0)} for row in shown]
    fewer = sorted((p for p in points if p["row"].kind == "fewer_steps"), key=lambda p: p["x"])
    step = 5 if top - bottom <= 40 else 10
    return {
        "width": width,
        "height": height,
        "low": low,
        "high": high,
        "points": points,
        "line": " ".join(f"{p['x']:.1f},{p['y']:.1f}" for p in fewer),
        "ticks_x": [{"text": f"{value:g}x", "x": x(value)} for value in _ticks(left, right)],
        "ticks_y": [{"text": str(value), "y": y(value)} for value in range(bottom, top + 1, step)],
    }


def _ticks(low: float, high: float) -> list[float]:
    step = next(size for size in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 1e9) if (high - low) / size <= 8)
    return [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
