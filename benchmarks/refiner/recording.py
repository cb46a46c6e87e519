"""What a refiner learns from: every call of the denoisers along the pipeline's own runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.call import LATENTS, DenoiserCall, DenoiserResult, Proceed, tensors
from accel.lever import Lever
from accel.method import Method
from accel.recipe import Recipe
from accel.report import CallRecord, LeverReport
from accel.samplers.solvers import PseudoCorrector
from accel.session import Session, bare


@dataclass(frozen=True)
class Point:
    """One denoiser call of a recorded run: what it was given and what it answered."""

    arguments: Mapping[str, Any] = field(repr=False)
    answer: torch.Tensor = field(repr=False)
    sigma: float


Stream = list[Point]
Run = dict[tuple[str, str], Stream]  # by denoiser and stream, each in the order of the run


@dataclass(frozen=True)
class Listening(Method, lever="cache", abstract=True):
    """A listener in the place of a cache: it hears what the denoiser itself is asked. Not a method for recipes."""

    run: Run = field(default_factory=dict)

    def build(self, anatomy: Anatomy) -> Lever:
        return Listener(self.run)


class Listener(Lever):
    """Computes every call and keeps its arguments and its answer, on the host."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        # Whatever is the same in all calls, such as prompts, is kept once: moving a tensor of the host copies nothing.
        name = next(name for name in LATENTS if call.arguments.get(name) is not None)
        arguments = {key: _on_host(value) for key, value in call.arguments.items()}
        if not isinstance(arguments[name], torch.Tensor):
            raise ValueError(f"{type(call.module).__name__} takes its latents as a list, and no refiner can do that.")
        arguments[name] = arguments[name].clone()
        outcome = proceed(call)
        answers = tensors(outcome.output)
        if len(answers) != 1:
            raise ValueError(f"{type(call.module).__name__} answers with {len(answers)} tensors; a refiner has one.")
        point = Point(arguments, answers[0].detach().float().cpu().clone(), call.context.sigma)
        self._run.setdefault((call.denoiser, call.stream), []).append(point)
        return outcome

    def reset(self) -> None:
        pass

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport("cache", "recording", engaged=False, reason=f"{len(calls)} calls recorded")


def recorded(
    pipe: Any,
    prompts: Sequence[str],
    step_counts: Sequence[int],
    batch: int,
    learnt: int,
    seed: int,
    say: Callable[[str], None],
    options: Mapping[str, Any],
) -> Iterator[tuple[bool, Run]]:
    """One run for every `batch` prompts, and whether it is to be learnt from (the first `learnt` prompts are)."""
    groups = [prompts[first : min(first + batch, learnt)] for first in range(0, learnt, batch)]
    groups += [prompts[first : first + batch] for first in range(learnt, len(prompts), batch)]
    for number, group in enumerate(groups):
        say(f"recording run {number + 1} of {len(groups)}")
        listening = Listening()
        settings = {"output_type": "latent"} | dict(options)
        settings["num_inference_steps"] = step_counts[number % len(step_counts)]
        settings["generator"] = torch.Generator().manual_seed(seed + number)
        with bare(pipe), Session(pipe, Recipe(sampler=PseudoCorrector(), cache=listening)):
            pipe(list(group), **settings)
        yield number * batch < learnt, listening.run


def _on_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return value.float() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _on_host(item) for key, item in value.items()}
    return type(value)(_on_host(item) for item in value) if type(value) in (list, tuple) else value
