"""A denoiser call on fewer latents than its own, at the lower noise level that these have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.call import TIMESTEP, DenoiserCall, noise_part, rebuilt, tensors
from accel.parametrization import clean_from_output, output_from_clean, shares
from accel.resolution.latent_grid import LatentGrid, Unpoolable, grid_of
from accel.resolution.lever import NOT_ONE, instead, three, token_grid, token_size
from accel.resolution.noise_level import scale_of_timesteps, timestep_at, told_instead
from accel.resolution.positions import prompts_by_frame, smaller_positions
from accel.resolution.smaller import Smaller

UNKNOWN_PREDICTION = "what the denoiser predicts is not known, so its output at another size is not"


def pooled_level(sigma: float, flow: bool, pixels: float) -> tuple[float, float]:
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
    smaller: Smaller
    prediction: str

    def at_full_size(self, output: Any) -> Any:
        """The output for the latents at full size, in the structure of the small one.

        What follows the prediction among the channels (variances) is spread as it is. Raises Unpoolable for an output
        that is not one prediction.
        """
        found = tensors(output)
        smaller, grid = self.smaller, self.smaller.grid
        if len(found) != 1 or found[0].ndim != self.call.latents[0].ndim:
            raise Unpoolable(NOT_ONE)
        answer = grid.open(found[0])
        told = noise_part(answer, self.small)
        if told is None or told.shape != answer.narrow(grid.channels, 0, grid.noisy).shape:
            raise Unpoolable(NOT_ONE)
        rest = answer.narrow(grid.channels, grid.noisy, answer.shape[grid.channels] - grid.noisy)
        clean = clean_from_output(told, self.small, self.levels[1], self.prediction)
        full = output_from_clean(smaller.up(clean), self.full, self.levels[0], self.prediction)
        whole = torch.cat([full.to(answer.dtype), smaller.spread(rest)], grid.channels)
        return rebuilt(output, [grid.close(whole)])


class Pooling:
    """Makes small calls of a pipeline's denoisers, and notes how these are told the noise level in a run."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.reset()

    def reset(self) -> None:
        self._scales: dict[str, tuple[float, float]] = {}

    def small(self, call: DenoiserCall, smaller_of: Callable[[LatentGrid], Smaller]) -> SmallCall:
        """The call on a smaller grid than its own. Raises Unpoolable where the call does not show how."""
        if self.anatomy.prediction == "unknown":
            raise Unpoolable(UNKNOWN_PREDICTION)
        part = self.anatomy.denoisers[call.denoiser]
        grid = grid_of(call, part.config, part.family.packed)
        smaller, token = smaller_of(grid), token_size(grid, part.config)
        size, strides = three(grid.sizes), three(smaller.strides)
        tokens = token_grid(size, strides, token)
        fewer = token_grid(three(smaller.grid.sizes), (1, 1, 1), token)
        pixels = math.prod(grid.sizes) / math.prod(smaller.grid.sizes)
        level, scale = pooled_level(call.context.sigma, "flow" in self.anatomy.prediction, pixels)
        full = grid.open(call.latents[0])
        conditions = full.shape[grid.channels] - grid.noisy
        parts = full.float().split([grid.noisy, conditions], grid.channels)
        noisy = (smaller.down(parts[0]) / scale).to(full.dtype)
        given = smaller.pooled(parts[1]).to(full.dtype)
        latents = grid.close(torch.cat([noisy, given], grid.channels))
        others = smaller_positions(call.arguments, tokens, size, fewer, strides) | self._told(call, level)
        return SmallCall(
            instead(call, latents, others | _of_fewer_frames(call, grid, smaller.grid)),
            full.narrow(grid.channels, 0, grid.noisy).float(), noisy.float(), (call.context.sigma, level), smaller,
            self.anatomy.prediction,
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


def _of_fewer_frames(call: DenoiserCall, full: LatentGrid, small: LatentGrid) -> dict[str, torch.Tensor]:
    """Of prompts for each frame the one in the middle of those that become one."""
    found = prompts_by_frame(call, full)
    if not found:
        return {}
    many, few = full.sizes[0], small.sizes[0]
    middle = (2 * torch.arange(few, device=call.latents[0].device) + 1) * many // (2 * few)
    return {name: frames.index_select(1, middle).flatten(0, 1) for name, frames in found.items()}
