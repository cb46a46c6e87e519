"""FittedSchedule: few computed steps, whose outputs are summed as was measured to be best along this model's runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.caching.fitted_sums import FittedSums
from accel.caching.methods.schedules import OptimalSchedule
from accel.caching.predictor import Predictor
from accel.caching.run_fit import RunFit
from accel.call import DenoiserCall
from accel.clock import StepContext
from accel.method import nested_method, setting

UNFITTED = "as OptimalSchedule does"


@dataclass(frozen=True)
class FittedSchedule(OptimalSchedule):
    """Computes few steps, evenly spread, and hands on in every step the weighted sum of the last computed outputs that
    came nearest to the unaccelerated run when it was measured.

    Skipping steps makes another solver of the scheduler: its sample after each step is a linear map of the computed
    outputs. `accel.caching.measure(pipe, prompts, FittedSchedule(0.2), ...)` finds the best such solver for this model,
    timetable and guidance, a handful of weights for each step, by least squares along runs of its own: at each step the
    sum that best takes the sample, with all errors that earlier steps have left in it, to where the unaccelerated run
    was. So errors of forecasts are paid for in the step behind them, and what is fitted is what will be met. Nothing is
    trained, and the weights (some kilobytes) hold for other prompts.

    Sources: solvers whose coefficients are fitted to one model are those of Bespoke Non-Stationary Solvers (arXiv
    2403.01329, section 3) and PAS (arXiv 2411.06503), by gradient descent and for fewer steps; the closed form along
    the run, and the unaccelerated run as its goal, are ours.

    outputs: of how many computed outputs a sum is made when it is measured. rough: each computed output is also
    foretold from those before, which costs a host sync. Where one is foretold so many times worse than in the runs that
    were measured, this clip is not like them, and the rest of it is computed in full: more than planned, never less. A
    batch goes by its worst sample. 0 watches nothing.

    On another pipeline, timetable, solver or guidance than was measured, and before anything was, it acts as
    OptimalSchedule with as many computed steps, and says so; only then `guard` and `features` count. Use it for many
    clips of one setting. Not for schedulers that add noise, or where the pipeline changes latents between steps
    (inpainting): there nothing can be measured.
    Memory: `outputs` latents per stream.
    """

    compute: float = setting(0.25, 0.0, 1.0, "fraction of the steps that compute; 1 never skips", dial=True)
    _: KW_ONLY
    max_skips: int = setting(30, 1, 30, "most predictions in a row")
    outputs: int = setting(4, 1, 8, "computed outputs that a sum is made of")
    rough: float = setting(3.0, 0.0, None, "times the expected error from which on a run is computed in full; 0 never")
    fit: RunFit | None = nested_method(None, "fit")  # noqa: RUF009

    @classmethod
    def for_tuning(cls) -> Sequence[OptimalSchedule]:
        """Without a measurement it is another method."""
        return ()

    @classmethod
    def for_comparison(cls) -> Sequence[OptimalSchedule]:
        return ()

    def informed(
        self, predictor: Predictor, call: DenoiserCall, span: range, anatomy: Anatomy
    ) -> tuple[Predictor, str]:
        if self.fit is None or call.context.steps < self.min_steps:
            return super().informed(predictor, call, span, anatomy)
        try:
            sums = self.sums(call, span, anatomy)
        except ValueError as reason:
            note = f"what was measured does not fit ({reason}), so it acts {UNFITTED}"
            if not self.fit.misfit(anatomy):  # of which `accelerate` has warned
                warnings.warn(f"FittedSchedule: {note}.", stacklevel=2)
            known, beside = super().informed(predictor, call, span, anatomy)
            return known, "; ".join(filter(None, [note, beside]))
        return sums, f"outputs are summed as was measured in {self.fit.runs} runs"

    def sums(self, call: DenoiserCall, span: range, anatomy: Anatomy) -> FittedSums:
        """What the stream that begins with this call takes of the fit. Raises ValueError, in one clause, where it does
        not fit.
        """
        misfit = "nothing was measured" if self.fit is None else self.fit.misfit(anatomy)
        if self.fit is None or misfit:
            raise ValueError(misfit)
        sums = self.fit.sums(call, span, anatomy, self.rough)
        if sums.plan.computed != self.positions(anatomy, call.denoiser, call.context, span):
            raise ValueError("it was measured with other settings of the schedule")
        return sums

    def positions(self, anatomy: Anatomy, denoiser: str, context: StepContext, span: range) -> frozenset[int]:
        """The positions of `span` that are to compute."""
        _, policy = self.make_policy(anatomy, denoiser)
        policy.begin(context.sigmas, span, context.steps)
        return frozenset(at for at in span if at == span.start or not policy.decide(None, at, context.total).skip)

    @property
    def treats_samples_alike(self) -> bool:
        """Not where a rough sample makes its whole batch compute."""
        return super().treats_samples_alike and not (self.fit is not None and self.rough)

    def caution(self, anatomy: Anatomy) -> str:
        if self.fit is None:
            return (
                f"FittedSchedule has not been measured, so it acts {UNFITTED}: "
                "give it accel.caching.measure(pipe, prompts, FittedSchedule(...), num_inference_steps=...)."
            )
        why = self.fit.misfit(anatomy)
        return why and f"What FittedSchedule measured does not fit this pipeline ({why}), so it acts {UNFITTED}."
