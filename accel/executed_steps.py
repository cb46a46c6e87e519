"""How many steps a call takes of those it is asked for: from a picture on, or between two ends of a run, a part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PARTS = ("strength", "denoising_start", "denoising_end")
"""What diffusers calls the arguments that say which part."""


def fewest_steps(call: Mapping[str, Any]) -> int:
    """The least number of steps of which the call executes one: by its strength, or between the two ends of a part of
    the run (the base and the refiner of SDXL), it begins late or ends early.
    """
    strength, start, end = (_share(call.get(name)) for name in PARTS)
    if start is None:
        start = 0.0 if strength is None else 1.0 - strength
    part = round((1.0 if end is None else end) - start, 6)
    if not 0.0 < part < 1.0:
        return 1
    number = math.ceil(round(1.0 / part, 6))
    return number if int(number * part) else number + 1  # as the pipelines round


def _share(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0.0 <= value <= 1.0 else None
