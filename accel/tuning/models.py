"""One front over models: which of several pipelines, with which steps, recipe and switch point, is worth its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accel.components import components_of, denoisers_of
from accel.drafting.scorer import Scorer
from accel.drafting.seeded_runs import SeededRuns
from accel.journal import Journal
from accel.measure.call_arguments import call_arguments_of, steps_of
from accel.measure.intervals import of_mean, of_ratio
from accel.measure.measurements import Verifier
from accel.measure.pipeline_runs import attach_for_run, without_progress_bars, work_seconds
from accel.presets import resolve
from accel.recipe import Recipe
from accel.samplers.model_switch import ModelSwitch
from accel.tuning.clip_split import PromptSeed
from accel.tuning.space import settings

SWITCHES = (0.9, 0.7)  # noise levels where another model may take over
RUNS = "models.jsonl"


@dataclass(frozen=True)
class ModelChoice:
    """One way to make a clip. model: which of the pipelines. steps: None for its own default. recipe: as for
    `accel.accelerate`; a switch to another model is its sampler. beside: the label of a choice before it, to which it
    adds a lever that only saves time: where the first prompt shows that this does nothing, or is no faster, no other
    prompt is run.
    """

    label: str
    model: int
    steps: int | None = None
    recipe: Any = field(default_factory=Recipe)
    beside: str = ""


@dataclass(frozen=True)
class ChoiceResult:
    """One choice on all prompts: scores, and processor or GPU seconds, in the order of the prompts."""

    choice: ModelChoice
    scores: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def score(self) -> float:
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class ModelFront:
    """What `accel.tune` finds for several models: every choice of model, steps, recipe and switch point, run on every
    prompt and scored by `verify` (what `accel.best_of` takes as its verifier), because switched and distilled models
    make other clips, of which PSNR says nothing. `accel.tuning.route.Route` learns from it which prompt needs which.

    seeds: each prompt has one of its own, because what one noise shows does not hold for others.
    results: of all choices that were tried on every prompt; the first is the base, the first pipeline as it is.
    left_out: why others were not, by their labels.
    """

    pipes: tuple[Any, ...] = field(repr=False)
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    results: tuple[ChoiceResult, ...]
    call: Mapping[str, Any] = field(default_factory=dict, repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def shots(self) -> list[PromptSeed]:
        """Each prompt with its seed."""
        return [PromptSeed(*shot) for shot in zip(self.prompts, self.seeds, strict=True)]

    @property
    def base(self) -> ChoiceResult:
        return self.results[0]

    @property
    def front(self) -> list[ChoiceResult]:
        """Those that no other beats in both, from the cheapest to the best."""
        kept: list[ChoiceResult] = []
        for one in sorted(self.results, key=lambda one: (sum(one.seconds), -one.score)):
            if not kept or one.score > kept[-1].score:
                kept.append(one)
        return kept

    def fastest(self, below: float = 0.0) -> ChoiceResult:
        """The fastest whose mean score is that of the base, or at most `below` less, on these prompts."""
        enough = [one for one in self.results if one.score >= self.base.score - below]
        return min(enough, key=lambda one: sum(one.seconds))

    def run(self, choice: ModelChoice, prompt: str | None, seed: int) -> Any:
        """What the pipeline of this choice returns."""
        return self.reported(choice, prompt, seed)[0]

    def reported(self, choice: ModelChoice, prompt: str | None, seed: int) -> tuple[Any, str]:
        """The same, and why levers of the recipe did nothing, if there are such."""
        pipe = self.pipes[choice.model]
        call = self.call if choice.steps is None else {**self.call, "num_inference_steps": choice.steps}
        with attach_for_run(pipe, choice.recipe) as session, without_progress_bars(pipe):
            output = SeededRuns(pipe, prompt, call).once(seed)
            return output, "; ".join(lever.reason for lever in session.report().levers if not lever.engaged)

    def __str__(self) -> str:
        lines = [_line(one, self) for one in self.results]
        return "\n".join([*lines, *(f"  left out, {label}: {why}" for label, why in self.left_out.items())])


def tune_models(
    pipes: Sequence[Any],
    prompts: Sequence[str],
    verify: Verifier,
    *,
    seed: int = 0,
    choices: Sequence[ModelChoice] | None = None,
    call_arguments: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> ModelFront:
    """Runs every choice on every prompt and scores what it makes; see `accel.tune`."""
    if not prompts or isinstance(prompts, str):
        raise ValueError('prompts must be a list of one or more strings, such as ["a corgi surfing"].')
    found, texts = tuple(choices or default_choices(pipes)), tuple(prompts)
    if len({one.label for one in found}) != len(found):
        raise ValueError("Two choices have the same label: give each one of its own.")
    call = call_arguments_of(pipes[0], call_arguments or {})
    shared = {"first_seed": seed, "arguments": sorted(map(str, call.items()))}
    runs = Journal(Path(out) / RUNS if out else None, shared, ChoiceRun)
    front = ModelFront(tuple(pipes), texts, tuple(range(seed, seed + len(texts))), (), call)
    for number, (prompt, own) in enumerate(front.shots):
        score = Scorer(verify, prompt)
        for choice in found:  # taking turns, so that a machine that slows down slows all of them
            if (choice.label, prompt, own) not in runs:
                tell(f"{choice.label}, prompt {number + 1} of {len(texts)}")
                runs.add(_run(front, choice, prompt, own, score))
        if number == 0:
            left_out = {one.label: why for one in found if (why := _in_vain(one, prompt, own, runs))}
            found = tuple(one for one in found if one.label not in left_out)
    results = tuple(_result(one, [runs[one.label, *shot] for shot in front.shots]) for one in found)
    return replace(front, results=results, left_out=left_out)


def _run(front: ModelFront, choice: ModelChoice, prompt: str, seed: int, score: Scorer) -> ChoiceRun:
    pipe = front.pipes[choice.model]
    start = work_seconds(pipe)
    output, idle = front.reported(choice, prompt, seed)
    seconds = work_seconds(pipe) - start
    return ChoiceRun(choice.label, prompt, seed, score(output), seconds, idle)


def _result(choice: ModelChoice, runs: Sequence[ChoiceRun]) -> ChoiceResult:
    return ChoiceResult(choice, tuple(run.score for run in runs), tuple(run.seconds for run in runs))


def _in_vain(choice: ModelChoice, prompt: str, seed: int, runs: Journal[ChoiceRun]) -> str:
    """Why a choice that adds a lever to another saves no time, by one run of each; nothing where it may."""
    own, other = runs[choice.label, prompt, seed], runs.get((choice.beside, prompt, seed))
    if other is None:
        return ""
    return own.idle or ("" if own.seconds < other.seconds else f"it is no faster than {choice.beside}")


def default_choices(pipes: Sequence[Any]) -> Iterator[ModelChoice]:
    """Each model as it is, in half its steps and with "fast", alone and beside each method of attention and resolution;
    and each other model for a part of the first one's run, late or early.
    """
    names = [f"{number}: {_name(pipe)}" for number, pipe in enumerate(pipes)]
    for model, (pipe, name) in enumerate(zip(pipes, names, strict=True)):
        yield ModelChoice(name, model)
        if (steps := steps_of(pipe, None)) > 8:
            yield ModelChoice(f"{name}, {steps // 2} steps", model, steps // 2)
            yield ModelChoice(f"{name}, fast", model, None, "fast")
            for method in (*settings("resolution"), *settings("attention")):
                changed: dict[str, Any] = {method.lever: method, "name": ""}
                recipe = replace(resolve("fast"), **changed)
                yield ModelChoice(f"{name}, fast, {method}", model, None, recipe, f"{name}, fast")
    for pipe, name in zip(pipes[1:], names[1:], strict=True):
        denoiser = next(iter(dict(denoisers_of(components_of(pipe))).values()))
        for side in ("below", "above"):
            for boundary in SWITCHES:
                switch = Recipe(sampler=ModelSwitch(denoiser, boundary, side))
                yield ModelChoice(f"{names[0]}, {side} {boundary:g} {name}", 0, None, switch)


def _name(pipe: Any) -> str:
    path = str(getattr(pipe, "name_or_path", "") or "")
    return Path(path).name or type(pipe).__name__


@dataclass(frozen=True)
class ChoiceRun:
    """One run of a choice. idle: why levers of it did nothing; nothing where all acted."""

    label: str
    prompt: str
    seed: int
    score: float
    seconds: float
    idle: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.label, self.prompt, self.seed


def _line(one: ChoiceResult, front: ModelFront) -> str:
    low, high = of_mean(one.scores)
    ratio, (least, most) = sum(front.base.seconds) / sum(one.seconds), of_ratio(front.base.seconds, one.seconds)
    mark, score = "*" if one in front.front else " ", f"score {one.score:.2f} [{low:.2f}, {high:.2f}]"
    return f"{mark} {one.choice.label}: {score}, {ratio:.1f}x [{least:.1f}, {most:.1f}]"
