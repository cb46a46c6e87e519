"""The lever of ShiftedWindows: one batched call for all windows, and one output for the whole canvas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from accel.anatomy import Anatomy
from accel.call import LATENTS, TIMESTEP, DenoiserCall, rebuilt, tensors
from accel.report import CallRecord, LeverReport
from accel.resolution.latent_grid import LatentGrid, Unpoolable, grid_of
from accel.resolution.lever import NOT_ONE, ResizedCall, ResolutionLever, instead, three, token_grid, token_size
from accel.resolution.pooling import Pooling, SmallCall
from accel.resolution.positions import prompts_by_frame, smaller_positions
from accel.resolution.segments import Segment, segments
from accel.resolution.smaller import FewerFrames

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


@dataclass(frozen=True)
class CutTwice:
    """A clip that is seen as one window in time, whose rows and columns are cut into windows."""

    whole: SmallCall
    windows: WindowedCall

    @property
    def call(self) -> DenoiserCall:
        return self.windows.call

    def at_full_size(self, output: Any) -> Any:
        return self.whole.at_full_size(self.windows.at_full_size(output))


class WindowsLever(ResolutionLever):
    """Answers calls whose latents are larger than a window."""

    did = "in windows"

    def __init__(self, method: ShiftedWindows, anatomy: Anatomy) -> None:
        self.shifted = method
        self._pooling = Pooling(anatomy)
        self._wholes, self._apart = 0, Counter[str]()
        super().__init__(method, anatomy)

    def reset(self) -> None:
        super().reset()
        self._pooling.reset()

    def wants(self, call: DenoiserCall) -> bool:
        return self.shifted.window + self.shifted.frames > 0

    def why_none(self, calls: Sequence[CallRecord]) -> str:
        return "neither window nor frames is set"

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        found, wholes, apart = super().report(calls), self._wholes, self._apart
        self._wholes, self._apart = 0, Counter()
        if not found.engaged:
            return found
        said = [found.reason] + ([f"{wholes} of them of the whole clip at once"] if wholes else [])
        said += [f"{n} of them not of the whole clip at once ({why})" for why, n in apart.items()]
        return replace(found, reason=", ".join(said))

    def resized(self, call: DenoiserCall) -> ResizedCall:
        whole = self._whole(call)
        if whole is None:
            return self._in_windows(call)
        self._wholes += 1
        larger = any(0 < self.shifted.window < size for size in whole.smaller.grid.sizes[-2:])
        return CutTwice(whole, self._in_windows(whole.call)) if larger else whole

    def _whole(self, call: DenoiserCall) -> SmallCall | None:
        """The call of a long clip as one window in time, while noise is high and where it shows how."""
        part, method = self.anatomy.denoisers[call.denoiser], self.shifted
        grid = grid_of(call, part.config, part.family.packed)
        length, *_ = three(grid.sizes)
        if not 0 < method.frames < length or call.context.time <= method.whole:
            return None
        try:
            if grid.open(call.latents[0]).shape[grid.channels] > grid.noisy:
                raise Unpoolable("the picture that a frame is told to show would be averaged with what others are told")
            return self._pooling.small(call, partial(FewerFrames, frames=method.frames))
        except Unpoolable as reason:
            self._apart[str(reason)] += 1
            return None

    def _in_windows(self, call: DenoiserCall) -> WindowedCall:
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
        by_frame = prompts_by_frame(call, grid)
        others = {
            name: torch.cat([by_frame[name].narrow(1, window[0].start, sizes[0]).flatten(0, 1) for window in windows])
            if name in by_frame
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
