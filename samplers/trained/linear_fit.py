"""Calibrates LinearAG: one run of a batch of prompts in which every step is fitted as soon as it is reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.clock import StepContext
from accel.recipe import Recipe
from accel.samplers.guidance.policy import (
    ConditionalPass,
    EvaluatedPair,
    GuidanceDecision,
    GuidanceMethod,
    GuidancePolicy,
    Tensors,
    weighted_sum,
)
from accel.samplers.trained.linear import FEATURES, LinearAG, LinearHistory, add, differences
from accel.session import Session, bare

# Relative to the mean square of the regressors, two of which are nearly parallel.
RIDGE = 1e-6


def calibrate_linear(
    pipe: Any,
    prompts: Sequence[str],
    *,
    every: int = 2,
    start: float = 0.1,
    stop: float = 1.0,
    generate: Callable[[Any, Sequence[str]], object] | None = None,
    **arguments: Any,
) -> LinearAG:
    """Fits LinearAG to this pipeline by least squares, in one run with all prompts as one batch.

    every: evaluate the unconditional pass at every n-th step; start: at all steps in this first fraction of the run;
    stop: at none after this fraction. prompts: every element of every latent is an equation, so a handful is enough.
    arguments: go to the pipeline call (steps, size, guidance: those of production). generate(pipe, prompts) replaces
    the call altogether. All prompts go as one batch because each step is fitted with the estimates of the steps before
    it in place, for all of them. An attached session is suspended meanwhile; nothing stays on the pipeline.
    Raises ValueError where there is no list of prompts, a number is out of range, or no guidance to fit.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError('calibrate_linear wants a list of at least one prompt, such as ["a corgi surfing"].')
    if every < 2 or not 0.0 <= start <= 1.0 or not 0.0 <= stop <= 1.0:
        raise ValueError("calibrate_linear wants every of at least 2, and start and stop from 0 to 1.")
    method = _Fit(every, start, stop)
    with bare(pipe), Session(pipe, Recipe(guidance=method, name="fitting")):
        if generate is not None:
            generate(pipe, prompts)
        else:
            seeds = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
            pipe(list(prompts), **{"generator": seeds, **arguments})
    if not any(method.rows.values()):
        raise ValueError(
            "There was nothing to fit LinearAG to: the run had too few steps or no unconditional passes (guidance is "
            "off or is an input of the model)."
        )
    rows = tuple(method.rows.get(position, ()) for position in range(max(method.rows) + 1))
    return LinearAG(tuple(round(sigma, 6) for sigma in method.sigmas), rows)


@dataclass(frozen=True)
class _Fit(GuidanceMethod, lever="guidance", abstract=True):
    """Evaluates everything, and returns for later steps what the calibrated method will."""

    every: int
    start: float
    stop: float
    rows: dict[int, tuple[float, ...]] = field(default_factory=dict)
    sigmas: list[float] = field(default_factory=list)

    def evaluates(self, position: int, total: int) -> bool:
        if position < self.start * total:
            return True
        first = next(index for index in range(total + 1) if index >= self.start * total)
        return position < self.stop * total and (position - first) % self.every == self.every - 1

    def policy(self, anatomy: Anatomy) -> GuidancePolicy:
        return _Fitting(self)


@dataclass
class _Fitting(GuidancePolicy):
    method: _Fit
    past: LinearHistory = field(default_factory=LinearHistory)

    def decide(self, context: StepContext, computed: bool) -> GuidanceDecision:
        return GuidanceDecision(False, "fitting")

    def substitute_output(self, now: ConditionalPass) -> Tensors:
        raise NotImplementedError("every step is evaluated while LinearAG is fitted")

    def observe_both(
        self, now: ConditionalPass, unconditional: Tensors, evaluated: EvaluatedPair | None
    ) -> Tensors | None:
        deltas = differences(now.outputs, unconditional)
        self.method.sigmas[:] = now.context.sigmas
        if not self.past.complete or self.method.evaluates(now.context.position, now.context.total):
            self.method.rows[now.context.position] = ()
            self.past.add(now, deltas)
            return None
        parts = self.past.features(now)
        row = least_squares(parts, deltas)
        self.method.rows[now.context.position] = row
        estimated = [weighted_sum(row, part) for part in parts]
        self.past.add(now, estimated)
        return add(now.outputs, estimated)


def least_squares(parts: list[Tensors], targets: Tensors) -> tuple[float, ...]:
    """The weights with which the regressors come nearest to the targets, over all elements of all outputs; float64."""
    normal = torch.zeros(FEATURES, FEATURES, dtype=torch.float64)
    right = torch.zeros(FEATURES, dtype=torch.float64)
    for regressors, target in zip(parts, targets, strict=True):
        table = torch.stack([regressor.flatten() for regressor in regressors]).double().cpu()
        normal += table @ table.T
        right += table @ target.flatten().double().cpu()
    ridge = RIDGE * float(normal.diagonal().mean()) or 1.0
    weights = torch.linalg.solve(normal + ridge * torch.eye(FEATURES, dtype=torch.float64), right)
    return tuple(weights.tolist())
