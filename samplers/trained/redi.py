"""ReDi: the middle of a run is taken over from a stored one that began alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.call import DenoiserCall, DenoiserResult, Proceed, rebuilt, tensors
from accel.lever import InactiveLever, JumpedResult, Lever
from accel.method import nested_method, setting
from accel.report import CallRecord, LeverReport
from accel.samplers.composite import WrappedSampler
from accel.samplers.sampler import Sampler
from accel.samplers.solvers import Euler
from accel.samplers.stepper import Stepper
from accel.samplers.trained.bank import Retrieved, TrajectoryBank
from accel.samplers.trained.call_identity import same_noise
from accel.step_result import sample_of, with_sample
from accel.timetable import Timetable

OWN_LOOP = "the noise of a loop of your own is not the sampler's to choose"


@dataclass(frozen=True)
class ReDi(WrappedSampler):
    """Runs the first steps, looks up the stored trajectory nearest to where they led, and goes on from where that one
    was many steps later; the steps between are not computed (ReDi, arXiv 2302.02285).

    bank: a folder with a saved `TrajectoryBank`, or a live one, which cannot be written to a recipe file. key: steps
    that are run before the look-up; landing: steps after which the run goes on. Both must be kept in the bank; 0 takes
    its first and last. radius: how far the nearest may be, as a root-mean-square difference of clean latents (whose
    spread is about 1: unrelated ones are sqrt(2) apart); beyond it the run is completed in full and the report says how
    far it was. neighbours: 1 takes the nearest itself, k the combination of the k nearest that fits best.

    The noise is the bank's, because trajectories can be compared only from the same one: the call's seed and
    `generator` are ignored, and one prompt gives one result. A call that gives `latents`, or another size, step count,
    guidance or negative prompt than the bank's, runs in full with its own noise. A batch skips only if all of its
    samples are within the radius.
    For services that are asked for the same again and again in slightly other words. The result follows the neighbour
    wherever the two prompts differ: with a quarter of the pocket model's captions in the bank the nearest trajectory
    was 0.25 to 2.3 away, and the shape, the colour or the motion was its own and not the prompt's. So the default
    radius is below one attribute of a caption; a larger one gives a picture of something else. Fewer steps are better
    wherever the prompt must be followed.
    A bank that holds the prompt gives the full run exactly (bit for bit in batches of one size) with Euler; a solver
    with a history starts it anew after the jump. Other levers forget the run at the jump.
    Memory: the bank (see there), and one output of each stream until the landing step.
    Raises ValueError for a bank that cannot be read, or lacks these steps.
    """

    bank: Any = ""
    radius: float = setting(0.1, 0.0, None, "farthest that the stored trajectory may be, in clean latents' units")
    neighbours: int = setting(1, 1, 64, "trajectories that are combined")
    key: int = setting(0, 0, 1000, "steps before the look-up; 0 is the bank's first")
    landing: int = setting(0, 0, 1000, "steps after which the run goes on; 0 is the bank's last")
    _: KW_ONLY
    solver: Sampler = nested_method(Euler(), "sampler")  # noqa: RUF009 (a field)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.solver.depth or self.solver.adds_noise:
            raise ValueError(
                "ReDi.solver must be a deterministic one of accel's own, such as Euler(): a scheduler's update cannot "
                "skip steps, and noise leads elsewhere."
            )
        if not isinstance(self.bank, (str, os.PathLike, TrajectoryBank)) or self.bank == "":
            raise ValueError(f"ReDi.bank must be a TrajectoryBank or the folder of a saved one, not {self.bank!r}.")
        if isinstance(self.bank, os.PathLike):
            object.__setattr__(self, "bank", os.fspath(self.bank))

    def to_dict(self) -> dict[str, Any]:
        if not isinstance(self.bank, str):
            raise ValueError("A live TrajectoryBank cannot be written to a recipe: save it and give ReDi the folder.")
        return super().to_dict()

    def __str__(self) -> str:
        live = isinstance(self.bank, TrajectoryBank)
        return str(replace(self, bank=f"{len(self.bank.prompts)} trajectories")) if live else super().__str__()

    def build(self, anatomy: Anatomy) -> Lever:
        reason = self.obstacle(anatomy)
        if reason is not None:
            return InactiveLever(self, reason)
        bank = self.bank if isinstance(self.bank, TrajectoryBank) else TrajectoryBank.load(self.bank)
        reason = self._foreign(bank, anatomy)
        return (
            InactiveLever(self, reason) if reason is not None else JumpStepper(self, anatomy, bank, *self._places(bank))
        )

    def _foreign(self, bank: TrajectoryBank, anatomy: Anatomy) -> str | None:
        """Why the bank is not one of this pipeline's; None if it is."""
        facts = bank.facts
        here = (anatomy.pipeline, next(iter(anatomy.schedulers.values())), self.solver.to_dict())
        for one, other in zip(here, (facts.pipeline, facts.scheduler, facts.solver), strict=True):
            if one != other:
                return (
                    f"The bank was built with {_named(other)} and not with {_named(one)}: build one for this pipeline."
                )
        return None

    def _places(self, bank: TrajectoryBank) -> tuple[int, int]:
        kept = sorted(bank.states)
        key, landing = self.key or kept[0], self.landing or kept[-1]
        if key not in kept or landing not in kept or key >= landing:
            raise ValueError(
                f"ReDi cannot go from step {key} to step {landing}: the bank keeps {', '.join(map(str, kept))}."
            )
        return key, landing


class JumpStepper(Stepper):
    """A `Stepper` that replaces the denoiser calls between key and landing step by what is at hand, leaves the
    pipeline's latents as they are for as long, and puts the stored ones in at the landing step. So the pipeline's loop,
    progress and callbacks see all of their steps.
    """

    method: ReDi

    def __init__(self, method: ReDi, anatomy: Anatomy, bank: TrajectoryBank, key: int, landing: int) -> None:
        super().__init__(method, anatomy)
        self._bank, self._key, self._landing = bank, key, landing
        self._reason: str | None = OWN_LOOP
        self._found: Retrieved | None = None

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        super().begin(denoisers)
        self._reason, self._found, self._held = OWN_LOOP, None, 0

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        changed = super().arguments(given)
        self._reason = self._bank.differs({**given, **changed})
        return changed if self._reason is not None else changed | same_noise(given, self._bank.facts.seed)

    def reset(self) -> None:
        super().reset()
        self._made = 0
        self._target: torch.Tensor | None = None
        self._answers: dict[tuple[object, ...], Any] = {}

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        shape = (call.denoiser, call.stream, call.layout)
        if self._target is not None:
            known = next(
                (
                    self._answers[place]
                    for place in (shape, *self._answers)
                    if place in self._answers and place[2] == call.layout
                ),
                None,
            )
            if known is not None:
                output = rebuilt(known, [tensor.clone() for tensor in tensors(known)])
                call.spared_sizes.append((self.method.lever, call.rows))
                return DenoiserResult(output, "dropped", "between the key and the landing step")
        outcome = proceed(call)
        if self._reason is None and self._made < self._key:
            self._answers[shape] = outcome.output
        return outcome

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        self._made += 1
        if self._target is None:
            result = super().after_step(name, scheduler, arguments, result)
            if self._reason is None:
                self._look(scheduler, arguments, sample_of(result))
            return result
        self._updates += 1
        if self._made < self._landing:
            return with_sample(result, arguments["sample"])
        landed, self._target = self._target, None
        self._history.clear()
        self._answers.clear()
        return JumpedResult(with_sample(result, landed))

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        own, found = super().report(calls), self._found
        if self._reason is not None or found is None:
            said = self._reason or f"it ended before step {self._key}"
            return replace(own, engaged=False, reason=f"run in full: {said}; {own.reason}")
        skipped, farthest = self._landing - self._key, max(found.distances)
        whose = found.prompts[0] if len(set(found.prompts)) == 1 else f"{len(found.prompts)} prompts"
        reason = f"{skipped} steps taken over from {whose!r}, {farthest:.2g} away, in the bank's noise; {own.reason}"
        return replace(own, engaged=True, reason=reason, extra_bytes=own.extra_bytes + self._held)

    def _look(self, scheduler: Any, arguments: Mapping[str, Any], sample: torch.Tensor) -> None:
        """Checks the first step of the run, and after the key step decides whether to skip ahead."""
        if self._made == 1:
            self._reason = self._bank.unlike(arguments["sample"], Timetable(scheduler).whole)
        if self._made != self._key or self._reason is not None:
            return
        if self._replaced < self._updates:
            self._reason = "the scheduler was asked for updates that are not the solver's"
            return
        self._held = sum(tensor.numel() * tensor.element_size() for tensor in tensors(list(self._answers.values())))
        found = self._bank.retrieve(
            sample, self._key, self._landing, min(self.method.neighbours, len(self._bank.prompts))
        )
        farthest, radius = max(found.distances), self.method.radius
        if farthest > radius:
            self._reason = f"the nearest stored trajectory is {farthest:.2g} away, beyond radius={radius:g}"
            self._answers.clear()
            return
        self._found, self._target = found, found.latents.to(sample.device)


def _named(value: Any) -> str:
    return str(value["method"]) if isinstance(value, Mapping) else str(value)
