"""What this machine's processor multiplies faster than float32."""

from __future__ import annotations

from functools import cache

import torch

BFLOAT16 = ("avx512_bf16", "amx_bf16")


@cache
def has_instructions() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BFLOAT16)
