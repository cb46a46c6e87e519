"""What a calibration belongs to, and what speaks against using it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accel.anatomy import Anatomy
from accel.caching.calibration.table import StepTable
from accel.components import components_of, schedulers_of
from accel.update import config_of

Plain = str | int | float | bool | None
# Settings of schedulers that do not change the noise levels of a run.
INDIFFERENT = ("clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio", "sample_max_value")


@dataclass(frozen=True)
class Key:
    """What a calibration belongs to: model, pipeline, scheduler and its settings, guidance, the call's arguments."""

    model: str
    pipeline: str
    scheduler: str
    prediction: str
    euler_steps: bool
    guidance: float | None
    prompts: int
    settings: Mapping[str, Plain] = field(default_factory=dict)
    arguments: Mapping[str, Plain] = field(default_factory=dict)


def scheduler_settings(components: Mapping[str, Any]) -> dict[str, Plain]:
    """What the schedulers among these parts are set to, as far as it decides the noise levels of a run."""
    return {
        name: value
        for _, scheduler in schedulers_of(components)
        for name, value in config_of(scheduler).items()
        if is_plain(value) and not name.startswith("_") and name not in INDIFFERENT
    }


def is_plain(value: object) -> bool:
    """Whether a value can stand in a JSON file as it is."""
    return value is None or isinstance(value, (str, int, bool)) or (isinstance(value, float) and math.isfinite(value))


def changed_settings(key: Key, pipe: Any) -> list[str]:
    """A sentence for each setting of this pipeline's scheduler that was another one when it was calibrated."""
    now = scheduler_settings(components_of(pipe))
    return [
        f"It was calibrated with the scheduler's {name}={key.settings[name]!r}, which is now {now[name]!r}, so the "
        f"noise levels of the steps differ."
        for name in sorted(now.keys() & key.settings.keys())
        if now[name] != key.settings[name]
    ]


def denoiser_misfit(table: StepTable, anatomy: Anatomy) -> list[str]:
    """Why the table of one denoiser says nothing about a pipeline, in one sentence; none where it does."""
    part = anatomy.denoisers.get(table.denoiser)
    if part is None:
        return [f"It was calibrated on a {table.denoiser}, and this pipeline has {', '.join(anatomy.denoisers)}."]
    if part.kind != table.kind:
        return [f"It was calibrated on {table.kind}, and this pipeline's {table.denoiser} is {part.kind}."]
    if part.parameters != table.parameters:
        sizes = f"{table.parameters / 1e6:.4g} M parameters, and this one has {part.parameters / 1e6:.4g} M"
        return [f"It was calibrated on a {table.kind} of {sizes}."]
    return []
