"""The noise level that each step of a run leads to, which may be another than the timetable's next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from accel.parametrization import Prediction, Samples, output_shares, shares
from accel.timetable import Timetable
from accel.update import Unknown


def levels_reached(table: Timetable, prediction: Prediction, samples: Samples) -> list[float]:
    """The noise level that each step leads to, as the updates make it of a picture and a noise that never change.

    It may be another than the next entry of the timetable: DDIM goes to `t - 1000 // n`.
    """
    clean: list[tuple[float, float]] = [(1.0, 0.0)] * len(table.sigmas)
    for of, outputs in ((None, [output_shares(sigma, prediction) for sigma in table.sigmas]), (prediction, clean)):
        try:
            updates = table.updates(of)
        except Unknown:
            continue
        levels = []
        for position, (sigma, following) in enumerate(pairwise(table.whole)):
            step, start = updates.at(position) or (1.0, []), shares(sigma, samples)
            level = _led_to(*step, start, outputs[: position + 1], samples)
            levels.append(following if math.isclose(level, following, rel_tol=1e-4, abs_tol=1e-5) else level)
        return levels
    return list(table.whole[1:])


def _led_to(
    keep: float,
    shares: Sequence[float],
    start: tuple[float, float],
    outputs: Sequence[tuple[float, float]],
    samples: Samples,
) -> float:
    known = outputs[-len(shares) :] if shares else []
    signal, noise = (
        keep * start[part] + sum(share * output[part] for share, output in zip(shares, known, strict=True))
        for part in (0, 1)
    )
    return noise if samples == "flow" else noise / signal if signal else math.inf
