"""Whole numbers of 8 bits: rounding to them, and exact products of them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch

LARGEST = 127
LEAST = 1e-30  # of the values that scale a row: rows of zeros stay zeros
CHUNK = 1 << 17  # numbers that are rounded at a time, so that what lies between stays in the processor's cache
INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
ONEDNN_ARGUMENTS: tuple[Any, ...] = (
    None,
    1.0,
    0,
    torch.float32,
    "none",
    [],
    "",
)  # no bias, the output as it is, no other operation


class Integers(NamedTuple):
    """Rows of 8-bit integers (M, K) and what each row is to be multiplied with, (M, 1) in float32."""

    numbers: torch.Tensor
    scales: torch.Tensor


class PackedWeights(NamedTuple):
    """Rows of 8-bit integers as a kernel wants them, for products (M, K) x (N, K) -> (M, N). scales: (N,)."""

    numbers: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor


def rounded(x: torch.Tensor) -> Integers:
    """Rows (M, K) in 8 bits, each scaled by its largest absolute value; symmetric, to the nearest even."""
    numbers = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    rows = max(CHUNK // max(x.shape[-1], 1), 1) if x.device.type == "cpu" else max(len(x), 1)
    memory = torch.empty(min(rows, len(x)), x.shape[-1], dtype=torch.float32, device=x.device)
    for some, whole, scale in zip(x.split(rows), numbers.split(rows), scales.split(rows), strict=True):
        some, between = some.float(), memory[: len(some)]
        torch.amax(torch.abs(some, out=between), 1, keepdim=True, out=scale)
        torch.mul(some, LARGEST / scale.clamp_min_(LEAST), out=between)
        whole.copy_(between.round_())
    return Integers(numbers, scales.div_(LARGEST))


def product(activations: Integers, weights: PackedWeights, bias: torch.Tensor | None) -> torch.Tensor:
    """(M, N) in float32: the sums are exact, and rounded only when they are scaled."""
    output = KERNELS[kernel(activations.numbers.device.type)](activations.numbers, weights)
    output.mul_(activations.scales)
    return output if bias is None else output.add_(bias)


def packed(weight: torch.Tensor) -> PackedWeights:
    """Weights (N, K) in 8 bits, each row scaled by its largest absolute value."""
    numbers, scales = rounded(weight.detach())
    if kernel(weight.device.type) == "onednn":
        numbers = torch.ops.onednn.qlinear_prepack(numbers, None)
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    return PackedWeights(numbers, scales.flatten(), zeros)


def emulated(numbers: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What kernels must give, by wide integers: sums of products, times the scales of the columns."""
    return (numbers.long() @ weights.long().T).float() * scales


def _by_onednn(numbers: torch.Tensor, weights: PackedWeights) -> torch.Tensor:
    output: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        numbers, 1.0, 0, weights.numbers, weights.scales, weights.zeros, *ONEDNN_ARGUMENTS
    )
    return output


def _by_torch(numbers: torch.Tensor, weights: PackedWeights) -> torch.Tensor:
    return torch._int_mm(numbers, weights.numbers.T).float().mul_(weights.scales)


KERNELS = {"onednn": _by_onednn, "torch": _by_torch}


@cache
def kernel(device: str) -> str:
    """The fastest kernel that is exact on this kind of device; "" if none is, or none is fast."""
    if device == "cpu" and not any(torch.cpu.get_capabilities().get(name, False) for name in INSTRUCTIONS):
        return ""
    for name in ("onednn", "torch") if device == "cpu" else ("torch",):
        try:
            if _is_exact(name, device):
                return name
        except Exception:  # a build of torch without it says so in many ways
            continue
    return ""


def _is_exact(name: str, device: str) -> bool:
    """Whether a kernel gives the sums of random integers, also where they are largest."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((48, 96), (32, 96))
    numbers, weights = (torch.randint(-127, 128, shape, generator=draw, dtype=torch.int8) for shape in shapes)
    numbers[0], weights[0] = 127, -127
    scales = torch.rand(32, generator=draw)
    right = emulated(numbers, weights, scales)
    given = torch.ops.onednn.qlinear_prepack(weights, None) if name == "onednn" else weights.to(device)
    held = PackedWeights(given, scales.to(device), torch.zeros(32, dtype=torch.int32, device=device))
    return torch.equal(KERNELS[name](numbers.to(device), held).cpu(), right)
