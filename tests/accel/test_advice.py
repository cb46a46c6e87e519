"""What an idle method advises can be done: whoever follows it never ends at another "not here"."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest

from accel import EasyCache
from accel.anatomy import Anatomy, inspect
from accel.lever import InactiveLever
from accel.method import Method
from accel.recipe import LEVERS
from accel.samplers import Euler
from accel.samplers.scheduler_swap import SCHEDULERS, DiffusersScheduler
from tests.accel.witness import pipeline
from tests.tiny import TINY

ADVICE = re.compile(r"\b(?:take|use|such as)\b(.*)", re.DOTALL)
NAMES = re.compile(r"\b([A-Z][A-Za-z0-9]+)(?:\('(\w+)'\))?")

# Pipelines that predict noise, a velocity of a flow, and v: each is tried with all schedulers of diffusers.
WITH_EVERY_SCHEDULER = ("sdxl", "sd3", "cogvideox")


def anatomies() -> Iterator[Any]:
    for name in TINY:
        yield pytest.param(name, None, id=name)
    every = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax"))
    for name in WITH_EVERY_SCHEDULER:
        yield from (pytest.param(name, other, id=f"{name} with {other}") for other in every)


def anatomy_with(name: str, scheduler: str | None) -> Anatomy | None:
    """The pipeline's anatomy with a scheduler of another class, or None where that cannot be made for it."""
    pipe = pipeline(name)
    if scheduler is None:
        return inspect(pipe)
    own = pipe.scheduler
    try:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(own.config)
        return inspect(pipe)
    except Exception:  # needs other packages, or settings that this model has not got
        return None
    finally:
        pipe.scheduler = own


@functools.cache
def methods() -> list[Method]:
    """Every method as it is without settings, and those whose settings name a class, with each of them."""
    found: list[Method] = []
    for lever in LEVERS:
        for kind in Method.registry.get(lever, {}).values():
            if not kind.__module__.startswith("accel."):  # other tests have methods of their own
                continue
            try:
                found.append(kind())
            except (TypeError, ValueError):  # a calibration, a bank or a file belongs to it
                continue
    found += [DiffusersScheduler(scheduler=name) for name in SCHEDULERS]
    return found + [Euler(sigmas=kind()) for kind in Method.registry["sigmas"].values() if _made(kind)]


def _made(build: Any) -> bool:
    try:
        build()
    except (TypeError, ValueError):
        return False
    return True


def advised(sentence: str) -> Iterator[Method]:
    """The methods that a sentence tells the user to take."""
    found = ADVICE.search(sentence)
    for name, argument in NAMES.findall(found[1]) if found else []:
        if name in Method.registry["sigmas"]:
            yield Euler(sigmas=Method.registry["sigmas"][name]())
        elif name in SCHEDULERS:
            yield DiffusersScheduler(scheduler=name)
        elif any(name in Method.registry.get(lever, {}) for lever in LEVERS):
            kind = next(Method.registry[lever][name] for lever in LEVERS if name in Method.registry.get(lever, {}))
            yield kind(argument) if argument else kind()


@pytest.mark.part(6)
@pytest.mark.parametrize(("name", "scheduler"), anatomies())
def test_whatever_is_advised_is_applicable(name: str, scheduler: str | None) -> None:
    anatomy = anatomy_with(name, scheduler)
    if anatomy is None:
        pytest.skip("diffusers does not make this scheduler from these settings")
    for method in methods():
        if scheduler is not None and method.lever != "sampler":
            continue
        lever = method.build(anatomy)
        if not isinstance(lever, InactiveLever):
            continue
        for other in advised(lever.reason):
            followed = other.build(anatomy)
            assert not isinstance(followed, InactiveLever), f"{lever.reason}\n{followed.reason}"


def test_the_sentences_are_read_as_a_user_reads_them() -> None:
    sentence = "no solver can: take DiffusersScheduler('DDIMScheduler'), or a cache such as EasyCache()."
    assert list(advised(sentence)) == [DiffusersScheduler(scheduler="DDIMScheduler"), EasyCache()]
