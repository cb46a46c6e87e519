"""Every lever on and off, alone and together, on one pipeline: whether their gains multiply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from accel.attention import LowPrecision, WindowResidual
from accel.caching import OptimalSchedule
from accel.comparison import compare
from accel.contest import Verifier
from accel.method import Method
from accel.recipe import Recipe
from accel.results import Comparison
from accel.samplers import AdaptiveGuidance

# One method for each lever that leaves the number of steps alone, so that fidelity to the same run can be measured.
CHOSEN: dict[str, Method] = {
    "cache": OptimalSchedule(0.4),
    "attention": LowPrecision(sparse=WindowResidual()),
    "guidance": AdaptiveGuidance(),
}


def combinations(chosen: Mapping[str, Method] = CHOSEN) -> list[tuple[str, Recipe]]:
    """Every choice of levers but none at all; labels are "cache + guidance"."""
    found = []
    for switches in product((True, False), repeat=len(chosen)):
        methods: dict[str, Any] = {
            name: method for on, (name, method) in zip(switches, chosen.items(), strict=True) if on
        }
        if methods:
            found.append((" + ".join(methods), Recipe(**methods)))
    return sorted(found, key=lambda entry: len(entry[1].methods()))


def measure(
    pipe: Any,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    call_arguments: Mapping[str, Any] | None = None,
    verify: Verifier | None = None,
) -> Comparison:
    """Compares all combinations with the pipeline unaccelerated, and with fewer steps."""
    fewer = [round(steps / speed) for speed in (1.5, 2.5, 4)]
    return compare(
        pipe,
        combinations(),
        prompts,
        steps=steps,
        call_arguments=dict(call_arguments or {}),
        verify=verify,
        fewer_steps=fewer,
    )
