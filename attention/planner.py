"""The base of the attention methods: a planner, asked for each self-attention with its queries, keys and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import torch

from accel.anatomy import Anatomy
from accel.attention.break_even import min_tokens_to_gain
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.verdicts import check_verdicts
from accel.clock import StepContext
from accel.lever import Lever
from accel.method import Method, setting


@dataclass(frozen=True)
class AttentionSite:
    """Which self-attention of which denoiser call this is."""

    denoiser: str
    stream: str
    path: str  # of the attention module below the denoiser
    layer: int  # its place among the self-attentions, from 0
    layers: int
    context: StepContext


@dataclass(frozen=True)
class AttentionInputs:
    """One self-attention as it is about to be computed. Tensors are (B, H, L, D), rotary embedding applied."""

    site: AttentionSite
    layout: TokenLayout
    q: torch.Tensor = field(repr=False)
    k: torch.Tensor = field(repr=False)
    v: torch.Tensor = field(repr=False)
    scale: float
    key_mask: torch.Tensor | None = field(repr=False)  # (B, L) bool: False for padded text; None: all are there
    dense: Callable[[], torch.Tensor] = field(repr=False)  # what the model itself computes


class HeadPlan(NamedTuple):
    """A plan for some heads; None as the plan is dense, None as the heads is all of them."""

    heads: torch.Tensor | None  # (h,) head numbers
    plan: KeyPlan | None


def heads_by_number(numbers: torch.Tensor) -> Iterator[tuple[int, torch.Tensor | None]]:
    """Each number that occurs in (H,), smallest first, and the heads that have it; None where all have the same. One
    host sync.
    """
    known, heads, start = numbers.tolist(), numbers.argsort(stable=True), 0
    for number, count in sorted(Counter(known).items()):
        yield number, None if count == len(known) else heads[start : start + count]
        start += count


class AttentionResult(NamedTuple):
    """What a method has computed by itself."""

    output: torch.Tensor  # (B, H, L, D)
    density: float  # share of the query-key pairs
    kernel: str


class Planner(Protocol):
    """A method's state for one run; it may remember what it has seen, by site."""

    def compute(self, inputs: AttentionInputs) -> AttentionResult | None:
        """Asked first: the output of a method that does not select keys; None goes by the plan."""
        return None

    def plan(self, inputs: AttentionInputs) -> Sequence[HeadPlan] | None:
        """Plans that together cover every head once; None computes all of it as the model does."""
        ...

    def correct(self, inputs: AttentionInputs, output: torch.Tensor) -> torch.Tensor:
        """The output, given what the plans gave, (B, H, L, D): the same, unless the method corrects it."""
        return output

    def kept_tensors(self) -> list[torch.Tensor]:
        """Tensors kept for later calls, for the report."""
        return []


@dataclass(frozen=True)
class SparseAttention(Method, lever="attention", abstract=True):
    """Base of the sparse methods.

    Early steps and first layers decide where things are and stay dense, as in all published methods (10-30 % of the
    steps, the first one or two layers). So do short sequences and plans that leave little out, where gathering keys
    costs more than it saves: `accel.attention.break_even` has both limits, and a `min_tokens` of 0 or more replaces
    them. So does `measured`, which `accel.attention.measure` fills: what was fastest on this machine.
    """

    by_layout: ClassVar[bool] = False
    """Whether its plans follow from where the tokens stand alone, so that they hold for any batch."""

    _: KW_ONLY
    warmup: float = setting(0.2, 0.0, 1.0, "share of the steps, from the first, that stay dense")
    dense_layers: int = setting(1, 0, None, "layers, from the first, that stay dense")
    min_tokens: int = setting(-1, -1, None, "tokens from which a self-attention may be sparse; -1: where it pays")
    measured: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_verdicts(self, self.measured)

    @property
    def selects(self) -> bool:
        """Whether to select keys is all it does, so that other methods can go by its plans."""
        return type(self).build is SparseAttention.build

    def least_tokens(self, device: torch.device) -> int:
        """Tokens from which it is used."""
        return min_tokens_to_gain(device.type) if self.min_tokens < 0 else self.min_tokens

    def planner(self, anatomy: Anatomy) -> Planner:
        """A new planner; one is made for each run, denoiser and shape of latents."""
        raise NotImplementedError

    def build(self, anatomy: Anatomy) -> Lever:
        """The lever, or an inactive one that says why this pipeline's attention cannot be sparse."""
        from accel.attention.lever import attention_lever

        return attention_lever(self, anatomy)
