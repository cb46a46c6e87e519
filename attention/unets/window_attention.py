"""MSW-MSA: self-attention within four windows of the picture that are moved in every step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, HeadPlan, Planner

WINDOWS = 2  # along each axis
SHIFTS = 4  # of a window: none, a quarter, a half, three quarters


def window_plan(layout: TokenLayout, windows: int, shift: int) -> KeyPlan:
    """Every frame cut into windows x windows, each of which sees itself and nothing else.

    The cuts are moved by `shift` quarters of a window along both axes, and windows that reach over an end go on at the
    other. Where the sides do not divide, some windows are a row or a column smaller.
    """
    rows, columns = _numbers(layout.height, windows, shift), _numbers(layout.width, windows, shift)
    window = (rows[:, None] * windows + columns).flatten()
    frames = torch.arange(layout.frames)[:, None] * windows**2
    window = (frames + window).flatten()
    counts = window.bincount(minlength=layout.frames * windows**2)
    inside = torch.arange(int(counts.amax())) < counts[counts > 0, None]
    order = torch.full(inside.shape, -1)
    order[inside] = window.argsort(stable=True)
    return KeyPlan(layout, order, torch.arange(len(order))[:, None])


def _numbers(length: int, windows: int, shift: int) -> torch.Tensor:
    """(length,) the window of every place along an axis."""
    moved = shift * (length // windows) // SHIFTS
    return ((torch.arange(length) - moved) % length) * windows // length


class WindowPlanner(Planner):
    """Windows for the self-attentions of the highest resolution, moved anew in every step and module.

    The move follows from seed, step and module alone, so both halves of guidance, all samples and a second run of the
    same pipeline have the same.
    """

    def __init__(self, finest: Mapping[str, tuple[str, ...]], seed: int, least: int = 0) -> None:
        """least: the tokens from which there are windows."""
        self.finest, self.seed, self.least = finest, seed, least
        self._plans: dict[tuple[TokenLayout, int, torch.device], KeyPlan] = {}

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        site = inputs.site
        if inputs.layout.text or inputs.layout.tokens < self.least:
            return None
        if not site.path.startswith(self.finest.get(site.denoiser, ())):
            return None
        shift = random.Random(f"{self.seed} {site.context.step} {site.path}").randrange(SHIFTS)
        key = (inputs.layout, shift, inputs.q.device)
        if key not in self._plans:
            plan = window_plan(inputs.layout, WINDOWS, shift)
            self._plans[key] = KeyPlan(plan.layout, plan.order.to(key[2]), plan.key_blocks.to(key[2]))
        return [HeadPlan(None, self._plans[key])]

    def kept_tensors(self) -> list[torch.Tensor]:
        return [tensor for plan in self._plans.values() for tensor in (plan.order, plan.key_blocks)]
