"""A technique is one file: the folders of techniques are looked through, and their public names are the registry's."""

from __future__ import annotations

import difflib
import pkgutil
import sys
from importlib import import_module

from accel.method import RETIRED, Method


def load(package: str) -> None:
    """Imports every module of the package's folders, so that the techniques in it enter `Method.registry`."""
    for module in pkgutil.walk_packages(sys.modules[package].__path__, f"{package}."):
        import_module(module.name)


def technique(package: str, name: str) -> type[Method]:
    """The technique of this name that the package holds, at any depth.

    Raises AttributeError, which says what was meant, or what to do now for techniques of earlier versions.
    """
    for kinds in Method.registry.values():
        if name in kinds and _holds(package, kinds[name]):
            return kinds[name]
    if name in RETIRED:
        raise AttributeError(f"{package}.{name}: {RETIRED[name]}")
    known = {known.lower(): known for known in [*dir(sys.modules[package]), *names(package)]}
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f". Did you mean: {known[close[0]]!r}?" if close else ""
    # Without an object Python adds no hint of its own, which knows less.
    raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}", name=name, obj=None)


def names(package: str) -> list[str]:
    """Those of the techniques that the package holds, at any depth."""
    return sorted(name for kinds in Method.registry.values() for name, kind in kinds.items() if _holds(package, kind))


def _holds(package: str, kind: type[Method]) -> bool:
    return kind.__module__.startswith(f"{package}.")
