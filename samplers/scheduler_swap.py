"""One of diffusers' own schedulers in place of the pipeline's, where it fits the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accel.anatomy import Anatomy
from accel.components import schedulers_of
from accel.known_schedulers import KNOWN, SPACINGS, known_scheduler
from accel.lever import InactiveLever, Lever
from accel.method import setting
from accel.report import CallRecord, LeverReport
from accel.samplers.sampler import Sampler, alternative
from accel.samplers.stepper import Stepper
from accel.schedulers import scheduler_anatomy

SCHEDULERS = tuple(dict.fromkeys(name for row in KNOWN.values() for name in row.exchanges))


@dataclass(frozen=True)
class DiffusersScheduler(Sampler):
    """A scheduler class of diffusers in place of the pipeline's own, made from its configuration, in every call of the
    pipeline; between calls `pipe.scheduler` is the object that it was.

    Only where `accel.known_schedulers` says that both solve the same equation: models that predict noise, v or the
    sample (SD, SDXL, PixArt, AnimateDiff, Kolors; CogVideoX, whose noise levels are handed over). For flows, and where
    the scheduler's settings are special, there are the solvers of this package, which replace the update alone.
    scheduler: the class. spacing: how it places its noise levels, "own" as its configuration says. The solvers of
    order 2 need "karras" or "lu" from about 8 steps on: with timesteps evenly spaced the last step, which is long and
    of order 1, costs all that they gain. Memory: what the scheduler keeps, one or two latents.
    """

    scheduler: str = setting("DPMSolverMultistepScheduler", choices=SCHEDULERS, help="class of diffusers", dial=True)
    spacing: str = setting("own", choices=("own", *SPACINGS), help="of the noise levels; own: as configured")

    def __post_init__(self) -> None:
        super().__post_init__()
        able = [name for name, settings in SPACINGS.items() if self._takes(settings)]
        if self.spacing not in ("own", *able):
            raise ValueError(f"{self.scheduler} has no {self.spacing} spacing; it has own, {', '.join(able)}.")

    @property
    def depth(self) -> int:
        return 0

    def swapped_components(self, components: Mapping[str, Any]) -> dict[str, Any]:
        schedulers = dict(schedulers_of(components))
        if not all(self._allowed(scheduler_anatomy(own).exchangeable) for own in schedulers.values()):
            return {}
        return {name: self.made_from(own) for name, own in schedulers.items()}

    def made_from(self, own: Any) -> Any:
        """A scheduler of the class, for the model that `own` is for."""
        settings = dict(KNOWN[self.scheduler].settings)
        if known_scheduler(own).own_noise_table:
            settings |= {"trained_betas": betas_of(own), "rescale_betas_zero_snr": False}
        if self.spacing != "own":
            every = (name for spacing in SPACINGS.values() for name in spacing if name.startswith("use_"))
            settings |= {name: False for name in every if self._takes([name])} | SPACINGS[self.spacing]
        # What the class does not take says nothing to it, and diffusers would warn about it in every attachment.
        known = {name: value for name, value in own.config.items() if name.startswith("_") or self._takes([name])}
        return self._kind().from_config(known, **settings)

    def obstacle(self, anatomy: Anatomy) -> str | None:
        for name, known in anatomy.exchangeable.items():
            if self.scheduler in known and not self._allowed(known):
                return (
                    f"This model starts from pure noise, where {self.spacing} spacing would put half of the steps: "
                    f"take one of own, {', '.join(known[self.scheduler])}."
                )
            if self.scheduler not in known:
                others = f"one of {', '.join(known)}" if known else alternative(anatomy, name)
                return (
                    f"{self.scheduler} in place of {anatomy.schedulers[name]} with its settings would not do the same "
                    f"for this model: take {others}."
                )
        return super().obstacle(anatomy)

    def _allowed(self, known: Mapping[str, Sequence[str]]) -> bool:
        return self.scheduler in known and self.spacing in ("own", *known[self.scheduler])

    def build(self, anatomy: Anatomy) -> Lever:
        reason = self.obstacle(anatomy)
        return SwappedSchedulerStepper(self, anatomy) if reason is None else InactiveLever(self, reason)

    def _kind(self) -> Any:
        import diffusers

        return getattr(diffusers, self.scheduler)

    def _takes(self, settings: Any) -> bool:
        return set(settings) <= set(inspect.signature(self._kind().__init__).parameters)


class SwappedSchedulerStepper(Stepper):
    """The session has exchanged the scheduler, which makes its own updates; what is left is to tell it noise levels."""

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        said, method = super().report(calls), self.method
        reason = f"{method.scheduler} made the {self._updates} updates"  # type: ignore[attr-defined]
        more = f"; {said.reason}" if self._shortened or method.grid is not None else ""
        return replace(said, engaged=self._updates > 0, reason=reason + more)


def betas_of(scheduler: Any) -> list[float]:
    """The betas that give other schedulers the noise levels which this one has.

    The last is at most 0.999, because schedulers divide by the signal that is left at pure noise.
    """
    alphas = scheduler.alphas_cumprod.double()
    ratios = alphas[1:] / alphas[:-1]
    betas: list[float] = [float(1.0 - alphas[0]), *(1.0 - ratios).clamp(max=0.999).tolist()]
    return betas
