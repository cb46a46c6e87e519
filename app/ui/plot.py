"""The plot of a sweep: pairs as points of speed and quality, grouped by what was varied."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from accel.app.pair import Pair, leading
from accel.app.sweep import PRESET, STEPS
from accel.measure.pareto import FEWER_STEPS, ParetoPoint, pareto_svg

SEARCH = "search"
"""In place of an axis: what `Studio.tune` found."""

TIME, CALLS = "speed-up", "times fewer denoiser calls"
"""What the plot shows to the right. Calls are the same on every machine, however busy."""

Plotted = list[tuple[str, ParetoPoint, float]]
"""The keys of pairs, their places in the plot over `TIME`, and over `CALLS`."""


_BROWSERS = 200  # whose plots are kept; a plot is a few lines of numbers


class KeptPlots:
    """The plot of each browser, so that it is there again when the page is loaded anew. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plots: OrderedDict[str, Plotted] = OrderedDict()

    def keep(self, browser: str, plotted: Plotted) -> Plotted:
        """Keeps this plot in place of the one before, and returns it."""
        with self._lock:
            self._plots[browser] = plotted
            self._plots.move_to_end(browser)
            if len(self._plots) > _BROWSERS:
                self._plots.popitem(last=False)
        return plotted

    def of(self, browser: str) -> Plotted:
        with self._lock:
            return self._plots.get(browser, [])


def plot_html(plotted: Plotted, over: str = TIME) -> str:
    """The plot for wide and for narrow pages; the style sheet shows one of them."""
    points = [point if over == TIME else replace(point, speedup=fewer) for _, point, fewer in plotted]
    wide = pareto_svg(points, clickable=True, width=880, height=480, speed_name=over)
    narrow = pareto_svg(points, clickable=True, width=420, height=440, speed_name=over)
    return f'<div class="plot"><div class="wide">{wide}</div><div class="narrow">{narrow}</div></div>'


def add_pair(before: Plotted, pairs: Sequence[Pair], axis: str) -> Plotted:
    """The plot with these pairs, measured again or for the first time. `axis` is what was turned."""
    new = {pair.key: (pair.key, _place(pair, axis), _fewer(pair)) for pair in pairs}
    return [entry for entry in before if entry[0] not in new] + list(new.values())


def _fewer(pair: Pair) -> float:
    return pair.baseline.computed / max(1, pair.accelerated.computed)


def _place(pair: Pair, axis: str) -> ParetoPoint:
    lever, _, setting = axis.partition(".")
    named = {PRESET: "presets", STEPS: FEWER_STEPS, SEARCH: "found by the search"}
    series = named.get(axis, f"{type(getattr(pair.settings.recipe, lever, None)).__name__}: {setting}")
    note = f"{pair.accelerated.computed} of {pair.baseline.computed} denoiser calls computed"
    label = pair.label or pair.settings.recipe.label
    speedup, (_, quality) = pair.metrics["speedup"], leading(pair.metrics)
    return ParetoPoint(label, series, speedup if speedup is not None else 1.0, quality or 0.0, note)
