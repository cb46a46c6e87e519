"""TeaCache: the change of the timestep-modulated input, corrected by a polynomial fitted for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import CacheMethod, NotApplicable
from accel.caching.calibration import polynomial_fit, published
from accel.caching.calibration.recorded_signals import Distance, change_of
from accel.caching.calibration.table import RunTrace, StepTable
from accel.caching.policy import AccumulatedDistance, Policy
from accel.caching.signal import TIME_SIGNALS, Probe, Signal, relative_distance
from accel.call import DenoiserCall
from accel.method import finite_numbers, setting

if TYPE_CHECKING:
    from accel.caching.calibration.calibration import Calibration

# A polynomial that explains less of the output's change than this is no better than a fixed interval.
GOOD_FIT = 0.5
# (denoiser, coefficients, fitted range)
Expert = tuple[str, tuple[float, ...], tuple[float, float] | None]


@dataclass(frozen=True)
class TeaCache(CacheMethod):
    """Skips while the accumulated, polynomially corrected change of the signal stays under `threshold`.

    Source: TeaCache (arXiv 2411.19108), equation 6. signal: "modulated_input" (what the first block's self-attention
    receives), "time_embedding" or "time_projection" (no content: the schedule is the same for every prompt).
    coefficients: the polynomial, highest power first; by default the published set for this model. Published
    polynomials fall below zero outside the range that they were fitted on, which would delay the next computed step
    without bound, so distances are clipped to `fitted_range` (where known) and the polynomial at zero; clamp=0 turns
    this off, for reproducing reference schedules. experts: where a pipeline has several denoisers, a polynomial for
    each of them, (denoiser, coefficients, fitted range), in the place of `coefficients`.
    A model without a published set is left alone and the report says how to get coefficients: `accel.calibrate`.
    Memory: the signal of one step ((B, N, D) for the modulated input) and the predictor's outputs. A skipped step
    costs the denoiser up to the probe. Not for compiled models or blocks, because nobody can leave a graph: all steps
    compute and the report says so; `FirstBlockCache` probes compiled blocks from outside.
    """

    threshold: float = setting(0.15, 0.0, None, "corrected change that may accumulate; 0 never skips", dial=True)
    coefficients: tuple[float, ...] | None = None
    signal: str = setting("auto", choices=("auto", *TIME_SIGNALS), help="what is measured; auto: as published")
    fitted_range: tuple[float, float] | None = None
    model: str | None = None
    clamp: int = setting(1, 0, 1, "1 keeps the polynomial within its fitted range and above zero")
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that always compute")
    max_skips: int = setting(6, 1, 1000, "most predictions in a row")
    experts: tuple[Expert, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, length in (("coefficients", None), ("fitted_range", 2)):
            value = getattr(self, name)
            if value is not None and not (finite_numbers(value) and value and len(value) == (length or len(value))):
                raise ValueError(f"TeaCache.{name} must be a tuple of {length or 'some'} numbers, not {value!r}.")
        if self.experts is not None:
            object.__setattr__(self, "experts", _check(self.experts))  # JSON gives lists
        published.check("teacache", self.model)

    @classmethod
    def columns(cls, anatomy: Anatomy, denoiser: str) -> Mapping[str, Signal]:
        paths = {name: getattr(anatomy.denoisers[denoiser], name) for name in TIME_SIGNALS}
        return {
            name: ProbedChange(Probe(path, TIME_SIGNALS[name]), UNCHANGED, clamp=False)
            for name, path in paths.items()
            if path
        }

    @classmethod
    def from_calibration(
        cls, calibration: Calibration, threshold: float = 0.15, signal: str = "auto", degree: int = 4, **guards: Any
    ) -> TeaCache:
        """With a polynomial fitted by least squares, from signal change to output change.

        signal: "auto" takes the one that explains most. Each expert has its own polynomial. The first steps, where both
        move fast, take part as well; `Calibration.fit_quality` says how well it fits. guards: further parameters of the
        method, such as warmup and max_skips. Raises ValueError where there is no such signal or too few steps.
        """
        signal = calibration.time_signal(signal, degree)
        fits = [(table.denoiser, *polynomial_fit.fit(table, signal, degree)) for table in calibration.tables]
        if len(fits) > 1:
            return cls(threshold, signal=signal, experts=tuple(fits), **guards)
        _, coefficients, span = fits[0]
        return cls(threshold, coefficients=coefficients, signal=signal, fitted_range=span, **guards)

    @classmethod
    def remarks(cls, calibration: Calibration) -> Sequence[str]:
        found = []
        for name in calibration.recorded_signals(TIME_SIGNALS):
            share = polynomial_fit.explained_or_none(calibration.tables, name)
            fit = "too few different steps for a polynomial" if share is None else f"R² {share:.2f}"
            found.append(f"TeaCache on the {name.replace('_', ' ')}: {fit}")
        return found

    @classmethod
    def cautions(cls, calibration: Calibration) -> Sequence[str]:
        known = calibration.recorded_signals(TIME_SIGNALS)
        if not known:
            return ("TeaCache cannot be calibrated, because this model has none of its signals",)
        shares = (polynomial_fit.explained_or_none(calibration.tables, name) or 0.0 for name in known)
        if max(shares) < GOOD_FIT:
            return ("TeaCache's polynomial hardly explains the output: prefer a schedule or another cache",)
        return ()

    def fitted(self, calibration: Calibration) -> Self:
        if self.coefficients or self.experts or self.model:
            return self
        found = self.from_calibration(calibration, signal=self.signal)
        return replace(
            self, signal=found.signal, coefficients=found.coefficients, fitted_range=found.fitted_range,
            experts=found.experts,
        )  # fmt: skip

    def make_policy(self, anatomy: Anatomy, denoiser: str) -> tuple[Signal, Policy]:
        fitted = self._fitted_polynomial(anatomy, denoiser)
        name = fitted.signal
        path = getattr(anatomy.denoisers[denoiser], name)
        if path is None:
            raise NotApplicable(
                f"TeaCache finds no {name.replace('_', ' ')} in {anatomy.denoisers[denoiser].kind}; "
                f"choose another signal or another cache, such as EasyCache."
            )
        return ProbedChange(Probe(path, TIME_SIGNALS[name]), fitted, bool(self.clamp)), AccumulatedDistance(
            self.threshold
        )

    def recorded_parts(
        self, table: StepTable, trace: RunTrace, anatomy: Anatomy | None = None
    ) -> tuple[Distance, Policy]:
        polynomial = self.polynomial_for(table.denoiser)
        if polynomial is None:
            raise ValueError("TeaCache without coefficients cannot be simulated; take those of calibration.teacache().")
        change = change_of(polynomial.signal, "TeaCache", table, trace)

        def distance(step: int, computed: Sequence[int]) -> float | None:
            moved = change(step, computed)
            return None if moved is None else polynomial(moved, bool(self.clamp))

        return distance, AccumulatedDistance(self.threshold)

    def polynomial_for(self, denoiser: str) -> published.Polynomial | None:
        """The polynomial that these settings hold for this denoiser, or None where they hold none."""
        signal = "modulated_input" if self.signal == "auto" else self.signal
        for name, coefficients, fitted_range in self.experts or ():
            if name == denoiser:
                return published.Polynomial("given", signal, coefficients, fitted_range)
        if self.coefficients is not None:
            return published.Polynomial("given", signal, self.coefficients, self.fitted_range)
        return None

    def _fitted_polynomial(self, anatomy: Anatomy, denoiser: str) -> published.Polynomial:
        """Given coefficients, else the named or the matching published set."""
        given = self.polynomial_for(denoiser)
        if given is not None:
            return given
        found = published.teacache(anatomy, denoiser, self.model, self.signal)
        if isinstance(found, str):
            raise NotApplicable(
                f"TeaCache has no coefficients for {anatomy.denoisers[denoiser].kind} of this size ({found}). Fit them "
                f"once with accel.calibrate(pipe, prompts).teacache() or use EasyCache, which needs none."
            )
        return found


UNCHANGED = published.Polynomial("given", "", (1.0, 0.0))


class ProbedChange:
    """Corrected relative change of what the probe hears, between consecutive steps."""

    note: str | None = None

    def __init__(self, probe: Probe, polynomial: published.Polynomial, clamp: bool) -> None:
        self.probe: Probe | None = probe
        self._polynomial, self._clamp = polynomial, clamp
        self._previous: torch.Tensor | None = None

    def observe(self, call: DenoiserCall, heard: torch.Tensor | None) -> float | None:
        assert heard is not None  # the gate passes what the probe heard
        previous, self._previous = self._previous, heard.detach().clone()
        if previous is None or previous.shape != heard.shape:
            return None
        return self._polynomial(relative_distance([heard], [previous]), self._clamp)

    def after_compute(self, call: DenoiserCall, outputs: list[torch.Tensor]) -> None:
        pass

    def kept_tensors(self) -> list[torch.Tensor]:
        return [] if self._previous is None else [self._previous]


def _check(experts: Any) -> tuple[Expert, ...]:
    """The experts as nested tuples. Raises ValueError for anything else."""
    found = []
    for row in experts if isinstance(experts, (list, tuple)) else ():
        if isinstance(row, (list, tuple)) and len(row) == 3 and isinstance(row[0], str):
            coefficients, span = (tuple(part) if isinstance(part, list) else part for part in row[1:])
            inside = span is None or (finite_numbers(span) and len(span) == 2)
            if finite_numbers(coefficients) and coefficients and inside:
                found.append((row[0], coefficients, span))
    if not found or len(found) != len(experts):
        raise ValueError(
            f"TeaCache.experts must be rows of (denoiser, coefficients, fitted range or None), not {experts!r}."
        )
    return tuple(found)
