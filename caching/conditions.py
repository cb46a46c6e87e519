"""What must stay as it is for a denoiser's past outputs to say anything about its next one, besides its latents.

Everything here is read without a host sync: whether the clock takes the conditioning for the same, which arguments
there are and which switches among them, whether ControlNets are on, and how strong adapters are. Not seen: weights that
are written over (`fuse_lora`), and control whose scale a callback changes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import torch

from accel.adapters import adapters, strength
from accel.call import DenoiserCall

# More than the tiles and windows of any step; calls beyond are computed and not remembered, so that memory is bounded.
MOST_STREAMS = 256

Kinds = tuple[tuple[str, Hashable], ...]

# How pipelines name the numbers of guidance: guidance_scale, guidance_scale_2, true_cfg_scale, guidance_rescale ...
GUIDANCE = re.compile(r"guidance|cfg|pag_|stg_")


class StreamConditions:
    """Gives each call a key that changes when its conditions do. One per gate; holds modules during a run only."""

    def __init__(self) -> None:
        self._windows: list[tuple[float, float]] = []
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> None:
        """The pipeline is called with these arguments: when its ControlNets are on."""
        starts, ends = (_listed(given.get(f"control_guidance_{which}")) for which in ("start", "end"))
        count = max(len(starts), len(ends))
        self._windows = [
            (starts[index] if len(starts) == count else starts[0], ends[index] if len(ends) == count else ends[0])
            for index in range(count if starts and ends else 0)
        ]

    def reset(self) -> None:
        self._adapters: dict[str, list[Any]] = {}
        self._strengths: tuple[int, str, Hashable] = (-1, "", ())

    def key(self, call: DenoiserCall) -> Hashable:
        context = call.context
        switches = _kinds(call.arguments), self._controlled(call), self._strength(call)
        return context.run, context.mixed, call.content, switches

    def _controlled(self, call: DenoiserCall) -> tuple[bool, ...]:
        """For each ControlNet whether it is on: pipelines go on calling it and multiply its outputs by 0."""
        if not self._windows:
            return ()
        step, steps = call.context.step, max(call.context.steps, 1)
        return tuple(step / steps >= start and (step + 1) / steps <= end for start, end in self._windows)

    def _strength(self, call: DenoiserCall) -> Hashable:
        """How strong LoRA and image-prompt adapters are; read once for each step."""
        step, denoiser, strengths = self._strengths
        if (step, denoiser) != (call.context.step, call.denoiser):
            if call.denoiser not in self._adapters:
                self._adapters[call.denoiser] = adapters(call.module)
            strengths = tuple(strength(adapter) for adapter in self._adapters[call.denoiser])
            self._strengths = call.context.step, call.denoiser, strengths
        return strengths


def guidance_asked(given: Mapping[str, Any]) -> dict[str, float]:
    """The numbers for guidance among the arguments of a pipeline's call. Without a negative prompt true guidance is
    off, whatever its scale.
    """
    found = {
        name: float(value)
        for name, value in given.items()
        if GUIDANCE.search(name) and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    negative = any(value is not None for name, value in given.items() if name.startswith("negative_prompt"))
    return found if negative or "true_cfg_scale" not in found else {**found, "true_cfg_scale": 1.0}


def _kinds(arguments: Mapping[str, Any]) -> Kinds:
    """Which arguments there are, and the switches among them: another mode is another kind of call."""
    return tuple(
        [
            (name, None if isinstance(value, torch.Tensor) else _kind(name, value))
            for name, value in arguments.items()
            if value is not None
        ]
    )


def _kind(name: str, value: Any) -> Hashable:
    if isinstance(value, (bool, str)) or (name == "scale" and isinstance(value, (int, float))):
        return value
    return _kinds(value) if type(value) is dict and all(isinstance(key, str) for key in value) else None


def _listed(value: Any) -> list[float]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
