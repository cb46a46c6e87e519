"""Radial Attention: the further two frames are apart, the narrower the band of positions that see each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional as F

from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.static import StaticAttention
from accel.method import setting

BLOCK = 128  # tokens: the mask block of GPU kernels, and the paper's
BLOCKS = 8  # of every frame at least: with fewer, the narrowest band is a good part of the frame
COLUMN, COLUMNS = 1 / 3, 0.6  # a column counts if more than this share of it is seen; a block if so many columns do


@dataclass(frozen=True)
class Radial(StaticAttention):
    """Attention whose reach in space halves with every doubling of the distance in time.

    Source: Radial Attention (arXiv 2506.19852), section 4, as its code has it. Frames |i - j| <= 1 see all of each
    other; further apart, with g = bit_length(|i - j|) and P = 2^bit_length(S) for S tokens in a frame, position s sees
    position s' if |s - s'| <= max(decay P / 2^g, block); where P / 2^g < block, only in every (block 2^g / P)-th frame.
    Then a block of queries sees a block of keys if over 60 % of the touched columns are over a third seen; blocks run
    over the whole clip, so that no remainder of a frame is lost (the code's are cut per frame).
    decay: published 0.2 (Wan 2.1 14B, 69 frames), 0.8 (Wan 2.2), 0.95 (HunyuanVideo); 1 is the paper's rule.
    sink: all see the first frame (published for Wan). block: tokens, 0 is 128, or less where a frame has few.
    Density at decay 0.2 on 21 frames of 3600 tokens: 24.5 % by tokens. Memory: one list of blocks. Pays with the number
    of frames: 2 are dense, and 9 of 16 x 16 tokens have 60 %, which is slower than dense.
    """

    decay: float = setting(0.2, 0.0, 4.0, "width of the bands: smaller is faster", dial=True)
    block: int = setting(0, 0, 1024, "tokens of a block; 0: 128, or less for small frames")
    sink: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sink, bool):
            raise TypeError(f"Radial.sink must be True or False, not {self.sink!r}.")

    def layout_plan(self, layout: TokenLayout) -> KeyPlan:
        size = self.block or _block(layout.frame)
        return radial_plan(layout, size, self.decay, self.sink)


@lru_cache(maxsize=16)
def radial_plan(layout: TokenLayout, size: int, decay: float, sink: bool) -> KeyPlan:
    """Blocks of `size` tokens in the order of the sequence. Runs on the CPU, below a second for 75 000 tokens."""
    count = -(-layout.video // size)
    order = torch.full((count * size,), -1)
    order[: layout.video] = torch.arange(layout.video)
    seen = (
        _seen(layout, block * size, min((block + 1) * size, layout.video), size, decay, sink) for block in range(count)
    )
    lists = []
    for block, share in enumerate(seen):
        columns = F.pad(share, (0, -len(share) % size)).view(-1, size)
        kept = (columns > COLUMN).sum(1) > COLUMNS * (columns > 0).sum(1)
        kept[block] = True
        lists.append(kept.nonzero().flatten())
    key_blocks = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)
    return KeyPlan(layout, order.view(count, size), key_blocks)


def reach(layout: TokenLayout, distance: int, block: int, decay: float) -> int:
    """How many positions apart two tokens may be that see each other, in frames at this distance; -1: none do."""
    if distance <= 1:
        return layout.frame
    octave = float(1 << layout.frame.bit_length()) / (1 << distance.bit_length())  # P / 2^g
    if octave < block and distance % int(block / octave):
        return -1
    return int(max(decay * octave, block))


def _seen(layout: TokenLayout, start: int, end: int, block: int, decay: float, sink: bool) -> torch.Tensor:
    """(video,) the share of the queries from `start` to `end` that see each key."""
    position = torch.arange(layout.frame)
    counts = torch.zeros(layout.frames, layout.frame, dtype=torch.long)
    for frame in range(start // layout.frame, (end - 1) // layout.frame + 1):
        first, last = max(start - frame * layout.frame, 0), min(end - frame * layout.frame, layout.frame)
        reaches = [
            layout.frame if sink and other == 0 else reach(layout, abs(frame - other), block, decay)
            for other in range(layout.frames)
        ]
        width = torch.tensor(reaches)[:, None]
        counts += ((position + width + 1).clamp_max(last) - (position - width).clamp_min(first)).clamp_min(0)
    return counts.flatten() / (end - start)


def _block(frame: int) -> int:
    """128, or the power of two that still cuts a frame in 8; 16 is the least that computes well."""
    return max(min(BLOCK, 1 << max(frame // BLOCKS, 1).bit_length() - 1), 16)
