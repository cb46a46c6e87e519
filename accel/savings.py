"""What a pipeline call was spared, by counting: each evaluation that was not made, under the lever that saw to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

from accel.report import CallRecord, LeverReport


def with_savings(
    levers: Sequence[LeverReport], calls: Sequence[CallRecord], denoise: float, *, on_host: bool
) -> list[LeverReport]:
    """The reports with the evaluations that each lever spared this pipeline call, and about how long these would have
    taken. denoise: seconds of the denoising loop. on_host: whether the records' seconds are those of the work.

    Each evaluation counts once: those of steps that a sampler left out under the sampler, of the others those that
    guidance left out, then those that a cache forecast. What came in their place is taken off where the host's clock
    has seen it. It is an estimate, because all evaluations of a denoiser count as long as the ordinary one among those
    that were made, and it says nothing of levers that make an evaluation cheaper: `accel.compare(by_lever=True)`
    measures all of them.
    """
    costs = evaluation_seconds(calls, denoise, on_host)
    return [_with_counts(lever, calls, costs, on_host) for lever in levers]


def evaluation_seconds(calls: Sequence[CallRecord], denoise: float, on_host: bool) -> dict[str, float]:
    """By denoiser, about what one evaluation of a whole batch took; none of one that was not evaluated.

    The median, which the first call's preparations do not move. Where launching is all that the host's clock sees, the
    loop's seconds over its evaluations, which has schedulers and forecasts in it as well.
    """
    made = [call for call in calls if call.action == "computed" and call.part > 0.0]
    if not on_host:
        each = denoise / sum(call.part for call in made) if made else 0.0
        return dict.fromkeys((call.denoiser for call in made), each)
    found: dict[str, float] = {}
    for name in dict.fromkeys(call.denoiser for call in made):
        own = [call for call in made if call.denoiser == name]
        whole = [call for call in own if not call.halved] or own  # half of a batch can take more than half as long
        found[name] = median(call.seconds / call.part for call in whole)
    return found


def _with_counts(
    lever: LeverReport, calls: Sequence[CallRecord], costs: Mapping[str, float], on_host: bool
) -> LeverReport:
    """steps that were not taken are what the lever itself has counted; the rest is in the records."""
    shares = [(call, dict(call.spared).get(lever.lever, 0.0)) for call in calls]
    count = lever.spared + sum(share for _, share in shares)
    if not count or not costs:
        return replace(lever, spared=count)
    usual = fmean(costs.get(call.denoiser, 0.0) for call in calls)
    gross = lever.spared * usual + sum(costs.get(call.denoiser, 0.0) * share for call, share in shares)
    instead = sum(_instead(call) * share for call, share in shares) if on_host else 0.0
    return replace(lever, spared=count, spared_seconds=gross - instead)


def _instead(call: CallRecord) -> float:
    """Seconds of what stood in for an evaluation, for the whole of it; none where no evaluation was spared, but a part
    of one, which is not counted (DeepCache).
    """
    spared = sum(share for _, share in call.spared)
    return call.seconds / spared if spared and call.action != "computed" else 0.0
