"""A tiny pipeline that a test is given is a copy: it is as one that was made for this test, and the test's alone."""

from __future__ import annotations

import gc
import re
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DiffusionPipeline

from tests.tiny import TINY, TinyPipeline, run
from tests.tiny.conditioned import CONDITIONED
from tests.tiny.guiders import GUIDERS
from tests.tiny.unusual import UNUSUAL
from tests.tiny.zoo import ZOO

ALL: dict[str, TinyPipeline] = TINY | CONDITIONED | GUIDERS | UNUSUAL | ZOO
EVERYBODYS = (type, ModuleType, FunctionType, BuiltinFunctionType, Enum, torch.dtype, torch.device)
UNCHANGEABLE = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, property, np.generic, re.Pattern)

every_pipeline = pytest.mark.parametrize("name", ALL)


def reached(pipe: DiffusionPipeline) -> dict[int, Any]:
    """All objects that one comes to from a pipeline, but for what every program shares."""
    found: dict[int, Any] = {}
    ahead: list[Any] = [pipe]
    while ahead:
        one = ahead.pop()
        if isinstance(one, FunctionType):
            ahead += [cell.cell_contents for cell in one.__closure__ or ()]
        if id(one) not in found and not isinstance(one, EVERYBODYS):
            found[id(one)] = one
            ahead += gc.get_referents(one)
    return found


def memory(objects: dict[int, Any]) -> set[int]:
    return {one.untyped_storage().data_ptr() for one in objects.values() if torch.is_tensor(one) and one.numel()}


@pytest.mark.part(3)
@every_pipeline
def test_two_pipelines_share_nothing_that_can_change(name: str) -> None:
    one, other = (reached(ALL[name].build()) for _ in range(2))
    assert [shared for key, shared in one.items() if key in other and not isinstance(shared, UNCHANGEABLE)] == []
    assert memory(one) and not memory(one) & memory(other)


@pytest.mark.part(3)
@every_pipeline
def test_it_gives_what_one_that_was_made_anew_gives_however_the_last_one_was_treated(name: str) -> None:
    tiny = ALL[name]
    spoilt = tiny.build()
    run(spoilt, tiny, steps=2)
    for part in spoilt.components.values():
        if isinstance(part, torch.nn.Module):
            part.register_forward_pre_hook(lambda *_: pytest.fail("a hook of another pipeline"))
            for parameter in part.parameters():
                parameter.data.zero_()
    built, made = tiny.build(), tiny.make()
    assert torch.equal(run(built, tiny, steps=4).nan_to_num(), run(made, tiny, steps=4).nan_to_num())


@pytest.mark.part(3)
@every_pipeline
def test_it_has_the_parts_the_settings_and_the_weights_of_one_that_was_made_anew(name: str) -> None:
    built, made = ALL[name].build().components, ALL[name].make().components
    assert {key: type(part) for key, part in built.items()} == {key: type(part) for key, part in made.items()}
    for key, part in built.items():
        if isinstance(part, ConfigMixin):
            assert part.to_json_string() == made[key].to_json_string()
        if isinstance(part, torch.nn.Module):
            assert repr(part) == repr(made[key])
            weights, others = part.state_dict(), made[key].state_dict()
            assert list(weights) == list(others)
            assert all(torch.equal(weights[path], others[path]) for path in weights)
            assert [each.requires_grad for each in part.parameters()] == [
                each.requires_grad for each in made[key].parameters()
            ]


def test_to_build_one_moves_no_random_state() -> None:
    TINY["wan"].build()
    before = torch.get_rng_state()
    TINY["wan"].build()
    assert torch.equal(torch.get_rng_state(), before)
