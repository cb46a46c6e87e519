"""One video on two processes: the example script, as torchrun would start it (gloo, on the CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import accel
from tests.ports import free_port

SCRIPT = Path(__file__).parents[2] / "examples" / "render_context_parallel.py"
SECONDS = 900


def start(ranks: int, out: Path, recipe: str) -> list[subprocess.Popen[str]]:
    port = str(free_port())
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--steps", "12", "--recipe", recipe, "--out", str(out)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("cache", ["preset", pytest.param("measuring", marks=pytest.mark.slow)])
def test_a_video_on_two_processes_is_that_of_one(cache: str, tmp_path: Path) -> None:
    """The same file, and the same calls of the denoiser: a cache decides alike wherever it runs."""
    recipe = "balanced"
    if cache == "measuring":
        recipe = str(tmp_path / "recipe.json")
        accel.Recipe(cache=accel.SeaCache(0.3)).save(recipe)
    runs = [start(ranks, tmp_path / f"{ranks}.mp4", recipe) for ranks in (1, 2)]
    told = [[process.communicate(timeout=SECONDS) for process in run] for run in runs]
    errors = [error for run in told for _, error in run]
    assert [process.returncode for run in runs for process in run] == [0, 0, 0], errors
    one, two = (run[0][0] for run in told)
    assert "engaged" in one and one.split("seconds")[0] == two.split("seconds")[0]
    assert (tmp_path / "1.mp4").read_bytes() == (tmp_path / "2.mp4").read_bytes()
