"""One front over models: which of several pipelines, with which steps, recipe and switch point, is worth its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel.anatomy import components_of, denoisers_of
from accel.drafting.halving import Scorer
from accel.drafting.seeded_runs import SeededRuns
from accel.journal import Journal
from accel.measure.comparison import call_arguments_of, steps_of
from accel.measure.intervals import of_mean, of_ratio
from accel.measure.measurements import Verifier
from accel.measure.pipeline_runs import attach_for_run, without_progress_bars, work_seconds
from accel.recipe import Recipe
from accel.samplers.model_switch import ModelSwitch

SWITCHES = (0.9, 0.7)  # noise levels where another model may take over
RUNS = "models.jsonl"


@dataclass(frozen=True)
class ModelChoice:
    """One way to make a clip. model: which of the pipelines. steps: None for its own default. recipe: as for
    `accel.accelerate`; a switch to another model is its sampler.
    """

    label: str
    model: int
    steps: int | None = None
    recipe: Any = field(default_factory=Recipe)


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

    results: of all choices that were tried; the first is the base, the first pipeline as it is.
    """

    pipes: tuple[Any, ...] = field(repr=False)
    prompts: tuple[str, ...]
    seed: int
    results: tuple[ChoiceResult, ...]
    call: Mapping[str, Any] = field(default_factory=dict, repr=False)

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
        pipe = self.pipes[choice.model]
        call = self.call if choice.steps is None else {**self.call, "num_inference_steps": choice.steps}
        with attach_for_run(pipe, choice.recipe), without_progress_bars(pipe):
            return SeededRuns(pipe, prompt, call).once(seed)

    def __str__(self) -> str:
        return "\n".join(_line(one, self) for one in self.results)


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
    kept = _KeptRuns(Path(out) / RUNS if out else None, {"seed": seed, "arguments": sorted(map(str, call.items()))})
    front = ModelFront(tuple(pipes), texts, seed, (), call)
    for number, prompt in enumerate(texts):
        score = Scorer(verify, prompt)
        for choice in found:  # taking turns, so that a machine that slows down slows all of them
            if (choice.label, prompt) not in kept.runs:
                tell(f"{choice.label}, prompt {number + 1} of {len(texts)}")
                start = work_seconds(pipes[choice.model])
                output = front.run(choice, prompt, seed)
                seconds = work_seconds(pipes[choice.model]) - start
                kept.add(choice.label, prompt, score(output), seconds)
    rows = (zip(*(kept.runs[one.label, prompt] for prompt in texts), strict=True) for one in found)
    results = [ChoiceResult(one, *row) for one, row in zip(found, rows, strict=True)]
    return ModelFront(tuple(pipes), texts, seed, tuple(results), call)


def default_choices(pipes: Sequence[Any]) -> Iterator[ModelChoice]:
    """Each model as it is, in half its steps and with "fast"; and each other model for a part of the first one's run,
    late or early.
    """
    names = [f"{number}: {_name(pipe)}" for number, pipe in enumerate(pipes)]
    for model, (pipe, name) in enumerate(zip(pipes, names, strict=True)):
        yield ModelChoice(name, model)
        if (steps := steps_of(pipe, None)) > 8:
            yield ModelChoice(f"{name}, {steps // 2} steps", model, steps // 2)
            yield ModelChoice(f"{name}, fast", model, None, "fast")
    for pipe, name in zip(pipes[1:], names[1:], strict=True):
        denoiser = next(iter(dict(denoisers_of(components_of(pipe))).values()))
        for side in ("below", "above"):
            for boundary in SWITCHES:
                switch = Recipe(sampler=ModelSwitch(denoiser, boundary, side))
                yield ModelChoice(f"{names[0]}, {side} {boundary:g} {name}", 0, None, switch)


def _name(pipe: Any) -> str:
    path = str(getattr(pipe, "name_or_path", "") or "")
    return Path(path).name or type(pipe).__name__


class _KeptRuns:
    """Scores and seconds by choice and prompt, in a file where there is a folder: the same call goes on from it."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._journal = Journal(path, settings, _kept_run) if path else None
        self.runs = dict(self._journal.entries) if self._journal else {}

    def add(self, label: str, prompt: str, score: float, seconds: float) -> None:
        self.runs[label, prompt] = (score, seconds)
        if self._journal:
            self._journal.add([label, prompt, score, seconds])


def _kept_run(data: Any) -> tuple[tuple[str, str], tuple[float, float]]:
    label, prompt, score, seconds = data
    return (label, prompt), (float(score), float(seconds))


def _line(one: ChoiceResult, front: ModelFront) -> str:
    low, high = of_mean(one.scores)
    ratio, (least, most) = sum(front.base.seconds) / sum(one.seconds), of_ratio(front.base.seconds, one.seconds)
    mark, score = "*" if one in front.front else " ", f"score {one.score:.2f} [{low:.2f}, {high:.2f}]"
    return f"{mark} {one.choice.label}: {score}, {ratio:.1f}x [{least:.1f}, {most:.1f}]"
