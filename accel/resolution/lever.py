"""The lever of CoarseToFine: next to the denoiser, so that the levers above it see everything at full size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from accel.anatomy import Anatomy
from accel.call import LATENTS, TIMESTEP, DenoiserCall, DenoiserResult, Proceed, noise_part, rebuilt, tensors
from accel.lever import Lever
from accel.parametrization import clean_from_output, output_from_clean, shares
from accel.report import CallRecord, LeverReport
from accel.resolution.latent_grid import LatentGrid, Unpoolable, grid_of
from accel.resolution.noise_level import scale_of_timesteps, timestep_at, told_instead
from accel.resolution.positions import Size, smaller_positions

if TYPE_CHECKING:
    from accel.resolution.coarse_to_fine import CoarseToFine

NOT_ONE = "its output is not one prediction for the latents"


def pooled_level(sigma: float, flow: bool, pixels: int) -> tuple[float, float]:
    """The noise level of means over so many pixels, and what they are divided by to be latents of that level.

    A flow's level is its time, any other's the ratio of noise to signal in an input of unit variance.
    """
    signal, noise = shares(sigma, "flow" if flow else "preserving")
    noise /= math.sqrt(pixels)
    if flow:
        return noise / (signal + noise), signal + noise
    return noise / signal, math.hypot(signal, noise)


@dataclass(frozen=True)
class SmallCall:
    """A denoiser call at a smaller size, and how its output becomes one of full size."""

    call: DenoiserCall
    full: torch.Tensor  # the latents at full size, opened, without conditions; in float32
    small: torch.Tensor  # the same of the small ones
    levels: tuple[float, float]  # of the full size, and of the small one
    grid: LatentGrid
    blocks: tuple[int, ...]
    prediction: str

    def at_full_size(self, output: Any) -> Any:
        """The output for the latents at full size, in the structure of the small one.

        What follows the prediction among the channels (variances) is spread as it is. Raises Unpoolable for an output
        that is not one prediction.
        """
        found = tensors(output)
        grid = self.grid.smaller(self.blocks)
        if len(found) != 1 or found[0].ndim != self.call.latents[0].ndim:
            raise Unpoolable(NOT_ONE)
        answer = grid.open(found[0])
        told = noise_part(answer, self.small)
        if told is None or told.shape != answer.narrow(grid.channels, 0, grid.noisy).shape:
            raise Unpoolable(NOT_ONE)
        rest = answer.narrow(grid.channels, grid.noisy, answer.shape[grid.channels] - grid.noisy)
        clean = clean_from_output(told, self.small, self.levels[1], self.prediction)
        full = output_from_clean(grid.spread(clean, self.blocks), self.full, self.levels[0], self.prediction)
        whole = torch.cat([full.to(answer.dtype), grid.spread(rest, self.blocks)], grid.channels)
        return rebuilt(output, [grid.close(whole)])


class ResolutionLever(Lever):
    """Answers calls at high noise by a smaller one where this call shows how, and says where it does not."""

    def __init__(self, method: CoarseToFine, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._small, self._reasons = 0, Counter[str]()
        self.reset()

    def reset(self) -> None:
        self._scales: dict[str, tuple[float, float]] = {}
        self._unfit: dict[str, str] = {}  # by denoiser: what its output has shown in this run

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        method = self.method
        if method.factor * method.frames == 1 or call.context.time <= method.until:
            return proceed(call)
        small = self._smaller(call)
        outcome = small if isinstance(small, str) else self._at_full_size(small, proceed(small.call))
        if isinstance(outcome, str):
            self._reasons[outcome] += 1
            return proceed(call)
        self._small += 1
        call.raw_output = outcome.output
        return outcome

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        small, reasons = self._small, self._reasons
        self._small, self._reasons = 0, Counter()
        said = f"{small} of {len(calls)} calls at a smaller size"
        if reasons:
            said += f"; at full size though noise was high: {', '.join(f'{n} ({why})' for why, n in reasons.items())}"
        elif not small:
            said += f" (no step that was computed is above the noise level {self.method.until:g})"
        return LeverReport("resolution", str(self.method), small > 0, said)

    def _smaller(self, call: DenoiserCall) -> SmallCall | str:
        """The smaller call, or why there is none."""
        try:
            return self._unfit.get(call.denoiser) or self._pooled(call)
        except Unpoolable as reason:
            return str(reason)

    def _at_full_size(self, small: SmallCall, outcome: DenoiserResult) -> DenoiserResult | str:
        """The result at full size, or why it cannot be told, which holds for the rest of the run."""
        try:
            return outcome._replace(output=small.at_full_size(outcome.output))
        except Unpoolable as reason:
            self._unfit[small.call.denoiser] = str(reason)
            return str(reason)

    def _pooled(self, call: DenoiserCall) -> SmallCall:
        part, method = self.anatomy.denoisers[call.denoiser], self.method
        grid = grid_of(call, part.config, part.family.packed)
        own = (method.frames, method.factor, method.factor)[-len(grid.axes) :]  # pictures have no axis of time
        size, blocks = _three(grid.sizes), _three(own)
        tokens = _tokens(size, blocks, (1, grid.packed, grid.packed) if grid.tokens else _patch(part.config))
        level, scale = pooled_level(call.context.sigma, "flow" in self.anatomy.prediction, math.prod(own))
        full = grid.open(call.latents[0])
        conditions = full.shape[grid.channels] - grid.noisy
        means = grid.pooled(full.float(), own).split([grid.noisy, conditions], grid.channels)
        noisy, given = (means[0] / scale).to(full.dtype), means[1].to(full.dtype)
        latents = grid.close(torch.cat([noisy, given], grid.channels))
        others = smaller_positions(call.arguments, tokens, size, blocks) | self._told(call, level)
        return SmallCall(
            _call_of(call, latents, others), full.narrow(grid.channels, 0, grid.noisy).float(), noisy.float(),
            (call.context.sigma, level), grid, own, self.anatomy.prediction,
        )  # fmt: skip

    def _told(self, call: DenoiserCall, level: float) -> dict[str, Any]:
        """The denoiser's timestep argument for another noise level."""
        names = [name for name in TIMESTEP if call.arguments.get(name) is not None]
        table, context = call.context.table, call.context
        if len(names) != 1 or table is None or not table.told or context.mixed:
            raise Unpoolable("how the denoiser is told the noise level is not known")
        if table.flow != ("flow" in self.anatomy.prediction):
            raise Unpoolable("the pipeline converts outputs before it hands them on")
        handover = self.anatomy.handover
        if handover is not None and call.denoiser == handover[0] and table.time_of(level) < handover[1]:
            raise Unpoolable("the noise level of pooled latents is the other expert's")
        told = call.arguments[names[0]]
        if call.denoiser not in self._scales:
            self._scales[call.denoiser] = scale_of_timesteps(told, table.timesteps[context.position])
        start, slope = self._scales[call.denoiser]
        return {names[0]: told_instead(told, start + slope * timestep_at(table, context.position, level))}


def _call_of(call: DenoiserCall, latents: torch.Tensor, others: Mapping[str, Any]) -> DenoiserCall:
    """The call with these latents and these other arguments in place of its own."""
    name = next(name for name in LATENTS if call.arguments.get(name) is not None)
    before = call.arguments[name]
    arguments = {**call.arguments, **others, name: latents if isinstance(before, torch.Tensor) else [latents]}
    return replace(call, args=(), kwargs=arguments, arguments=arguments, latents=[latents])


def _tokens(size: Size, blocks: Size, patch: Size) -> Size:
    """How many tokens there are along each axis. Raises Unpoolable where they do not divide into blocks."""
    if any(have % (block * unit) for have, block, unit in zip(size, blocks, patch, strict=True)):
        raise Unpoolable(f"its latents, {' x '.join(map(str, size))}, do not divide into blocks of tokens")
    return size[0] // patch[0], size[1] // patch[1], size[2] // patch[2]


def _patch(config: Mapping[str, Any]) -> Size:
    """The latents that one token of the model holds, (T, H, W)."""
    patch = config.get("patch_size") or 1
    return _three(patch) if isinstance(patch, (tuple, list)) else (config.get("patch_size_t") or 1, patch, patch)


def _three(values: Sequence[int]) -> Size:
    """With a 1 in front of those that have no axis of time."""
    *_, frames, rows, columns = (1, *values)
    return frames, rows, columns
