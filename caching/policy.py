"""Compute or skip: pure state machines over numbers. They know no tensors and no models, so lists can test them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from accel.reasons import Code


class Decision(NamedTuple):
    skip: bool
    reason: str
    code: Code = Code.DECIDED


NO_HISTORY = Decision(False, "no history yet", Code.NO_HISTORY)


class Policy(Protocol):
    note: str | None = None
    """What the report must say about what this decides by."""

    def begin(self, sigmas: Sequence[float], span: range, steps: int) -> None:
        """A stream begins that will take the steps `span` of a timetable, in a run of `steps` steps in all.

        sigmas: the noise levels of the whole timetable and, last, of its end.
        """
        return None

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        """Compute or skip step `position` of `total`, given the signal's distance (None: not known yet)."""

    def after_compute(self) -> None:
        """A step has been computed, by this policy's decision or because a guard forced it."""
        return None

    def watches(self, position: int) -> bool:
        """Whether, this step being computed, it wants to know how wrong a forecast would have been; a host sync."""
        return False

    def after_forecast(self, position: int, gap: int, error: float) -> None:
        """What it wanted to know: the error of a forecast `gap` steps after the last computed one, over the output."""
        return None


def guard(
    *,
    step: int,
    steps: int,
    left: int,
    skipped: int,
    warmup: int,
    final: int,
    max_skips: int,
    min_steps: int,
) -> Decision | None:
    """The decision to compute a step, whatever the policy thinks, or None.

    `step` counts from the start of the run, which takes `steps` steps, of which `left` are left to this denoiser, this
    one included; `skipped` is the number of steps since the last computed one.
    """
    if steps < min_steps:
        return Decision(False, f"a run of {steps} steps is under min_steps={min_steps}", Code.SHORT_RUN)
    if step < warmup:
        return Decision(False, "warm-up", Code.WARM_UP)
    if left <= final:
        return Decision(False, "last steps", Code.LAST_STEPS)
    if skipped >= max_skips:
        return Decision(False, f"{max_skips} predictions in a row", Code.MOST_SKIPS)
    return None


def nearest_entry(position: int, total: int, entries: int) -> int:
    """The entry of a table for `entries` steps that stands for step `position` of `total`."""
    return position if total == entries else round(position * (entries - 1) / max(total - 1, 1))


class EveryNth(Policy):
    """Computes every n-th step. n = 1 never skips."""

    def __init__(self, interval: int) -> None:
        self.interval, self._skipped = interval, 0

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if self._skipped + 1 >= self.interval:
            return Decision(False, f"every {self.interval}")
        self._skipped += 1
        return Decision(True, f"{self._skipped} of {self.interval - 1}")

    def after_compute(self) -> None:
        self._skipped = 0


class AccumulatedDistance(Policy):
    """Skips while the sum of (rescaled) distances since the last computed step stays under the threshold.

    TeaCache equation 6, EasyCache equation 6, SeaCache section 3.3; strict: a sum equal to the threshold computes.
    """

    def __init__(self, threshold: float, rescale: Callable[[float], float] = float) -> None:
        self.threshold, self.rescale, self._sum = threshold, rescale, 0.0

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if distance is None:
            return Decision(False, "no distance yet", Code.NO_HISTORY)
        self._sum += self.rescale(distance)
        if self._sum < self.threshold:
            return Decision(True, f"distance {self._sum:.3g} < {self.threshold:g}")
        return Decision(False, f"distance {self._sum:.3g} ≥ {self.threshold:g}", Code.OVER_THRESHOLD)

    def after_compute(self) -> None:
        self._sum = 0.0


class AccumulatedMagnitude(Policy):
    """Skips while the accumulated error of the residual's magnitude, known beforehand, stays within the threshold.

    MagCache section 3.3: R is the product of the ratios since the last computed step and e the sum of |1 - R|; skip
    while e <= threshold and at most `most` steps. Ratios belong to a run of len(ratios) steps; another step count
    takes the nearest entry. The first `retention` fraction of the run computes.
    """

    def __init__(self, ratios: Sequence[float], threshold: float, most: int, retention: float) -> None:
        self.ratios, self.threshold, self.most, self.retention = ratios, threshold, most, retention
        self.after_compute()

    def decide(self, distance: float | None, position: int, total: int) -> Decision:
        if position < int(self.retention * total):
            return Decision(False, "retention", Code.WARM_UP)
        self._product *= self._ratio(position, total)
        self._count += 1
        self._error += abs(1.0 - self._product)
        reason, over = f"error {self._error:.3g}, {self._count} in a row", self._error > self.threshold
        if over or self._count > self.most:
            return Decision(False, reason, Code.OVER_THRESHOLD if over else Code.MOST_SKIPS)
        return Decision(True, reason)

    def after_compute(self) -> None:
        self._product, self._count, self._error = 1.0, 0, 0.0

    def _ratio(self, position: int, total: int) -> float:
        return self.ratios[nearest_entry(position, total, len(self.ratios))]
