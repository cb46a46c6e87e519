"""Batch rendering: a manifest in, files and a ledger out. It survives crashes and renders each job exactly once.

`render(pipe, "manifest.jsonl", out="renders/")` is `accel.render`; `settings_of(path)` reads the settings of a file
back. The parts: a manifest becomes a plan of jobs (`manifest`, `plan`, `jobs`), an engine has workers render those that
are open (`engine` and `worker` in this process; `pool`, `processes` and `ray_engine` in others), and the driver alone
keeps the books (`driver`, `ledger`, `folder`, `lock`).
"""

from accel.rendering.api import plan_for, render
from accel.rendering.encoding import settings_of
from accel.rendering.failures import DeviceError, ModelError, OutputError
from accel.rendering.jobs import Job, Shard
from accel.rendering.lock import Busy
from accel.rendering.manifest import ManifestError
from accel.rendering.plan import RenderPlan
from accel.rendering.processes import Processes
from accel.rendering.ray_engine import Ray
from accel.rendering.summary import RenderInterrupted, RenderSummary

__all__ = [
    "Busy",
    "DeviceError",
    "Job",
    "ManifestError",
    "ModelError",
    "OutputError",
    "Processes",
    "Ray",
    "RenderInterrupted",
    "RenderPlan",
    "RenderSummary",
    "Shard",
    "plan_for",
    "render",
    "settings_of",
]
