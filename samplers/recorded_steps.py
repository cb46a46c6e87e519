"""One unaccelerated run of both passes, as numbers: what guidance methods are simulated on."""

from __future__ import annotations

from typing import NamedTuple


class RecordedStep(NamedTuple):
    """One step of a recorded run.

    position: in a timetable of `total` steps. sigma: the scheduler's noise level; time: the same as flow time, 1 at
    pure noise. cosine: of the clean estimates of both passes, of the sample where they agree least. computed: whether
    the cache in question computes this step, so that there is anything to decide.
    """

    position: int
    total: int
    sigma: float
    time: float
    cosine: float
    computed: bool
