"""Ends a run early, at the clean estimate, on any pipeline.

No pipeline can be paused, and every one decodes in its own way. So it is not interrupted: from the step on at which
the run ends, the scheduler hands on the clean estimate, and the denoiser is asked for nothing any more. The pipeline
goes through the rest of its loop for free and decodes what it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.call import copied, noise_part, tensors
from accel.call_forms import CallForms
from accel.components import original, schedulers_of
from accel.drafting.call_memory import Part, networks_of, rows_of
from accel.drafting.own_layers import Slot, own_layers
from accel.parametrization import clean_from_output
from accel.patch import Around, forward_of
from accel.report import CallRecord
from accel.session import Session
from accel.step_result import sample_of, with_sample

Sizes = tuple[tuple[int, ...], ...]
Asked = tuple[type, Sizes]


class EarlyEnd:
    """Where one run ends.

    share: of the run, more than 0, and on to the next step behind a computed one: a computed output that corrects
    forecasts says nothing of the clean estimate, and a forecast of long ago little. At 1 it goes to its end.
    foresee: levers go on deciding after the end, on outputs that stay the same, so that `per_step` tells how many
    samples each step would have evaluated: what a schedule that is planned before the run computes, and the least that
    any other does.
    """

    def __init__(self, share: float, *, foresee: bool = False) -> None:
        self.share, self.ended, self._foresee = share, False, foresee
        self._per_step: list[int] = [0]  # the last is of the step at hand
        self._first: int | None = None
        self._computed = True  # the last step
        self._last: dict[Asked, Any] = {}  # what denoisers answered last
        self._result: Any = None
        self._handed: Any = None  # what the last step gave the pipeline

    @property
    def latents(self) -> torch.Tensor:
        """What the pipeline decoded, when the run is over: the clean estimate or, at a share of 1, the last sample."""
        if self._handed is None:
            raise ValueError("This pipeline steps a copy of its scheduler, so its latents are not seen.")
        return sample_of(self._handed)

    @property
    def per_step(self) -> tuple[int, ...]:
        """The samples that denoisers were asked about in each step, when the run is over."""
        return tuple(self._per_step[:-1]) or tuple(self._per_step)

    @property
    def unaccelerated(self) -> int:
        """The samples that denoisers evaluate in a run without levers: every step as the one that evaluates most."""
        return max(max(self.per_step) * len(self.per_step), 1)

    def evaluate(self, name: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Around a denoiser, below the session."""
        latents = part.latents(args, kwargs)
        asked = _asked(part, latents)
        self._per_step[-1] += rows_of(latents)
        if self.ended and asked in self._last:
            return copied(self._last[asked])
        answer = inner(*args, **kwargs)
        self._last[asked] = copied(answer)
        return answer

    def denoise(self, name: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Around a denoiser, above the session: after the end it is asked no more where the last answer fits. Where
        levers ask about another size, the last answer about that one reaches them, of which they make one that fits.
        """
        if not self.ended or self._foresee:
            return inner(*args, **kwargs)
        known = self._last.get(_asked(part, part.latents(args, kwargs)))
        return inner(*args, **kwargs) if known is None else copied(known)

    def step(
        self, session: Session, name: str, scheduler: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Around a scheduler's step, above the session."""
        self._handed = self._stepped(session, name, scheduler, inner, *args, **kwargs)
        return self._handed

    def _stepped(
        self, session: Session, name: str, scheduler: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        self._per_step.append(0)
        if self.ended and not self._foresee:
            return copied(self._result)
        calls = session.report().calls
        last = calls[-1] if calls else None
        result = inner(*args, **kwargs)
        if last and not self.ended and self._is_last(last, len(scheduler.timesteps)):
            given = CallForms().named(inner, args, kwargs)
            clean = scheduler_input(session, name, given).clean.to(given["sample"].dtype)
            self._result = copied(with_sample(result, clean))
            self.ended = True
        return copied(self._result) if self.ended else result

    def _is_last(self, call: CallRecord, total: int) -> bool:
        done, after_computed = call.position + 1, self._computed
        self._computed = call.action == "computed"
        first = self._first = call.position if self._first is None else self._first
        return done >= first + steps_of(self.share, total - first) and done < total and after_computed


def below(pipe: Any, end: Slot[EarlyEnd]) -> AbstractContextManager[None]:
    """Around the denoisers for the duration of the block, in which the session is attached."""

    def evaluate(name: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return end.value.evaluate(name, part, inner, *args, **kwargs)

    return own_layers(around_denoisers(pipe, evaluate))


def above(session: Session, end: Slot[EarlyEnd]) -> AbstractContextManager[None]:
    """Around the denoisers and the steps, on top of the session, for the duration of the block."""

    def denoise(name: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return end.value.denoise(name, part, inner, *args, **kwargs)

    def step(name: str, scheduler: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return end.value.step(session, name, scheduler, inner, *args, **kwargs)

    steps = ((one, "step", partial(step, name, one)) for name, one in schedulers_of(session.parts))
    return own_layers([*around_denoisers(session.pipe, denoise), *steps])


def around_denoisers(pipe: Any, around: Around) -> Iterator[tuple[Any, str, Around]]:
    """Layers for `own_layers` that call around(name, part, inner, ...) for each denoiser."""
    for name, part in networks_of(pipe):
        if part.denoises:
            yield part.module, forward_of(part.module), partial(around, name, part)


def _asked(part: Part, latents: Any) -> Asked:
    """A denoiser's class and the latents' sizes: of two experts that take turns (Wan 2.2) one answers for both."""
    return type(original(part.module)), sizes_of(latents)


def sizes_of(latents: Any) -> Sizes:
    """The shapes of the latents that a denoiser is asked about."""
    return tuple(tuple(one.shape) for one in tensors(latents))


def steps_of(share: float, steps: int) -> int:
    """The steps in this share of a run, at least one."""
    return max(1, math.ceil(share * steps - 1e-9))


class SchedulerInput(NamedTuple):
    """What a scheduler's update is given: the denoiser's output, and the sample as an input of unit variance or of a
    flow.
    """

    output: torch.Tensor
    latents: torch.Tensor
    sigma: float
    kind: str  # what the scheduler takes the output to be

    @property
    def clean(self) -> torch.Tensor:
        """The clean estimate, in float32."""
        return clean_from_output(self.output, self.latents, self.sigma, self.kind)


def scheduler_input(session: Session, scheduler: str, given: dict[str, Any]) -> SchedulerInput:
    """What the present update of the scheduler of this name starts from.

    given: the arguments of `step`. Raises ValueError where it is not known what the output says.
    """
    output, sample = given.get("model_output"), given.get("sample")
    anatomy, calls = session.anatomy, session.report().calls
    if not (isinstance(output, torch.Tensor) and isinstance(sample, torch.Tensor) and calls):
        raise ValueError(_unknown(anatomy, scheduler))
    kind = anatomy.received.get(scheduler, "unknown")
    output = noise_part(output, sample) if output.shape != sample.shape else output
    if kind == "unknown" or output is None:
        raise ValueError(_unknown(anatomy, scheduler))
    sigma = calls[-1].sigma
    unit = sample / math.sqrt(1.0 + sigma * sigma) if anatomy.samples.get(scheduler) == "exploding" else sample
    return SchedulerInput(output, unit, sigma, kind)


def _unknown(anatomy: Anatomy, scheduler: str) -> str:
    kind = anatomy.schedulers.get(scheduler, scheduler)
    return (
        f"A run of {anatomy.pipeline} has no clean estimate in between, because accel does not know what {kind} takes "
        "the denoiser's output to be: look at whole runs (share=1.0, looks=())."
    )
