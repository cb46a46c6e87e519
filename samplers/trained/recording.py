"""Runs a pipeline and keeps the latents after some of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from accel.anatomy import Anatomy, inspect
from accel.lever import Lever
from accel.recipe import Recipe
from accel.samplers.sampler import Sampler
from accel.samplers.stepper import Stepper
from accel.samplers.trained.bank import BankFacts
from accel.samplers.trained.call_identity import compared_arguments, same_noise
from accel.session import Session, bare
from accel.step_result import sample_of


@dataclass
class TrajectoryTape:
    """What was recorded: the noise of every call, and the latents (B, ...) of every call by updates made."""

    wanted: Sequence[int]
    seed: int
    facts: BankFacts | None = None
    noise: list[torch.Tensor] = field(default_factory=list)
    states: dict[int, list[torch.Tensor]] = field(default_factory=dict)


def record(
    pipe: Any, calls: Sequence[Mapping[str, Any]], solver: Sampler, wanted: Sequence[int], seed: int
) -> tuple[BankFacts, torch.Tensor, dict[int, torch.Tensor]]:
    """What these calls have in common, the noise that all start from (1, ...), and the latents after each of the
    `wanted` updates (samples, ...), on the host.
    """
    reason = solver.obstacle(inspect(pipe))
    if not solver.depth:
        reason = "The scheduler's own multistep updates cannot be continued elsewhere: give a solver such as Euler()."
    if reason is not None:
        raise ValueError(f"Trajectories cannot be recorded: {reason}")
    tape = TrajectoryTape(wanted, seed)
    with bare(pipe), Session(pipe, Recipe(sampler=TapedSampler(solver, tape))):
        for call in calls:
            pipe(**call, output_type="latent")
    facts, noise = tape.facts, torch.cat(tape.noise)
    if facts is None or len(tape.states) < len(wanted):
        raise ValueError(f"The run had fewer steps than {wanted[-1]}: choose an earlier landing step.")
    if not torch.equal(noise, noise[:1].expand_as(noise)):
        raise ValueError("This pipeline's runs start from different latents under one seed: it cannot have a bank.")
    return facts, noise[:1].clone(), {number: torch.cat(states) for number, states in tape.states.items()}


@dataclass(frozen=True)
class TapedSampler(Sampler, abstract=True):
    """A solver, with a record of what it did. Not a method for recipes."""

    solver: Sampler
    tape: TrajectoryTape

    def build(self, anatomy: Anatomy) -> Lever:
        return TapeStepper(self.solver, anatomy, self.tape)

    def adjust_anatomy(self, anatomy: Anatomy) -> Anatomy:
        return self.solver.adjust_anatomy(anatomy)


class TapeStepper(Stepper):
    """A `Stepper` that starts from the tape's noise and keeps what the tape wants."""

    def __init__(self, method: Sampler, anatomy: Anatomy, tape: TrajectoryTape) -> None:
        super().__init__(method, anatomy)
        self._tape, self._made = tape, 0

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._compared = compared_arguments(given)
        return super().arguments(given) | same_noise(given, self._tape.seed)

    def reset(self) -> None:
        super().reset()
        self._made = 0

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        result, tape = super().after_step(name, scheduler, arguments, result), self._tape
        if not self._made:
            tape.noise.append(arguments["sample"].detach().cpu().clone())
        self._made += 1
        if tape.facts is None and name in self._levels:
            samples: Any = self.anatomy.samples[name]
            tape.facts = BankFacts(
                self.anatomy.pipeline,
                type(scheduler).__name__,
                samples,
                self.method.to_dict(),
                self._levels[name].table.whole,
                tuple(arguments["sample"].shape[1:]),
                tape.seed,
                self._compared,
            )
        if self._made in tape.wanted:
            tape.states.setdefault(self._made, []).append(sample_of(result).detach().cpu().clone())
        return result
