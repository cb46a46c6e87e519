"""The table of what fewer steps cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.judges import JUDGES, steps
from benchmarks.judges.steps import Line


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Runs of a few steps, so that the table takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "FULL", 4)
        patch.setattr(steps, "FEWER", (3, 1))
        yield


@pytest.fixture(scope="module")
def lines(few: None) -> list[Line]:
    return list(steps.lines(JUDGES["cells"], prompts=2))


def test_there_is_a_line_for_each_scheduler_and_guidance_scale(lines: list[Line]) -> None:
    judge = JUDGES["cells"]
    assert [(line.scheduler, line.guidance) for line in lines] == [
        (scheduler, scale) for scheduler in judge.schedulers for scale in judge.guidance_scales
    ]


def test_fewer_steps_are_farther_from_all_of_them_and_the_worst_is_not_above_the_mean(lines: list[Line]) -> None:
    for line in lines:
        assert line.means[0] > line.means[1]
        assert all(worst <= mean for worst, mean in zip(line.worst, line.means, strict=True))


def test_the_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    steps.main(["cells", "--prompts", "1"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 6
    assert {row.count("|") for row in rows} == {6}
