"""Several levers as one: what a session tells a lever reaches each of them."""

from __future__ import annotations

import inspect
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from accel.call import DenoiserResult
from accel.lever import CompositeLever, InactiveLever, JumpedResult, Lever
from accel.report import LeverReport
from accel.samplers import Euler

HOOKS = [name for name, value in vars(Lever).items() if inspect.isfunction(value) and not name.startswith("_")]
SCHEDULER, MODULE = object(), torch.nn.Identity()
GIVEN: dict[str, Any] = {
    "given": {"steps": 3},
    "components": {},
    "denoisers": {"unet": MODULE},
    "name": "scheduler",
    "scheduler": SCHEDULER,
    "set_timesteps": print,
    "arguments": {"sample": 1},
    "result": "result",
    "call": "call",
    "proceed": lambda call: DenoiserResult(call, "computed", "computed"),
    "calls": [],
    "table": None,
}


class Part(Lever):
    """Notes what it hears, and changes whatever it may."""

    def __init__(self, name: str, heard: list[tuple[str, str, Any]], jumps: bool = False) -> None:
        self.name, self.heard, self.jumps = name, heard, jumps

    def _hear(self, hook: str, what: Any = None) -> None:
        self.heard.append((hook, self.name, what))

    def arguments(self, given):
        self._hear("arguments", dict(given))
        return {self.name: 1}

    def accompany(self, components):
        self._hear("accompany", components)

    def around_call(self):
        self._hear("around_call")
        return nullcontext()

    def begin(self, denoisers):
        self._hear("begin", sorted(denoisers))
        denoisers[f"of {self.name}"] = MODULE

    def after_set_timesteps(self, name, scheduler, set_timesteps, arguments):
        self._hear("after_set_timesteps", (name, scheduler, set_timesteps, arguments))

    def after_step(self, name, scheduler, arguments, result):
        self._hear("after_step", (name, scheduler, arguments, result))
        answer = f"{result}, {self.name}"
        return JumpedResult(answer) if self.jumps else answer

    def rehearsal(self, name, table):
        self._hear("rehearsal", (name, table))
        return lambda scheduler, arguments, result: f"{result}, {self.name}"

    def handle(self, call, proceed):
        self._hear("handle", call)
        return proceed(f"{call} {self.name}")

    def before_evaluation(self, call):
        self._hear("before_evaluation", call)

    def reset(self):
        self._hear("reset")

    def end(self):
        self._hear("end")

    def report(self, calls):
        self._hear("report", calls)
        return LeverReport("sampler", self.name, self.name == "second", f"said by {self.name}", 5)


def both(**jumps: bool) -> tuple[CompositeLever, list[tuple[str, str, Any]]]:
    heard: list[tuple[str, str, Any]] = []
    return CompositeLever(Euler(), [Part(name, heard, jumps.get(name, False)) for name in ("first", "second")]), heard


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_of_a_lever_reaches_every_part_once(hook: str) -> None:
    """A hook that levers are given one day is in `HOOKS` by itself."""
    composite, heard = both()
    wanted = inspect.signature(getattr(composite, hook)).parameters
    getattr(composite, hook)(**{name: GIVEN[name] for name in wanted})
    assert sorted(name for told, name, _ in heard if told == hook) == ["first", "second"]
    assert hook in vars(CompositeLever), "the base class answers for the parts"


def test_all_hooks_are_looked_at() -> None:
    assert {
        "arguments",
        "begin",
        "after_set_timesteps",
        "after_step",
        "rehearsal",
        "handle",
        "before_evaluation",
        "reset",
        "end",
        "report",
    } <= {*HOOKS}


def test_the_first_part_is_outermost_begins_first_and_ends_last() -> None:
    composite, heard = both()
    assert composite.handle("call", GIVEN["proceed"]).output == "call first second"  # type: ignore[arg-type]
    composite.end()
    assert [(hook, name) for hook, name, _ in heard] == [
        ("handle", "first"), ("handle", "second"), ("end", "second"), ("end", "first"),
    ]  # fmt: skip


def test_levers_that_leave_calls_alone_are_not_in_their_way() -> None:
    heard: list[tuple[str, str, Any]] = []
    inner = CompositeLever(Euler(), [Part("first", heard), InactiveLever(Euler(), "it rests")])
    assert len(CompositeLever(None, [InactiveLever(Euler(), "it rests"), inner, Part("second", heard)])._handles) == 2
    assert not CompositeLever(None, [InactiveLever(Euler(), "it rests"), CompositeLever(Euler(), [])])._handles


def test_answers_of_parts_are_joined() -> None:
    composite, heard = both()
    assert composite.arguments({"steps": 3}) == {"first": 1, "second": 1}
    assert composite.after_step("scheduler", SCHEDULER, {}, "result") == "result, first, second"
    assert composite.report([]) == LeverReport("sampler", "Euler()", True, "said by first; said by second", 10)
    composite.begin(denoisers := {"unet": MODULE})
    begun = [what for hook, _, what in heard if hook == "begin"]
    assert begun == [["unet"], ["of first", "unet"]]  # the levers below a stand-in begin with it too
    assert {*denoisers} == {"unet", "of first", "of second"}


@pytest.mark.parametrize(
    ("jumps", "forgets"), [((), []), (("first",), ["second"]), (("first", "second"), ["first", "second"])]
)
def test_where_a_part_jumps_the_others_forget_the_run(jumps: tuple[str, ...], forgets: list[str]) -> None:
    composite, heard = both(**dict.fromkeys(jumps, True))
    answer = "result, first, second"
    assert composite.after_step("scheduler", SCHEDULER, {}, "result") == (JumpedResult(answer) if jumps else answer)
    assert [name for hook, name, _ in heard if hook == "reset"] == forgets


def test_what_parts_make_of_updates_is_made_one_after_the_other() -> None:
    composite, _ = both()
    around: Any = composite.rehearsal("scheduler", GIVEN["table"])
    assert around(SCHEDULER, {}, "result") == "result, first, second"


def test_what_stands_around_a_call_is_nested_as_the_parts_are() -> None:
    heard: list[str] = []

    class Around(InactiveLever):
        @contextmanager
        def around_call(self):
            heard.append(f"{self.reason} in")
            yield
            heard.append(f"{self.reason} out")

    with CompositeLever(None, [Around(Euler(), "first"), Around(Euler(), "second")]).around_call():
        pass
    assert heard == ["first in", "second in", "second out", "first out"]
