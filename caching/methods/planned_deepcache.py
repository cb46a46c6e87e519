"""A plan of which steps compute, most of them by the shallow layers of a U-Net alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

from accel.anatomy import Anatomy
from accel.caching.methods.deepcache import DeepCache
from accel.caching.methods.schedules import OptimalSchedule
from accel.lever import CompositeLever, InactiveLever, Lever
from accel.method import setting
from accel.report import CallRecord, LeverReport


@dataclass(frozen=True)
class PlannedDeepCache(OptimalSchedule):
    """`OptimalSchedule` whose computed steps run the whole U-Net in every `interval`-th alone.

    Not published; the shallow steps are those of DeepCache (arXiv 2312.00858).

    The steps between are forecast; of those that compute, the others run the shallow layers on their own latents, and
    the deep feature that they need (`DeepCache`) goes on along a straight line through the last ones. Both find
    something to save that the other leaves: a line through deep features is nearer than the last of them, and what
    shallow layers say is new. On the judge of U-Nets (photos, guidance 7.5) it is 1 to 2 dB above `OptimalSchedule` at
    equal cost, from 18 computed of 50 steps up (docs/negative-results.md).

    For the U-Nets of `DeepCache`; other pipelines are left alone, and the report says so. Errors, and when not to use
    it: as with `OptimalSchedule`. Memory: that of `OptimalSchedule`, and three hidden states per stream at the place of
    the cut: 60 MiB for SDXL at 1024 x 1024 in half precision with guidance in one batch.
    """

    _: KW_ONLY
    interval: int = setting(2, 1, 1000, "of the computed steps run the whole U-Net in every n-th; 1 in all")
    branch: int = setting(0, 0, 100, "down layers that run in the others; 0 is cheapest")
    line: float = setting(0.8, 0.0, 1.0, "the most of the way along a line that a deep feature goes; 0 holds it")

    def build(self, anatomy: Anatomy) -> Lever:
        """The plan around the shallow steps, or an inactive lever that says why there is none."""
        inner = DeepCache(self.interval, self.branch, line=self.line, min_steps=1).build(anatomy)
        if isinstance(inner, InactiveLever):
            return InactiveLever(self, inner.reason)
        return _PlanOfShallowSteps(self, (super().build(anatomy), inner))


class _PlanOfShallowSteps(CompositeLever):
    """The two caches as one: each hears of its own calls in the report."""

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        plan, shallow = self.parts
        evaluated = [call for call in calls if not _forecast(call)]
        told = [call if _forecast(call) else replace(call, action="computed") for call in calls]
        reports = [plan.report(told), shallow.report(evaluated)]
        held = sum(report.extra_bytes for report in reports)
        reason = "; ".join(report.reason for report in reports)
        return LeverReport("cache", str(self.method), any(one.engaged for one in reports), reason, held)


def _forecast(call: CallRecord) -> bool:
    """Whether the plan left it out, and the U-Net with it."""
    return call.action == "predicted" and bool(call.spared)
