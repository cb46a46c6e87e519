"""The picture of speed against quality: which points are on the front, and what the SVG says."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from accel.measure.pareto import FEWER_STEPS, IDENTICAL, ParetoPoint, front, pareto_svg

SVG = "{http://www.w3.org/2000/svg}"


def point(speedup: float, quality: float, series: str = "EasyCache", label: str = "") -> ParetoPoint:
    return ParetoPoint(label or f"{series} {speedup:g}", series, speedup, quality)


SWEEP = [
    point(1.5, 44.0),
    point(2.0, 40.0),
    point(3.0, 31.0),
    point(1.8, 37.0, "TeaCache <fast> & loose"),
    point(2.9, 33.0, FEWER_STEPS),
    point(2.5, 30.0, "rival"),
]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


def marks(svg: str) -> list[tuple[float, float]]:
    """Places of the measured points, without those of the legend: they lie in groups with a tooltip."""
    groups = [group for group in parsed(svg).iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    circles = [group.findall(f"{SVG}circle")[-1] for group in groups]
    return [(float(circle.get("cx", "nan")), float(circle.get("cy", "nan"))) for circle in circles]


def test_front_is_what_no_other_beats_in_both() -> None:
    def beaten(one: ParetoPoint) -> bool:
        return any(
            other.speedup >= one.speedup
            and other.quality >= one.quality
            and (other.speedup, other.quality) != (one.speedup, one.quality)
            for other in SWEEP
        )

    expected = sorted((one for one in SWEEP if not beaten(one)), key=lambda one: one.speedup)
    assert front(SWEEP) == expected
    assert [one.speedup for one in expected] == [1.5, 2.0, 2.9, 3.0]


def test_front_keeps_twins_and_is_empty_without_points() -> None:
    twins = [point(2.0, 30.0, label="one"), point(2.0, 30.0, label="other")]
    assert {one.label for one in front(twins)} == {"one", "other"}
    assert front([]) == []


def test_faster_is_further_right_and_better_is_higher() -> None:
    places = marks(pareto_svg(SWEEP))
    assert len(places) == len(SWEEP)
    by_speed = sorted(zip(SWEEP, places, strict=True), key=lambda pair: pair[0].speedup)
    assert all(left[1][0] < right[1][0] for left, right in pairwise(by_speed))
    by_quality = sorted(zip(SWEEP, places, strict=True), key=lambda pair: pair[0].quality)
    assert all(low[1][1] > high[1][1] for low, high in pairwise(by_quality))


@pytest.mark.parametrize(("width", "height"), [(900, 520), (440, 420)])
def test_everything_lies_inside_the_picture(width: int, height: int) -> None:
    many = [point(1 + 0.3 * index, 45 - index, f"a method of number {index}") for index in range(14)]
    root = parsed(pareto_svg([*many, *SWEEP], width=width, height=height, title="All of them"))
    for name, across, down in (("circle", "cx", "cy"), ("text", "x", "y"), ("line", "x2", "y2")):
        for element in root.iter(SVG + name):
            assert 0 <= float(element.get(across, "1")) <= width
            assert 0 <= float(element.get(down, "1")) <= height


def test_ticks_are_round_numbers() -> None:
    shown = texts(pareto_svg(SWEEP))
    assert [text for text in shown if re.fullmatch(r"[\d.]+×", text)] == ["1×", "1.5×", "2×", "2.5×", "3×"]
    assert [text for text in shown if re.fullmatch(r"\d+", text)] == ["30", "32", "34", "36", "38", "40", "42", "44"]


def test_series_have_their_own_look() -> None:
    svg = pareto_svg(SWEEP, rivals=["rival"])
    lines = {line.get("points", ""): line for line in parsed(svg).iter(f"{SVG}polyline") if line.get("style")}
    dashed = [line for line in lines.values() if line.get("stroke-dasharray")]
    assert len(lines) == 4
    assert len(dashed) == 1
    assert len({line.get("style") for line in lines.values()}) == 4
    assert sum("var(--ink)" in line.get("style", "") for line in lines.values()) == 1  # fewer steps


def test_labels_are_escaped_and_in_the_tooltip() -> None:
    svg = pareto_svg([ParetoPoint("<b>&", "s", 2.0, 30.0, note="threshold 0.1")])
    titles = [element.text or "" for element in parsed(svg).iter(f"{SVG}title")]
    assert titles == ["<b>&\n2.00×, 30 PSNR (dB)\nthreshold 0.1"]


def test_clickable_points_carry_their_index() -> None:
    def indices(svg: str) -> list[str]:
        return re.findall(r'data-index="(\d+)"', svg)

    assert indices(pareto_svg(SWEEP, clickable=True)) == [str(index) for index in range(len(SWEEP))]
    assert indices(pareto_svg(SWEEP)) == []


@pytest.mark.parametrize("quality", [IDENTICAL, math.inf])
def test_an_identical_output_does_not_squash_the_axis(quality: float) -> None:
    svg = pareto_svg([*SWEEP, point(1.2, quality)])
    assert "identical" in texts(svg)
    heights = [y for _, y in marks(svg)]
    assert min(heights) == heights[-1]
    assert "30" in texts(svg) and "100" not in texts(svg)


@pytest.mark.parametrize("points", [[], [point(2.0, 30.0)], [point(1.0, IDENTICAL)]])
def test_few_points_are_a_picture_too(points: list[ParetoPoint]) -> None:
    assert len(marks(pareto_svg(points))) == len(points)


@pytest.mark.parametrize("bad", [point(math.nan, 30.0), point(math.inf, 30.0), point(2.0, math.nan)])
def test_what_is_no_number_is_refused(bad: ParetoPoint) -> None:
    with pytest.raises(ValueError, match="has no place in the picture"):
        pareto_svg([bad])


def test_it_is_one_file_that_needs_no_other() -> None:
    svg = pareto_svg(SWEEP, title="t")
    assert re.findall(r"(?:href|src|url\()\S*", svg) == []
    assert svg == pareto_svg(SWEEP, title="t")


def test_a_loose_series_has_points_and_no_line() -> None:
    points = [
        ParetoPoint("a", "tried", 1.0, 30.0),
        ParetoPoint("b", "tried", 2.0, 25.0),
        ParetoPoint("c", "kept", 2.0, 40.0),
    ]
    joined, loose = pareto_svg(points), pareto_svg(points, loose=("tried",))
    assert joined.count('class="series"') == 2 and loose.count('class="series"') == 1
    assert loose.count('class="mark"') == joined.count('class="mark"')
