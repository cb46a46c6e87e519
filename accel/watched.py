"""Whether somebody reads what a computed call leaves behind in the denoiser, which a forecast cannot leave there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from accel.call import DenoiserCall, carries_state

STATE = "the output carries state"
TRACES = "the pipeline reads attention maps that a computed call leaves in the denoiser"
GRADIENT = "the pipeline takes a gradient through the denoiser"
DEEP = 4  # a processor's store, its dictionary, a list in it, a tensor


def why_needed(call: DenoiserCall, output: Any) -> str:
    """Why such calls must be computed: a clause, or "" where an output is all that comes of them."""
    if carries_state(output):
        return STATE
    if torch.is_grad_enabled() and any(latents.requires_grad for latents in call.latents):
        return GRADIENT
    processors = getattr(call.module, "attn_processors", {}).values()
    return TRACES if any(_holds_tensors(vars(one)) for one in processors if _plain(one)) else ""


def _plain(part: Any) -> bool:
    """Whether tensors in it are no weights."""
    return hasattr(part, "__dict__") and not isinstance(part, torch.nn.Module)


def _holds_tensors(part: Any, deep: int = DEEP) -> bool:
    if isinstance(part, torch.Tensor):
        return True
    if isinstance(part, Mapping):
        part = list(part.values())
    elif _plain(part) and not isinstance(part, type):
        part = list(vars(part).values())
    return deep > 0 and isinstance(part, (list, tuple)) and any(_holds_tensors(item, deep - 1) for item in part)
