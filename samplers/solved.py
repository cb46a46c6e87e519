"""What samplers have in common that change something else than the update: they leave the update to a solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.method import part
from accel.samplers.method import Sampler, Space, Weights
from accel.samplers.solvers import SchedulerSolver


@dataclass(frozen=True)
class Solved(Sampler, lever="sampler", abstract=True):
    """Base of the samplers around a solver, which makes their updates. `steps` and `sigmas` are theirs, not its own."""

    solver: Sampler = part(SchedulerSolver(), "sampler")  # noqa: RUF009 (a field)

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

    def weights(self, times: Sequence[float], following: float, remaining: int) -> Weights:
        return self.solver.weights(times, following, remaining)
