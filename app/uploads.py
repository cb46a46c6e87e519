"""Files that visitors have uploaded, and no other file that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accel.app.limits import Limits
from accel.app.settings import StudioSettings, embedded

BOUNDED = {"concurrency_limit": 2, "concurrency_id": "files"}
"""Of every event that reads one: so many at a time, for all visitors together."""


def restore_uploads(posted: object, folder: Path, limits: Limits) -> StudioSettings:
    """The settings inside an upload. posted: what a client says that it has uploaded, an object with its path, or the
    path itself. Raises ValueError, in one sentence, where it has not, or there are no settings in it.
    """
    return embedded(uploaded(posted, folder)).with_sizes(limits)


def with_uploads(settings: StudioSettings, folder: Path) -> StudioSettings:
    """The settings without the pictures that are no uploads of this server, such as those that a file was made from."""
    gone: dict[str, Any] = {}
    for name, path in settings.pictures.items():
        try:
            uploaded(path, folder)
        except ValueError:
            gone[name] = ""
    return replace(settings, **gone)


def uploaded(posted: object, folder: Path) -> Path:
    """The file below this folder that a client names. Raises ValueError for anything else."""
    named = posted.get("path") if isinstance(posted, Mapping) else posted
    if isinstance(named, str):
        try:
            path = Path(named).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # not there, NUL characters, loops of links
            path = Path()
        if path.is_relative_to(folder) and path.is_file():
            return path
    raise ValueError("this file was not uploaded to this server, or is no longer there; upload it first.")
