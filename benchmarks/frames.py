"""Frames of accel between a denoiser's `__call__` and its `forward`, for each combination of levers.

    python -m benchmarks.frames

They are what a traceback through an accelerated pipeline is read through, and about half a microsecond each.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import accel
from accel import AdaptiveGuidance, GuidanceDelta, OptimalSchedule, Recipe, SageAttention, SeaCache, UniPC

OURS = tuple(
    str(Path(inspect.getfile(part)).parent) for part in (accel, accel.caching, accel.samplers, accel.attention)
)

LEVERS: dict[str, Any] = {
    "sampler": UniPC(),
    "guidance": AdaptiveGuidance(0.5),
    "cache": SeaCache(0.2),
    "attention": SageAttention(),
}
# What is asked of a cache that looks into each half of a batch, and of guidance whose second pass comes and goes.
OTHERS: dict[str, Any] = {"guidance": GuidanceDelta(), "cache": OptimalSchedule(0.5)}

PIPELINES = {"wan": "two calls", "pixart": "one batched call", "sd": "a U-Net"}


@contextmanager
def counted(denoiser: torch.nn.Module) -> Iterator[list[int]]:
    """The number of accel's frames that each evaluation of this denoiser in the block has gone through.

    To be entered before the pipeline is accelerated.
    """
    kind, found = type(denoiser), list[int]()
    forward = kind.forward

    @wraps(forward)
    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        frame, ours = sys._getframe(1), 0
        while frame is not None and frame.f_code.co_name != "_wrapped_call_impl":
            ours += frame.f_code.co_filename.startswith(OURS)
            frame = frame.f_back  # type: ignore[assignment]
        found.append(ours)
        return forward(self, *args, **kwargs)

    with patch.object(kind, "forward", counting):
        yield found


def most(name: str, recipe: Recipe, steps: int = 16) -> int:
    """The most frames of one evaluation in a run of a tiny pipeline."""
    from tests.tiny import TINY, run

    pipe = TINY[name].build()
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    with counted(denoiser) as found, accel.accelerate(pipe, recipe):
        run(pipe, TINY[name], steps=steps)
    return max(found)


def combined(count: int) -> Iterator[dict[str, Any]]:
    """Every combination of so many levers; of those with guidance and a cache also that with the others."""
    for names in combinations(LEVERS, count):
        chosen = {name: LEVERS[name] for name in names}
        yield chosen
        if {*OTHERS} <= {*names}:
            yield chosen | OTHERS


def main() -> None:
    print("levers".ljust(76), *(f"{name} ({kind})".rjust(26) for name, kind in PIPELINES.items()))
    for count in range(len(LEVERS) + 1):
        for chosen in combined(count):
            label = " + ".join(type(method).__name__ for method in chosen.values()) or "none"
            print(label.ljust(76), *(f"{most(name, Recipe(**chosen)):26d}" for name in PIPELINES))


if __name__ == "__main__":
    main()
