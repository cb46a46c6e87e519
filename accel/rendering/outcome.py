"""What a worker is sent, and what it reports of each job: plain data, so that workers may be processes anywhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from accel.rendering.machine import machine
from accel.rendering.seeds import Verifier


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of a whole render. `parts` is the folder for files that are not published yet, `verifier` judges for
    lines with `best_of`, `overlap` says whether a job is decoded while the next is denoised."""

    parts: Path
    device: str | None = None
    embed: bool = True
    metrics: bool = False
    verifier: Verifier | None = None
    overlap: bool = False


@dataclass(frozen=True)
class JobOutcome:
    """The end of one attempt. For "ok" the file lies whole in the folder of parts, under the name `part`."""

    id: str
    status: Literal["ok", "failed"]
    part: str = ""
    suffix: str = ""
    bytes: int = 0
    sha256: str = ""
    frames: int = 0
    width: int = 0
    height: int = 0
    sound_seconds: float = 0.0  # how long the sound is that was made
    sampling_rate: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    report: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # what the pipeline made otherwise than it was asked
    in_turn: str = ""  # why it overlapped with no other job although it should
    machine: str = field(default_factory=machine)
    pid: int = field(default_factory=os.getpid)
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something."""
        return {name: value for name, value in vars(self).items() if value not in (None, "", 0, {}, ())}


@lru_cache(maxsize=1)
def installed_versions() -> Mapping[str, str]:
    """Versions of the libraries that decide what is rendered."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name, distribution in (("accel", "diffusers-accel"), ("diffusers", "diffusers"), ("torch", "torch")):
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def report_summary(report: Any) -> dict[str, Any]:
    """A session's report without its record of every call."""
    levers = [
        {"lever": lever.lever, "method": lever.method, "engaged": lever.engaged, "reason": lever.reason}
        for lever in report.levers
    ]
    return {
        "recipe": report.recipe,
        "steps": report.steps,
        "computed": report.computed,
        "predicted": report.predicted,
        "dropped": report.dropped,
        "extra_bytes": sum(lever.extra_bytes for lever in report.levers),
        "levers": levers,
        "timeline": report.timeline(),
        "notes": list(report.notes),
    }
