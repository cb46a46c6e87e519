"""SageAttention: 8-bit and 4-bit attention kernels of another package, each GPU with the one that is right on it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.attention.low_precision import DenseKernel, LowPrecisionAttention
from accel.lever import InactiveLever, Lever
from accel.method import setting

WIDEST = 128  # channels of a head; the package pads narrower ones to 64 or 128

INSTALL = "pip install sageattention (version 1, any GPU from compute capability 8.0), or build version 2 or 3"


@dataclass(frozen=True)
class SageVariant:
    """One function of the packages."""

    name: str
    kind: str  # how it multiplies weights and values: what SageAttention.kernel chooses
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    package: str = "sageattention"


FP16 = SageVariant("sage fp16", "fp16", "sageattn_qk_int8_pv_fp16_cuda", {"pv_accum_dtype": "fp32"})
TRITON = SageVariant("sage triton", "triton", "sageattn_qk_int8_pv_fp16_triton")
FP8 = SageVariant("sage fp8", "fp8", "sageattn_qk_int8_pv_fp8_cuda", {"pv_accum_dtype": "fp32+fp16"})
FP8_EXACT_SUM = SageVariant("sage fp8 fp32", "fp8", "sageattn_qk_int8_pv_fp8_cuda", {"pv_accum_dtype": "fp32+fp32"})
FP8_WARP = SageVariant(
    "sage fp8 warp", "fp8", FP8.function, {"pv_accum_dtype": "fp32+fp16", "qk_quant_gran": "per_warp"}
)
FP8_HOPPER = SageVariant("sage fp8 sm90", "fp8", "sageattn_qk_int8_pv_fp8_cuda_sm90", {"pv_accum_dtype": "fp32+fp32"})
FP4 = SageVariant("sage fp4", "fp4", "sageattn3_blackwell", package="sageattn3")
FIRST_VERSION = SageVariant("sage 1", "triton", "sageattn")

# By compute capability, the best first. The package's own choice differs on 9.0: its fp8 kernel there gives noise on
# Wan 2.2 (diffusers issue 12783), so fp16 comes first. 10.0 is in version 3 alone.
VARIANTS: dict[tuple[int, int], tuple[SageVariant, ...]] = {
    (8, 0): (FP16, TRITON),
    (8, 6): (TRITON, FP16),
    (8, 7): (TRITON, FP16),
    (8, 9): (FP8, FP8_EXACT_SUM, FP16, TRITON),
    (9, 0): (FP16, FP8_HOPPER, TRITON),
    (10, 0): (FP4,),
    (12, 0): (FP8_WARP, FP4),
    (12, 1): (FP8_WARP, FP4),
}


@dataclass(frozen=True)
class SageAttention(LowPrecisionAttention):
    """Queries and keys in 8 bits with the mean taken from the keys, weights and values in 16, 8 or 4.

    Source: SageAttention (arXiv 2410.02367), 2 (2411.10958), 2++ (2505.21136), 3 (2505.11594); the packages
    `sageattention` and `sageattn3`, where they are installed. Published: 1.3 to 1.8 times on videos, about 1.1 on
    pictures of 1024 x 1024. Every kernel is tested against dense attention before it is used; see `VerifiedKernels`.
    kernel: "auto" is the best for the GPU that passes its test; a name allows only such kernels. "fp4" (Blackwell) is
    the fastest and least exact: add `warmup` and `final`.
    Memory: the queries and keys in 8 bits for the time of one attention. Heads up to 128 wide. A float32 model's
    activations become bfloat16 on the way. Not for short sequences, nor for CPUs.
    """

    kernel: str = setting(
        "auto", help="how weights and values are multiplied", choices=("auto", "fp16", "fp8", "fp4", "triton")
    )

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[DenseKernel] | str:
        version = capability(device)
        if version is None:
            return "because SageAttention needs an NVIDIA GPU (LowPrecision is for CPUs)"
        chosen = [variant for variant in VARIANTS.get(version, ()) if self.kernel in ("auto", variant.kind)]
        found: list[DenseKernel] = [Sage(variant) for variant in chosen if function_of(variant)]
        if not found and version >= (8, 0) and self.kernel in ("auto", "triton") and _is_first_version():
            found = [Sage(FIRST_VERSION)]
        where = f"compute capability {version[0]}.{version[1]}"
        return found or f'because no SageAttention kernel "{self.kernel}" is installed for {where}'

    def build(self, anatomy: Anatomy) -> Lever:
        """Inactive where no package is installed and no other work is asked for."""
        if self.sparse is None and not any(map(package, ("sageattention", "sageattn3"))):
            return InactiveLever(self, f"SageAttention is not installed: {INSTALL}; on a CPU take LowPrecision()")
        return super().build(anatomy)


class Sage:
    """One function of the packages as a kernel."""

    def __init__(self, variant: SageVariant) -> None:
        self.variant, self.name = variant, variant.name

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        if q.shape[-1] > WIDEST:
            raise ValueError(f"takes heads up to {WIDEST} channels wide")
        function = function_of(self.variant)
        if function is None:
            raise ValueError(f"{self.variant.package} has no {self.variant.function}")
        dtype = q.dtype if q.dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
        q, k, v, given = q.to(dtype), k.to(dtype), v.to(dtype), q.dtype
        if self.variant in (FP4, FIRST_VERSION):
            k = k.clone()  # these take the mean from the very tensor that they are given
        q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
        if self.variant is FP4:  # it has no argument for the scale
            output: torch.Tensor = function(q * (scale * q.shape[-1] ** 0.5), k, v, is_causal=False)
        else:
            options = {"tensor_layout": "HND", "is_causal": False, "sm_scale": scale, **self.variant.options}
            output = function(q, k, v, **options)
        return output.to(given)


def capability(device: torch.device) -> tuple[int, int] | None:
    """Of an NVIDIA GPU; None elsewhere."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" and torch.version.cuda else None


def package(name: str) -> ModuleType | None:
    """The module, if it is there and loads: builds for another torch or CUDA do not."""
    try:
        return importlib.import_module(name)
    except Exception:  # loading an extension fails in many ways
        return None


def function_of(variant: SageVariant) -> Any:
    """What computes it in the installed version of its package; None if it has not got it."""
    return getattr(package(variant.package), variant.function, None)


def _is_first_version() -> bool:
    """Version 1 has one function for all GPUs; in version 2 it is a choice among the others."""
    return function_of(FIRST_VERSION) is not None and function_of(TRITON) is None
