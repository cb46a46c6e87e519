"""Two denoisers in one run: one above a noise level, the other below it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch

from accel.anatomy import Anatomy, DenoiserAnatomy, anatomy_of
from accel.call import DenoiserCall, DenoiserResult, Proceed
from accel.clock import StepContext
from accel.lever import InactiveLever, Lever
from accel.method import nested_method, setting
from accel.parametrization import flow_time
from accel.report import CallRecord, LeverReport
from accel.samplers.composite import WrappedSampler
from accel.samplers.denoiser_source import mismatch, resolve
from accel.samplers.sampler import Sampler
from accel.samplers.solvers import SchedulerSolver
from accel.samplers.stepper import Stepper

NAME = "stand-in"  # what the levers below know the other denoiser by


@dataclass(frozen=True)
class ModelSwitch(WrappedSampler):
    """Uses another denoiser on one side of a noise level; both must work in the same latents.

    model: a pocket model ("pocket:small"), a diffusers model or pipeline by folder or hub id, or a live module, which
    cannot be written to a recipe file. boundary: the noise level in the common coordinates (`accel.parametrization`:
    a flow's time, 1 pure noise and 0 the end; for other models ratio / (1 + ratio)), so that it means the same for
    every schedule and step count. side: where the given model answers, "below" (levels of `boundary` and
    less: late) or "above".

    One mechanism for three uses:
    - a large model early and a small one late: ModelSwitch("small") (Hybrid-SD, arXiv 2408.06646);
    - a small one early and the large one late: ModelSwitch("small", side="above") (T-Stitch, arXiv 2402.14167);
    - the base model first and a distilled one after it: ModelSwitch("distilled", 0.8) with
      GuidanceInterval(low=0.8, unit="sigma") for a flow, so that guidance ends where the distilled model starts
      (diversity distillation, arXiv 2503.10637).

    The levers below see the other model as another denoiser, with a history of its own, as with the two experts of
    Wan 2.2: caches start afresh at the switch, and those that act on modules act on its modules too. The solver's
    history is cleared there; a multistep scheduler's own is not (`solver=` replaces it). Constants that were published
    or calibrated for the first model alone do not hold for a pair, and a cache that needs them says so.

    Memory: the other model's weights, from the first call until `restore()`; they move to the latents' device when it
    is first used. An offloaded first model stays where its own hooks leave it. A LoRA of the first model is not the
    other's. Not for models with other latents, channels or text encoders: the first two are checked, and so is what
    both predict where a scheduler is kept with the model; that the text encoder is the same is for you to know.
    Raises ValueError when it is attached, or at the first call, where the two do not fit.
    """

    model: Any = ""
    boundary: float = setting(
        0.5, 0.0, 1.0, "noise level at which the other model takes over, 1 (noise) to 0", dial=True
    )
    side: str = setting("below", choices=("below", "above"), help="where the given model is used")
    _: KW_ONLY
    solver: Sampler = nested_method(SchedulerSolver(), "sampler")  # noqa: RUF009 (a field)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model or not isinstance(self.model, (str, torch.nn.Module)):
            raise ValueError(
                f"ModelSwitch.model must be a pocket model's name, a diffusers folder or hub id, or a live module, "
                f"not {self.model!r}."
            )

    @property
    def name(self) -> str:
        """The model, in a word."""
        return self.model if isinstance(self.model, str) else type(self.model).__name__

    def is_active(self, level: float) -> bool:
        """Whether the given model is used at this noise level."""
        late = level <= self.boundary and self.boundary > 0.0
        return late if self.side == "below" else not late and self.boundary < 1.0

    def to_dict(self) -> dict[str, Any]:
        if not isinstance(self.model, str):
            raise ValueError(
                f"A live {self.name} cannot be written to a recipe: save it with save_pretrained and give "
                f"ModelSwitch the folder."
            )
        return super().to_dict()

    def __str__(self) -> str:
        return super().__str__() if isinstance(self.model, str) else str(replace(self, model=self.name))

    def adjust_anatomy(self, anatomy: Anatomy) -> Anatomy:
        """The pipeline with one denoiser more."""
        anatomy = super().adjust_anatomy(anatomy)
        if self._never() or self.obstacle(anatomy) is not None:
            return anatomy
        first = next(iter(anatomy.denoisers)) if self.side == "below" else NAME
        denoisers = {**anatomy.denoisers, NAME: self._other(anatomy)}
        return replace(anatomy, denoisers=denoisers, handover=(first, math.nextafter(self.boundary, 2.0)))

    def build(self, anatomy: Anatomy) -> Lever:
        reason = self.obstacle(anatomy)
        return SwitchStepper(self, anatomy) if reason is None else InactiveLever(self, reason)

    def _never(self) -> bool:
        """Whether no noise level is on the given model's side, so that it need not be there."""
        return self.boundary == (0.0 if self.side == "below" else 1.0)

    def _other(self, anatomy: Anatomy) -> DenoiserAnatomy:
        """What the other model consists of, once it is known to fit."""
        kept = resolve(self.model) if isinstance(self.model, str) else None
        other = anatomy_of(self.model) if kept is None else kept.anatomy()
        for own in anatomy.denoisers.values():
            reason = mismatch(own, other)
            if reason is None and kept is not None and kept.prediction not in (None, anatomy.prediction):
                reason = f"what it predicts: {kept.prediction}, where the pipeline's {own.kind} predicts "
                reason += anatomy.prediction
            if reason is not None:
                raise ValueError(f"{self.name} cannot stand in, because of {reason}; take a model of the same family.")
        return other


class SwitchStepper(Stepper):
    """Passes the calls of one side on to the other model, and makes the solver's updates."""

    method: ModelSwitch

    def __init__(self, method: ModelSwitch, anatomy: Anatomy) -> None:
        super().__init__(method, anatomy)
        self._flow = "flow" in anatomy.prediction
        self._other: torch.nn.Module | None = None
        self._asked = self._answered = 0

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        super().begin(denoisers)
        self._asked = self._answered = 0
        if NAME in self.anatomy.denoisers:
            dtype = getattr(next(iter(denoisers.values())), "dtype", torch.float32)
            denoisers[NAME] = self._other = self._ready(dtype)

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        self._asked += 1
        other = self._other
        if other is None or not self._takes(call.context):
            return proceed(call)
        if not self._answered:
            self._prepare(other, call)
        self._answered += 1
        outcome = proceed(replace(call, denoiser=NAME, module=other, forward=other))
        return outcome._replace(reason=f"{self.method.name}: {outcome.reason}")

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        own, name = super().report(calls), self.method.name
        reason = f"{name} stood in for {self._answered} of {self._asked} denoiser calls"
        if not self._answered:
            reason += f" (no noise level of this run is {self.method.side} {self.method.boundary:g})"
        if own.engaged:
            reason += f"; {own.reason}"
        engaged, weights = own.engaged or self._answered > 0, self._weights()
        return replace(own, engaged=engaged, reason=reason, extra_bytes=own.extra_bytes + weights)

    def _takes(self, context: StepContext) -> bool:
        # A loop without a known timetable has no noise levels to go by.
        return context.total > 0 and self.method.is_active(flow_time(context.sigma, self._flow))

    def _weights(self) -> int:
        """Bytes of a model that is there for the switch alone."""
        if self._other is None or not isinstance(self.method.model, str):
            return 0
        return sum(parameter.numel() * parameter.element_size() for parameter in self._other.parameters())

    def _ready(self, dtype: torch.dtype) -> torch.nn.Module:
        if isinstance(self.method.model, torch.nn.Module):
            return self.method.model
        if self._other is None:
            return resolve(self.method.model).load(dtype)
        return self._other if getattr(self._other, "dtype", dtype) == dtype else self._other.to(dtype)

    def _prepare(self, other: torch.nn.Module, call: DenoiserCall) -> None:
        """Moves a model of our own to where the latents are; another's must be there, and know the arguments."""
        device, own = call.latents[0].device, isinstance(self.method.model, str)
        if own:
            other.to(device)
        held = next((parameter.device for parameter in other.parameters()), device)
        if held != device and not hasattr(other, "_hf_hook"):
            raise ValueError(f"ModelSwitch.model is on {held} and the pipeline on {device}: move it there.")
        taken = inspect.signature(other.forward).parameters
        unknown = [name for name in call.arguments if name not in taken]
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            raise ValueError(
                f"{self.method.name} cannot stand in, because it does not take {', '.join(unknown)}, which the "
                f"pipeline gives to its denoiser; take a model of the same class."
            )
