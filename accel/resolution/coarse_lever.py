"""The lever of CoarseToFine: a smaller call at a lower noise level, of whose clean estimate the output is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accel.anatomy import Anatomy
from accel.call import DenoiserCall
from accel.report import CallRecord
from accel.resolution.block_maps import BlockMeans, LinearBlocks, from_numbers
from accel.resolution.latent_grid import LatentGrid, Unpoolable
from accel.resolution.lever import ResolutionLever
from accel.resolution.pooling import Pooling, SmallCall
from accel.resolution.smaller import Blocks

if TYPE_CHECKING:
    from accel.resolution.coarse_to_fine import CoarseToFine


class CoarseLever(ResolutionLever):
    """Answers calls at high noise."""

    did = "at a smaller size"

    def __init__(self, method: CoarseToFine, anatomy: Anatomy) -> None:
        self.coarse = method
        self._maps = from_numbers(method.factor, method.maps) if method.maps else BlockMeans()
        self._pooling = Pooling(anatomy)
        super().__init__(method, anatomy)

    def reset(self) -> None:
        super().reset()
        self._pooling.reset()

    def wants(self, call: DenoiserCall) -> bool:
        return self.coarse.factor * self.coarse.frames > 1 and call.context.time > self.coarse.until

    def why_none(self, calls: Sequence[CallRecord]) -> str:
        return f"no step that was computed is above the noise level {self.coarse.until:g}"

    def resized(self, call: DenoiserCall) -> SmallCall:
        return self._pooling.small(call, self._blocks)

    def _blocks(self, grid: LatentGrid) -> Blocks:
        if isinstance(self._maps, LinearBlocks) and len(self._maps.lower) != grid.noisy:
            raise Unpoolable("its maps are those of another autoencoder")
        blocks = (self.coarse.frames, self.coarse.factor, self.coarse.factor)
        return Blocks(grid, blocks[-len(grid.axes) :], self._maps)  # pictures have no axis of time
