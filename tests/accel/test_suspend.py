"""A session that is suspended, and whatever borrows an accelerated pipeline: it sees the pipeline itself, and gives the
same session back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import accel
from accel import FixedInterval, pocket
from accel.measure.pipeline_runs import attach_for_run
from accel.patch import session_of
from accel.samplers import (
    DiffusersScheduler,
    Euler,
    ModelSwitch,
    TrajectoryBank,
    calibrate_linear,
    search_sigmas,
)
from accel.session import Session, bare
from benchmarks.refiner.training import train_refiner
from tests import shallow
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run
from tests.tiny.kinds import kinds_only
from tests.tiny.video import wan_transformer

METHOD = FixedInterval(3, warmup=2, min_steps=1)
every_pipeline = pytest.mark.parametrize("name", TINY)


@pytest.mark.part(1)
@kinds_only()
def test_a_suspended_pipeline_is_the_untouched_one_and_the_same_session_is_on_again(name: str) -> None:
    pipe = pipeline(name)
    run(pipe, TINY[name])
    before = snapshot(pipe)
    with accel.accelerate(pipe, cache=METHOD) as session:
        accelerated = run(pipe, TINY[name])
        report = session.report()
        with session.suspended():
            assert session_of(pipe) is None and traces(pipe) == []
            inside = snapshot(pipe)
            assert [path for path in before if not path.startswith("pipe") and before[path] != inside[path]] == []
            assert torch.equal(run(pipe, TINY[name]), plain(name))
        assert session_of(pipe) is session and session.pipe is pipe and session.report() is report
        assert torch.equal(run(pipe, TINY[name]), accelerated)
        assert session.report() is not report and session.report().predicted == report.predicted
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def test_the_session_comes_back_after_an_exception_and_blocks_nest() -> None:
    pipe = pipeline("wan")
    with accel.accelerate(pipe, cache=METHOD) as session:
        with pytest.raises(KeyError), session.suspended(), bare(pipe), session.suspended():
            assert session_of(pipe) is None
            raise KeyError
        assert session_of(pipe) is session
    with bare(pipe):
        assert session_of(pipe) is None


def test_a_session_restored_in_the_block_stays_restored() -> None:
    pipe = pipeline("wan")
    session = accel.accelerate(pipe, cache=METHOD)
    with session.suspended():
        session.restore()
    assert session_of(pipe) is None and session.pipe is None and traces(pipe) == []


def test_what_is_accelerated_in_the_block_ends_with_it() -> None:
    pipe = pipeline("wan")
    with accel.accelerate(pipe, cache=METHOD) as session:
        with session.suspended():
            other = accel.accelerate(pipe, cache=None)
            assert session_of(pipe) is other
        assert session_of(pipe) is session and other.pipe is None
    assert traces(pipe) == []


@pytest.mark.part(1)
@pytest.mark.parametrize("sampler", [None, DiffusersScheduler("DDIMScheduler")], ids=["cache", "exchanged scheduler"])
def test_a_session_can_be_suspended_in_the_middle_of_a_call(sampler: Any) -> None:
    """For a look at the denoiser itself, say; the run goes on as if nothing had been."""
    pipe, seen = TINY["pixart"].build(), []

    def look(pipe: Any, step: int, timestep: Any, latents: Any) -> None:
        with session.suspended():
            seen.append(type(pipe.scheduler))
            assert session_of(pipe) is None and traces(pipe) == []
        assert session_of(pipe) is session

    own = type(pipe.scheduler)
    with accel.accelerate(pipe, accel.Recipe(cache=METHOD, sampler=sampler)) as session:
        expected = run(pipe, TINY["pixart"])
        report = session.report()
        assert torch.equal(run(pipe, TINY["pixart"], callback=lambda *given: look(pipe, *given)), expected)
        assert session.report().timeline() == report.timeline()
    assert len(seen) >= 8 and set(seen) == {own}


def test_a_second_session_beside_the_first_is_refused() -> None:
    pipe = pipeline("wan")
    with accel.accelerate(pipe, cache=METHOD) as session:
        with pytest.raises(ValueError, match="accelerated already"):
            Session(pipe, accel.Recipe())
        assert session_of(pipe) is session
        run(pipe, TINY["wan"])
        assert session.report().predicted


def test_a_loop_of_ones_own_in_a_suspended_session_runs_bare() -> None:
    pipe = pipeline("wan")
    with accel.accelerate(pipe, cache=METHOD) as session, session.suspended(), session.running():
        assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))
        assert not session.report().calls


def test_parts_exchanged_while_suspended_are_followed() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, cache=METHOD) as session:
        with session.suspended():
            pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        run(pipe, TINY["wan"])
        assert session_of(pipe) is session and session.report().predicted > 0
        assert session.anatomy.schedulers == {"scheduler": "FlowMatchEulerDiscreteScheduler"}
    assert traces(pipe) == []


def fails_to_attach(pipe: Any) -> None:
    with pytest.raises(ValueError, match="cannot stand in"):
        accel.accelerate(pipe, sampler=ModelSwitch(wan_transformer(in_channels=8), 0.5))


def test_a_recipe_that_does_not_fit_leaves_the_present_one_on() -> None:
    pipe = pipeline("wan")
    before = snapshot(pipe)
    fails_to_attach(pipe)
    assert snapshot(pipe) == before
    with accel.accelerate(pipe, cache=METHOD) as session:
        expected = run(pipe, TINY["wan"])
        fails_to_attach(pipe)
        assert session_of(pipe) is session and session.pipe is pipe
        assert torch.equal(run(pipe, TINY["wan"]), expected)


# Whatever borrows a pipeline


def pocket_pipe() -> Any:
    pipe = shallow.load("video")
    pipe.set_progress_bar_config(disable=True)
    return pipe


SHORT: dict[str, Any] = {"num_inference_steps": 6, "height": 32, "width": 32, "num_frames": 5}
TWO = pocket.prompts(2, 3)


def latents(pipe: Any, *_: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    found: torch.Tensor = pipe(TWO[0], **SHORT, generator=generator, output_type="latent").frames
    return found


def sizes() -> dict[str, Any]:
    return {name: value for name, value in SHORT.items() if name != "num_inference_steps"}


def contest(pipe: Any, _: Path) -> Any:
    compared = accel.compare(pipe, ["fast"], TWO[:1], steps=6, call_arguments=sizes(), fewer_steps=False)
    return [(sample.label, sample.computed, sample.quality.psnr) for sample in compared.samples if sample.quality]


JOB = {"prompt": TWO[0], "steps": 6, "size": "32x32", "frames": 5, "recipe": "fast"}


def rendered(pipe: Any, out: Path) -> Any:
    accel.render(pipe, [JOB], out=out, progress_bar=False)
    return sorted((path.name, path.stat().st_size) for path in out.glob("*.mp4"))


BORROWERS: dict[str, Callable[[Any, Path], Any]] = {
    "calibrate": lambda pipe, _: repr(accel.calibrate(pipe, TWO[:1], layer_lags=0, **SHORT).tables),
    "calibrate_linear": lambda pipe, _: calibrate_linear(pipe, TWO[:1], **SHORT),
    "search_sigmas": lambda pipe, _: search_sigmas(pipe, TWO, 3, fine=8, **sizes()).errors,
    "train_refiner": lambda pipe, _: (
        train_refiner(pipe, TWO, updates=1, step_counts=(6,), batch=1, **sizes()).facts.extrapolated
    ),
    "bank": lambda pipe, _: (
        TrajectoryBank.build(pipe, [{"prompt": text, **sizes()} for text in TWO], steps=6, key=2, landing=4).facts
    ),
    "compare": contest,
    "attached": lambda pipe, _: using(
        attach_for_run(pipe, accel.Recipe(sampler=Euler())), lambda: latents(pipe).tolist()
    ),
    "rival": lambda pipe, _: using(attach_for_run(pipe, lambda pipe: lambda: None), lambda: latents(pipe).tolist()),
    "render": rendered,
}


def using(context: Any, act: Callable[[], Any]) -> Any:
    with context:
        return act()


@pytest.mark.part(1)
@pytest.mark.parametrize("borrower", BORROWERS)
def test_a_borrower_sees_the_pipeline_itself_and_gives_the_same_session_back(borrower: str, tmp_path: Path) -> None:
    pipe, borrow = pocket_pipe(), BORROWERS[borrower]
    expected = borrow(pipe, tmp_path / "bare")
    with accel.accelerate(pipe, cache=METHOD) as session:
        accelerated = latents(pipe)
        report = session.report()
        assert borrow(pipe, tmp_path / "accelerated") == expected
        assert session_of(pipe) is session and session.pipe is pipe and session.report() is report
        assert torch.equal(latents(pipe), accelerated)
    assert session_of(pipe) is None


@pytest.mark.part(1)
@pytest.mark.parametrize("borrower", BORROWERS)
def test_a_borrower_that_is_interrupted_gives_the_same_session_back(borrower: str, tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    pipe = pocket_pipe()
    with accel.accelerate(pipe, cache=METHOD) as session:
        hook = pipe.transformer.blocks[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            BORROWERS[borrower](pipe, tmp_path)
        hook.remove()
        assert session_of(pipe) is session
        assert latents(pipe).isfinite().all() and session.report().predicted
