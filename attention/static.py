"""Methods whose plan follows from the token layout alone: the same for all heads, steps and prompts, made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from accel.anatomy import Anatomy
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, HeadPlan, Planner, SparseAttention


@dataclass(frozen=True)
class StaticAttention(SparseAttention, abstract=True):
    """Base of the methods that need no activations."""

    by_layout = True

    def layout_plan(self, layout: TokenLayout) -> KeyPlan:
        """Which keys the queries of a sequence of this layout see."""
        raise NotImplementedError

    def planner(self, anatomy: Anatomy) -> Planner:
        return StaticPlanner(self.layout_plan)


class StaticPlanner(Planner):
    """Makes the plan of a layout when it is first asked for it; a plan that leaves nothing out is dense."""

    def __init__(self, make: Callable[[TokenLayout], KeyPlan]) -> None:
        self.make = make
        self._plans: dict[tuple[TokenLayout, torch.device], KeyPlan] = {}

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        key = (inputs.layout, inputs.q.device)
        if key not in self._plans:
            plan = self.make(inputs.layout)
            self._plans[key] = KeyPlan(plan.layout, plan.order.to(key[1]), plan.key_blocks.to(key[1]))
        plan = self._plans[key]
        return None if plan.density >= 1 else [HeadPlan(None, plan)]

    def kept_tensors(self) -> list[torch.Tensor]:
        return [tensor for plan in self._plans.values() for tensor in (plan.order, plan.key_blocks)]
