"""A cache is signal × decider × predictor at the denoiser's boundary; this is the common part of their parameters."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.caching.decider import Decider
from accel.caching.extrapolate import Extrapolate
from accel.caching.gate import CacheGate
from accel.caching.predictor import Predictor
from accel.caching.signal import Signal
from accel.lever import Idle, Lever
from accel.method import Method, knob, part


@dataclass(frozen=True)
class CacheMethod(Method, lever="cache", abstract=True):
    """Parameters that every cache has.

    predictor: what stands in for a skipped evaluation.
    warmup: the first steps compute (layout is decided there). final: the last steps compute (detail is).
    max_skips: at most so many predictions in a row. min_steps: shorter runs are left alone, because each of their
    steps moves too far to be predicted (distilled models).
    """

    _: KW_ONLY
    predictor: Predictor = part(Extrapolate(), "predictor")  # noqa: RUF009
    warmup: int = knob(3, 1, 1000, "first steps that always compute")
    final: int = knob(1, 0, 1000, "last steps that always compute")
    max_skips: int = knob(4, 1, 1000, "most predictions in a row")
    min_steps: int = knob(10, 1, 1000, "runs with fewer steps are left alone")

    def fresh(self, predictor: Predictor) -> int:
        """So many answers are computed before a forecast, wherever in the run a history begins: a straight line's."""
        return min(self.warmup, predictor.depth, 2)

    def parts(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Decider]:
        """What is measured in every step and what makes of it compute or skip: fresh state for one stream of one run.

        Raises NotApplicable, in one sentence with the way out, where the method cannot act on this denoiser.
        """
        raise NotImplementedError

    def build(self, anatomy: Anatomy) -> Lever:
        """The working cache for this pipeline, or an idle lever that says why there is none."""
        try:
            for denoiser in anatomy.denoisers:
                self.parts(anatomy, denoiser)
        except NotApplicable as reason:
            return Idle(self, str(reason))
        return CacheGate(self, anatomy)


class NotApplicable(Exception):
    """A method cannot act on this pipeline; the message says why and what to do instead."""
