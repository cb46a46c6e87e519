"""What this machine's processor multiplies faster than float32."""

from __future__ import annotations

from functools import cache

import torch

TILES = "amx_bf16"
BFLOAT16 = ("avx512_bf16", TILES)
KERNELS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


@cache
def has_instructions() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BFLOAT16)


@cache
def multiplies_in_loops(dtype: torch.dtype) -> bool:
    """Whether torch multiplies matrices of this 16-bit type on this CPU in plain loops, many times slower than those of
    float32: on x86, where its library of kernels (oneDNN) says that it has none for them.
    """
    supports = getattr(torch.ops.mkldnn, KERNELS[dtype], None)
    on_x86 = torch.cpu.get_capabilities().get("architecture") == "x86_64"
    return supports is not None and on_x86 and not supports()


@cache
def has_tiles() -> bool:
    """Whether it multiplies them so fast (AMX) that torch's own attention in bfloat16 is the fastest there is: 3.5 to 4
    times as fast as in float32 with heads of 128 channels, 1,024 and 4,096 tokens, and 2.5 to 3.4 times with 64.
    """
    return bool(torch.cpu.get_capabilities().get(TILES, False))
