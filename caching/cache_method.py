"""A cache is signal × policy × predictor at the denoiser's boundary; this is the common part of their parameters.

A cache also says what a calibration may ask of it: how it is recorded, fitted and simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Self

from accel.anatomy import Anatomy
from accel.caching.calibration import simulate
from accel.caching.calibration.recorded_signals import Distance, no_distance
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.extrapolate import Extrapolate
from accel.caching.gate import CacheGate
from accel.caching.policy import Policy
from accel.caching.predictor import Predictor
from accel.caching.signal import Signal
from accel.call import DenoiserCall
from accel.lever import InactiveLever, Lever
from accel.method import Method, nested_method, setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration


@dataclass(frozen=True)
class Cache(Method, lever="cache", abstract=True):
    """What calibrations and the tuner ask of every cache, with defaults for all of it."""

    @classmethod
    def columns(cls, anatomy: Anatomy, denoiser: str) -> Mapping[str, Signal]:
        """Signals, by the names of their columns, whose distances in every step of an unaccelerated run `calibrate` is
        to record (`RunTrace.changes`), fresh for one stream of one run.
        """
        return {}

    @classmethod
    def remarks(cls, calibration: Calibration) -> Sequence[str]:
        """What a calibration's own description says about this method, one sentence each."""
        return ()

    @classmethod
    def cautions(cls, calibration: Calibration) -> Sequence[str]:
        """What speaks against this method on that calibration, one sentence each."""
        return ()

    def fitted(self, calibration: Calibration) -> Self:
        """With the constants that the calibration yields, where the method takes some and has none of its own."""
        return self

    def at_share(self, share: float, calibration: Calibration | None, steps: int) -> Self:
        """The same method, set to compute this share of a run of so many steps.

        Raises ValueError, in one sentence, where it cannot be set so, or needs a calibration for it.
        """
        if calibration is None:
            raise ValueError(f"{type(self).__name__} is set to a speed by a calibration only.")
        return calibration.threshold(self, share)

    def computed_share(self, tables: Sequence[StepTable]) -> float:
        """Mean share of the work in a recorded run that it would compute, simulated.

        Raises ValueError, in one sentence, where it cannot be simulated.
        """
        raise ValueError(f"{type(self).__name__} cannot be simulated; accel.compare measures it.")


@dataclass(frozen=True)
class CacheMethod(Cache, abstract=True):
    """Parameters that every cache has.

    predictor: what stands in for a skipped evaluation.
    warmup: the first steps compute (layout is decided there). final: the last steps compute (detail is).
    max_skips: at most so many predictions in a row. min_steps: shorter runs are left alone, because each of their
    steps moves too far to be predicted (distilled models).
    """

    _: KW_ONLY
    predictor: Predictor = nested_method(Extrapolate(), "predictor")  # noqa: RUF009
    warmup: int = setting(3, 1, 1000, "first steps that always compute")
    final: int = setting(1, 0, 1000, "last steps that always compute")
    max_skips: int = setting(4, 1, 1000, "most predictions in a row")
    min_steps: int = setting(10, 1, 1000, "runs with fewer steps are left alone")

    @classmethod
    def for_comparison(cls) -> Sequence[Method]:
        """All with the same guards."""
        try:
            return (cls(warmup=5, max_skips=7),)
        except ValueError:  # it needs a table of constants
            return ()

    def fresh(self, predictor: Predictor) -> int:
        """How many outputs are computed before the first forecast of a history, wherever in the run it begins."""
        return min(self.warmup, predictor.depth, 2)

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        """The signal to measure in every step and the policy that decides by it: fresh state for one stream of one run.

        Raises NotApplicable, in one sentence with the way out, where the method cannot act on this denoiser.
        """
        raise NotImplementedError

    def informed(
        self, predictor: Predictor, call: DenoiserCall, span: range, anatomy: Anatomy
    ) -> tuple[Predictor, str]:
        """The predictor, as it fits the run's updates, with what the method knows of this model, and a clause about
        that for the report. The stream begins with this call and takes the steps of `span`. anatomy: with what only
        the run tells, such as whether its updates add noise.
        """
        return predictor, ""

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        """The same from recorded numbers: what its signal would measure (see
        `accel.caching.calibration.recorded_signals`), and a fresh policy.

        anatomy: of the pipeline, where it is at hand; then a method that looks at no data needs nothing more than
        `make_policy`. Raises ValueError, in one sentence, where the method cannot be simulated.
        """
        if anatomy is None or not self.data_free:
            raise ValueError(f"{type(self).__name__} cannot be simulated; accel.compare measures it.")
        return no_distance, self.make_policy(anatomy, table.denoiser)[1]

    def computed_share(self, tables: Sequence[StepTable]) -> float:
        steps = [step for run in simulate.compute_masks(self, tables) for step in run]
        return sum(steps) / len(steps)

    def build(self, anatomy: Anatomy) -> Lever:
        """The working cache for this pipeline, or an inactive lever that says why there is none."""
        try:
            for denoiser in anatomy.denoisers:
                self.make_policy(anatomy, denoiser)
        except NotApplicable as reason:
            return InactiveLever(self, str(reason))
        return CacheGate(self, anatomy)


class NotApplicable(Exception):
    """A method cannot act on this pipeline; the message says why and what to do instead."""
