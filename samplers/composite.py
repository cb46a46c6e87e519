"""Base of the samplers that change something other than the update and leave the update to a solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.method import nested_method
from accel.samplers.sampler import Sampler, Space, StepPlace, UpdateWeights
from accel.samplers.sigmas import Sigmas
from accel.samplers.solvers import SchedulerSolver


@dataclass(frozen=True)
class WrappedSampler(Sampler, lever="sampler", abstract=True):
    """Base of the samplers around a solver, which makes their updates. `steps` and `sigmas` are theirs, not its own."""

    solver: Sampler = nested_method(SchedulerSolver(), "sampler")  # noqa: RUF009 (a field)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver.steps != 1.0 or self.solver.sigmas is not None:
            name = type(self).__name__
            raise ValueError(f"{name}.solver must be a plain solver: give steps= and sigmas= to {name} itself.")

    @property
    def space(self) -> Space:
        return self.solver.space

    @property
    def depth(self) -> int:
        return self.solver.depth

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        return self.solver.weights(times, following, remaining)

    def update(self, times: Sequence[float], following: float, place: StepPlace) -> UpdateWeights:
        return self.solver.update(times, following, place)

    def clamp(self, clean: torch.Tensor, step: int) -> torch.Tensor:
        return self.solver.clamp(clean, step)

    @property
    def adds_noise(self) -> bool:
        return self.solver.adds_noise

    @property
    def grid(self) -> Sigmas | None:
        return self.solver.grid if self.sigmas is None else self.sigmas

    def swapped_components(self, components: Mapping[str, Any]) -> dict[str, Any]:
        return self.solver.swapped_components(components)

    def obstacle(self, anatomy: Anatomy) -> str | None:
        return self.solver.obstacle(anatomy) or super().obstacle(anatomy)
