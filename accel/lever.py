"""What a lever is to a session, and the one that leaves the pipeline alone and says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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

    def scheduled(
        self, name: str, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        """The pipeline's scheduler of this name has chosen the noise levels of a run, asked with these arguments; the
        lever may call its `set_timesteps` again with others.
        """
        return None

    def stepped(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        """The scheduler of this name has made the update that it was asked for: its answer, or another in its place."""
        return result

    def rehearsal(self, name: str, table: Timetable) -> Around | None:
        """Does what `stepped` does, for copies of the scheduler `name` with this timetable, so that others learn what
        updates are made of. None where `stepped` leaves results alone.
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


def rehearsal(levers: Sequence[Lever], name: str, table: Timetable) -> Around | None:
    """What several levers make of the updates of copies of a scheduler, one after the other."""
    asked = (lever.rehearsal(name, table) for lever in levers)
    found = [around for around in asked if around is not None]

    def all_of_them(scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        for around in found:
            result = around(scheduler, arguments, result)
        return result

    return all_of_them if found else None


class Composite(Lever):
    """Several levers of one method as one, the first outermost; whatever a session tells a lever, it tells all of them.

    Their reports become one, sentence after sentence.
    """

    def __init__(self, method: Method, parts: Sequence[Lever]) -> None:
        self.method, self.parts = method, tuple(parts)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for part in self.parts for name, value in part.arguments(given).items()}

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        for part in self.parts:
            part.begin(denoisers)
            denoisers = {**denoisers, **part.stand_ins()}

    def stand_ins(self) -> Mapping[str, torch.nn.Module]:
        return {name: module for part in self.parts for name, module in part.stand_ins().items()}

    def scheduled(
        self, name: str, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        for part in self.parts:
            part.scheduled(name, scheduler, set_timesteps, arguments)

    def stepped(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        for part in self.parts:
            result = part.stepped(name, scheduler, arguments, result)
        return result

    def rehearsal(self, name: str, table: Timetable) -> Around | None:
        return rehearsal(self.parts, name, table)

    def jumped(self) -> bool:
        jumped = [part for part in self.parts if part.jumped()]
        for part in self.parts if jumped else ():
            if any(other is not part for other in jumped):
                part.reset()
        return bool(jumped)

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        for part in reversed(self.parts):
            proceed = partial(part.handle, proceed=proceed)
        return proceed(call)

    def reset(self) -> None:
        for part in self.parts:
            part.reset()

    def end(self) -> None:
        for part in reversed(self.parts):
            part.end()

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        reports = [part.report(calls) for part in self.parts]
        reason = "; ".join(report.reason for report in reports if report.reason)
        held = sum(report.extra_bytes for report in reports)
        return LeverReport(self.method.lever, str(self.method), any(one.engaged for one in reports), reason, held)


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
