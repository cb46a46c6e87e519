"""What every sampler has in common: another update, other noise levels and fewer steps, on the pipeline's scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal, NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.lever import InactiveLever, Lever
from accel.method import Method, nested_method, setting
from accel.samplers.sigmas import Sigmas

Space = Literal["velocity", "clean"]

PREFERRED = "DPMSolverMultistepScheduler"  # among the schedulers that may stand in for another


class UpdateWeights(NamedTuple):
    """One update, x' = keep x + sum of the outputs, each times its weight, + noise z; the newest output is the last.

    z is fresh standard normal noise, drawn from the generator of the pipeline call; nothing is drawn where noise is 0.
    """

    keep: float
    outputs: tuple[float, ...]
    noise: float = 0.0


class StepPlace(NamedTuple):
    """Where an update stands in its run, for the samplers that ask for more than noise levels."""

    step: int  # index into the scheduler's timetable; starts above 0 for image-to-image
    remaining: int  # updates until the end of the run, this one included
    ladder: Sequence[float] = ()  # noise level of every training timestep, rising; empty for flows


@dataclass(frozen=True)
class Sampler(Method, lever="sampler", abstract=True):
    """Base of the samplers.

    A sampler is its weights: a pure function of noise levels. What they are applied to is the same for all models (see
    `accel.parametrization`): samples scaled to x = (1 - t) x0 + t noise, with the noise level t running from 1 to
    0, and as answers the velocity noise - x0, or the clean estimate x0.

    steps: share of the steps that the call asks for; the pipeline sees the smaller number from the start, so progress
    bars, callbacks and image-to-image strength are right, and never so few that `strength`, `denoising_start` and
    `denoising_end` leave none. A loop of your own in `session.running()` keeps its number.
    sigmas: other noise levels for those steps; None leaves the scheduler's.
    """

    _: KW_ONLY
    steps: float = setting(1.0, 0.01, 1.0, "share of the steps that the call asks for", dial=True)
    sigmas: Sigmas | None = nested_method(None, "sigmas")  # noqa: RUF009 (a field)

    @property
    def space(self) -> Space:
        """What the outputs are."""
        return "velocity"

    @property
    def depth(self) -> int:
        """The number of outputs to remember, the newest included; 0 leaves the update to the scheduler."""
        return 1

    def weights(self, times: Sequence[float], following: float, remaining: int) -> UpdateWeights:
        """The update from the last of `times` to `following`.

        times: noise levels of the remembered outputs, oldest first, all different. remaining: updates until the end of
        the run, this one included.
        """
        raise NotImplementedError

    def update(self, times: Sequence[float], following: float, place: StepPlace) -> UpdateWeights:
        """`weights`, with all that is known about the step: overridden where noise levels alone do not say enough."""
        return self.weights(times, following, place.remaining)

    def clamp(self, clean: torch.Tensor, step: int) -> torch.Tensor:
        """The clean estimate of a step as the updates are to use it; for samplers whose outputs are those."""
        return clean

    @property
    def grid(self) -> Sigmas | None:
        """The noise levels that the sampler asks for where it can have them; None leaves the scheduler's."""
        return self.sigmas

    @property
    def adds_noise(self) -> bool:
        """Whether some updates have noise, so that other levers cannot correct them afterwards."""
        return False

    def build(self, anatomy: Anatomy) -> Lever:
        """The sampler, or an inactive lever that says why this pipeline's scheduler cannot have it."""
        from accel.samplers.stepper import Stepper

        reason = self.obstacle(anatomy)
        return Stepper(self, anatomy) if reason is None else InactiveLever(self, reason)

    def obstacle(self, anatomy: Anatomy) -> str | None:
        """Why this sampler cannot act on the pipeline, and what to do; None if it can."""
        for name, scheduler in anatomy.schedulers.items():
            if self.depth and anatomy.irreplaceable[name]:
                return (
                    f"No solver can stand in for the update of {scheduler} with its present settings, because "
                    f"{anatomy.irreplaceable[name]}: take {alternative(anatomy, name)}."
                )
            reason = None if self.sigmas is None else self.sigmas.obstacle(anatomy, name)
            if reason is not None:
                return reason
        return None

    def adjust_anatomy(self, anatomy: Anatomy) -> Anatomy:
        """The anatomy as the other levers must plan with it: the solver decides whether forecasts can be corrected."""
        if not self.depth or self.obstacle(anatomy) is not None:
            return anatomy
        return replace(anatomy, uncorrectable=dict.fromkeys(anatomy.schedulers, ""), random=self.adds_noise, depth=1)


def alternative(anatomy: Anatomy, scheduler: str) -> str:
    """What to use with this scheduler where a sampler does not fit, to complete "take ..."."""
    if not anatomy.irreplaceable[scheduler]:
        return "a solver such as PseudoCorrector() or UniPC()"
    others = anatomy.exchangeable[scheduler]
    if others:
        return f"DiffusersScheduler({max(others, key=PREFERRED.__eq__)!r}), which exchanges the scheduler"
    return "a cache such as FixedInterval(), which asks nothing of the scheduler"
