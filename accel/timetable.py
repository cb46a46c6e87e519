"""The noise levels of one run, whatever form its scheduler gives them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from accel.parametrization import flow_time, output_from_clean
from accel.update import Around, Given, LinearUpdates, Unknown, config_of, copy_scheduler, measure_updates, on_cpu

STEPS = 10  # of the timetable on which a scheduler is asked before any run


class Timetable:
    """The noise levels of one run, read once from whatever the scheduler offers, and what its updates make of outputs.

    Made before the first step: `updates` asks a copy of the scheduler as it was then.
    """

    def __init__(self, scheduler: Any, known: dict[object, LinearUpdates | Unknown] | None = None) -> None:
        self.scheduler = on_cpu(scheduler)
        self._known = {} if known is None else known
        timesteps = torch.as_tensor(getattr(self.scheduler, "timesteps", ())).flatten().tolist()
        self.timesteps: list[float] = timesteps
        sigmas, end = getattr(self.scheduler, "sigmas", None), 0.0
        self.told = sigmas is not None or hasattr(self.scheduler, "alphas_cumprod")  # or no level is known
        config = config_of(scheduler)
        if sigmas is not None and len(sigmas) >= len(timesteps):
            # EDM's levels are noise over a signal of this size.
            signal = config.get("sigma_data") or 1.0
            known_sigmas = (torch.as_tensor(sigmas).flatten() / signal).tolist()
            self.sigmas: list[float] = known_sigmas[: len(timesteps)]
            end = known_sigmas[len(timesteps)] if len(known_sigmas) > len(timesteps) else end
            between = getattr(self.scheduler, "sigmas_interpol", None)  # KDPM2's second stages are evaluated there
            if between is not None:
                self.sigmas[1::2] = torch.as_tensor(between).flatten().tolist()[1 : len(timesteps) : 2]
            if config.get("invert_sigmas"):  # Mochi counts from clean to noise
                self.sigmas, end = [1.0 - sigma for sigma in self.sigmas], 1.0 - end
        elif hasattr(self.scheduler, "alphas_cumprod"):
            self.sigmas = [_noise_to_signal(self.scheduler.alphas_cumprod, timestep) for timestep in timesteps]
            end = 0.0 if config.get("set_alpha_to_one") else _noise_to_signal(self.scheduler.alphas_cumprod, 0)
        else:  # without any table, the time left is the best monotone stand-in
            self.sigmas = [1.0 - index / len(timesteps) for index in range(len(timesteps))]
        self.whole = (*self.sigmas, end)
        declared = config.get("prediction_type")
        says_flow = config.get("use_flow_sigmas") or declared in (None, "flow_prediction")
        # Whether levels are a flow's times, 1..0, and not noise over signal.
        self.flow = bool(says_flow) and all(sigma <= 1.0 + 1e-3 for sigma in self.whole)
        self.training = _training_timesteps(self.scheduler, self.sigmas)

    def time_of(self, sigma: float) -> float:
        """The flow time of a noise level as this timetable counts it."""
        return flow_time(sigma, self.flow)

    def updates(
        self,
        prediction: str | None = None,
        first: int = 0,
        arguments: Mapping[str, Any] | None = None,
        around: Callable[[Timetable], Around | None] | None = None,
    ) -> LinearUpdates:
        """What the updates make of the outputs or, given what the outputs are, of the clean estimates that they imply.

        around: makes what stands around `step`. Raises Unknown where they are no linear map.
        """
        kind, known = type(self.scheduler), repr(config_of(self.scheduler))
        key = (kind, known, prediction, first, repr(arguments), self.whole, tuple(self.timesteps))
        if key not in self._known:
            given = None if prediction is None else self._given_clean(prediction)
            try:
                self._known[key] = measure_updates(
                    self.scheduler, first, arguments, given, around(self) if around else None
                )
            except Unknown as reason:
                self._known[key] = reason.untraced()
        found = self._known[key]
        if isinstance(found, Unknown):
            raise found.untraced()
        return found

    def _given_clean(self, prediction: str) -> Given:
        def given(clean: torch.Tensor, latents: torch.Tensor, position: int) -> torch.Tensor:
            return output_from_clean(clean, latents, self.sigmas[position], prediction)

        return given

    def index_of(self, timestep: Any) -> int:
        """The first entry that a denoiser's timestep argument may stand for: some models get t/1000 or 1 - t/1000, and
        with 1000 noise levels down to one thousandth the same number is the first of one scale and the last of another.
        """
        if timestep is None or not self.timesteps:
            return 0
        value = float(torch.as_tensor(timestep).float().max())
        for scales in ([(0.0, 1.0), (0.0, 0.001)], [(1.0, -0.001)]):
            for index, known in enumerate(self.timesteps):
                if any(math.isclose(a + b * known, value, rel_tol=1e-4, abs_tol=1e-6) for a, b in scales):
                    return index
        return 0


def with_timetable(scheduler: Any) -> Any:
    """A copy with a timetable of STEPS steps; with the one that it has, if it wants what only its pipeline knows.

    A scheduler of one training step has no levels of its own and takes them from its pipeline (ACE-Step).
    """
    levels = np.linspace(1.0, 1.0 / STEPS, STEPS).tolist()
    for count, extra in ((STEPS, {}), (STEPS, {"mu": 1.0}), (None, {"sigmas": levels})):
        other = copy_scheduler(scheduler)
        try:
            other.set_timesteps(count, **extra)
            if len({float(timestep) for timestep in other.timesteps}) > 1:
                return other
        except Exception:  # whatever somebody's scheduler raises
            continue
    return copy_scheduler(scheduler)


def _training_timesteps(scheduler: Any, sigmas: list[float]) -> list[float]:
    """Where the sigmas stand on the scale of 0..1000 on which papers give windows of timesteps.

    A flow's timestep is 1000 sigma. Otherwise it is the training step with the nearest noise-to-signal ratio, because
    schedulers may pass their models something else (SVD: a logarithm of sigma).
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or config_of(scheduler).get("use_flow_sigmas"):
        flow = all(sigma <= 1.0 + 1e-3 for sigma in sigmas)
        return [1000.0 * flow_time(sigma, flow) for sigma in sigmas]
    alphas = torch.as_tensor(alphas).double().cpu().clamp_min(1e-12)
    known = ((1.0 - alphas) / alphas).sqrt().log()
    wanted = torch.tensor(sigmas, dtype=torch.float64).clamp_min(1e-12).log()
    nearest: list[int] = (wanted[:, None] - known[None, :]).abs().argmin(1).tolist()
    return [1000.0 * index / len(known) for index in nearest]


def _noise_to_signal(alphas_cumprod: torch.Tensor, timestep: float) -> float:
    alpha = float(alphas_cumprod[min(max(int(timestep), 0), len(alphas_cumprod) - 1)])
    return math.sqrt((1 - alpha) / max(alpha, 1e-12))
