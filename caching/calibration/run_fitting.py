"""Fits weighted sums of computed outputs along runs of a pipeline, step by step, see `FittedSchedule`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from accel.caching.calibration.least_squares import SumEquations
from accel.caching.calibration.recorder import elements
from accel.caching.calibration.steps_heard import RunPlace
from accel.caching.calibration.table import round_row
from accel.caching.run_fit import RunFit

CHANGED = (
    "This pipeline cannot be measured: it changes its latents between two steps, as inpainting does, so that they are "
    "no sums of the denoiser's outputs."
)
OTHER_NOISE = (
    "Two calls for one prompt began from different latents: each must have noise of its own, the same every time. "
    "Leave generator out, or seed it by the index in generate(pipe, prompt, index)."
)


@dataclass
class RunTargets:
    """The unaccelerated run of one prompt: elements of what its scheduler was given in each step, (B, E)."""

    place: RunPlace
    outputs: list[torch.Tensor] = field(default_factory=list)
    denoisers: list[str] = field(default_factory=list)
    start: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def needs(self, position: int) -> bool:
        return True

    def step(self, denoiser: str, position: int, output: torch.Tensor, sample: torch.Tensor) -> None:
        if not self.outputs:
            self.start = elements(sample)
        self.outputs.append(elements(output))
        self.denoisers.append(denoiser)


Known = tuple[torch.Tensor, torch.Tensor]  # a whole output, and elements of it
Equations = list[tuple[SumEquations, SumEquations | None]]  # of each step: what is handed on, and what is foretold


@dataclass
class RunAlong:
    """A run in which the planned outputs alone are used, and in each step the sum of them that is best so far.

    What one unit of an output is worth in the sample is known, so it is known too what is wrong with the sample after a
    step, from what was wrong with all that was handed on. The sum of a step is fitted to the unaccelerated output plus
    what is still to be made up for. others: the equations of other prompts' runs.
    Memory: a latent for each step.
    """

    targets: RunTargets
    computed: frozenset[int]
    depth: int  # outputs in a sum
    others: Sequence[Equations]
    mine: Equations = field(default_factory=list)
    _known: list[Known] = field(default_factory=list)
    _handed: list[Known] = field(default_factory=list)
    _start: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    _last: torch.Tensor | None = None

    def needs(self, position: int) -> bool:
        return position in self.computed

    def step(self, denoiser: str, position: int, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        step = len(self._handed)
        self._check(step, sample)
        ahead = self._take(step, position, output)
        parts = [part for _, part in self._known]
        equations = SumEquations.of(parts, self._wanted(step))
        self.mine.append((equations, ahead))
        weights = sum((known[step][0] for known in self.others), start=equations).weights()
        handed = torch.stack([weight * whole for weight, (whole, _) in zip(weights, self._known, strict=True)]).sum(0)
        self._handed.append((handed, elements(handed)))
        self._last = self._sample(step)
        return self._last.clone()  # pipelines work in place

    def _check(self, step: int, sample: torch.Tensor) -> None:
        if self._last is None:
            self._start = sample
            begun, first = elements(sample), self.targets.start
            # Some devices encode a picture to other last bits every time.
            if begun.shape != first.shape or float((begun - first).norm()) > 1e-2 * float(first.norm()):
                raise ValueError(OTHER_NOISE)
        elif not torch.allclose(sample, self._last, rtol=2e-2, atol=2e-2 * float(self._last.abs().mean())):
            raise ValueError(CHANGED)

    def _take(self, step: int, position: int, output: torch.Tensor) -> SumEquations | None:
        """Keeps a computed output, and the equations of how it would have been foretold."""
        names = self.targets.denoisers
        if step and names[step] != names[step - 1]:  # what the other expert said is no help
            self._known = []
        if position not in self.computed:
            return None
        part, before = elements(output), [part for _, part in self._known]
        self._known = [(output, part), *self._known][: self.depth]
        return SumEquations.of(before[: self.depth - 1], part) if before[: self.depth - 1] else None

    def _wanted(self, step: int) -> torch.Tensor:
        """Elements of the output that would take the sample to where the unaccelerated run is after this step."""
        influence, targets = self.targets.place.influence[step], self.targets.outputs
        due = torch.zeros_like(targets[step])
        for share, target, (_, part) in zip(influence[1:], targets, self._handed, strict=False):
            due += share * (target - part)
        weight = influence[step + 1]
        return targets[step] + due / weight if weight else targets[step]

    def _sample(self, step: int) -> torch.Tensor:
        """What the scheduler's updates make of all that was handed on."""
        influence = self.targets.place.influence[step]
        sample = float(influence[0]) * self._start
        for share, (whole, _) in zip(influence[1:], self._handed, strict=False):
            sample = sample + float(share) * whole
        return sample


def fits_of(targets: RunTargets, computed: frozenset[int], runs: Sequence[Equations]) -> RunFit:
    """What is kept of all runs, for each denoiser."""
    *before, fit = (_fit_of(targets, computed, runs, *part) for part in spans(targets))
    for one in reversed(before):
        fit = replace(one, also=fit)
    return fit


def spans(targets: RunTargets) -> Iterator[tuple[str, range]]:
    """The denoisers and their positions, in the order of the run."""
    first, names = targets.place.context.position, targets.denoisers
    begin = 0
    for step in range(1, len(names) + 1):
        if step == len(names) or names[step] != names[begin]:
            yield names[begin], range(first + begin, first + step)
            begin = step


def _fit_of(
    targets: RunTargets,
    computed: frozenset[int],
    runs: Sequence[Equations],
    name: str,
    span: range,
) -> RunFit:
    anatomy, context, influence, guidance = targets.place
    steps = [position - context.position for position in span]
    places = tuple(position for position in span if position in computed)
    sums = [_weights([run[step][0] for run in runs]) for step in steps]
    ahead = [_weights([one for run in runs if (one := run[place - context.position][1])]) for place in places]
    part = anatomy.denoisers[name]
    return RunFit(
        origin=(name, part.kind, anatomy.prediction, ", ".join(anatomy.schedulers.values())),
        parameters=part.parameters,
        sigmas=round_row(context.sigmas, 8),
        updates=round_row(influence[-1].tolist(), 8),
        first=span.start,
        computed=places,
        weights=tuple(sums),
        ahead=tuple(ahead),
        errors=(0.0,) * len(places),
        guidance=tuple(sorted(guidance.items())),
        runs=len(runs),
    )


def _weights(equations: Sequence[SumEquations]) -> tuple[float, ...]:
    return round_row(sum(equations[1:], start=equations[0]).weights(), 7) if equations else ()
