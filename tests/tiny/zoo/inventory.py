"""Every pipeline class of the installed diffusers, and which of them denoise."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Any

from diffusers import DiffusionPipeline, ModularPipeline

PACKAGES = ("diffusers.pipelines", "diffusers.modular_pipelines")


@cache
def pipeline_classes() -> dict[str, Any]:
    """All of them by name, in order. A module that needs a package which is not installed is left out: it has none."""
    found = {kind.__name__: kind for module in _modules() for kind in vars(module).values() if _is_pipeline(kind)}
    return dict(sorted(found.items()))


@cache
def denoising_classes() -> dict[str, Any]:
    """Those that take a scheduler and run on torch: the others upsample latents or embed pictures in one pass."""
    return {name: kind for name, kind in pipeline_classes().items() if _takes_scheduler(kind) and not _onnx(kind)}


def _modules() -> Iterator[Any]:
    for package in PACKAGES:
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            try:
                yield importlib.import_module(module.name)
            except (ImportError, RuntimeError):
                continue


def _is_pipeline(kind: Any) -> bool:
    ours = inspect.isclass(kind) and kind.__module__.startswith(PACKAGES)
    return ours and issubclass(kind, (DiffusionPipeline, ModularPipeline))


def _takes_scheduler(kind: Any) -> bool:
    if not any("__call__" in vars(base) for base in kind.__mro__):  # VersatileDiffusion makes others and calls these
        return False
    if issubclass(kind, ModularPipeline):
        return kind is not ModularPipeline
    return any("scheduler" in name for name in inspect.signature(kind.__init__).parameters)


def _onnx(kind: Any) -> bool:
    return "onnx" in kind.__module__
