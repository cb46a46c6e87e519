"""A technique is one file: the folders of techniques are looked through, and their public names are the registry's."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from importlib import import_module

from accel.method import RETIRED, Method


def load(package: str) -> None:
    """Imports every module of the package's folders, so that the techniques in it enter `Method.registry`."""
    for module in pkgutil.walk_packages(sys.modules[package].__path__, f"{package}."):
        import_module(module.name)


def technique(package: str, name: str) -> type[Method]:
    """The technique of this name that the package holds, at any depth.

    Raises AttributeError, which says what to do now for techniques of earlier versions.
    """
    for kinds in Method.registry.values():
        if name in kinds and _holds(package, kinds[name]):
            return kinds[name]
    if name in RETIRED:
        raise AttributeError(f"{package}.{name}: {RETIRED[name]}")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def public(package: str, others: Iterable[str]) -> list[str]:
    """The names of the package's techniques, and the others."""
    found = {name for kinds in Method.registry.values() for name, kind in kinds.items() if _holds(package, kind)}
    return sorted({*found, *others})


def _holds(package: str, kind: type[Method]) -> bool:
    return kind.__module__.startswith(f"{package}.")
