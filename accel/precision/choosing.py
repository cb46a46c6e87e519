"""Which precision pays on this machine, for whoever does not want to know."""

from __future__ import annotations

from typing import Any

import torch

from accel.components import components_of, denoisers_of
from accel.precision.methods.bfloat16 import BFloat16
from accel.precision.methods.float32 import HALVES, Float32
from accel.processor import has_instructions, multiplies_in_loops

EXACT_FROM = 40.0  # decibels of a promise that 16 bits throughout, which are at 40 to 49 alone, would use up


def automatic(pipe: Any, decibels: float | None = None) -> BFloat16 | Float32 | None:
    """`BFloat16` for a pipeline in float32 on a processor with bfloat16 instructions, `Float32` for one in 16 bits on a
    processor without instructions for them; None where neither gains.

    decibels: what is promised of the output; from 40 on attention stays in float32. It looks at the machine and the
    model and measures nothing, so that the same call gives the same output on the same machine.
    """
    weights = [next(denoiser.parameters(), None) for _, denoiser in denoisers_of(components_of(pipe))]
    on_cpu = {one.dtype for one in weights if one is not None and one.device.type == "cpu"}
    if any(multiplies_in_loops(dtype) for dtype in on_cpu.intersection(HALVES)):
        return Float32()
    if torch.float32 not in on_cpu or not has_instructions():
        return None
    return BFloat16(attention="own" if decibels is not None and decibels >= EXACT_FROM else "16 bits")
