"""What a lever is to a session, and the one that leaves the pipeline alone and says why."""

from __future__ import annotations

from typing import Protocol

from accel.calls import Call, Outcome, Proceed
from accel.method import Method
from accel.report import LeverReport


class Lever(Protocol):
    """What a lever does with denoiser calls. A session passes each call through its levers, outermost first."""

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        """Answers the call, or lets it `proceed` to the levers below and the denoiser itself."""

    def reset(self) -> None:
        """Forgets everything: a pipeline call begins or has ended, by return or by exception."""

    def report(self) -> LeverReport:
        """What the lever did in the call that is ending."""


class Idle:
    """What a method becomes where it cannot act: passes every call through. `reason` is one sentence."""

    def __init__(self, method: Method, reason: str) -> None:
        self.method, self.reason = method, reason

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        return proceed(call)

    def reset(self) -> None:
        pass

    def report(self) -> LeverReport:
        return LeverReport(self.method.lever, str(self.method), engaged=False, reason=self.reason)
