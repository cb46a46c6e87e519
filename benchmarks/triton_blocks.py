"""A Triton kernel for planned attention: each tile of queries walks the list of key blocks that it sees.

Nothing is packed or copied: tokens are read where they stand, so a plan that changes in every step costs nothing to
begin with. Forward only. Exact in Triton's interpreter (`TRITON_INTERPRET=1`) for every form of plan, in float32 and
float16. torch for CPUs comes without Triton, and tests skip it there: `pip install triton` and run
`pytest --slow tests/benchmarks/test_triton_blocks.py`. Never run on a GPU, so it is not in the package yet:
`python -m benchmarks.attention --device cuda` tests and times it beside the others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from accel.attention.dense import dense
from accel.attention.plan import KeyPlan

TILE = 64  # queries, and keys, of one product; few enough for heads of 256 in the memory of a core
LEAST = 16  # a product needs as many rows, columns and channels
LOG2E = 1.4426950408889634


class TritonBlocks:
    """Exact against the plan's mask; any plan, head widths up to 256, float16, bfloat16 and float32.

    Compiles once for each data type, head width and block size. Memory: the output, and one float32 for each query.
    """

    name = "triton"

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        out, _ = block_attention_forward(q, k, v, plan, scale, text)
        if plan.layout.text:
            rows = plan.layout.text_rows
            out[:, :, rows] = dense(q[:, :, rows], k, v, plan.layout, scale, text)
        return out


def block_attention_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output (B, h, L, D) and the natural logarithm of the sum of the exponentials (B, h, L), in float32.

    Both of the rows of video; those of text are left as they were allocated. text: see `accel.attention.kernels`.
    """
    q, k, v = (tensor.contiguous() for tensor in (q, k, v))
    samples, heads, tokens, width = q.shape
    out, sums = torch.empty_like(q), q.new_empty(samples, heads, tokens, dtype=torch.float32)
    order, lists = (_own(tensor, samples, heads) for tensor in (plan.order, plan.key_blocks))
    blocks, size = order.shape[-2:]
    tile = max(min(triton.next_power_of_2(size), TILE), LEAST)
    _forward[(blocks * triton.cdiv(size, tile), samples * heads)](
        q, k, v, out, sums, order, lists, text, scale * LOG2E,
        tokens, size, lists.shape[-1], len(text), plan.layout.video_rows.start,
        blocks * size if order.ndim == 4 else 0, lists.shape[-2] * lists.shape[-1] if lists.ndim == 4 else 0,
        WIDTH=width, CHANNELS=max(triton.next_power_of_2(width), LEAST), TILE=tile,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
    )  # fmt: skip
    return out, sums


def _own(tensor: torch.Tensor, samples: int, heads: int) -> torch.Tensor:
    """Contiguous, and where samples or heads differ, one for each of both."""
    return (tensor.expand(samples, heads, -1, -1) if tensor.ndim == 4 else tensor).contiguous()


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, sums, order, lists, text, scale,
    tokens, size, slots, text_tokens, video_start, order_stride, lists_stride,
    WIDTH: tl.constexpr, CHANNELS: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head of one sample."""
    tiles = tl.cdiv(size, TILE)
    block, sequence = tl.program_id(0) // tiles, tl.program_id(1).to(tl.int64)
    order += sequence * order_stride
    lists += sequence * lists_stride + block * slots
    base, rows = sequence * tokens, tl.arange(0, TILE)
    channels = tl.arange(0, CHANNELS)[None, :]
    place = (tl.program_id(0) % tiles) * TILE + rows
    token = tl.load(order + block * size + place, mask=place < size, other=-1)
    here = token >= 0
    at = base + tl.where(here, token + video_start, 0)
    there = here[:, None] & (channels < WIDTH)
    queries = tl.load(q + at[:, None] * WIDTH + channels, mask=there, other=0.0)
    total = tl.zeros([TILE, CHANNELS], dtype=tl.float32)
    largest = tl.full([TILE], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([TILE], dtype=tl.float32)
    for slot in range(slots):
        seen = tl.load(lists + slot)
        for start in range(0, size, TILE):
            column = start + rows
            filled = tl.where(seen >= 0, size, 0)  # lists of fewer blocks end with -1
            key = tl.load(order + tl.maximum(seen, 0) * size + column, mask=column < filled, other=-1)
            total, largest, weight = _attend(
                queries, k, v, base + tl.where(key >= 0, key + video_start, 0), key >= 0, scale, total, largest, weight,
                channels, WIDTH, PRECISION,
            )  # fmt: skip
    for start in range(0, text_tokens, TILE):
        column = start + rows
        key = tl.load(text + column, mask=column < text_tokens, other=0)
        total, largest, weight = _attend(
            queries, k, v, base + key, column < text_tokens, scale, total, largest, weight, channels, WIDTH, PRECISION
        )
    tl.store(out + at[:, None] * WIDTH + channels, (total / weight[:, None]).to(out.dtype.element_ty), mask=there)
    tl.store(sums + at, (largest + tl.log2(weight)) * 0.6931471805599453, mask=here)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    queries, k, v, at, there, scale, total, largest, weight, channels, WIDTH: tl.constexpr, PRECISION: tl.constexpr
):
    """What the keys and values at these places add to the running sums of a tile, all in powers of two."""
    mask = there[:, None] & (channels < WIDTH)
    keys = tl.load(k + at[:, None] * WIDTH + channels, mask=mask, other=0.0)
    values = tl.load(v + at[:, None] * WIDTH + channels, mask=mask, other=0.0)
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    scores = tl.where(there[None, :], scores, float("-inf"))
    higher = tl.maximum(largest, tl.max(scores, 1))
    known = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: no difference of infinities
    shares = tl.exp2(scores - known[:, None])
    fade = tl.exp2(largest - known)
    weight = weight * fade + tl.sum(shares, 1)
    total = total * fade[:, None] + tl.dot(shares.to(values.dtype), values, input_precision=PRECISION)
    return total, higher, weight
