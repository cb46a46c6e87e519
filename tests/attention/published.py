"""What the packages of kernels declare, as published: the names that their functions take, and the values of some.

Read in their repositories: SageAttention at its tags v2.0.1 and v2.2.0 and, for versions 1 and 3, at the commits below;
xFormers at v0.0.27 to v0.0.34 (later ones take these functions from another package). Most of SageAttention's functions
take any other name as well and ignore it, so that a misspelt one would pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import Any

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class PublishedFunction:
    """A function as it was declared.

    names: of its arguments, in their order; those behind "*" by name only. required: how many have no default.
    values: what it takes for some of them.
    """

    version: str
    names: str
    required: int = 3
    values: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def read(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The arguments of a call by name. Raises TypeError for a call that does not fit, ValueError for a value."""
        positional, _, by_name = self.names.partition(" * ")
        kinds = {
            **dict.fromkeys(positional.split(), Parameter.POSITIONAL_OR_KEYWORD),
            **dict.fromkeys(by_name.split(), Parameter.KEYWORD_ONLY),
        }
        declared = [
            Parameter(name, kind, default=Parameter.empty if at < self.required else None)
            for at, (name, kind) in enumerate(kinds.items())
        ]
        given = Signature(declared).bind(*args, **kwargs).arguments
        for name, allowed in self.values.items():
            if name in given and given[name] not in allowed:
                raise ValueError(f"{name}={given[name]!r} is none of {allowed}")
        return given


_QUANTISED = "q k v tensor_layout is_causal qk_quant_gran sm_scale pv_accum_dtype smooth_k"
_LAYOUT = {"tensor_layout": ("HND", "NHD")}
_CHOICES = {**_LAYOUT, "qk_quant_gran": ("per_warp", "per_thread")}
SAGE: dict[str, PublishedFunction] = {
    "sageattn_qk_int8_pv_fp16_cuda": PublishedFunction(
        "v2.0.1 and v2.2.0", f"{_QUANTISED} smooth_v return_lse",
        values={**_CHOICES, "pv_accum_dtype": ("fp32", "fp16", "fp16+fp32")},
    ),
    "sageattn_qk_int8_pv_fp16_triton": PublishedFunction(
        "v2.0.1, and v2.2.0 with a mask besides",
        "q k v tensor_layout quantization_backend is_causal sm_scale smooth_k return_lse", values=_LAYOUT,
    ),
    "sageattn_qk_int8_pv_fp8_cuda": PublishedFunction(
        "v2.2.0", f"{_QUANTISED} smooth_v return_lse",
        values={**_CHOICES, "pv_accum_dtype": ("fp32", "fp32+fp32", "fp32+fp16")},
    ),
    "sageattn_qk_int8_pv_fp8_cuda_sm90": PublishedFunction(
        "v2.2.0", f"{_QUANTISED} return_lse", values={**_CHOICES, "pv_accum_dtype": ("fp32", "fp32+fp32")},
    ),
    "sageattn": PublishedFunction(
        "1.0.6, commit ee8a972", "q k v tensor_layout is_causal sm_scale smooth_k", values=_LAYOUT,
    ),
    "sageattn3_blackwell": PublishedFunction("1.0.0, commit d1a57a5", "q k v attn_mask is_causal per_block_mean"),
}  # fmt: skip

ATTENTION = PublishedFunction("v0.0.27 to v0.0.34", "query key value attn_bias p scale * op")
FROM_SEQLENS = PublishedFunction("v0.0.27 to v0.0.34", "q_seqlen kv_seqlen * device", required=1)


@dataclass
class BlockDiagonalMask:
    """Each run of queries sees its own run of keys."""

    queries: list[int]
    keys: list[int]
    device: torch.device

    @classmethod
    def from_seqlens(cls, *args: Any, **kwargs: Any) -> BlockDiagonalMask:
        given = FROM_SEQLENS.read(*args, **kwargs)
        queries = given["q_seqlen"]
        keys = given.get("kv_seqlen") or queries
        if len(queries) != len(keys):
            raise ValueError("as many runs of keys as of queries")
        return cls(queries, keys, given.get("device") or torch.device("cuda"))


def memory_efficient_attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    """(B, tokens, heads, channels), as the package has them."""
    given = ATTENTION.read(*args, **kwargs)
    q, k, v = given["query"], given["key"], given["value"]
    bias, scale = given.get("attn_bias"), given.get("scale")
    if {tensor.device for tensor in (q, k, v)} != {q.device if bias is None else bias.device}:
        raise ValueError("the bias and the tensors are on several devices")
    runs = [(q.shape[1], k.shape[1])] if bias is None else list(zip(bias.queries, bias.keys, strict=True))
    if (sum(queries for queries, _ in runs), sum(keys for _, keys in runs)) != (q.shape[1], k.shape[1]):
        raise ValueError("the runs are not all of the tokens")
    found, at = [], (0, 0)
    for queries, keys in runs:
        parts = q[:, at[0] : at[0] + queries], k[:, at[1] : at[1] + keys], v[:, at[1] : at[1] + keys]
        at = (at[0] + queries, at[1] + keys)
        found.append(
            F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts), scale=scale).transpose(1, 2)
        )
    return torch.cat(found, 1)
