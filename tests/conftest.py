"""Settings of the whole suite: no model hub, few threads, and slow tests only on request."""

from __future__ import annotations

import gc
import os

# Before any test imports diffusers: a test that reaches for a model hub fails at once instead of waiting for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is loaded: one thread here and in the processes that tests start. The tiny models are too small to gain
# from more, the same count gives the same order of summation, and tests run beside one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

LONG_FOLDERS = ("tuning", "app", "rendering")
"""Folders whose files take the longest: they start processes and tune."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow",
        action="store_true",
        help="also run the tests marked slow: minutes each, or every pair of pipelines and methods",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A worker takes whole files in this order. The longest first: none is left to one worker at the end. Those on the
    # hosted device last: torch has it for the rest of their process, as the accelerator of the machine.
    items.sort(key=lambda item: (_on_hosted_device(item), item.path.parent.name not in LONG_FOLDERS))
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def _on_hosted_device(item: pytest.Item) -> bool:
    module = item.getparent(pytest.Module)
    used = vars(module.obj).values() if module else ()
    return any(str(getattr(value, "__module__", "")).startswith("tests.devices.hosted") for value in used)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays until the end: collections of garbage need not walk through it again and again."""
    gc.collect()
    gc.freeze()
