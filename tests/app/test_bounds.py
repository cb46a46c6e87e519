"""What one request may cost: predicted before, limited during, and counted after."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.app.byte_lru import ByteLRU
from accel.app.limits import Limits
from accel.app.models import size_of
from accel.app.pair import StudioError
from accel.app.studio import Studio
from accel.app.ui import sheets
from accel.recipe import Recipe
from tests.app.pairs import pair, side
from tests.app.stage import BASE, LONG, Stage, finished
from tests.tiny import TINY

pytestmark = pytest.mark.xdist_group("studio")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    found = Stage()
    found.studio.close()
    found.studio = Studio(Limits(seconds=60.0, voxels=64 * 64 * 17), load=found._load)
    yield found
    found.studio.close()


def test_what_a_run_leaves_open_counts_with_the_models_own_size(stage: Stage) -> None:
    """An empty field of a large model is a large video."""
    stage.idle()
    with pytest.raises(StudioError, match="more than this server allows"):
        stage.studio.run(replace(BASE, width=128, height=None, frames=None))
    with pytest.raises(StudioError, match="more than this server allows"):
        stage.studio.cost(replace(BASE, width=80, height=None, frames=None))
    assert stage.studio.cost(replace(BASE, width=None, height=None, frames=None)) is not None


def test_it_counts_too_before_the_model_was_ever_loaded() -> None:
    stage = Stage()
    stage.studio.close()
    with Studio(Limits(voxels=32 * 32 * 5), load=stage._load) as studio:
        with pytest.raises(StudioError, match="more than this server allows"):
            list(studio.run(replace(BASE, width=None, height=None, frames=None)))
        assert stage.calls == 0


OWN = {  # by the call's defaults, by an attribute of the pipeline, by what its models were trained on
    "wan": (832, 480, 81),
    "mochi": (848, 480, 19),
    "cogvideox": (64, 64, 9),
    "sd": (128, 128, None),
    "z_image": (None, None, None),
}


@pytest.mark.parametrize("name", OWN)
def test_pipelines_tell_their_own_size(name: str) -> None:
    assert size_of(TINY[name].build()) == OWN[name]


def test_what_is_predicted_to_take_too_long_is_refused(stage: Stage) -> None:
    finished(stage.studio.run(BASE))
    stage.studio._costs._paces = {  # as on a device that is a thousand times slower
        call: replace(pace, step=pace.step * 1000.0) for call, pace in stage.studio._costs._paces.items()
    }  # type: ignore[assignment]
    with pytest.raises(StudioError, match=r"would take about \d+ minutes here"):
        stage.studio.run(replace(BASE, seed=1))
    with pytest.raises(StudioError, match="would take about"):
        stage.studio.sweep(replace(BASE, seed=1), "cache", "compute", [0.5, 0.8])
    with pytest.raises(StudioError, match="would take about"):
        stage.studio.tune(replace(BASE, seed=1), min_psnr=30.0, minutes=0.1)


def test_what_was_not_predicted_is_stopped() -> None:
    stage = Stage()
    stage.studio.close()
    with Studio(Limits(seconds=0.3), load=stage._load) as studio:
        studio._shelf.get("pocket:video").pipe.transformer.register_forward_hook(_late)
        with pytest.raises(StudioError, match="took longer than this server allows"):
            list(studio.run(replace(LONG, seed=1)))
        assert stage.calls < 2 * LONG.steps


def test_memory_counts_all_of_a_pair(tmp_path: Path) -> None:
    small, told = pair(tmp_path), side(tmp_path)
    large = replace(small, accelerated=replace(told, report="x" * 10_000, calls=told.calls * 1000))
    assert small.nbytes > small.baseline.frames.nbytes + small.accelerated.frames.nbytes
    assert large.nbytes - small.nbytes > 10_000 + 900 * len(str(told.calls))
    keep: ByteLRU[Any] = ByteLRU(large.nbytes + small.nbytes - 1, lambda one: one.nbytes)
    keep.put("small", small)
    keep.put("large", large)
    assert "small" not in keep and "large" in keep


def test_a_recipe_counts_with_its_tables_and_names() -> None:
    limits = Limits(recipe=1000)
    table = Recipe(cache=accel.MagCache(ratios=(1.0,) * 1000))
    for recipe, told in ((table, "larger than"), (Recipe(name="x" * 300), "name has 300 characters")):
        with pytest.raises(ValueError, match=told):
            replace(BASE, recipe=recipe).check(limits)


def test_votes_have_a_file_of_limited_size(stage: Stage, tmp_path: Path) -> None:
    from accel.app.pair import Vote
    from accel.app.votes import Votes

    votes = Votes(tmp_path / "votes.jsonl", most=2000)
    with pytest.raises(StudioError, match="keeps no more votes"):
        for number in range(100):
            votes.add(Vote(str(number), "same", "ann", BASE, {}, 0.0))
    assert (tmp_path / "votes.jsonl").stat().st_size <= 2000 and 0 < len(votes.all()) < 100


def test_a_clip_that_is_compressed_makes_no_other_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, write = threading.Event(), threading.Event(), sheets.write_sheets
    slow, quick = side(tmp_path, frames=3), side(tmp_path, frames=4)
    monkeypatch.setattr(sheets, "write_sheets", lambda frames, folder: _held(frames, folder, begun, go, write))
    first = threading.Thread(target=sheets.sheets_of, args=(slow,))
    first.start()
    assert begun.wait(120.0)
    assert sheets.sheets_of(quick).files  # while the other is still at it
    go.set()
    first.join(30.0)
    assert sheets.sheets_of(slow) is sheets.sheets_of(slow)  # once


def _late(*_: Any) -> None:
    time.sleep(0.02)


def _held(frames: Any, folder: Path, begun: threading.Event, go: threading.Event, write: Any) -> Any:
    if len(frames) == 3:
        begun.set()
        assert go.wait(120.0)
    return write(frames, folder)
