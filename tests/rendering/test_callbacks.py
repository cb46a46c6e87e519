"""Pipelines with callbacks of their own: what these end in the middle of a job is rendered again, to the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.rendering import RenderInterrupted
from tests.accel.residue import traces
from tests.rendering.studio import SMALL, Worded, check_exactly_once, ledger_lines, worded
from tests.tiny.case import quiet

STEPS = 3
LINES = [
    {"prompt": "one", "recipe": "off"},
    {"prompt": "two", "recipe": accel.Recipe(cache=accel.FixedInterval(2, warmup=1, final=0, min_steps=1)).to_dict()},
    {"prompt": "three", "recipe": "off"},
]
AT = 2 * STEPS + 2  # in the middle of the job that is last: those of one recipe follow each other


class Watched(Worded):
    """Calls `watch` after each step."""

    watch: Callable[[Any], object]

    def __call__(self, prompt: Any = None, **options: Any) -> Any:
        def ended(pipe: Any, *_: Any) -> dict[str, Any]:
            self.watch(pipe)
            return {}

        return super().__call__(prompt=prompt, callback_on_step_end=ended, **options)


def watched(watch: Callable[[Any], object] = lambda _: None) -> Watched:
    pipe = quiet(Watched(**worded().components))
    vars(pipe).update(calls=[], encoded=[], watch=watch)
    return pipe


def at_one_step(act: Callable[[Any], object]) -> Callable[[Any], None]:
    """Acts once, in the middle of a job."""
    left = [AT]

    def watch(pipe: Any) -> None:
        left[0] -= 1
        if not left[0]:
            act(pipe)

    return watch


def raising(error: BaseException) -> Callable[[Any], None]:
    def act(_: Any) -> None:
        raise error

    return act


def render(pipe: Any, out: Path, **options: Any) -> Any:
    defaults = SMALL | {"steps": STEPS, "frames": 1}
    return accel.render(pipe, LINES, out, defaults=defaults, progress_bar=False, retry_failed=True, **options)


def bytes_of(out: Path) -> dict[str, str]:
    done = [entry for entry in ledger_lines(out) if entry["status"] == "ok"]
    return {entry["id"]: hashlib.sha256((out / entry["file"]).read_bytes()).hexdigest() for entry in done}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("whole")
    render(watched(), out)
    return bytes_of(out)


@pytest.mark.parametrize("overlap", [False, True], ids=["", "overlap"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), RuntimeError("mine")], ids=repr)
def test_what_a_callback_raises_costs_one_job_which_is_rendered_again(
    error: BaseException, overlap: bool, expected: dict[str, str], tmp_path: Path
) -> None:
    pipe = watched(at_one_step(raising(error)))
    ends = RenderInterrupted if isinstance(error, KeyboardInterrupt) else type(error)
    if isinstance(error, Exception):
        summary = render(pipe, tmp_path, overlap=overlap)
        assert summary.failed == (0 if overlap else 1), "a job that fails beside another is tried once more alone"
    else:
        with pytest.raises(ends):
            render(pipe, tmp_path, overlap=overlap)
    assert traces(pipe) == [] and bytes_of(tmp_path).items() <= expected.items()
    assert render(pipe, tmp_path, overlap=overlap).complete
    assert bytes_of(tmp_path) == expected
    check_exactly_once(tmp_path, len(LINES))


@pytest.mark.parametrize("overlap", [False, True], ids=["", "overlap"])
def test_a_job_that_a_callback_has_interrupted_is_named(
    overlap: bool, expected: dict[str, str], tmp_path: Path
) -> None:
    """In diffusers' own way, which ends a run without an error: the file is what a plain call gives then."""

    def interrupt(pipe: Any) -> None:
        pipe._interrupt = True

    pipe = watched(at_one_step(interrupt))
    summary = render(pipe, tmp_path, overlap=overlap)
    (note,) = summary.notes
    assert note.startswith("line 2: the pipeline was interrupted before its last step")
    (entry,) = [entry for entry in ledger_lines(tmp_path) if "changes" in entry]
    assert entry["line"]["prompt"] == "two" and bytes_of(tmp_path) != expected
    (tmp_path / entry["file"]).unlink()
    again = render(pipe, tmp_path, overlap=overlap)
    assert again.rendered == 1 and not again.notes and bytes_of(tmp_path) == expected
