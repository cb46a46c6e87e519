"""Attention in 16 bits of a model in 32: products of bfloat16 where the processor has instructions for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from accel.attention.gather import Gather
from accel.attention.kernels import Kernel
from accel.attention.low_precision import DenseKernel, LowPrecisionAttention
from accel.attention.methods.window_residual import WindowResidual
from accel.attention.plan import KeyPlan
from accel.method import setting
from accel.processor import has_instructions, has_tiles

# Scores of one product: they should stay in the cache until the second. 1 to 2 MiB measured best, 8 lose all gain.
CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class LowPrecision(LowPrecisionAttention):
    """The attention of a model in 16 bits, everything else in its own precision.

    Not published. On CPUs with AVX512-BF16: two matrix products in bfloat16 in chunks that stay in the cache, about
    twice as fast as torch's own attention in float32 or bfloat16 with heads of 64 channels, 2.5 times with 128 and 1.5
    with 32, at errors of 0.5 %. Keys lose their mean first, so that logits are small where they are rounded. What
    `sparse` plans is computed alike. On GPUs and on CPUs with AMX: torch's own attention, which is fast in 16 bits, for
    models in float32; on the latter 2.5 to 4 times as fast as in float32, at errors of 0.4 %.
    dtype: "float16" is more exact and overflows at 65504; on GPUs alone, since CPUs are slow in it.
    Memory: queries, keys, values and output once more in 16 bits, and `CHUNK_BYTES` of scores twice. Not for models in
    16 bits on GPUs, where torch's own kernels are as fast.
    """

    dtype: str = setting("bfloat16", help="what attention is computed in", choices=("bfloat16", "float16"))

    @classmethod
    def for_tuning(cls) -> Sequence[LowPrecision]:
        return (cls(), cls(sparse=WindowResidual()))

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[DenseKernel] | str:
        if device.type == "cpu" and (without := self._without()):
            return without
        if device.type == "cpu" and not has_tiles():
            return [Products()]
        if dtype in (torch.bfloat16, torch.float16):
            return "because they are in 16 bits already"
        return [Cast(getattr(torch, self.dtype))]

    def for_plans(self, device: torch.device, dtype: torch.dtype) -> Kernel | None:
        return GatheredProducts() if device.type == "cpu" and not self._without() else None

    def _without(self) -> str:
        """Why this CPU gains nothing."""
        if self.dtype != "bfloat16":
            return "because CPUs are slower in float16 than in float32: choose bfloat16"
        return "" if has_instructions() else "because this CPU has no instructions for bfloat16"


class Products:
    """Scores and outputs by batched products of bfloat16 matrices, a few rows of scores at a time."""

    name = "bfloat16 products"

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        return products(q, smooth_keys(k), v, scale).to(q.dtype)


class GatheredProducts:
    """The same of the keys that a plan selects. Exact against its mask, but for the rounding."""

    name = "gather in bfloat16"

    def __init__(self) -> None:
        self._gather = Gather(attention=products)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        dtype = torch.bfloat16
        return self._gather(q.to(dtype), smooth_keys(k).to(dtype), v.to(dtype), plan, scale, text).to(q.dtype)


class Cast:
    """Torch's own attention in another data type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.name = str(dtype).removeprefix("torch.")

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        near, keys, values = q.to(self.dtype), k.to(self.dtype), v.to(self.dtype)
        return F.scaled_dot_product_attention(near, keys, values, scale=scale).to(q.dtype)


def smooth_keys(k: torch.Tensor) -> torch.Tensor:
    """Keys (B, H, L, D) without their mean over the tokens: attention stays the same, and outlier channels go."""
    return k - k.mean(2, keepdim=True)


def products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention (..., n, D) in bfloat16 of queries (..., n, D) and keys and values (..., m, D)."""
    lead, (rows, width), keys = q.shape[:-2], q.shape[-2:], k.shape[-2]
    q = (q * scale).to(torch.bfloat16).reshape(-1, rows, width)
    k = k.to(torch.bfloat16).reshape(-1, keys, width).mT
    v = v.to(torch.bfloat16).reshape(-1, keys, v.shape[-1])
    out = torch.empty(len(q), rows, v.shape[-1], dtype=torch.bfloat16, device=q.device)
    many = max(CHUNK_BYTES // (2 * rows * keys), 1)  # heads in one product
    some = rows if many > 1 else min(max(CHUNK_BYTES // (2 * keys), 16), rows)  # rows of them
    # The same memory for all chunks: fresh pages for each of them cost as much as the product.
    memory = torch.empty(2, min(many, len(q)) * some * keys, dtype=torch.bfloat16, device=q.device)
    for first in range(0, len(q), many):
        heads = slice(first, first + many)
        for start in range(0, rows, some):
            near = q[heads, start : start + some]
            shape = (*near.shape[:2], keys)
            scores, weights = (part[: near.shape[0] * near.shape[1] * keys].view(shape) for part in memory)
            torch.bmm(near, k[heads], out=scores)
            torch.softmax(scores, -1, out=weights)
            out[heads, start : start + some] = torch.bmm(weights, v[heads])
    return out.view(*lead, rows, -1)
