"""`accel.tune`: the fastest recipe that keeps a measured quality, or the most faithful one at a speed."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.fitting import calibrations
from accel.call_forms import accepts
from accel.components import components_of
from accel.measure.measurements import Verifier
from accel.measure.pipeline_runs import without_progress_bars
from accel.recipe import Recipe
from accel.terminal import waiting
from accel.tuning import evidence
from accel.tuning.clip_split import split_clips
from accel.tuning.goal import Bound, TuningGoal, goal_of
from accel.tuning.judge import CandidateJudge, JudgedRecipe
from accel.tuning.models import ModelChoice, ModelFront, tune_models
from accel.tuning.space import KEEPING, LEVERS
from accel.tuning.subject import TuningSubject
from accel.tuning.tuner import Tuner


class GoalNotMet(ValueError):
    """The goal cannot be met. `nearest` is what comes nearest to it, measured: a recipe with its evidence, or None
    where nothing was measured."""

    def __init__(self, text: str, nearest: Recipe | None) -> None:
        super().__init__(text)
        self.nearest = nearest


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C before anything was verified. The runs that were made are in `folder`, and the same call goes on there."""

    def __init__(self, folder: Path | None) -> None:
        where = f"the runs so far are in {folder}; the same command goes on from there" if folder else "nothing is kept"
        super().__init__(f"the tuning was interrupted before a recipe was verified; {where}.")
        self.folder = folder


def tune(
    pipe: Any,
    prompts: Sequence[str],
    *,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    max_lpips: float | None = None,
    bounds: Sequence[Bound] = (),
    target_speedup: float | None = None,
    coverage: float = 0.95,
    held_out: Sequence[str] | None = None,
    seed: int = 0,
    steps: int | None = None,
    minutes: float = 15.0,
    levers: Sequence[str] | None = None,
    generic: bool = False,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
    out: str | os.PathLike[str] | None = None,
    journal: str | os.PathLike[str] | None = None,
    tell: Callable[[str], None] | None = None,
    progress: bool = True,
    known: object = None,
    calibration: Any = (),
    min_snr: float | None = None,
    choices: Sequence[ModelChoice] | None = None,
) -> Any:
    """Finds the fastest recipe that keeps a quality on this pipeline, or the most faithful one at a speed.

    It records the pipeline unaccelerated on two prompts, simulates every candidate of all levers on the recording
    (no model runs), runs the promising ones for real while a surrogate learns from each run, and verifies the winner on
    prompts or seeds that the search has not seen: its `evidence` says how. A session is suspended meanwhile.

    Args:
        prompts: the more, the surer; of six and more a third is searched with and the others are held out. Of fewer all
            are searched with and held out with other seeds: then nothing is promised of other prompts.
        min_psnr, min_ssim, max_lpips, min_snr (of sound), bounds: what `coverage` of all prompts must reach against the
            unaccelerated output, within 1 dB, 0.01, 0.01, 1 dB; `accel.tuning.Bound` is for metrics of your own.
        target_speedup: instead of these, the wall-clock speed-up to be reached, end to end.
        held_out: prompts to judge on, in place of splitting `prompts`.
        steps, call_arguments: of every call, as in production: the recipe belongs to them.
        minutes: for all of it. With little time fewer clips are held out; where it cannot suffice at all, that is told
            after the first run. What is under way when it is over ends later.
        levers: those to choose from. "resolution" makes another picture, which no bound on likeness can allow: left
            out, it is among them only where all `bounds` are on metrics of your own.
        generic: only methods without constants of this model.
        verify: as in `accel.compare`, for the evidence.
        out: folder for recipe.json, evidence.html, the videos, and the journal with which the same call, repeated, goes
            on where it was interrupted. Without it nothing is kept.
        journal: another folder for the journal, which tunings for several goals may share: a run is not made twice.
        tell: called with a line of progress now and then, in place of the sign on stderr; progress=False shows none.
        calibration: of this model, or its file (of several the first): its constants count, not those recorded here.
        known: must be left out; earlier versions began with what earlier tunings had found.
        choices: of several models, what is tried instead of the usual; each prompt has its own seed, from `seed` on.

    Returns a Recipe; of a list of pipelines, as in `tune([base, few], prompts, verify=score)`, a ModelFront of all of
    them. Then no quality is to be named, and of the rest seed, call_arguments, out, tell and progress count.

    Raises GoalNotMet (a ValueError) with what comes nearest where the goal cannot be met, ValueError or TypeError for
    bad arguments before anything runs. Ctrl-C returns the best recipe that was verified until then, else raises
    TuningInterrupted (a KeyboardInterrupt).
    """
    if isinstance(pipe, (list, tuple)):
        return _over_models(pipe, prompts, verify, choices, seed, call_arguments, out, tell, progress)
    if choices is not None:
        raise ValueError("choices are for several models: give tune a list of pipelines, or leave them out.")
    goal = goal_of(min_psnr, min_ssim, max_lpips, bounds, target_speedup, coverage, min_snr)
    shots = split_clips(prompts, held_out, seed)
    levers = levers if levers is not None else LEVERS if goal.allows_another_picture else KEEPING
    _check(pipe, minutes, levers, known)
    with tempfile.TemporaryDirectory() as scratch, _told(tell, progress) as said:
        folder = Path(journal or out or scratch)
        subject = TuningSubject(pipe, call_arguments or {}, steps, verify)
        tuner = Tuner(subject, goal, shots, folder, said, _first(calibration))
        recipe, comparison = _found(tuner, levers, generic, 60.0 * minutes, None if folder == Path(scratch) else folder)
        if out is not None:
            evidence.save(recipe, comparison, Path(out))
    if recipe.evidence["met"]:
        return recipe
    raise GoalNotMet(_apology(goal, recipe), recipe)


def _first(calibration: Any) -> Calibration | None:
    return next(iter(calibrations(calibration)), None)


def _found(tuner: Tuner, levers: Sequence[str], generic: bool, seconds: float, journal: Path | None) -> JudgedRecipe:
    """The tuner's best recipe when the time is over, or when it is interrupted with one in hand."""
    judge: CandidateJudge | None = None
    try:
        with without_progress_bars(tuner.subject.pipe):
            judge = tuner.prepare(levers, generic, seconds)
            tuner.work(judge)
    except KeyboardInterrupt:
        if judge is None or judge.verified is None:
            raise TuningInterrupted(journal) from None
    found = judge.outcome()
    if found is None:
        raise GoalNotMet("There was no time to measure a single candidate; give more minutes.", None)
    return found


def _over_models(
    pipes: Sequence[Any],
    prompts: Sequence[str],
    verify: Verifier | None,
    choices: Sequence[ModelChoice] | None,
    seed: int,
    call_arguments: Mapping[str, Any] | None,
    out: str | os.PathLike[str] | None,
    tell: Callable[[str], None] | None,
    progress: bool,
) -> ModelFront:
    if verify is None or not pipes:
        raise ValueError("tune over several models needs one or more of them, and verify=..., a score for their clips.")
    for pipe in pipes:
        components_of(pipe)
    with _told(tell, progress) as said:
        return tune_models(
            pipes, prompts, verify, seed=seed, choices=choices, call_arguments=call_arguments, out=out, tell=said
        )


@contextmanager
def _told(tell: Callable[[str], None] | None, progress: bool) -> Iterator[Callable[[str], None]]:
    if tell is not None or not progress:
        yield tell or (lambda text: None)
        return
    with waiting("tuning") as status:
        yield status.update


def _check(pipe: Any, minutes: float, levers: Sequence[str], known: object) -> None:
    components_of(pipe)
    if known is not None:
        raise TypeError(
            "tune has no known= any more, as beginning with earlier tunings gave slower recipes: leave it out."
        )
    if not accepts(pipe, "prompt"):
        raise TypeError(f"tune needs a pipeline that takes a prompt; {type(pipe).__name__} does not.")
    check_arguments(minutes, levers)


def check_arguments(minutes: float, levers: Sequence[str]) -> None:
    """Raises ValueError, in one sentence, for a time or levers that cannot be."""
    if not isinstance(minutes, (int, float)) or not 0.0 < minutes < math.inf:
        raise ValueError(f"minutes must be a number above 0, not {minutes!r}.")
    unknown = [lever for lever in levers if lever not in LEVERS]
    if isinstance(levers, str) or unknown or not levers:
        raise ValueError(f"levers must be some of {', '.join(LEVERS)}, not {levers!r}.")


def _apology(goal: TuningGoal, nearest: Recipe) -> str:
    proof = nearest.evidence
    metric = evidence.leading(proof)
    decibels = proof["quality"][metric]
    kept = [(bound, bound.promise_of(proof["quality"][bound.name]["values"], goal.coverage)) for bound in goal.bounds]
    promised = "".join(f", which promises {bound.name.upper()} {value:.3g}" for bound, value in kept)
    about = evidence.promised_for(goal.coverage, proof["held_out"]["scope"])
    share = f"promised for {about}" if goal.bounds else "reached"
    return (
        f"{goal} cannot be {share} with this time and these levers; what comes nearest is {proof['candidate']}, with "
        f"{proof['speedup']:.2f}x, {metric.upper()} {decibels['mean']:.1f} dB on average and "
        f"{decibels['worst']:.1f} at worst{promised}."
    )
