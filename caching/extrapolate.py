"""Forecasts by polynomials in noise level, and the correction of the forecasts by the next computed output.

In a diffusion run the prediction is a smooth function of the noise level, so a few computed outputs say where it is
going, and once the next one is known, where it had gone. A run with forecasts and corrections is a multistep
predictor-corrector solver on the steps that compute, which reproduces what the scheduler does on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from accel.anatomy import Anatomy
from accel.caching.hindsight import Hindsight, hindsight
from accel.caching.predictor import PastValues, Predictor, Steps, at, bases
from accel.call import DenoiserCall
from accel.method import setting
from accel.parametrization import (
    clean_from_output,
    distinct,
    extrapolation_weights,
    interpolation_weights,
    output_from_clean,
)
from accel.update import FRESH, LinearUpdates, Unknown


@dataclass(frozen=True)
class Extrapolate(Predictor, lever="predictor"):
    """Extrapolates the output (or the clean estimate x0 that it implies) in noise level, and corrects afterwards.

    Forecast: Newton's form through the last order + 1 computed outputs, exact for polynomials of that degree whatever
    the spacing (TaylorSeer's recursion, arXiv 2503.06923, is so only for order 1). To order 1 that is
    o' = o + w (o - o0) (t' - t) / (t - t0), with w as hindsight has it. The second-order term is noise
    amplified by the square of the distance, and undamped it blows up at high guidance: it is scaled down, sample by
    sample, to at most `limit` times the first-order term.

    Correction: at the first computed step after forecasts, the polynomial of degree `corrector` through the new and the
    last computed outputs says what the forecasts should have been. The difference, weighted as the scheduler weighted
    them, is added to the output of this step, so that the latents arrive where the interpolated outputs would have
    taken them. This is the corrector of UniPC (arXiv 2302.04867) applied to a cache; it costs no evaluation and
    is exact where the outputs move along one direction. It needs an update that is linear in the outputs
    (`accel.caching.correction`); under others forecasts stay. 0: off.

    Both go by hindsight (`accel.caching.hindsight`), sample by sample: a forecast goes as far as it should have gone
    the last time, less where it explained little, and at most `damping` of the way where it is corrected (HiCache,
    arXiv 2508.16984, damps by a constant); and the less a line through the last two outputs explained the new one, the
    less counts what the correcting polynomial has beyond a line. On smooth models a constant of 0.8 is up to 2 dB
    better; at high guidance it goes astray by up to 20 dB where this does not (`make holds`).

    Hindsight comes too late where gaps are long: a line through outputs that answer to the latents is a solver of
    second order, and stable over half of the gap that a solver of first order bears. So over gaps of more than half of
    `reach` forecasts go less far, and from `reach` on they are the last output, which is what fewer steps of Euler's
    method or DDIM take; the correction stays. With even plans that is worth 3 to 5 dB at high guidance, in the mean of
    six models, where 28 steps compute 10 or 8.

    `space="x0"` extrapolates x0 and converts back; it needs an input of the output's shape and falls back to the output
    where there is none. "auto" takes the output for flow matching and x0 for the others: for an exactly known score
    (Gaussian mixture, DDIM, 50 steps, every third computed, order 1) that is 52 dB where extrapolating epsilon is 43,
    reusing it 33 and taking as many steps as evaluations 25 (tests/caching/test_exact_score.py).
    Not for runs of few steps, whose outputs lie too far apart for a line.
    Memory: max(order + 2, corrector) outputs, and one more with the corrector, of latent size, per stream, and two more
    for each older output that the scheduler uses (UniPC, PNDM); all but outputs of the model are in float32.
    """

    order: int = setting(1, 0, 2, "degree of the forecasting polynomial in noise level; 0 reuses")
    limit: float = setting(0.4, 0.0, None, "second-order term over first-order term, at most")
    space: str = setting("auto", choices=("auto", "output", "x0"), help="what is extrapolated")
    corrector: int = setting(2, 0, 3, "degree of the correcting polynomial; 0 does not correct")
    damping: float = setting(0.6, 0.0, 1.0, "share of the way that a forecast goes at most, where it is corrected")
    reach: float = setting(0.16, 0.0, None, "a gap of this share of the timetable is too long for any way")

    @property
    def degrees(self) -> tuple[int, int]:
        return self.order, self.corrector

    @property
    def depth(self) -> int:
        return max(self.order + 2 if self.order else 1, self.corrector)

    @property
    def corrects(self) -> bool:
        return self.corrector > 0

    def without_correction(self) -> Extrapolate:
        return replace(self, corrector=0)

    def under(
        self, updates: Callable[[str], LinearUpdates], kind: str
    ) -> tuple[Extrapolate, LinearUpdates | None, str]:
        spaces, reason = self._spaces(kind), Unknown()
        for space in spaces if self.corrects else ():
            try:
                found = updates(space)
            except Unknown as unknown:
                reason = unknown
                continue
            fitting = replace(self, space=space)
            if found.fresh:
                return replace(fitting, order=0, corrector=0), None, FRESH
            return fitting._through_noise() if found.random else fitting, found, ""
        return replace(self, space=spaces[0], corrector=0), None, str(reason)

    def expected_under(self, anatomy: Anatomy) -> Extrapolate:
        if not self.corrects or any(anatomy.uncorrectable.values()):
            return replace(self.without_correction(), order=0 if anatomy.random else self.order)
        return self._through_noise() if anatomy.random else self

    def _through_noise(self) -> Extrapolate:
        """Through fresh noise a slope misleads, and a parabola does so even between known values."""
        return replace(self, order=0, corrector=1)

    def remember(self, call: DenoiserCall, outputs: list[torch.Tensor], kind: str) -> PastValues:
        seen = bases(call, outputs) if self.clean(kind) else [None] * len(outputs)
        values = [
            output.detach().clone()
            if base is None
            else clean_from_output(output.detach(), base, call.context.sigma, kind)
            for output, base in zip(outputs, seen, strict=True)
        ]
        return at(call, values, kind)

    def forecast(self, call: DenoiserCall, history: list[PastValues], kind: str) -> PastValues:
        now = at(call, [], kind)
        return replace(now, values=self._part_way(history, self._continued(history, now.time), now.way))

    def foreseen(self, call: DenoiserCall, history: list[PastValues], now: PastValues, kind: str) -> list[torch.Tensor]:
        whole = self._continued(history, now.time)
        if self._tells(history):
            self._seen(history, now, whole)
        return self._part_way(history, whole, now.way)

    def _part_way(self, history: Sequence[PastValues], whole: Sequence[torch.Tensor], way: float) -> list[torch.Tensor]:
        """As far from the last values to where the whole way leads as is right."""
        lasts, shares = history[-1].values, self._shares(history, way)
        return [
            (last.float() + share * (far - last.float())).to(last.dtype)
            for last, far, share in zip(lasts, whole, shares, strict=True)
        ]

    def _continued(self, history: Sequence[PastValues], time: float) -> list[torch.Tensor]:
        """The whole way to where the polynomial through the last memories is at this time, in float32."""
        recent = history[-self.order - 1 :]
        weights = extrapolation_weights([memory.time for memory in recent], time)
        return [_extrapolated(known, *weights, self.limit) for known in zip(*(m.values for m in recent), strict=True)]

    def _shares(self, history: Sequence[PastValues], way: float) -> Sequence[torch.Tensor | float]:
        """For each output how much of the way to go, by how much would have been right the last time."""
        most = (self.damping if self.corrects else 1.0) * self._bearable([*(past.way for past in history[-2:]), way])
        *before, now = history
        if not self._tells(before) or not most:
            return [most] * len(now.values)
        return [(slope * trust).clamp_max(most) for slope, trust in self._seen(before, now)]

    def _tells(self, before: Sequence[PastValues]) -> bool:
        """Whether a forecast from these goes anywhere, so that its output says something of the next."""
        return 0 < self.order < len(before)

    def _seen(
        self, before: Sequence[PastValues], now: PastValues, whole: Sequence[torch.Tensor] | None = None
    ) -> list[Hindsight]:
        """What an output says of the way to it from those before, worked out once: every forecast of a gap asks, and
        the correction at its end. whole: that way, where it is known.
        """
        if not now.seen:
            whole = self._continued(before, now.time) if whole is None else whole
            now.seen.extend(hindsight(*known) for known in zip(before[-1].values, whole, now.values, strict=True))
        return now.seen

    def _bearable(self, ways: Sequence[float]) -> float:
        """How much of a forecast a gap bears: 1 up to half of the reach, and nothing from there on."""
        gap = max(later - sooner for sooner, later in pairwise(ways))
        return min(max(2.0 - 2.0 * gap / self.reach, 0.0), 1.0) if self.reach else 0.0

    def to_outputs(self, call: DenoiserCall, values: list[torch.Tensor], kind: str) -> list[torch.Tensor]:
        if not self.clean(kind):
            return values
        return [
            value if base is None else output_from_clean(value, base, call.context.sigma, kind)
            for value, base in zip(values, bases(call, values), strict=True)
        ]

    def between(self, now: PastValues, history: list[PastValues], steps: Steps) -> list[torch.Tensor]:
        nodes = distinct([*history, now][-self.corrector - 1 :])
        whole = combined(nodes, interpolation_weights([node.time for node in nodes], steps))
        if len(nodes) < 3:
            return whole
        first, last, new = nodes[-3:]
        straight = combined([last, new], interpolation_weights([last.time, new.time], steps))
        along = self._along_a_line(first, last, new, history)
        return [a + one.trust * (b - a) for a, b, one in zip(straight, whole, along, strict=True)]

    def _along_a_line(
        self, first: PastValues, last: PastValues, new: PastValues, history: list[PastValues]
    ) -> list[Hindsight]:
        """What the new output says of a line through the two before, which is the way of a forecast of order 1."""
        if self.order == 1 and first is history[-2] and last is history[-1]:
            return self._seen(history, new)
        ahead = combined([first, last], extrapolation_weights([first.time, last.time], new.time)[0])
        return [hindsight(*known) for known in zip(last.values, ahead, new.values, strict=True)]

    def clean(self, kind: str) -> bool:
        return self._spaces(kind)[0] == "x0"

    def _spaces(self, kind: str) -> tuple[str, ...]:
        """What may be forecast, the better first: the updates of some solvers are made of one and not of the other."""
        if self.space != "auto":
            return (self.space,)
        if kind == "unknown":
            return ("output",)
        return ("output", "x0") if "flow" in kind else ("x0", "output")


def _extrapolated(
    values: tuple[torch.Tensor, ...], line: list[float], parabola: list[float], limit: float
) -> torch.Tensor:
    """The values continued, in float32, with the second-order term limited for each sample."""
    straight = _weighted(values, line)
    if any(parabola):
        bend = _weighted(values, parabola)
        axes = tuple(range(1, bend.ndim))
        slope = torch.linalg.vector_norm(straight - values[-1].float(), dim=axes, keepdim=True)
        share = limit * slope / torch.linalg.vector_norm(bend, dim=axes, keepdim=True).clamp_min(1e-30)
        straight = straight + bend * share.clamp_max(1.0)
    return straight


def combined(memories: Sequence[PastValues], weights: Sequence[float]) -> list[torch.Tensor]:
    """For each output the sum of what is remembered of it, weighted, in float32."""
    return [_weighted(known, weights) for known in zip(*(memory.values for memory in memories), strict=True)]


def _weighted(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    # In float32: the weights are large and of opposite sign, and half precision would lose the difference.
    return torch.stack([weight * value.float() for weight, value in zip(weights, values, strict=True) if weight]).sum(0)
