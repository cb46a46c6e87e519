"""A pipeline of thirty lines around any scheduler, whose denoiser is a formula in noise level."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from accel.parametrization import output_from_clean
from accel.schedulers import scheduler_anatomy
from accel.timetable import Timetable, with_timetable
from accel.update import Unknown


class FormulaDenoiser(torch.nn.Module):
    def __init__(self, formula: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.formula(hidden_states),)


class FormulaPipeline:
    """Its denoiser answers as if what is forecast (space "x0" or "output") were a polynomial in noise level.

    space: left out, what is forecast under the scheduler. Returns the sample before the last step: one that leads to
    noise level 0 returns its clean estimate and hides every error.
    """

    def __init__(self, scheduler: Any, space: str = "", degree: int = 2) -> None:
        self.scheduler, self.transformer = scheduler, FormulaDenoiser(self.formula)
        self.config = SimpleNamespace(_name_or_path="")
        self.components = {"transformer": self.transformer, "scheduler": scheduler}
        self.kind, self.step = scheduler_anatomy(scheduler).prediction, 0
        self.table = Timetable(with_timetable(scheduler))
        self.space = space or self._space()
        self.curves = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.curves = self.curves[: degree + 1]

    def _space(self) -> str:
        preferred = ("output", "x0") if "flow" in self.kind or self.kind == "unknown" else ("x0", "output")
        for space in preferred:
            try:
                self.table.updates(self.kind if space == "x0" else None)
            except Unknown:
                continue
            return space
        raise AssertionError("a scheduler whose updates are not known")

    def formula(self, hidden_states: torch.Tensor) -> torch.Tensor:
        sigma = self.table.sigmas[self.step]
        time = self.table.time_of(sigma)
        value = sum(
            (curve * time**power for power, curve in enumerate(self.curves)), torch.zeros(1, dtype=torch.float64)
        )
        if self.space == "x0":
            value = output_from_clean(value, hidden_states, sigma, self.kind)
        return value

    def __call__(self, num_inference_steps: int = 24) -> torch.Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        self.table = Timetable(self.scheduler)
        latents = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[None]
        latents = latents * float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        torch.manual_seed(2)
        before = latents
        for step, timestep in enumerate(list(self.scheduler.timesteps)):
            self.step, before = step, latents
            scaled = getattr(self.scheduler, "scale_model_input", lambda x, _: x)(latents, timestep)
            output = self.transformer(scaled, timestep)[0]
            latents = self.scheduler.step(output, timestep, latents, return_dict=False)[0].double()
        return before
