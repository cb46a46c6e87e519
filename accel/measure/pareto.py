"""Speed against quality as a picture: an SVG from the standard library alone, for README, reports and the app."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape

FEWER_STEPS = "fewer steps"
# From here on a PSNR stands for "identical": float noise, or the cap that the metrics put in place of infinity.
IDENTICAL = 100.0

_COLOURS = ("#3565c9", "#d9730d", "#1d8a5b", "#8d55c2", "#c2396f", "#0f93a8", "#8a6d1c", "#5d7f16")
_GREYS = ("#7d828d", "#a2a6ae", "#5f646e")
_LEFT, _RIGHT, _TOP, _AXIS, _ROW = 62.0, 22.0, 20.0, 50.0, 20.0
_LETTER, _BOLD_LETTER = 6.8, 7.4  # widths of an average letter at 12 pixels
_STYLE = """
.pareto { --paper: #fff; --ink: #1a1c21; --soft: #5f6570; --line: #e4e5e1;
  font: 12px system-ui, -apple-system, "Segoe UI", sans-serif }
@media (prefers-color-scheme: dark) {
  .pareto { --paper: #191c22; --ink: #e8eaef; --soft: #a0a5b1; --line: #2f343e } }
.pareto .paper { fill: var(--paper) }
.pareto text { fill: var(--soft) }
.pareto .strong { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 3 }
.pareto .grid { stroke: var(--line) }
.pareto .front { fill: none; stroke: var(--ink); stroke-width: 9; stroke-linejoin: round; stroke-linecap: round;
  opacity: .1 }
.pareto .series { fill: none; stroke-width: 1.6 }
.pareto .mark { stroke: var(--paper); stroke-width: 1.2 }
.pareto .ring { fill: none; stroke: var(--ink); stroke-width: 1.5 }
.pareto .hit { fill: transparent }
.pareto .hidden { visibility: hidden }
.pareto [data-index] { cursor: pointer; outline: none }
.pareto [data-index]:hover .ring, .pareto [data-index]:focus .ring { stroke-width: 3; visibility: visible }
"""


@dataclass(frozen=True)
class ParetoPoint:
    """One measured setting: `speedup` over the unaccelerated pipeline, `quality` where more is better.

    Points of one `series` are joined by a line; `note` is a second line of the tooltip.
    """

    label: str
    series: str
    speedup: float
    quality: float
    note: str = ""


def front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """The points that no other beats: none is as fast and as good, and better in one of the two. By speed-up."""
    kept: list[ParetoPoint] = []
    for point in sorted(points, key=lambda point: (-point.speedup, -point.quality)):
        twin = kept and (kept[-1].speedup, kept[-1].quality) == (point.speedup, point.quality)
        if not kept or twin or point.quality > kept[-1].quality:
            kept.append(point)
    return kept[::-1]


def pareto_svg(
    points: Sequence[ParetoPoint],
    *,
    title: str = "",
    quality_name: str = "PSNR (dB)",
    speed_name: str = "speed-up (wall-clock)",
    width: int = 900,
    height: int = 520,
    clickable: bool = False,
    rivals: Collection[str] = (),
    loose: Collection[str] = (),
) -> str:
    """The points over speed-up (to the right), or whatever `speed_name` says, and quality (upwards) as an SVG document.

    Series named in `rivals` are dashed and grey, `FEWER_STEPS` is black, the others have a colour each; those in
    `loose` are points without a line. The front is underlaid and its points are named where there is room. A quality
    of `IDENTICAL` or more stands on the upper edge. With `clickable` every point is a `[data-index]` element that can
    have the keyboard's focus. The picture brings its own background and follows the light or dark scheme, also as
    `<img src="file.svg">`.

    Raises ValueError for a speed-up or quality that is not a number. No points give an empty pair of axes.
    """
    for point in points:
        if not math.isfinite(point.speedup) or math.isnan(point.quality):
            raise ValueError(f"{point.label!r} has no place in the picture: {point.speedup}, {point.quality}.")
    return "".join(_Picture(points, title, quality_name, speed_name, width, height, clickable, rivals, loose).parts())


class _Picture:
    """The layout: axes, the place of every point, and the boxes that are taken already by marks and names."""

    def __init__(
        self,
        points: Sequence[ParetoPoint],
        title: str,
        quality_name: str,
        speed_name: str,
        width: int,
        height: int,
        clickable: bool,
        rivals: Collection[str],
        loose: Collection[str],
    ) -> None:
        self.points, self.title, self.quality_name, self.clickable = points, title, quality_name, clickable
        self.speed_name = speed_name
        self.width, self.height = width, height
        self.series = list(dict.fromkeys(point.series for point in points))
        self.rivals = [name for name in self.series if name in rivals]
        self.lines = [name for name in self.series if name not in loose]
        self.front = front(points)
        self.legend = list(self._legend_places())
        rows = 1 + max((row for _, row, _ in self.legend), default=0)
        self.top = _TOP + (26.0 if title else 0.0)
        self.bottom = height - _AXIS - rows * _ROW
        self.x_range = _range([point.speedup for point in points] + [1.0])
        self.y_range = _range([point.quality for point in points if point.quality < IDENTICAL])
        self.taken = [self._box(*self._place(point), 6.0) for point in points]

    def parts(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="pareto" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="{"group" if self.clickable else "img"}" '
            f'aria-label="{escape(self.title or f"{self.quality_name} against {self.speed_name}")}">'
            f'<style>{_STYLE}</style><rect class="paper" width="{self.width}" height="{self.height}" rx="10"/>'
        )
        if self.title:
            yield f'<text class="strong" x="{_LEFT:g}" y="26" font-size="15">{escape(self.title)}</text>'
        yield from self._axes()
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._place, self.front))
        yield f'<polyline class="front" points="{places}"/>'
        yield from (self._line(name) for name in self.lines)
        yield from (self._mark(index, point) for index, point in enumerate(self.points))
        yield from map(self._name, self.front)
        yield from (self._legend_entry(*entry) for entry in self.legend)
        yield "</svg>\n"

    def _axes(self) -> Iterator[str]:
        right = self.width - _RIGHT
        for value in _ticks(*self.y_range, (self.bottom - self.top) / 50):
            y = self._y(value)
            yield f'<line class="grid" x1="{_LEFT:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{_LEFT - 8:g}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        if any(point.quality >= IDENTICAL for point in self.points):
            yield f'<text x="{_LEFT - 8:g}" y="{self.top + 4:.1f}" text-anchor="end">identical</text>'
        for value in _ticks(*self.x_range, self.width / 110):
            yield f'<text x="{self._x(value):.1f}" y="{self.bottom + 20:.1f}" text-anchor="middle">{value:g}×</text>'
        middle = (_LEFT + right) / 2
        yield f'<text x="{middle:.1f}" y="{self.bottom + 39:.1f}" text-anchor="middle">{escape(self.speed_name)}</text>'
        where = f'transform="translate(16 {(self.top + self.bottom) / 2:.1f}) rotate(-90)"'
        yield f'<text {where} text-anchor="middle">{escape(self.quality_name)}</text>'

    def _line(self, name: str) -> str:
        own = sorted((point for point in self.points if point.series == name), key=lambda point: point.speedup)
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._place, own))
        return f'<polyline class="series" {self._stroke(name)} points="{places}"/>'

    def _mark(self, index: int, point: ParetoPoint) -> str:
        x, y = self._place(point)
        quality = "identical" if point.quality >= IDENTICAL else f"{point.quality:.4g} {self.quality_name}"
        lines = [point.label, f"{point.speedup:.2f}×, {quality}", *([point.note] if point.note else [])]
        attributes = f' data-index="{index}" tabindex="0" role="button"' if self.clickable else ""
        hidden = "" if point in self.front else " hidden"
        return (
            f"<g{attributes}><title>{escape(chr(10).join(lines))}</title>"
            f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="13"/>'
            f'<circle class="ring{hidden}" cx="{x:.1f}" cy="{y:.1f}" r="7.5"/>'
            f'<circle class="mark" {self._fill(point.series)} cx="{x:.1f}" cy="{y:.1f}" r="4.6"/></g>'
        )

    def _name(self, point: ParetoPoint) -> str:
        """The label of a front point at the first of four places that is free, else none."""
        x, y = self._place(point)
        length = _BOLD_LETTER * len(point.label)
        for left, base in ((x + 10, y - 8), (x - 10 - length, y - 8), (x + 10, y + 17), (x - 10 - length, y + 17)):
            box = (left, base - 11, left + length, base + 3)
            inside = box[0] >= _LEFT and box[2] <= self.width - 4 and box[1] >= self.top - 18 and box[3] <= self.bottom
            if inside and not any(_overlap(box, other) for other in self.taken):
                self.taken.append(box)
                return f'<text class="strong" x="{left:.1f}" y="{base:.1f}">{escape(point.label)}</text>'
        return ""

    def _legend_places(self) -> Iterator[tuple[str, int, float]]:
        """(series, row, left edge), wrapped to the width."""
        row, left = 0, _LEFT
        for name in self.series:
            length = 34 + _LETTER * len(name)
            if left > _LEFT and left + length > self.width - _RIGHT:
                row, left = row + 1, _LEFT
            yield name, row, left
            left += length + 12

    def _legend_entry(self, name: str, row: int, left: float) -> str:
        y = self.bottom + _AXIS + 8 + row * _ROW
        return (
            f'<line {self._stroke(name)} stroke-width="1.6" x1="{left:.1f}" x2="{left + 22:.1f}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><circle class="mark" {self._fill(name)} cx="{left + 11:.1f}" cy="{y:.1f}" r="4.6"/>'
            f'<text x="{left + 28:.1f}" y="{y + 4:.1f}">{escape(name)}</text>'
        )

    def _stroke(self, name: str) -> str:
        dashes = ' stroke-dasharray="5 4"' if name in self.rivals else ""
        return f'style="stroke:{self._colour(name)}"{dashes}'

    def _fill(self, name: str) -> str:
        return f'style="fill:{self._colour(name)}"'

    def _colour(self, name: str) -> str:
        if name == FEWER_STEPS:
            return "var(--ink)"
        if name in self.rivals:
            return _GREYS[self.rivals.index(name) % len(_GREYS)]
        ours = [each for each in self.series if each != FEWER_STEPS and each not in self.rivals]
        return _COLOURS[ours.index(name) % len(_COLOURS)]

    def _place(self, point: ParetoPoint) -> tuple[float, float]:
        return self._x(point.speedup), self._y(point.quality)

    def _x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _RIGHT - _LEFT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        if value >= IDENTICAL:
            return self.top
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top - 16)

    @staticmethod
    def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
        return (x - radius, y - radius, x + radius, y + radius)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than from the least to the greatest value."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.06 * (high - low) or max(0.1 * abs(low), 0.5)
    return low - margin, high + margin


def _ticks(low: float, high: float, most: float) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) between `low` and `high`: at most `most`, at least two."""
    rough = (high - low) / max(2.0, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
