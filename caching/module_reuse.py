"""Module-level reuse is one question: which kinds of modules are reused in which steps. This is what its methods share.

What is kept is a module's output before gate and residual: the gates carry most of the dependence on the timestep and
are always fresh (FORA, arXiv 2407.01425). It keeps every module's output, tens to hundreds of times the memory of a
cache at the denoiser's boundary, and saves less; it changes the picture less abruptly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple, Protocol

from accel.anatomy import Anatomy
from accel.caching.cache_method import Cache, NotApplicable
from accel.caching.calibration.table import StepTable
from accel.caching.module_gate import ModuleGate
from accel.caching.modules import KINDS
from accel.caching.policy import guard
from accel.clock import StepContext
from accel.lever import InactiveLever, Lever
from accel.method import setting
from accel.reasons import Code


class Reuse(NamedTuple):
    """The kinds of modules that are reused from the store in one step, and why."""

    kinds: frozenset[str]
    reason: str
    code: Code = Code.DECIDED


class ReusePolicy(Protocol):
    """Which kinds are reused in which steps: state for one denoiser of one run, which knows numbers only."""

    probe: str | None  # the path of a module whose change is measured whenever it is computed

    def kinds_to_reuse(self, context: StepContext) -> frozenset[str]:
        """The kinds to be reused now."""

    def after_step(self, context: StepContext, reused: frozenset[str], change: float | None) -> None:
        """The step is over: these kinds were reused and the others computed; `change` is what the probe measured."""


@dataclass(frozen=True)
class ReuseMethod(Cache, abstract=True):
    """Parameters that every reuse method has.

    warmup: the first steps compute everything. final: the last steps do. min_steps: shorter runs are left alone.
    """

    advice: ClassVar[str] = ""  # what the report says where the policy reused nothing

    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that compute everything")
    final: int = setting(1, 0, 1000, "last steps that compute everything")
    min_steps: int = setting(10, 1, 1000, "runs with fewer steps are left alone")

    def kinds(self) -> frozenset[str]:
        """The kinds that these settings may ever reuse; only their outputs are kept."""
        raise NotImplementedError

    def policy(self, anatomy: Anatomy, denoiser: str) -> ReusePolicy:
        """Fresh state for one denoiser of one run.

        Raises NotApplicable, in one sentence with the way out, where the method cannot act on this denoiser.
        """
        raise NotImplementedError

    def recorded_policy(self, table: StepTable) -> ReusePolicy:
        """`policy`, for a recorded run of one denoiser. Raises ValueError where it cannot be simulated."""
        raise ValueError(f"{type(self).__name__} cannot be simulated; accel.compare measures it.")

    def computed_share(self, tables: Sequence[StepTable]) -> float:
        """The mean over the steps and the kinds of modules."""
        shares = [share for table in tables for share in self._reused(table, tables[0].start)]
        return 1.0 - sum(shares) / len(shares)

    def _reused(self, table: StepTable, first: int) -> list[float]:
        """For each step the share of the kinds of modules that are reused."""
        total = len(table.timetable) - 1
        positions = range(table.start, table.start + table.steps)
        contexts = [
            StepContext(0, place - first, place, total, table.timetable[place], first=first) for place in positions
        ]
        return [
            len(kinds) / max(len(table.curves), 1) for kinds in self.simulate(self.recorded_policy(table), contexts)
        ]

    def decide(self, policy: ReusePolicy, context: StepContext) -> Reuse:
        """What is reused at this moment. A pure function of numbers and of the policy's state."""
        forced = guard(
            step=context.step, steps=context.steps, left=context.left, skipped=0,
            warmup=self.warmup, final=self.final, max_skips=1, min_steps=self.min_steps,
        )  # fmt: skip
        if forced:
            return Reuse(frozenset(), forced.reason, forced.code)
        kinds = policy.kinds_to_reuse(context)
        if not kinds:
            return Reuse(kinds, "nothing is reused in this step", Code.NOTHING_REUSED)
        return Reuse(kinds, f"reuses {', '.join(kind for kind in KINDS if kind in kinds)}")

    def simulate(
        self, policy: ReusePolicy, contexts: Iterable[StepContext], changes: Iterable[float] | None = None
    ) -> list[frozenset[str]]:
        """The kinds reused in each step of a run, without a model. changes: what the probe would measure in each."""
        measured, found, started = iter(changes or ()), [], False
        for context in contexts:
            change = next(measured, None)
            kinds = self.decide(policy, context).kinds if started else frozenset()
            policy.after_step(context, kinds, None if kinds or not started else change)
            found.append(kinds)
            started = True
        return found

    def build(self, anatomy: Anatomy) -> Lever:
        """The working reuse for this pipeline, or an inactive lever that says why there is none."""
        try:
            for denoiser in anatomy.denoisers:
                self.policy(anatomy, denoiser)
        except NotApplicable as reason:
            return InactiveLever(self, str(reason))
        return ModuleGate(self, anatomy)


def require(method: str, anatomy: Anatomy, denoiser: str, kinds: Iterable[str], advice: str) -> frozenset[str]:
    """Those of the kinds that this denoiser has. Raises NotApplicable where it has none of them."""
    part = anatomy.denoisers[denoiser]
    found = frozenset(kind for kind in kinds if part.modules.get(kind))
    if not found:
        wanted = " or ".join(kind.replace("_", " ") for kind in kinds)
        raise NotApplicable(f"{method} finds no {wanted} modules in {part.kind}; {advice}.")
    return found


BOUNDARY = "use a cache at the denoiser's boundary, such as FixedInterval or EasyCache"
