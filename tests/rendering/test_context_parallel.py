"""One video on two processes: the example script, as torchrun would start it (gloo, on the CPU)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import accel
from tests import processes
from tests.ports import free_port

SCRIPT = Path(__file__).parents[2] / "examples" / "render_context_parallel.py"
SECONDS = 900


def start(ranks: int, folder: Path, recipe: str) -> list[processes.Program]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    command = ["--steps", "9", "--recipe", recipe, "--out", str(folder / f"{ranks}.mp4")]
    return [
        processes.start(
            SCRIPT, command, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, folder / f"{rank} of {ranks}"
        )
        for rank in range(ranks)
    ]


@processes.needs_fork
@pytest.mark.parametrize("cache", ["preset", pytest.param("measuring", marks=pytest.mark.slow)])
def test_a_video_on_two_processes_is_that_of_one(cache: str, tmp_path: Path) -> None:
    """The same file, and the same calls of the denoiser: a cache decides alike wherever it runs."""
    recipe = "balanced"
    if cache == "measuring":
        recipe = str(tmp_path / "recipe.json")
        accel.Recipe(cache=accel.SeaCache(0.3)).save(recipe)
    runs = [start(ranks, tmp_path, recipe) for ranks in (1, 2)]
    told = [[program.end(SECONDS) for program in run] for run in runs]
    assert [code for run in told for code, _, _ in run] == [0, 0, 0], told
    one, two = (_without_times(run[0][1]) for run in told)
    assert "engaged" in one and one == two
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "2.mp4").read_bytes()


def _without_times(told: str) -> str:
    """What a run says of its decisions: without the seconds that it took, and those that it was spared."""
    return re.sub(r"\(about [\d.]+ s\)", "", told.split("seconds")[0])
