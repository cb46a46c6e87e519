"""Ends a run early, at the clean estimate, on any pipeline.

No pipeline can be paused, and every one decodes in its own way. So it is not interrupted: from the step on at which
the run ends, the scheduler hands on the clean estimate, and the denoiser is asked for nothing any more. The pipeline
goes through the rest of its loop for free and decodes what it has.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from accel.anatomy import Anatomy, schedulers_of
from accel.call import noise_part
from accel.drafting.call_memory import copied, networks_of, rows_of
from accel.drafting.own_layers import forward_of, own_layers
from accel.parametrization import clean_from_output
from accel.samplers.stepper import with_sample
from accel.session import Session


class EarlyEnd:
    """Where one run ends, and what it would have cost to go on.

    share: of the run, more than 0; at 1 it goes to its end as always. `planned[step]` is how many samples were
    evaluated in that step, or would have been after the end: levers go on deciding, on outputs that stay the same, so
    this is what a schedule that is planned before the run computes, and the least that any other does.
    """

    def __init__(self, share: float) -> None:
        self.share, self.ended = share, False
        self.planned: list[int] = [0]  # the last is of the step at hand
        self._first: int | None = None
        self._last: dict[tuple[str, int], Any] = {}
        self._clean: torch.Tensor | None = None

    @property
    def per_step(self) -> tuple[int, ...]:
        """`planned` of the run's steps, when it is over."""
        return tuple(self.planned[:-1]) or tuple(self.planned)

    @contextmanager
    def below(self, pipe: Any) -> Iterator[None]:
        """Around the denoisers, below the session that is going to be attached."""
        plan = [
            (part.module, forward_of(part.module), partial(self._denoise, name, part.names))
            for name, part in networks_of(pipe)
            if part.denoises
        ]
        with own_layers(plan):
            yield

    @contextmanager
    def above(self, session: Session) -> Iterator[None]:
        """Around the steps, above the session."""
        schedulers = schedulers_of(session.parts)
        with own_layers((one, "step", partial(self._step, session, name, one)) for name, one in schedulers):
            yield

    def _denoise(self, name: str, names: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        rows = rows_of(names, args, kwargs)
        self.planned[-1] += rows
        if self.ended and (name, rows) in self._last:
            return copied(self._last[name, rows])
        answer = inner(*args, **kwargs)
        self._last[name, rows] = copied(answer)
        return answer

    def _step(
        self, session: Session, name: str, scheduler: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        position = self._position(session)
        result = inner(*args, **kwargs)
        self.planned.append(0)
        if not self.ended and self._is_last(position, len(scheduler.timesteps)):
            given = inspect.signature(inner).bind(*args, **kwargs).arguments
            self._clean = clean_latents(session, name, given)
            self.ended = True
        return result if self._clean is None else with_sample(result, self._clean)

    def _position(self, session: Session) -> int:
        calls = session.report().calls
        position = calls[-1].position if calls else 0
        self._first = position if self._first is None else self._first
        return position

    def _is_last(self, position: int, total: int) -> bool:
        first = self._first or 0
        reached = first + max(1, math.ceil(self.share * (total - first) - 1e-9))
        return position + 1 >= reached and position + 1 < total


def clean_latents(session: Session, scheduler: str, given: dict[str, Any]) -> torch.Tensor:
    """The clean estimate that the scheduler's present update starts from, in the dtype of its sample.

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
    return clean_from_output(output, unit, sigma, kind).to(sample.dtype)


def _unknown(anatomy: Anatomy, scheduler: str) -> str:
    kind = anatomy.schedulers.get(scheduler, scheduler)
    return (
        f"A run of {anatomy.pipeline} cannot be ended early, because accel does not know what {kind} takes the "
        "denoiser's output to be: look at whole runs (share=1.0, looks=())."
    )
