"""Arguments by name are those that Python would bind, and each signature is read once in a pipeline call."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import patch

import pytest

import accel
from accel import call_forms
from accel.call_forms import CallForms
from tests.tiny import TINY, run


class Scheduler:
    def step(self, model_output: int, timestep: int, sample: int, eta: float = 0.0, *, generator: Any = None) -> Any:
        return model_output, timestep, sample, eta, generator

    def open(self, model_output: int, *more: int, **options: Any) -> Any:
        return model_output, more, options


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("step", (1, 2, 3), {}),
    ("step", (1, 2, 3, 0.5), {"generator": "g"}),
    ("step", (), {"sample": 3, "model_output": 1, "timestep": 2}),
    ("step", (1,), {"sample": 3, "timestep": 2, "eta": 1.0}),
    ("open", (1, 2, 3), {}),
    ("open", (), {"model_output": 1, "other": 2}),
]
every_call = pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)


@every_call
def test_arguments_have_the_names_that_python_gives_them(name: str, args: Any, kwargs: Any) -> None:
    method = getattr(Scheduler(), name)
    bound = inspect.signature(method).bind(*args, **kwargs)
    bound.apply_defaults()
    expected = dict(bound.arguments)
    expected |= expected.pop("options", {})
    forms = CallForms()
    assert forms.named(method, args, kwargs) == expected
    assert forms.named(getattr(Scheduler(), name), args, kwargs) == expected  # as it was read


@every_call
def test_one_argument_is_replaced_where_it_stands(name: str, args: Any, kwargs: Any) -> None:
    method = getattr(Scheduler(), name)
    changed, others = CallForms().with_argument(method, args, kwargs, "model_output", 9)
    assert method(*changed, **others) == (9, *method(*args, **kwargs)[1:])
    assert (len(changed), set(others)) == (len(args), set(kwargs))


def test_a_call_that_the_method_refuses_has_no_names() -> None:
    assert CallForms().named(Scheduler().step, (1,), {"nothing": 2}) == {}


@pytest.mark.parametrize("steps", [4, 8])
def test_signatures_are_read_once_in_a_pipeline_call_however_many_its_steps(steps: int) -> None:
    pipe = TINY["wan"].build()
    reading = patch.object(call_forms, "signature", side_effect=inspect.signature)
    with accel.accelerate(pipe, accel.Recipe(sampler=accel.UniPC())), reading as read:
        run(pipe, TINY["wan"], steps=steps)
    assert 1 <= read.call_count <= 3
