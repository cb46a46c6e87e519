"""The interface of a lever, the composite of several, and the inactive one that only says why it is off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from accel.call import DenoiserCall, DenoiserResult, Proceed
from accel.deferred import read_all
from accel.method import Method
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.timetable import Timetable
from accel.update import Around


class JumpedResult(NamedTuple):
    """Returned by `Lever.after_step` if the latents were replaced by another run's; the other levers then reset."""

    result: Any


class Lever(ABC):
    """What a lever does with denoiser calls. A session passes each call through its levers, outermost first.

    The order within one pipeline call: accompany, begin, around_call, arguments, then per run after_set_timesteps,
    reset, and per step the calls and after_step, then report and end. Whatever a lever does not override costs nothing,
    and no frame in a denoiser call.
    """

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The pipeline is about to be called with these arguments (by name, defaults included): those to replace."""
        return {}

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        """A pipeline call begins with these denoisers: attach what it needs for its duration. A lever that has
        denoisers of its own, to use in place of the pipeline's, adds them here: the levers below begin with them too.
        """
        return None

    def accompany(self, components: Mapping[str, Any]) -> None:
        """The pipeline call that begins next has these parts, its denoisers and all others, by name."""
        return None

    def around_call(self) -> AbstractContextManager[object]:
        """What stands around the pipeline call in its own thread. It is left there too, also where another thread has
        restored the session, and so ended the call, before.
        """
        return nullcontext()

    def after_set_timesteps(
        self, name: str, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        """The pipeline's scheduler of this name has chosen the noise levels of a run, asked with these arguments; the
        lever may call its `set_timesteps` again with others.
        """
        return None

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        """The scheduler of this name has made the update that it was asked for: its output, or another in its place;
        `JumpedResult` around one that leads to another run.
        """
        return result

    def rehearsal(self, name: str, table: Timetable) -> Around | None:
        """Does what `after_step` does, for copies of the scheduler `name` with this timetable, so that others learn
        what updates are made of. None where `after_step` leaves results alone.
        """
        return None

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        """Returns a result of its own, or lets the call `proceed` to the levers below and the denoiser itself."""
        return proceed(call)

    def before_evaluation(self, call: DenoiserCall) -> None:
        """No lever gave an output: the denoiser is about to be evaluated with the call as all levers have left it."""
        return None

    def reset(self) -> None:
        """Forgets the run: another begins, or the pipeline call has ended, by return or by exception."""
        return None

    def end(self) -> None:
        """The pipeline call has ended, by return or by exception: take off what `begin` attached."""
        return None

    @abstractmethod
    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        """What the lever did in the pipeline call that is ending, which made these denoiser calls."""


class CompositeLever(Lever):
    """Several levers as one, the first outermost: all of a session's, or those of one method. Whatever one lever is
    told, it tells all of them; those that do not override `handle` are not in the way of calls.

    Their reports become one of the method, sentence after sentence.
    """

    def __init__(self, method: Method | None, parts: Sequence[Lever]) -> None:
        self.method, self.parts = method, tuple(parts)
        self._handles = [handle for part in self.parts for handle in _handles(part)]
        self._observers = [hear for part in self.parts for hear in _listeners(part)]
        self._updaters = [part for part in self.parts if _updates(part)]

    @property
    def updates(self) -> bool:
        """Whether one of them may have something to say about a scheduler's update."""
        return bool(self._updaters)

    @property
    def answers(self) -> bool:
        """Whether one of them may have something to say about a denoiser call."""
        return bool(self._handles)

    def chain(self) -> Proceed:
        """All of them around the denoiser itself, composed once."""
        return self._around(self._evaluate)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for part in self.parts for name, value in part.arguments(given).items()}

    def accompany(self, components: Mapping[str, Any]) -> None:
        for part in self.parts:
            part.accompany(components)

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        for part in self.parts:
            part.begin(denoisers)

    def around_call(self) -> AbstractContextManager[object]:
        return _nested([part.around_call() for part in self.parts])

    def after_set_timesteps(
        self, name: str, scheduler: Any, set_timesteps: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> None:
        for part in self.parts:
            part.after_set_timesteps(name, scheduler, set_timesteps, arguments)

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        jumped = []
        for part in self._updaters:
            result = part.after_step(name, scheduler, arguments, result)
            if isinstance(result, JumpedResult):
                result = result.result
                jumped.append(part)
        for part in self.parts if jumped else ():
            if any(other is not part for other in jumped):
                part.reset()
        return JumpedResult(result) if jumped else result

    def rehearsal(self, name: str, table: Timetable) -> Around | None:
        asked = (part.rehearsal(name, table) for part in self.parts)
        found = [around for around in asked if around is not None]

        def all_of_them(scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
            for around in found:
                result = around(scheduler, arguments, result)
            return result

        return all_of_them if found else None

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        return self._around(proceed)(call)

    def before_evaluation(self, call: DenoiserCall) -> None:
        for hear in self._observers:
            hear(call)

    def reset(self) -> None:
        for part in self.parts:
            part.reset()

    def end(self) -> None:
        for part in reversed(self.parts):
            part.end()

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        reports, method = [part.report(calls) for part in self.parts], self.method
        reason = "; ".join(report.reason for report in reports if report.reason)
        held = sum(report.extra_bytes for report in reports)
        lever, spared = method.lever if method is not None else "", sum(report.spared for report in reports)
        return LeverReport(lever, str(method or ""), any(one.engaged for one in reports), reason, held, spared)

    def _around(self, proceed: Proceed) -> Proceed:
        for handle in reversed(self._handles):
            proceed = partial(handle, proceed=proceed)
        return proceed

    def _evaluate(self, call: DenoiserCall) -> DenoiserResult:
        for hear in self._observers:
            hear(call)
        call.launch_sizes.append(call.rows)
        given = (call.args, call.kwargs) if call.probed else (read_all(call.args), read_all(call.kwargs))
        call.raw_output = call.forward(*given[0], **given[1])
        return DenoiserResult(call.raw_output, "computed", "computed", Code.COMPUTED)


@contextmanager
def _nested(contexts: Sequence[AbstractContextManager[object]]) -> Iterator[None]:
    with ExitStack() as entered:
        for one in contexts:
            entered.enter_context(one)
        yield


def _handles(lever: Lever) -> Sequence[Callable[..., DenoiserResult]]:
    """What stands in the way of a lever's calls."""
    if isinstance(lever, CompositeLever):
        return lever._handles
    return () if type(lever).handle is Lever.handle else (lever.handle,)


def _listeners(lever: Lever) -> Sequence[Callable[[DenoiserCall], None]]:
    if isinstance(lever, CompositeLever):
        return lever._observers
    return () if type(lever).before_evaluation is Lever.before_evaluation else (lever.before_evaluation,)


def _updates(lever: Lever) -> bool:
    if isinstance(lever, CompositeLever):
        return lever.updates
    return type(lever).after_step is not Lever.after_step


class InactiveLever(Lever):
    """The lever of a method that cannot act here: passes every call through. `reason` is one sentence."""

    def __init__(self, method: Method, reason: str) -> None:
        self.method, self.reason = method, reason

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport(self.method.lever, str(self.method), engaged=False, reason=self.reason)
