"""The noise levels that few-step models were distilled at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accel.method import setting
from accel.samplers.sigmas import Grid, Sigmas, shift_sigma

# Target-Driven Distillation's uneven choices of training timesteps, out of 1000: fewer of them at low noise, where a
# distilled model has little left to decide.
UNEVEN = {
    5: (999, 875, 751, 499, 251),
    6: (999, 875, 751, 627, 499, 251),
    7: (999, 875, 751, 627, 499, 375, 251),
}


@dataclass(frozen=True)
class Origin(Sigmas, lever="sigmas"):
    """Evenly chosen from the grid of timesteps that a consistency distillation was trained on (LCM, arXiv 2310.04378;
    diffusers' LCMScheduler and TCDScheduler): every (1000 / grid)-th training timestep, from the noisiest.

    A few-step model knows these levels and no others; 4 steps of the grid of 50 are the timesteps 999, 759, 499, 259.
    Schedulers that space otherwise ("leading" starts 4 steps at 751) ask it for levels that it has never seen.
    Step i of n takes the floor(i grid / n)-th of the grid. Not for models that were not distilled.
    grid: 50 for LCM and TCD, 250 for TDD. spacing "uneven": TDD's choice of timesteps for 5, 6 and 7 steps; other
    numbers of steps are even. Flow models have no such grid: even flow times from 1, with the scheduler's own shift.
    """

    grid: int = setting(50, 1, 1000, "steps of the solver in the distillation")
    spacing: str = setting("even", choices=("even", "uneven"), help="uneven: TDD's choice for 5, 6 and 7 steps")

    def levels(self, grid: Grid) -> list[float]:
        steps = len(grid.levels)
        if not grid.ladder:
            return [shift_sigma(1.0 - step / steps, grid.shift) for step in range(steps)]
        if steps > self.grid:
            raise ValueError(f"{steps} steps cannot be chosen from a grid of {self.grid}; take {self.grid} or fewer")
        return [grid.ladder[timestep] for timestep in self.timesteps(steps, len(grid.ladder))]

    def timesteps(self, steps: int, training: int = 1000) -> list[int]:
        """The training timesteps of a run, falling."""
        if self.spacing == "uneven" and steps in UNEVEN and training == 1000:
            return list(UNEVEN[steps])
        every = training // self.grid
        falling = [every * (self.grid - index) - 1 for index in range(self.grid)]
        return [falling[int(index)] for index in np.linspace(0, self.grid, num=steps, endpoint=False)]
