"""The lever of all attention methods: offers each self-attention of a denoiser call to the method.

It stands around the self-attention modules for the duration of one pipeline call and acts only within a denoiser call.
What it does not understand (cross-attention, other masks, tokens that fit no layout) is computed as the model does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from accel import conventions
from accel.anatomy import Anatomy
from accel.attention.break_even import max_density_to_gain
from accel.attention.kernels import ChosenKernel, NoKernel, attend
from accel.attention.low_precision import LowPrecisionAttention, VerifiedKernels
from accel.attention.planner import AttentionInputs, AttentionResult, AttentionSite, HeadPlan, Planner, SparseAttention
from accel.attention.sdpa import KeyMasks, SdpaCall, SdpaObserver
from accel.attention.stats import CHOSEN, FIRST_LAYERS, MASKED, SLOWER, UNFIT, WARMUP, AttentionStats
from accel.attention.tokens import Tokens
from accel.attention.verdicts import Verdicts
from accel.call import DenoiserCall
from accel.lever import InactiveLever, Lever
from accel.patch import Wrapper, is_graph, reachable, unwrap_methods
from accel.report import CallRecord, LeverReport

NONE = slice(0, 0)  # tokens that a mask must not leave out


class AttentionPlace(NamedTuple):
    """A self-attention module by name, and its number in the order in which they run."""

    denoiser: str
    path: str
    layer: int
    layers: int


class ForwardState:
    """One denoiser call, as the attentions in it need to know it."""

    def __init__(self, call: DenoiserCall, tokens: Tokens, planner: Planner | None) -> None:
        self.call, self.tokens, self.planner = call, tokens, planner
        self.masks = KeyMasks()
        self._call_counts: dict[str, int] = {}

    @property
    def entered(self) -> bool:
        """Whether an attention has been asked for."""
        return bool(self._call_counts)

    def site(self, place: AttentionPlace) -> AttentionSite:
        """Where the attention that is asked for now stands. A module that computes several in one call (Mochi: one for
        each sample) has a stream for each, so that nothing that is remembered by stream mixes them.
        """
        times, stream = self._call_counts.get(place.path, 0) + 1, self.call.stream
        self._call_counts[place.path] = times
        return AttentionSite(
            denoiser=place.denoiser,
            stream=stream if times == 1 else f"{stream} ({times})",
            path=place.path,
            layer=place.layer,
            layers=place.layers,
            context=self.call.context,
        )


class AttentionLever(Lever):
    """Asks a planner, then whatever computes in fewer bits, and keeps account of a pipeline call.

    A planner sees one run, one denoiser and one shape of latents: whatever it remembers fits what it is asked next.
    """

    def __init__(self, method: SparseAttention | LowPrecisionAttention, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._sparse = method if isinstance(method, SparseAttention) else method.sparse
        self._low_precision = VerifiedKernels(method) if isinstance(method, LowPrecisionAttention) else None
        self._verdicts = Verdicts(() if self._sparse is None else self._sparse.measured)
        self._chosen = ChosenKernel(verdicts=self._verdicts)
        self._places = places(anatomy)
        self._wrappers: list[Wrapper] = []
        self._state: ForwardState | None = None
        self._stats = self._blank()
        self.reset()

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self.end()
        self._stats = self._blank()
        for place in self._places:
            root = denoisers.get(place.denoiser)
            module = None if root is None else reachable(root, place.path)
            if module is None or is_graph(module):
                self._stats.unreachable += 1
            else:
                self._wrappers.append(Wrapper(module, "forward", partial(self._module, place)))

    def reset(self) -> None:
        self._left()
        self._planners: dict[tuple[str, tuple[object, ...]], Planner] = {}

    def end(self) -> None:
        unwrap_methods(self._wrappers)

    def before_evaluation(self, call: DenoiserCall) -> None:
        self._left()
        tokens = Tokens(call, self.anatomy.denoisers[call.denoiser])
        self._state = ForwardState(call, tokens, self._planner(call))

    def _left(self) -> None:
        """The last denoiser call is over: its layers act in no other, and only its memory is to be accounted for."""
        if self._state is not None and self._state.entered:
            self._stats.record_memory(
                [tensor for planner in self._planners.values() for tensor in planner.kept_tensors()]
            )
        self._state = None

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        self._left()
        account = self._stats
        transformer = not any("block_out_channels" in part.config for part in self.anatomy.denoisers.values())
        notes = [*self._chosen.notes, *(self._low_precision.notes if self._low_precision else [])]
        reason = "; ".join([account.summary(transformer), *notes])
        return LeverReport("attention", str(self.method), account.computed_by_us > 0, reason, account.peak)

    def _blank(self) -> AttentionStats:
        low = self._low_precision
        return AttentionStats(plans=self._sparse is not None, rounds="" if low is None else low.method.words)

    def _planner(self, call: DenoiserCall) -> Planner | None:
        if self._sparse is None:
            return None
        key = (call.denoiser, () if self._sparse.by_layout else call.layout)
        if key not in self._planners:
            if call.leader:  # the batch has changed for good, as when guidance ends: what was remembered is of no use
                self._planners = {known: other for known, other in self._planners.items() if known[0] != call.denoiser}
            self._planners[key] = self._sparse.planner(self.anatomy)
        return self._planners[key]

    def _module(self, place: AttentionPlace, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in place of a self-attention module's forward."""
        visit = self._state
        if visit is None or visit.call.denoiser != place.denoiser:
            return inner(*args, **kwargs)
        self._stats.record_module(place.denoiser, place.path)
        with SdpaObserver(partial(self._attention, visit, place)):
            return inner(*args, **kwargs)

    def _attention(self, visit: ForwardState, place: AttentionPlace, attention: SdpaCall) -> torch.Tensor:
        """Computes one attention within the module."""
        if not attention.among_tokens:  # cross-attention, such as an IP-Adapter's
            return attention.dense()
        self._stats.record_call(place.denoiser, place.path, attention.query)
        site, reason = visit.site(place), ""
        if self._sparse is not None and visit.planner is not None:
            found = self._sparsely(self._sparse, visit.planner, visit, site, attention)
            if isinstance(found, torch.Tensor):
                return found
            reason = found
        whole = self._in_fewer_bits(visit, site, attention)
        if isinstance(whole, AttentionResult):
            self._stats.record_low_precision(whole.kernel)
            return whole.output
        self._stats.record_dense(whole or reason)
        return attention.dense()

    def _in_fewer_bits(self, visit: ForwardState, site: AttentionSite, attention: SdpaCall) -> AttentionResult | str:
        """All pairs, by the arithmetic if there is one; else why not."""
        if self._low_precision is None:
            return ""
        return self._low_precision.compute(site, attention, visit.masks.read(attention, NONE))

    def _sparsely(
        self, method: SparseAttention, planner: Planner, visit: ForwardState, site: AttentionSite, attention: SdpaCall
    ) -> torch.Tensor | str:
        """What the planner makes of it, or why it makes nothing, as the end of "dense: 3 ..."."""
        refreshed: list[bool] = []

        def dense() -> torch.Tensor:
            """What a planner gets that asks for all pairs after all."""
            refreshed.append(True)
            whole = self._in_fewer_bits(visit, site, attention)
            return whole.output if isinstance(whole, AttentionResult) else attention.dense()

        inputs = self._inputs(method, visit, site, attention, dense)
        if isinstance(inputs, str):
            return inputs
        own = planner.compute(inputs)
        if own is not None:
            self._stats.record_plan(1.0 if refreshed else own.density, own.kernel)
            return own.output
        plans = planner.plan(inputs)
        if plans is None:
            return CHOSEN
        density, most = density_of(plans, inputs.q.shape[1]), _most(method, inputs)
        pays = self._verdicts.pays(inputs.q, density)
        if pays is False:
            return SLOWER
        if density > most and not pays:
            return f"planned with over {most:.0%} of the pairs, which does not pay"
        kernel = (self._low_precision and self._low_precision.for_plans(site, attention)) or self._chosen
        try:
            output = planner.correct(inputs, attend(inputs, plans, kernel))
        except NoKernel:
            return UNFIT
        self._stats.record_plan(1.0 if refreshed else density, kernel.name)
        return output

    def _inputs(
        self,
        method: SparseAttention,
        visit: ForwardState,
        site: AttentionSite,
        attention: SdpaCall,
        dense: Callable[[], torch.Tensor],
    ) -> AttentionInputs | str:
        """What the planner is asked, or why it is not."""
        query = attention.query
        if site.context.position < round(method.warmup * site.context.total, 6):
            return WARMUP
        if site.layer < method.dense_layers:
            return FIRST_LAYERS
        if attention.unusual:
            return attention.unusual
        tokens, least = query.shape[-2], method.least_tokens(query.device)
        if tokens < least and not self._verdicts.about(query):
            return f"too short to gain ({tokens} tokens, from {least} on it pays: min_tokens)"
        layout = visit.tokens.layout(tokens)
        if layout is None:
            return f"of {tokens} tokens that fit no layout known for {self.anatomy.denoisers[site.denoiser].kind}"
        there = visit.masks.read(attention, layout.video_rows)
        if there is False:
            return MASKED
        return AttentionInputs(
            site=site,
            layout=layout,
            q=query,
            k=attention.key,
            v=attention.value,
            scale=attention.scale if attention.scale is not None else query.shape[-1] ** -0.5,
            key_mask=there if isinstance(there, torch.Tensor) else None,
            dense=dense,
        )


def density_of(plans: Sequence[HeadPlan], heads: int) -> float:
    """The share of query-key pairs that plans for so many heads compute."""
    counts = (heads if some is None else len(some) for some, _ in plans)
    shares = (1.0 if plan is None else plan.density for _, plan in plans)
    return sum(count * share for count, share in zip(counts, shares, strict=True)) / heads


def _most(method: SparseAttention, inputs: AttentionInputs) -> float:
    return max_density_to_gain(inputs.q.device.type) if method.min_tokens < 0 else math.inf


def attention_lever(method: SparseAttention | LowPrecisionAttention, anatomy: Anatomy) -> Lever:
    """The lever of a method, or an inactive one where the pipeline has no self-attention that is known."""
    if places(anatomy):
        return AttentionLever(method, anatomy)
    kinds = ", ".join(dict.fromkeys(part.kind for part in anatomy.denoisers.values()))
    return InactiveLever(
        method, f"no self-attention is known in {kinds}; a cache at the denoiser's boundary needs none"
    )


def places(anatomy: Anatomy) -> list[AttentionPlace]:
    """All self-attentions of all denoisers, numbered in the order in which they run."""
    found = []
    for name, denoiser in anatomy.denoisers.items():
        paths = sorted(
            denoiser.modules.get("self_attention", ()), key=lambda path: path.startswith(conventions.RUNS_LAST)
        )
        found += [AttentionPlace(name, path, layer, len(paths)) for layer, path in enumerate(paths)]
    return found
