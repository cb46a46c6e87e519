"""Dense attention with a weight for each key, and with what its softmax divided by, so that parts can be merged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

WIDER = 8  # channels: kernels of GPUs want multiples
SCORES = 1 << 24  # in memory at a time, where no kernel tells its log-sum-exp


class PartialAttention(NamedTuple):
    """Attention over some of the keys."""

    output: torch.Tensor  # (B, H, L, D)
    log_sum: torch.Tensor  # (B, H, L): the logarithm of the sum of the exponentials of its logits


def weighted(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, log_weights: torch.Tensor | float
) -> torch.Tensor:
    """softmax(scale q k + log_weights) v, by the device's fastest kernel. log_weights: (keys,) in float32, or one for
    all.
    """
    if not isinstance(log_weights, torch.Tensor):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if q.device.type == "cpu":  # takes a mask at no cost
        return F.scaled_dot_product_attention(q, k, v, attn_mask=log_weights.to(q.dtype)[None, None, None], scale=scale)
    return F.scaled_dot_product_attention(*in_channels(q, k, v, scale, log_weights), scale=scale)[..., : v.shape[-1]]


def in_channels(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, log_weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same attention without a mask, which rules out the flash kernels of GPUs: the weights are further channels of
    the keys, which meet ones in the queries. In two channels they are exact to twice the bits of the data type.
    """
    wanted = log_weights / scale
    coarse = wanted.to(k.dtype)
    more = torch.stack([coarse, (wanted - coarse.float()).to(k.dtype)], -1)
    ones = q.new_ones(2).expand(*q.shape[:-1], 2)
    q, k = torch.cat([q, ones], -1), torch.cat([k, more.expand(*k.shape[:-1], 2)], -1)
    return F.pad(q, (0, WIDER - 2)), F.pad(k, (0, WIDER - 2)), F.pad(v, (0, WIDER))


def with_log_sum(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, log_weights: torch.Tensor | float = 0.0
) -> PartialAttention:
    """The same, and its log-sum-exp: of the flash kernels where the device has them, else in chunks of rows."""
    if not isinstance(log_weights, torch.Tensor):
        output, log_sum = _with_log_sum(q, k, v, scale, None)
        return PartialAttention(output, log_sum + log_weights if log_weights else log_sum)
    return _with_log_sum(q, k, v, scale, log_weights)


def _with_log_sum(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, log_weights: torch.Tensor | None
) -> PartialAttention:
    aten, width = torch.ops.aten, v.shape[-1]
    if q.device.type == "cpu" and q.shape[-1] == width:
        mask = None if log_weights is None else log_weights.to(q.dtype).expand(q.shape[0], 1, q.shape[2], -1)
        return PartialAttention(*aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale))
    if q.device.type == "cuda" and q.dtype.itemsize == 2 and q.shape[-1] == width and width % WIDER == 0:
        if log_weights is not None:
            q, k, v = in_channels(q, k, v, scale, log_weights)
        output, log_sum, *_ = aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
        return PartialAttention(output[..., :width], log_sum)
    return _in_chunks(q, k, v, scale, log_weights)


def _in_chunks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, log_weights: torch.Tensor | None
) -> PartialAttention:
    rows = max(SCORES // (q.shape[0] * q.shape[1] * k.shape[2]), 1)
    outputs, sums = [], []
    for some in q.split(rows, 2):
        scores = (some @ k.mT).float() * scale
        scores = scores if log_weights is None else scores + log_weights
        sums.append(scores.logsumexp(-1))
        outputs.append((scores - sums[-1][..., None]).exp().to(v.dtype) @ v)
    return PartialAttention(torch.cat(outputs, 2), torch.cat(sums, 2))


def with_exact(whole: PartialAttention, near_means: PartialAttention, near: PartialAttention) -> torch.Tensor:
    """Of attention over means, with what it says of those of the near keys exchanged for the near keys themselves.

    The difference does not lose digits: an exponential of a mean is at most the mean of the exponentials, so that what
    is taken away is never more than what is put in its place.
    """
    highest = torch.maximum(whole.log_sum, near.log_sum).float()
    shares = [(part.log_sum.float() - highest).exp()[..., None] for part in (whole, near_means, near)]
    total = shares[0] - shares[1] + shares[2]
    sums = shares[0] * whole.output - shares[1] * near_means.output + shares[2] * near.output
    return (sums / total).to(whole.output.dtype)
