"""Which few noise levels to sample at: dynamic programming over one fine reference run of this very model.

Along the reference the velocity is known at every fine level, so the error that a solver's step from any level to any
later one makes is a combination of known velocities, and its size follows from their inner products alone: one matrix
of (fine x fine) numbers says all that is needed about the model. The schedule is the path of least total error from the
first level to the end (the idea of optimal step search, arXiv 2503.21774, without its greedy re-evaluations).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from accel.anatomy import Anatomy, inspect
from accel.lever import Lever
from accel.parametrization import flow_time, point_of, scale_of
from accel.recipe import Recipe
from accel.samplers.sampler import Sampler
from accel.samplers.sigmas import SigmaTable
from accel.samplers.solvers import PseudoCorrector
from accel.samplers.stepper import Stepper
from accel.session import Session, bare
from accel.step_result import sample_of

Array = NDArray[np.float64]

# An early error grows until the end of the run: by 1 + (t / (1 - t))^growth. Several are tried and one is kept, because
# how much it grows depends on guidance and model (0.75 fits the pocket model, 0 is a model that forgets nothing).
GROWTHS = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class SigmaSearch:
    """What was found: the sampler with the best noise levels, and how far each candidate is from the reference.

    errors: relative root-mean-square distance of the final latents, by the candidate's name, on runs that the search
    has not seen. "scheduler" is the sampler with the scheduler's own levels.
    """

    sampler: Sampler
    errors: dict[str, float]


def search_sigmas(
    pipe: Any,
    prompts: Sequence[str],
    steps: int,
    *,
    sampler: Sampler | None = None,
    fine: int = 120,
    seed: int = 0,
    **options: Any,
) -> SigmaSearch:
    """Searches the noise levels at which `sampler` (the pseudo-corrector by default) does best in `steps` steps.

    prompts: two or more; one half is searched on and the other decides between what was found and the scheduler's own
    levels, which stay if nothing is better. fine: steps of the reference runs. options: go to every pipeline call, and
    should be those of later use: guidance scale and size change the output. Costs len(prompts) x (fine + 3 steps) steps
    or so, and memory for `fine` latents on the host. An attached session is suspended meanwhile.

    Raises ValueError for fewer than two prompts, more steps than `fine`, or a scheduler that takes no noise levels.
    """
    sampler = replace(sampler or PseudoCorrector(), steps=1.0, sigmas=None)
    if len(prompts) < 2:
        raise ValueError("search_sigmas needs at least two prompts: one to search on and one to decide by.")
    if not 2 <= steps <= fine // 2:
        raise ValueError(f"steps must be from 2 to half of the reference's {fine}, not {steps}; raise fine=.")
    reason = replace(sampler, sigmas=SigmaTable((1.0, 0.5))).obstacle(inspect(pipe))
    if reason is not None:
        raise ValueError(f"Noise levels cannot be searched for: {reason}")

    def final(prompt: int, method: Sampler, steps: int) -> ReferenceTrace:
        generator = torch.Generator().manual_seed(seed + prompt)
        recording = ReferenceSampler(method)
        with bare(pipe), Session(pipe, Recipe(sampler=recording)):
            pipe(prompts[prompt], num_inference_steps=steps, generator=generator, output_type="latent", **options)
        return recording.trace

    seen = [final(prompt, PseudoCorrector(), fine) for prompt in range((len(prompts) + 1) // 2)]
    gram = np.mean([trace.gram() for trace in seen], axis=0)
    times, levels = seen[0].times, seen[0].sigmas
    order = 1 if sampler.depth == 1 else 2
    candidates: dict[str, Sampler] = {"scheduler": sampler}
    for growth in GROWTHS:
        path = cheapest_path(step_errors(gram, times, order) * growths(times, growth)[:, None], steps)
        table = SigmaTable(tuple(levels[place] for place in path))
        candidates[f"growth {growth:g}"] = replace(sampler, sigmas=table)
    held_out = range(len(seen), len(prompts))
    truth = {prompt: final(prompt, PseudoCorrector(), fine).final for prompt in held_out}
    errors = {
        name: float(np.mean([distance(final(prompt, method, steps).final, truth[prompt]) for prompt in held_out]))
        for name, method in candidates.items()
    }
    return SigmaSearch(candidates[min(errors, key=lambda name: errors[name])], errors)


def step_errors(gram: Array, times: Sequence[float], order: int = 2) -> Array:
    """Size of the error of one step from each level to each later one: (levels - 1, levels).

    gram: inner products of the velocities at all levels but the last, which is the end. times: falling noise levels in
    the common coordinates, the end included. order 1: the velocity at the start is taken for all of the step; 2: the
    mean of start and end, as a corrector makes it, and the start alone in the step to the end, which has none.
    """
    known, gaps = len(times) - 1, np.diff(times)
    # truth[k] = integral of the velocity from the first level to level k, by the trapezoidal rule, in velocities
    truth = np.zeros((known + 1, known))
    for k in range(known):
        truth[k + 1] = truth[k]
        truth[k + 1, k] += gaps[k] / 2
        truth[k + 1, min(k + 1, known - 1)] += gaps[k] / 2
    errors = np.full((known, known + 1), np.inf)
    for start in range(known):
        reached = np.arange(start + 1, known + 1)
        missing = truth[reached] - truth[start]
        step = np.asarray(times)[reached] - times[start]
        ends = np.where(reached < known, reached, start) if order == 2 else np.full(len(reached), start)
        rows = np.arange(len(reached))
        missing[:, start] -= step / 2
        np.subtract.at(missing, (rows, ends), step / 2)
        squares = np.einsum("kn,nm,km->k", missing, gram, missing)
        errors[start, reached] = np.sqrt(np.maximum(squares, 0.0))
    return errors


def growths(times: Sequence[float], growth: float) -> Array:
    """How much an error made at each level but the last grows until the end."""
    levels = np.clip(np.asarray(times[:-1]), 0.0, 1.0 - 1e-3)
    return np.asarray(1.0 + (levels / (1.0 - levels)) ** growth)


def cheapest_path(costs: Array, steps: int) -> list[int]:
    """The places 0 = p_0 < p_1 < ... of a path of `steps` steps to the last level, with the least sum of costs.

    costs: (levels - 1, levels), from level to level; the last place, the end, is not in the output.
    """
    ends = costs.shape[1]
    best, origin = np.full((steps + 1, ends), np.inf), np.zeros((steps + 1, ends), dtype=int)
    best[0, 0] = 0.0
    for step in range(1, steps + 1):
        reach = best[step - 1, :-1, None] + costs
        origin[step], best[step] = reach.argmin(0), reach.min(0)
    path = [ends - 1]
    for step in range(steps, 0, -1):
        path.append(int(origin[step, path[-1]]))
    return path[:0:-1]


def distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Root-mean-square distance relative to the spread of `truth`."""
    return float(((found - truth).square().mean() / truth.var()).sqrt())


class ReferenceTrace:
    """What a recorded run leaves: its noise levels, the velocity at each, and the final sample."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []
        self.times: list[float] = []
        self.velocities: list[torch.Tensor] = []
        self.final = torch.empty(0)

    def gram(self) -> Array:
        """Inner products of the velocities per element, (levels, levels)."""
        rows = torch.stack([velocity.flatten() for velocity in self.velocities]).double()
        return np.asarray(rows @ rows.T / rows.shape[1])


@dataclass(frozen=True)
class ReferenceSampler(Sampler, abstract=True):
    """Another sampler, with a record of what it did. Not a method for recipes."""

    method: Sampler
    trace: ReferenceTrace = field(default_factory=ReferenceTrace)

    def build(self, anatomy: Anatomy) -> Lever:
        return ReferenceStepper(self.method, anatomy, self.trace)

    def adjust_anatomy(self, anatomy: Anatomy) -> Anatomy:
        return self.method.adjust_anatomy(anatomy)


class ReferenceStepper(Stepper):
    """A `Stepper` that notes every update, on the host."""

    def __init__(self, method: Sampler, anatomy: Anatomy, trace: ReferenceTrace) -> None:
        super().__init__(method, anatomy)
        self._trace = trace

    def after_step(self, name: str, scheduler: Any, arguments: Mapping[str, Any], result: Any) -> Any:
        result, trace = super().after_step(name, scheduler, arguments, result), self._trace
        samples: Any = self.anatomy.samples[name]
        sigma, following, _ = self._place(name, scheduler, arguments["timestep"])
        point = point_of(arguments["sample"], arguments["model_output"], sigma, samples, self.anatomy.received[name])
        trace.sigmas.append(sigma)
        trace.times[-1:] = [flow_time(sigma, samples == "flow"), flow_time(following, samples == "flow")]
        trace.velocities.append(point.velocity.cpu())
        trace.final = (sample_of(result).float() / scale_of(following, samples)).cpu()
        return result
