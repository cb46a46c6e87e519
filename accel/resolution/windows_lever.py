"""The lever of ShiftedWindows: one batched call for all windows, and one output for the whole canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from accel.anatomy import Anatomy
from accel.call import CONDITIONING, LATENTS, TIMESTEP, DenoiserCall, rebuilt, tensors
from accel.report import CallRecord
from accel.resolution.latent_grid import LatentGrid, Unpoolable, grid_of
from accel.resolution.lever import NOT_ONE, ResolutionLever, instead, three, token_grid, token_size
from accel.resolution.positions import smaller_positions
from accel.resolution.segments import Segment, segments

if TYPE_CHECKING:
    from accel.resolution.shifted_windows import ShiftedWindows

Window = tuple[Segment, ...]  # one for each axis


@dataclass(frozen=True)
class WindowedCall:
    """A denoiser call whose batch is all samples of the first window, then all of the second, and so on."""

    call: DenoiserCall
    grid: LatentGrid  # of the whole canvas
    part: LatentGrid  # of a window
    windows: Sequence[Window]

    def at_full_size(self, output: Any) -> Any:
        found = tensors(output)
        if len(found) != 1 or found[0].ndim != self.call.latents[0].ndim:
            raise Unpoolable(NOT_ONE)
        parts = self.part.open(found[0]).chunk(len(self.windows))
        if any(parts[0].shape[axis] != size for axis, size in zip(self.part.axes, self.part.sizes, strict=True)):
            raise Unpoolable(NOT_ONE)
        shape = list(parts[0].shape)
        for axis, size in zip(self.grid.axes, self.grid.sizes, strict=True):
            shape[axis] = size
        whole = parts[0].new_empty(shape)
        for window, part in zip(self.windows, parts, strict=True):
            self._put(window, part, whole)
        return rebuilt(output, [self.grid.close(whole)])

    def _put(self, window: Window, part: torch.Tensor, whole: torch.Tensor) -> None:
        """Writes the places that are taken from this window, in up to two pieces where it goes beyond an end."""
        pieces = [_pieces(one, length) for one, length in zip(window, self.grid.sizes, strict=True)]
        for piece in product(*pieces):
            here, there = part, whole
            for axis, (inside, place, count) in zip(self.grid.axes, piece, strict=True):
                here, there = here.narrow(axis, inside, count), there.narrow(axis, place, count)
            there.copy_(here)


class WindowsLever(ResolutionLever):
    """Answers calls whose latents are larger than a window."""

    did = "in windows"

    def __init__(self, method: ShiftedWindows, anatomy: Anatomy) -> None:
        super().__init__(method, anatomy)
        self.shifted = method

    def wants(self, call: DenoiserCall) -> bool:
        return self.shifted.window + self.shifted.frames > 0

    def why_none(self, calls: Sequence[CallRecord]) -> str:
        return "neither window nor frames is set"

    def resized(self, call: DenoiserCall) -> WindowedCall:
        part, method = self.anatomy.denoisers[call.denoiser], self.shifted
        grid = grid_of(call, part.config, part.family.packed)
        token, axes = token_size(grid, part.config), len(grid.axes)
        if any(isinstance(told := call.arguments.get(name), torch.Tensor) and told.ndim > 1 for name in TIMESTEP):
            raise Unpoolable("each token has a timestep of its own")
        wanted = (method.frames, method.window, method.window)[-axes:]
        sizes = tuple(min(want or have, have) for want, have in zip(wanted, grid.sizes, strict=True))
        if sizes == grid.sizes:
            raise Unpoolable("one window holds all of it")
        fewer = token_grid(three(sizes), (1, 1, 1), token)
        windows = self._windows(call, grid.sizes, sizes, token[-axes:])
        opened, small = grid.open(call.latents[0]), grid.resized(sizes)
        latents = torch.cat([_cut(opened, grid, window, sizes) for window in windows])
        positions = smaller_positions(
            call.arguments, token_grid(three(grid.sizes), (1, 1, 1), token), three(grid.sizes), fewer, (1, 1, 1)
        )
        others = {
            name: _by_frame(value, grid, windows, sizes)
            if name in CONDITIONING and axes == 3 and _is_by_frame(value, call.rows, grid)
            else repeated(value, call.rows, len(windows))
            for name, value in {**call.arguments, **positions}.items()
            if name not in LATENTS
        }
        return WindowedCall(instead(call, small.close(latents), others), grid, small, windows)

    def _windows(
        self, call: DenoiserCall, lengths: Sequence[int], sizes: Sequence[int], token: Sequence[int]
    ) -> list[Window]:
        """Cut between tokens. The places of an axis are drawn for itself."""
        method, context, along = self.shifted, call.context, []
        for axis, (length, size, unit) in enumerate(zip(lengths, sizes, token, strict=True), start=3 - len(lengths)):
            offset = method.offset(context.position, context.time, axis, size // unit)
            found = segments(length // unit, size // unit, offset, bool(method.circular) and axis == 2)
            along.append([Segment(*(place * unit for place in one)) for one in found])
        return list(product(*along))


def repeated(value: Any, rows: int, times: int) -> Any:
    """An argument for so many batches of so many samples: tensors and lists that have one entry for each sample follow
    each other as often.
    """
    if isinstance(value, torch.Tensor):
        batched = value.ndim > 0 and value.shape[0] == rows
        return value.repeat(times, *[1] * (value.ndim - 1)) if batched else value
    if isinstance(value, dict):
        return {name: repeated(item, rows, times) for name, item in value.items()}
    return value * times if isinstance(value, list) and len(value) == rows else value


def _is_by_frame(value: Any, rows: int, grid: LatentGrid) -> bool:
    """Whether a prompt has an entry for each frame of each sample (AnimateDiff)."""
    return isinstance(value, torch.Tensor) and value.shape[0] == rows * grid.sizes[0] > rows


def _by_frame(value: torch.Tensor, grid: LatentGrid, windows: Sequence[Window], sizes: Sequence[int]) -> torch.Tensor:
    entries = value.unflatten(0, (-1, grid.sizes[0]))
    return torch.cat([entries.narrow(1, window[0].start, sizes[0]).flatten(0, 1) for window in windows])


def _cut(values: torch.Tensor, grid: LatentGrid, window: Window, sizes: Sequence[int]) -> torch.Tensor:
    for axis, one, length, size in zip(grid.axes, window, grid.sizes, sizes, strict=True):
        beyond = one.start % length + size - length
        if beyond > 0:
            ends = values.narrow(axis, one.start % length, size - beyond), values.narrow(axis, 0, beyond)
            values = torch.cat(ends, axis)
        else:
            values = values.narrow(axis, one.start % length, size)
    return values


def _pieces(one: Segment, length: int) -> list[tuple[int, int, int]]:
    """(place in the window, place on the canvas, how many), cut where the canvas ends."""
    inside, first, count = one.first - one.start, one.first % length, one.last - one.first
    before = min(count, length - first)
    return [(inside, first, before)] + ([(inside + before, 0, count - before)] if count > before else [])
