"""The lever of CoarseToFine: a smaller call at a lower noise level, of whose clean estimate the output is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from accel.anatomy import Anatomy
from accel.call import TIMESTEP, DenoiserCall, noise_part, rebuilt, tensors
from accel.parametrization import clean_from_output, output_from_clean, shares
from accel.report import CallRecord
from accel.resolution.block_maps import BlockMeans, LinearBlocks, from_numbers
from accel.resolution.latent_grid import LatentGrid, Unpoolable, grid_of
from accel.resolution.lever import NOT_ONE, ResolutionLever, instead, three, token_grid, token_size
from accel.resolution.noise_level import scale_of_timesteps, timestep_at, told_instead
from accel.resolution.positions import smaller_positions

if TYPE_CHECKING:
    from accel.resolution.coarse_to_fine import CoarseToFine


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
    maps: BlockMeans

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
        full = output_from_clean(self.maps.up(grid, clean, self.blocks), self.full, self.levels[0], self.prediction)
        whole = torch.cat([full.to(answer.dtype), grid.spread(rest, self.blocks)], grid.channels)
        return rebuilt(output, [grid.close(whole)])


class CoarseLever(ResolutionLever):
    """Answers calls at high noise."""

    did = "at a smaller size"

    def __init__(self, method: CoarseToFine, anatomy: Anatomy) -> None:
        super().__init__(method, anatomy)
        self.coarse = method
        self._maps = from_numbers(method.factor, method.maps) if method.maps else BlockMeans()

    def reset(self) -> None:
        super().reset()
        self._scales: dict[str, tuple[float, float]] = {}

    def wants(self, call: DenoiserCall) -> bool:
        return self.coarse.factor * self.coarse.frames > 1 and call.context.time > self.coarse.until

    def why_none(self, calls: Sequence[CallRecord]) -> str:
        return f"no step that was computed is above the noise level {self.coarse.until:g}"

    def resized(self, call: DenoiserCall) -> SmallCall:
        part, method = self.anatomy.denoisers[call.denoiser], self.coarse
        grid = grid_of(call, part.config, part.family.packed)
        own = (method.frames, method.factor, method.factor)[-len(grid.axes) :]  # pictures have no axis of time
        size, blocks = three(grid.sizes), three(own)
        tokens = token_grid(size, blocks, token_size(grid, part.config))
        fewer = tokens[0] // blocks[0], tokens[1] // blocks[1], tokens[2] // blocks[2]
        level, scale = pooled_level(call.context.sigma, "flow" in self.anatomy.prediction, math.prod(own))
        full = grid.open(call.latents[0])
        conditions = full.shape[grid.channels] - grid.noisy
        parts = full.float().split([grid.noisy, conditions], grid.channels)
        if isinstance(self._maps, LinearBlocks) and len(self._maps.lower) != grid.noisy:
            raise Unpoolable("its maps are those of another autoencoder")
        noisy = (self._maps.down(grid, parts[0], own) / scale).to(full.dtype)
        given = grid.pooled(parts[1], own).to(full.dtype)
        latents = grid.close(torch.cat([noisy, given], grid.channels))
        others = smaller_positions(call.arguments, tokens, size, fewer, blocks) | self._told(call, level)
        return SmallCall(
            instead(call, latents, others), full.narrow(grid.channels, 0, grid.noisy).float(), noisy.float(),
            (call.context.sigma, level), grid, own, self.anatomy.prediction, self._maps,
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
