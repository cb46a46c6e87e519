"""The arithmetic of SageAttention in ordinary torch: what quantising costs in quality, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accel.attention.low_precision import DenseKernel, LowPrecisionAttention
from accel.attention.methods.bfloat16 import smooth_keys

QUERY_BLOCK, KEY_BLOCK = 128, 64  # tokens that share a scale
LARGEST_FLOAT8 = 448.0  # of e4m3
CHUNK_BYTES = 32 << 20


class Quantised:
    """SageAttention as an ordinary computation, several times slower than dense attention.

    Source: SageAttention (arXiv 2410.02367, section 4) and SageAttention2 (arXiv 2411.10958, section 3): the mean over
    tokens is taken from the keys, which adds the same to all logits of a query and so changes nothing, and queries and
    keys become int8 with one scale for each block of tokens (amax / 127). The weights exp(s - max) are rounded to
    float16, as are the values; or to float8 e4m3 over [0, 448], with one scale for each channel of the values. Sums are
    in float32, where the kernels of some GPUs have fewer bits. Finer scales (each warp's or thread's own) are not
    emulated.
    """

    def __init__(self, weights: torch.dtype = torch.float16, smooth: bool = True) -> None:
        self.weights, self.smooth = weights, smooth
        self.name = f"slow emulation of int8 and {'float8' if weights == torch.float8_e4m3fn else 'float16'}"

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        keys = smooth_keys(k.float()) if self.smooth else k.float()
        queries, query_scales = int8_blocks(q.float() * scale, QUERY_BLOCK)
        keys, key_scales = int8_blocks(keys, KEY_BLOCK)
        values = _rounded_values(v.float(), self.weights)
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
        for rows in _chunks(q, k.shape[-2]):
            # Sums of int8 products are whole numbers below 2^24 up to heads of 1040 channels: exact, as in int32.
            logits = queries[:, :, rows] @ keys.mT * query_scales[:, :, rows] * key_scales.mT
            weights = (logits - logits.amax(-1, keepdim=True)).exp()
            out[:, :, rows] = _rounded_weights(weights, self.weights) @ values / weights.sum(-1, keepdim=True)
        return out


@dataclass(frozen=True)
class Emulated(LowPrecisionAttention, abstract=True):
    """SageAttention's arithmetic as a method, on sequences of any length. Recipes cannot name it."""

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[DenseKernel]:
        return [Quantised()]

    def least_tokens(self, device: torch.device) -> int:
        return 0


def int8_blocks(tensor: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, H, L, D) as whole numbers from -127 to 127, and (B, H, L, 1) the scale of each token's block."""
    largest = tensor.abs().amax(-1, keepdim=True)
    scales = torch.cat([part.amax(2, keepdim=True).expand_as(part) for part in largest.split(block, dim=2)], dim=2)
    scales = scales.clamp_min(1e-12) / 127
    return (tensor / scales).round().clamp(-127, 127), scales


def _rounded_weights(weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.float8_e4m3fn:
        return (weights * LARGEST_FLOAT8).to(dtype).float() / LARGEST_FLOAT8
    return weights.to(dtype).float()


def _rounded_values(v: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.float8_e4m3fn:
        scales = v.abs().amax(2, keepdim=True).clamp_min(1e-12) / LARGEST_FLOAT8
        return (v / scales).to(dtype).float() * scales
    return v.to(dtype).float()


def _chunks(q: torch.Tensor, keys: int) -> list[slice]:
    samples, heads, tokens, _ = q.shape
    rows = max(CHUNK_BYTES // (4 * samples * heads * keys), 1)
    return [slice(start, start + rows) for start in range(0, tokens, rows)]
