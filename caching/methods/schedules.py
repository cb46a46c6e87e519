"""Static schedules: which steps compute is known before the run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Self

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod
from accel.caching.calibration.output_features import OutputFeatures
from accel.caching.calibration.recorded_signals import Distance, no_distance
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.extrapolate import Extrapolate
from accel.caching.measured_correction import MeasuredExtrapolate, MeasuredWay
from accel.caching.planned_steps import PlannedSteps
from accel.caching.planning import PlanRules
from accel.caching.policy import Decision, Policy
from accel.caching.predictor import Predictor
from accel.caching.signal import NoSignal, Signal
from accel.call import DenoiserCall
from accel.method import finite_numbers, nested_method, setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration


ANY = "as for any model"


@dataclass(frozen=True)
class OptimalSchedule(CacheMethod):
    """Computes the fraction `compute` of the steps, spread as evenly as the run's noise levels ask for.

    Not published.

    Found by dynamic programming (`accel.caching.planning`) for the very noise levels and length of the run. It presumes
    nothing about the model, so it needs no calibration. features: of this model's measured outputs, which
    `accel.accelerate(pipe, preset, calibration=...)` fills in. Then forecasts are corrected by them
    (`accel.caching.measured_correction`): the same steps compute, and the result is nearer. Where they do not fit the
    pipeline or the run's noise levels, the report says why. Two experts are planned one after the other.

    dense: a plan of so many computed steps begins with two, its gaps at most double, and both ends are denser, by
    `spread`. A plan of fewer has none to spare and is spaced evenly, as fewer steps are.

    guard: a plan knows nothing of how rough this run is. Each computed step before a gap tells how wrong a forecast of
    it would have been, |forecast - output| / |output|, which is taken to grow in proportion to the gap. A coming gap
    that would pass the guard is cut, and the steps between compute too: more than planned, never less. It costs a host
    sync at such steps, and a batch goes by its worst sample. Without it there is no sync, and every prompt, sample and
    device is treated alike.

    Do not use it where steps are few and far apart. Memory: the predictor's, four latents per stream by default.
    """

    data_free = True

    compute: float = setting(0.5, 0.0, 1.0, "fraction of the steps that compute; 1 never skips", dial=True)
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    final: int = setting(1, 1, 1000, "last steps that always compute")
    max_skips: int = setting(7, 1, 30, "most predictions in a row")
    fewest: int = setting(1, 1, 1000, "steps that compute at least, so that short runs are accelerated less")
    dense: int = setting(14, 1, 1000, "computed steps from which on both ends are denser; fewer are spaced evenly")
    spread: float = setting(0.15, 0.0, 1.0, "how much denser both ends are: 0 counts steps alone, 1 only log-SNR")
    careful: float = setting(1.0, 0.0, 1.0, "share of the skips that stays where forecasts cannot be corrected in full")
    guard: float = setting(0.0, 0.0, None, "relative error of a forecast from which on gaps get shorter; 0 is no guard")
    features: OutputFeatures | None = nested_method(None, "features")  # noqa: RUF009

    @classmethod
    def for_tuning(cls) -> Sequence[OptimalSchedule]:
        return (cls(),)

    @classmethod
    def for_comparison(cls) -> Sequence[OptimalSchedule]:
        return (cls(),)

    def at_share(self, share: float, calibration: Calibration | None, steps: int) -> OptimalSchedule:
        return replace(self, compute=round(share, 4))

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        rules = rules_for(self.predictor.expected_under(anatomy), self.warmup, self.final, self.max_skips)
        rules = replace(rules, dense=self.dense, spread=self.spread)
        share = self.share if anatomy.corrects_in_full else self.careful_share
        return NoSignal(), PlannedSteps(share, "flow" in anatomy.prediction, rules, self.guard, self.fewest)

    def informed(
        self, predictor: Predictor, call: DenoiserCall, span: range, anatomy: Anatomy
    ) -> tuple[Predictor, str]:
        features, table, scale = self.features, call.context.table, anatomy.guidance_scale
        if features is None or table is None or not isinstance(predictor, Extrapolate):
            return predictor, ""
        if not predictor.corrects or anatomy.random:
            return predictor, ""
        misfit, levels = features.misfit(anatomy), call.context.sigmas[span.start : span.stop]
        try:
            if misfit or table.flow != ("flow" in anatomy.prediction):
                raise ValueError(misfit or "this run's noise levels are not those of a flow")
            rows = features.at(call.denoiser, levels, scale)
        except ValueError as reason:
            note = f"the calibration does not fit ({reason}), so forecasts are corrected {ANY}"
            if not misfit:  # of which `accelerate` has warned
                warnings.warn(f"{note[0].upper()}{note[1:]}.", stacklevel=2)
            return predictor, note
        note = f"forecasts are corrected by this model's own outputs, measured over {features.source}"
        scales = features.scales()
        if scale is not None and scales and not scales[0] <= scale <= scales[-1]:
            note += f" (this call has {scale:g})"
        way = MeasuredWay(dict(zip(map(table.time_of, levels), rows, strict=True)))
        return MeasuredExtrapolate.of(predictor, way), note

    @property
    def treats_samples_alike(self) -> bool:
        return not self.guard

    def fitted(self, calibration: Calibration) -> Self:
        """Corrected by what was measured; beside what it has already of the same model at another guidance scale."""
        features = OutputFeatures.of(calibration, self.features)
        if features is None:
            warnings.warn(
                "The calibration has no stream that was there in every step, with finite outputs and falling noise "
                f"levels, so forecasts are corrected {ANY}.",
                stacklevel=2,
            )
        return replace(self, features=features)

    def caution(self, anatomy: Anatomy) -> str:
        why = "" if self.features is None else self.features.misfit(anatomy)
        return why and f"The calibration does not fit this pipeline ({why}), so forecasts are corrected {ANY}."

    def share(self, steps: int) -> float:
        """The fraction that computes of a run of so many steps."""
        return min(max(self.compute, self.fewest / max(steps, 1)), 1.0)

    def careful_share(self, steps: int) -> float:
        """The same where forecasts cannot be corrected in full (`Anatomy.corrects_in_full`)."""
        return 1.0 - self.careful * (1.0 - self.share(steps))


@dataclass(frozen=True)
class StaticSchedule(CacheMethod):
    """Computes the steps nearest to the given noise levels and predicts the others.

    Source: cache-dit's steps computation mask, as noise levels.

    sigmas: noise levels that compute, as the scheduler counts them (1..0 for flow matching, noise-to-signal ratio
    otherwise). They are noise levels and not step numbers, so the schedule means the same at another step count and in
    image-to-image: as many steps compute, and the longer run is accelerated more. Made by `accel.caching.calibrate` or
    by hand; `StaticSchedule.from_mask` takes cache-dit's steps computation mask.
    Memory: the predictor's, four latents per stream by default. Not where prompts differ much in how rough their runs
    are: all compute the same steps (but see `OptimalSchedule.guard`).
    """

    data_free = True

    sigmas: tuple[float, ...] = ()
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    max_skips: int = setting(1000, 1, 1000, "most predictions in a row")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (finite_numbers(self.sigmas) and self.sigmas and min(self.sigmas) >= 0):
            raise ValueError(
                f"StaticSchedule.sigmas must be a tuple of noise levels of at least 0, such as (1.0, 0.9, 0.5), "
                f"not {self.sigmas!r}."
            )

    @classmethod
    def for_tuning(cls) -> Sequence[StaticSchedule]:
        """What it lists is filled in from the calibration."""
        return (cls((0.0,)),)

    @classmethod
    def for_comparison(cls) -> Sequence[StaticSchedule]:
        return cls.for_tuning()

    def at_share(self, share: float, calibration: Calibration | None, steps: int) -> StaticSchedule:
        if calibration is None:
            raise ValueError("StaticSchedule is planned by a calibration only.")
        return calibration.schedule(share, steps)

    @classmethod
    def from_mask(cls, mask: Sequence[int], sigmas: Sequence[float]) -> StaticSchedule:
        """1 computes, 0 predicts; `sigmas` are those of the run that the mask was made for (`scheduler.sigmas`)."""
        if len(sigmas) < len(mask):
            raise ValueError(f"There are {len(mask)} entries in the mask and only {len(sigmas)} noise levels.")
        return cls(tuple(float(sigma) for computes, sigma in zip(mask, sigmas, strict=False) if computes))

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        return NoSignal(), ListedSteps(self.sigmas)

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        return no_distance, ListedSteps(self.sigmas)


def rules_for(predictor: Predictor, warmup: int, final: int, max_skips: int) -> PlanRules:
    """What a plan must know of the cache that follows it."""
    order, corrector = predictor.degrees
    return PlanRules(warmup, final, max_skips, order=min(order, 1), corrector=min(corrector, 2))


class ListedSteps(Policy):
    """Computes the steps whose noise levels are nearest to the listed ones, each entry a step of its own if it can."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._listed = sorted(sigmas, reverse=True)
        self._computes: set[int] = set()

    def begin(self, sigmas: Sequence[float], span: range, steps: int) -> None:
        self._computes = nearest_steps(self._listed, list(sigmas[:-1]))

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        skip = position not in self._computes
        return Decision(skip, "not listed" if skip else "listed")


def nearest_steps(wanted: Sequence[float], sigmas: Sequence[float]) -> set[int]:
    """For every wanted noise level the nearest step that is still free, from noise to clean."""
    free, chosen = list(range(len(sigmas))), set()
    for sigma in wanted:
        if free:
            nearest = min(free, key=lambda step: abs(sigmas[step] - sigma))
            free.remove(nearest)
            chosen.add(nearest)
    return chosen
