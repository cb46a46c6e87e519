"""Cheaper arithmetic for dense attention: when it is used, and by which kernel, tested before it is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch.nn import functional as F

from accel.anatomy import Anatomy
from accel.attention.break_even import min_tokens_for_low_precision
from accel.attention.kept_keys import kept_keys
from accel.attention.kernels import Kernel
from accel.attention.planner import AttentionResult, AttentionSite, SparseAttention
from accel.attention.sdpa import SdpaCall
from accel.attention.stats import FINAL, FINAL_LAYERS, FIRST_LAYERS, MASKED, SLOWER, WARMUP
from accel.attention.verdicts import DENSE, Verdicts, check_verdicts, ranked, stopwatch
from accel.lever import Lever
from accel.method import Method, nested_method, setting

AGREEMENT = 0.99  # cosine with dense attention; 8 bits reach 0.999, and noise 0
TOKENS = 333  # of the random test: no multiple of any kernel's blocks
ROWS = 16  # of the model's own activations


class DenseKernel(Protocol):
    """Computes whole attentions (B, H, L, D), unmasked, nearly as torch does."""

    @property
    def name(self) -> str: ...

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """The output in the data type of the queries. Must leave its arguments as they are."""
        ...


@dataclass(frozen=True)
class LowPrecisionAttention(Method, lever="attention", abstract=True):
    """Base of the methods that compute attention densely in fewer bits.

    Its errors are small and everywhere, so that steps and layers can be spared of them: all of these are shares or
    counts that stay in the model's own precision. Masks other than padded text stay dense too.
    sparse: a method that selects keys, asked first; what it leaves dense is computed in fewer bits.
    measured: which kernel was fastest on this machine, filled by `accel.attention.measure`.
    """

    _: KW_ONLY
    sparse: SparseAttention | None = nested_method(None, "attention")  # noqa: RUF009
    warmup: float = setting(0.0, 0.0, 1.0, "share of the steps, from the first, in the model's own precision")
    final: float = setting(0.0, 0.0, 1.0, "share of the steps, up to the last, in the model's own precision")
    dense_layers: int = setting(0, 0, None, "layers, from the first, in the model's own precision")
    final_layers: int = setting(0, 0, None, "layers, up to the last, in the model's own precision")
    min_tokens: int = setting(-1, -1, None, "tokens from which fewer bits are used; -1: where it pays")
    measured: tuple[str, ...] = ()
    words: ClassVar[str] = "dense in fewer bits"  # what a report calls it

    def __post_init__(self) -> None:
        super().__post_init__()
        check_verdicts(self, self.measured)
        if self.sparse is not None and not (isinstance(self.sparse, SparseAttention) and self.sparse.selects):
            raise ValueError(
                f"{type(self).__name__}.sparse must be a method that only selects keys, not {self.sparse}."
            )

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Sequence[DenseKernel] | str:
        """The kernels for activations like these, the best first; or why there are none, for "dense: 3 ..."."""
        raise NotImplementedError

    def least_tokens(self, device: torch.device) -> int:
        """Tokens from which it is used."""
        return min_tokens_for_low_precision(device.type) if self.min_tokens < 0 else self.min_tokens

    def why_spared(self, site: AttentionSite) -> str:
        """Why this place stays in the model's precision; nothing if it need not."""
        context = site.context
        if context.position < round(self.warmup * context.total, 6):
            return WARMUP
        if context.total - 1 - context.position < round(self.final * context.total, 6):
            return FINAL
        if site.layer < self.dense_layers:
            return FIRST_LAYERS
        return FINAL_LAYERS if site.layers - 1 - site.layer < self.final_layers else ""

    def for_plans(self, device: torch.device, dtype: torch.dtype) -> Kernel | None:
        """A kernel in fewer bits for what `sparse` plans; None leaves that in the model's own precision."""
        return None

    def build(self, anatomy: Anatomy) -> Lever:
        from accel.attention.lever import attention_lever

        return attention_lever(self, anatomy)


class VerifiedKernels:
    """The first kernel of a method that is right on this device, data type and head width.

    Each is tested on random activations when it is first needed, and on a few rows of the first real ones of every
    self-attention. What fails once is not used again, and the notes say why: some published kernels give noise or NaN
    on some GPUs or models, and nothing else would tell.
    """

    def __init__(self, method: LowPrecisionAttention) -> None:
        self.method = method
        self.notes: list[str] = []
        self._verdicts = Verdicts(method.measured)
        self._failed: set[tuple[object, ...]] = set()
        self._passed: set[tuple[object, ...]] = set()

    def compute(self, site: AttentionSite, attention: SdpaCall, there: torch.Tensor | bool) -> AttentionResult | str:
        """The output, or why it is left to the model. there: what `KeyMasks` read from the mask."""
        query = attention.query
        reason = self.method.why_spared(site) or attention.unusual
        if reason:
            return reason
        tokens, least = query.shape[-2], self.method.least_tokens(query.device)
        pays = self._verdicts.pays(query, 1.0)
        if pays is False:
            return SLOWER
        if tokens < least and not pays:
            return f"too short to gain ({tokens} tokens, from {least} on it pays: min_tokens)"
        if there is False:
            return MASKED
        kernels = self.method.kernels(query.device, query.dtype)
        if isinstance(kernels, str):
            return kernels
        kept = there if isinstance(there, torch.Tensor) else None
        watch = stopwatch()
        if watch is not None and not watch.knows(query, 1.0):
            right = [kernel for kernel in kernels if self._right(kernel, site, attention, kept) is not None]
            runs = {kernel.name: partial(timed_answer, kernel, attention, kept) for kernel in right}
            watch.time(query, 1.0, runs | {DENSE: attention.dense})
        for kernel in ranked(kernels, self._verdicts.order(query, 1.0) or ()):
            output = self._right(kernel, site, attention, kept)
            if output is not None:
                return AttentionResult(output, 1.0, kernel.name)
        return "because no kernel in fewer bits passes its test"

    def for_plans(self, site: AttentionSite, attention: SdpaCall) -> Kernel | None:
        """What computes the plans of a sparse method here, if not the model's own precision."""
        if self.method.why_spared(site) or not attention.query.shape[-2] >= self.method.least_tokens(
            attention.query.device
        ):
            return None
        return self.method.for_plans(attention.query.device, attention.query.dtype)

    def _right(
        self, kernel: DenseKernel, site: AttentionSite, attention: SdpaCall, there: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The output, if the kernel can be trusted with it."""
        query = attention.query
        kind = (kernel.name, query.dtype, query.shape[-1])
        place = (*kind, site.denoiser, site.path)
        if kind in self._failed:
            return None
        try:
            fault = None if kind in self._passed else random_fault(kernel, query)
            if fault is None:
                output = timed_answer(kernel, attention, there)
                fault = None if place in self._passed else sampled_fault(output, attention)
        except Exception as error:  # whatever it is: extensions fail in many ways
            lines = str(error).splitlines()
            fault = f"fails with {type(error).__name__}" + f": {lines[0]}" * bool(lines)
        if fault is not None:
            self._failed.add(kind)
            self.notes.append(
                f"kernel {kernel.name} is not used ({str(query.dtype)[6:]}, head width {query.shape[-1]}): it {fault}"
            )
            return None
        self._passed |= {kind, place}
        return output


def timed_answer(kernel: DenseKernel, attention: SdpaCall, there: torch.Tensor | None) -> torch.Tensor:
    """The kernel's output; padded text is left out of the keys, because these kernels take no masks."""
    q, k, v = attention.query, attention.key, attention.value
    scale = attention.scale if attention.scale is not None else q.shape[-1] ** -0.5
    if there is None:
        return kernel(q, k, v, scale)
    parts = [
        kernel(q[rows], k[rows].index_select(2, kept), v[rows].index_select(2, kept), scale)
        for rows, kept in kept_keys(there, slice(None))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def random_fault(kernel: DenseKernel, like: torch.Tensor) -> str | None:
    """What is wrong with a kernel on a small random attention of the same data type and head width."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, TOKENS, like.shape[-1], generator=draw).to(like.device, like.dtype) for _ in range(3))
    output = kernel(q, k, v, like.shape[-1] ** -0.5)
    return _fault(output, F.scaled_dot_product_attention(q.float(), k.float(), v.float()), "random activations")


def sampled_fault(output: torch.Tensor, attention: SdpaCall) -> str | None:
    """What is wrong with an output, looking at some of its rows in all heads."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randperm(attention.query.shape[-2], generator=draw)[:ROWS].to(output.device)
    mask = attention.attn_mask
    if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        mask = mask.index_select(-2, rows)
    right = F.scaled_dot_product_attention(
        attention.query.index_select(2, rows), attention.key, attention.value, attn_mask=mask, scale=attention.scale
    )
    return _fault(output.index_select(2, rows), right, "the model's activations")


def _fault(output: torch.Tensor, right: torch.Tensor, where: str) -> str | None:
    if output.shape != right.shape:
        return f"gives {tuple(output.shape)} instead of {tuple(right.shape)} on {where}"
    a, b = output.float().flatten(), right.float().flatten()
    if not bool(a.isfinite().all()):
        return f"gives values that are not finite on {where}"
    cosine = float(F.cosine_similarity(a, b, dim=0))
    if cosine >= AGREEMENT:
        return None
    return f"agrees with dense attention only to a cosine of {cosine:.3f} on {where} (needed: {AGREEMENT})"
