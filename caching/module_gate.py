"""The second engine: replaces calls of single modules within a denoiser by their last outputs.

It stands around the modules for the duration of one pipeline call and acts only within a denoiser call. What it cannot
answer exactly as decided (another shape, a stream that was away, a module inside a compiled block) is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from accel.anatomy import Anatomy
from accel.caching import parallel
from accel.caching.conditions import MOST_STREAMS, StreamConditions
from accel.caching.module_store import ModuleCall, ModuleStore, StoredOutput, shapes_of
from accel.caching.modules import KINDS, ModuleSite, attach, sites
from accel.call import DenoiserCall, DenoiserResult, Proceed, tensors
from accel.lever import Lever
from accel.patch import Wrapper, unwrap_methods
from accel.reasons import Code
from accel.report import CallRecord, LeverReport

if TYPE_CHECKING:
    from accel.caching.module_reuse import Reuse, ReuseMethod, ReusePolicy


@dataclass
class ReuseState:
    """How one denoiser stands in this run: its policy, the present decision, and when each kind was last computed."""

    policy: ReusePolicy
    decision: Reuse | None = None
    last_step: int = -1
    computed: dict[str, int] = field(default_factory=dict)


@dataclass
class ReuseVisit:
    """One denoiser call, as the modules in it need to know it."""

    denoiser: str
    stream: str
    step: int
    reused: frozenset[str]
    probe: str | None
    samples: int
    occurrences: Counter[str] = field(default_factory=Counter)
    change: float | None = None

    def slot(self, path: str) -> ModuleCall:
        slot = ModuleCall(self.denoiser, self.stream, path, self.occurrences[path])
        self.occurrences[path] += 1
        return slot


class ModuleGate(Lever):
    """Reuses the last outputs of modules where the method says so.

    The first stream of a step decides and the others follow. Outputs are kept per denoiser, stream, module and the
    shapes that it was given; they are forgotten with the run, and a stream's with its `StreamConditions`.
    """

    def __init__(self, method: ReuseMethod, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._sites = sites(anatomy, method.kinds())
        self._wrappers: list[Wrapper] = []
        self._conditions = StreamConditions()
        self._open(0)
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._conditions.arguments(given)
        return {}

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self.end()
        self._wrappers, missed = attach(denoisers, self._sites, self._module)
        self._open(len(missed))

    def reset(self) -> None:
        self._run, self._keys = -1, dict[tuple[str, str], Hashable]()
        self._conditions.reset()
        self._courses: dict[str, ReuseState] = {}
        self._visit: ReuseVisit | None = None
        self._store.clear()

    def end(self) -> None:
        unwrap_methods(self._wrappers)

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        if not self._known(call):
            return proceed(call)._replace(reason=f"more than {MOST_STREAMS} streams")
        course = self._course(call)
        if call.leader:
            decision = self._decide(course, call)
        else:
            decision = course.decision or self.method.decide(course.policy, call.context)
        visit = ReuseVisit(
            call.denoiser, call.stream, call.context.step, decision.kinds,
            course.policy.probe if call.leader else None, _samples(call.latents),
        )  # fmt: skip
        self._visit = visit
        try:
            outcome = proceed(call)
        finally:
            self._visit = None
        if call.leader:
            course.computed |= {kind: call.context.step for kind in KINDS if kind not in decision.kinds}
            course.policy.after_step(call.context, decision.kinds, parallel.largest(call, visit.change))
        return DenoiserResult(outcome.output, outcome.action, decision.reason, decision.code)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        reused, seen = sum(self._reused.values()), sum(self._seen.values())
        reason = f"{reused} of {seen} module calls reused"
        if reused:
            parts = (f"{kind} {self._reused[kind]} of {self._seen[kind]}" for kind in KINDS if self._seen[kind])
            reason += f" ({', '.join(parts)})"
        else:
            reason += f" ({self._why_none(calls)})"
        if self._missed:
            reason += (
                f"; {self._missed} modules are inside compiled blocks and stay out of reach: compile the modules"
                f" themselves, or use a cache at the denoiser's boundary"
            )
        return LeverReport("cache", str(self.method), reused > 0, reason, self._store.peak)

    def _open(self, missed: int) -> None:
        """Starts the account of a pipeline call."""
        self._missed, self._store = missed, ModuleStore()
        self._seen: Counter[str] = Counter()
        self._reused: Counter[str] = Counter()

    def _known(self, call: DenoiserCall) -> bool:
        """Forgets what says nothing about this call; whether there is room for its stream."""
        if self._run != call.context.run:
            self.reset()
            self._run = call.context.run
        name, key = (call.denoiser, call.stream), self._conditions.key(call)
        if name not in self._keys and len(self._keys) >= MOST_STREAMS:
            return False
        if self._keys.get(name, key) != key:
            self._store.drop_where(lambda slot, _: (slot.denoiser, slot.stream) == name)
        self._keys[name] = key
        return True

    def _course(self, call: DenoiserCall) -> ReuseState:
        course = self._courses.get(call.denoiser)
        if course is None:
            course = self._courses[call.denoiser] = ReuseState(self.method.policy(self.anatomy, call.denoiser))
        return course

    def _decide(self, course: ReuseState, call: DenoiserCall) -> Reuse:
        """The leader's decision. The first call of a denoiser in a run has nothing to reuse and its policy no past."""
        step = call.context.step
        self._store.drop_where(self._stale(call.denoiser, course, step))
        decision = self.method.decide(course.policy, call.context)
        if course.decision is None and decision.kinds:
            decision = decision._replace(kinds=frozenset(), reason="nothing to reuse yet", code=Code.NO_HISTORY)
        course.decision, course.last_step = decision, step
        return decision

    def _stale(self, denoiser: str, course: ReuseState, step: int) -> Callable[[ModuleCall, StoredOutput], bool]:
        """Outputs that must not be reused any more: of streams that were away when the leader computed, and of an
        expert whose time is over.
        """
        since = step if course.decision is None else step - 1  # a second expert that starts ends the first one's time
        gone = {name for name, other in self._courses.items() if name != denoiser and other.last_step < since}

        def stale(slot: ModuleCall, kept: StoredOutput) -> bool:
            return slot.denoiser in gone or (
                slot.denoiser == denoiser and kept.step < course.computed.get(kept.kind, 0)
            )

        return stale

    def _module(self, site: ModuleSite, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in place of a module's forward."""
        visit = self._visit
        if visit is None or visit.denoiser != site.denoiser:
            return inner(*args, **kwargs)
        slot, shapes = visit.slot(site.path), shapes_of(args, kwargs)
        self._seen[site.kind] += 1
        kept = self._store.get(slot)
        if kept is not None and site.kind in visit.reused and kept.shapes == shapes:
            self._reused[site.kind] += 1
            return kept.output()
        probing = site.path == visit.probe
        if not probing:  # frees the memory before the module works
            kept = None
            self._store.drop(slot)
        output = inner(*args, **kwargs)
        if probing and kept is not None and kept.shapes == shapes and slot.occurrence == 0:
            visit.change = relative_change(kept.values, tensors(output), visit.samples)
        self._store.drop(slot)
        self._store.put(slot, StoredOutput.of(output, site.kind, visit.step, shapes))
        return output

    def _why_none(self, calls: Sequence[CallRecord]) -> str:
        if not self._sites:
            return "these settings never reuse a module"
        if self._missed == len(self._sites):
            return "no module can be reached"
        found = [found for found, _ in Counter((call.code, call.reason) for call in calls).most_common(2)]
        if Code.NOTHING_REUSED in dict(found):
            return self.method.advice
        return ", ".join(reason for _, reason in found)


def relative_change(before: Sequence[torch.Tensor], now: Sequence[torch.Tensor], samples: int) -> float:
    """The largest over the samples of |before - now| / |before| in the 1-norm, of the first tensor; one host sync.

    Modules of video models fold frames or positions into the batch, (B * F, N, D), so the sample is the outer part.
    """
    old, new = before[0].float(), now[0].float()
    rows = samples if old.shape[0] % samples == 0 else 1
    change = (old - new).abs().reshape(rows, -1).sum(1)
    return float((change / old.abs().reshape(rows, -1).sum(1).clamp_min(1e-12)).max())


def _samples(latents: Sequence[torch.Tensor]) -> int:
    """How many samples a call holds: a list of tensors is a batch."""
    return len(latents) if len(latents) != 1 else int(latents[0].shape[0])
