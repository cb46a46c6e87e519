"""What a lever is to a session, and the one that leaves the pipeline alone and says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from accel.calls import Call, Outcome, Proceed
from accel.clock import Timetable
from accel.method import Method
from accel.report import CallRecord, LeverReport
from accel.update import Around


class Lever(Protocol):
    """What a lever does with denoiser calls. A session passes each call through its levers, outermost first.

    The order within one pipeline call: begin, arguments, then per run scheduled, reset, and per step the calls and
    stepped, then report and end.
    """

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline is about to be called with these arguments (by name, defaults included): those to replace."""
        return {}

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        """A pipeline call begins with these denoisers: attach what must stand for its duration."""
        return None

    def stand_ins(self) -> Mapping[str, torch.nn.Module]:
        """Asked after `begin`: denoisers of the lever's own, by name, that may answer in place of the pipeline's. The
        levers below begin with them too.
        """
        return {}

    def scheduled(self, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        """The scheduler has chosen the noise levels of a run, asked with these arguments; the lever may call its
        `set_timesteps` again with others.
        """
        return None

    def stepped(self, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        """The scheduler has made the update that it was asked for: its answer, or another in its place."""
        return result

    def rehearsal(self, table: Timetable) -> Around | None:
        """Does what `stepped` does, for copies of the scheduler of this timetable, so that others learn what updates
        are made of. None where `stepped` leaves results alone. Raises `accel.update.Unknown` where it cannot be asked.
        """
        return None

    def jumped(self) -> bool:
        """Asked after `stepped`: whether the answer is the latents of another run, so that all other levers must forget
        this one.
        """
        return False

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        """Answers the call, or lets it `proceed` to the levers below and the denoiser itself."""

    def reset(self) -> None:
        """Forgets the run: another begins, or the pipeline call has ended, by return or by exception."""

    def end(self) -> None:
        """The pipeline call has ended, by return or by exception: take off what `begin` attached."""
        return None

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        """What the lever did in the pipeline call that is ending, which made these denoiser calls."""


class Idle(Lever):
    """What a method becomes where it cannot act: passes every call through. `reason` is one sentence."""

    def __init__(self, method: Method, reason: str) -> None:
        self.method, self.reason = method, reason

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        return proceed(call)

    def reset(self) -> None:
        pass

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport(self.method.lever, str(self.method), engaged=False, reason=self.reason)
