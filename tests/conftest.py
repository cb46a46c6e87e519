"""Settings of the whole suite: no model hub, few threads, and slow tests only on request."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType

# Before any test imports diffusers: a test that reaches for a model hub fails at once instead of waiting for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is loaded: one thread here and in the processes that tests start. The tiny models are too small to gain
# from more, the same count gives the same order of summation, and tests run beside one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

gc.disable()  # until everything is imported: of that nothing is garbage

LONG_FOLDERS = ("tuning", "app", "rendering")
"""Folders whose files take the longest: they start processes and tune."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow",
        action="store_true",
        help="also run the tests marked slow: minutes each, or every pair of pipelines and methods",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if config.getoption("--slow") else "slow tests are left out; --slow runs them"


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    if session.config.pluginmanager.has_plugin("dsession"):
        return  # it hands the tests to workers, and neither collects nor runs one: it needs no torch
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A worker takes whole files in this order. The longest first: none is left to one worker at the end. Those on the
    # hosted device last: torch has it for the rest of their process, as the accelerator of the machine.
    items.sort(key=lambda item: (_on_hosted_device(item), item.path.parent.name not in LONG_FOLDERS))
    if config.getoption("--slow"):
        return
    # Deselected, not skipped: there are more of them than of all others, and pytest sets up and reports what it skips.
    left_out = _beyond_their_parts(items) | {item for item in items if "slow" in item.keywords}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


def _beyond_their_parts(items: list[pytest.Item]) -> set[pytest.Item]:
    """What `part` leaves to --slow: all cases of a test but so many, taken evenly from the first to the last."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if "part" in item.keywords and "slow" not in item.keywords:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, its in cases.items():
        (count,) = its[0].get_closest_marker("part").args
        last = len(its) - 1
        taken = {round(last * number / (count - 1)) if count > 1 else 0 for number in range(count)}
        cases[name] = [item for position, item in enumerate(its) if position not in taken]
    return {item for its in cases.values() for item in its}


def _on_hosted_device(item: pytest.Item) -> bool:
    module = item.getparent(pytest.Module)
    return module is not None and _uses_hosted_device(module.obj)


@cache
def _uses_hosted_device(module: ModuleType) -> bool:
    own = [value for value in vars(module).values() if isinstance(value, (type, FunctionType))]
    return any(value.__module__.startswith("tests.devices.hosted") for value in own)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays until the end: collections of garbage need not walk through it again and again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # of what tests leave, most goes when its last name does
    gc.enable()


@pytest.fixture
def quick_collection() -> Iterator[None]:
    """Nothing is collected on its own, and what was there before the test is not looked through, then or later."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
