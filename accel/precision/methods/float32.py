"""Products of a model that is in 16 bits, on a CPU that has no instructions for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

from accel.anatomy import Anatomy
from accel.lever import Lever
from accel.method import Method
from accel.ownership import owner_of
from accel.processor import multiplies_in_loops
from accel.report import CallRecord, LeverReport

HALVES = (torch.bfloat16, torch.float16)
PRODUCTS = frozenset(
    {
        *(F.linear, F.bilinear, F.scaled_dot_product_attention, torch.einsum, torch.addmm, torch.baddbmm),
        *(torch.matmul, torch.mm, torch.bmm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm),
        *(torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.addmm, torch.Tensor.baddbmm),
        *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    }
)
"""What torch computes in plain loops. Other operations take as long in 16 bits as in 32, or less."""
FEW_ROWS = 8  # below which a layer's weight takes longer to convert than to multiply with


@dataclass(frozen=True)
class Float32(Method, lever="precision"):
    """All products of a pipeline in 16 bits in float32, its text encoders' and decoder's too, each rounded once.

    Not published. For a model that was loaded in bfloat16 or float16 onto a CPU without instructions for it (x86
    without AVX512-BF16, AVX512-FP16 or AMX), where torch multiplies in plain loops: products of 512 to 1,024 tokens
    take 4 to 95 times as long as in float32 there, convolutions 7 to 46 times. It does nothing anywhere else. A
    product is rounded as it is by torch, or less often (convolutions that enlarge, attention), so a run is as near to
    the same model in float32 as the pipeline's own, and another one. It acts on all that the call's thread multiplies
    until the call ends, in callbacks too.
    Memory: one layer's weights and activations in float32 at a time. A model that fits into memory in float32 is faster
    still when it is loaded in it: `from_pretrained(..., torch_dtype=torch.float32)`. Numbers: docs/precision.md.
    """

    @classmethod
    def for_tuning(cls) -> Sequence[Float32]:
        return (cls(),)

    def build(self, anatomy: Anatomy) -> Lever:
        return WideProductsLever(self, tuple(dtype for dtype in HALVES if multiplies_in_loops(dtype)))


class WideProductsLever(Lever):
    """Stands around torch's own functions for the duration of a pipeline call, in its thread."""

    def __init__(self, method: Method, dtypes: Collection[torch.dtype]) -> None:
        self.method, self._dtypes = method, dtypes
        self._mode: _InFloat32 | None = None

    def around_call(self) -> AbstractContextManager[object]:
        self._mode = _InFloat32(self._dtypes)
        return self._mode

    def end(self) -> None:
        self._mode = None

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        products = self._mode.products if self._mode is not None else 0
        if products:
            reason = f"{products} products in float32"
        elif self._dtypes:
            reason = f"no product was in {' or '.join(map(_name, self._dtypes))} on the CPU"
        else:
            reason = "this CPU has instructions for 16 bits, or torch does not say that it has none"
        return LeverReport("precision", str(self.method), products > 0, reason)


class _InFloat32(TorchFunctionMode):
    """Makes products of 16-bit tensors on the CPU in float32, and rounds what they give.

    torch keeps modes by thread. So it acts for the pipeline call in which it is made, and neither for another asyncio
    task of the thread nor when the call is over, and takes out itself alone, whatever was put on top of it meanwhile.
    """

    def __init__(self, dtypes: Collection[torch.dtype]) -> None:
        super().__init__()
        self._dtypes, self._of, self.products = dtypes, owner_of(), 0

    def __exit__(self, *_: object) -> None:
        if any(mode is self for mode in _get_current_function_mode_stack()):  # of this thread
            above = []
            while (top := _pop_mode()) is not self:
                above.append(top)
            for mode in reversed(above):
                _push_mode(mode)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ours = func in PRODUCTS and owner_of() is self._of and not _is_small(func, args)
        dtype = self._narrow(args, kwargs) if ours else None
        if dtype is None:
            return func(*args, **kwargs)
        self.products += 1
        wide = func(*(_widened(each) for each in args), **{name: _widened(each) for name, each in kwargs.items()})
        return wide.to(dtype)

    def _narrow(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.dtype | None:
        """The data type of all factors, where it is one that this CPU is slow at."""
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        factors = [each for each in tensors if each.dtype != torch.bool]  # masks may be
        if not factors or "out" in kwargs or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return None
        dtype = factors[0].dtype
        plain = all(type(each) in (torch.Tensor, torch.nn.Parameter) and each.device.type == "cpu" for each in tensors)
        return dtype if dtype in self._dtypes and plain and all(each.dtype == dtype for each in factors) else None


def _is_small(func: Any, args: Sequence[Any]) -> bool:
    """Whether this is a layer that receives next to nothing, such as one that modulates."""
    x = args[0] if func is F.linear and args else None
    return isinstance(x, torch.Tensor) and x.numel() < FEW_ROWS * x.shape[-1]


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
