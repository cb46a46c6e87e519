"""The time of a tuning, reckoned in unaccelerated runs: whether it suffices, and what of it is kept for judging."""

from __future__ import annotations

import math
import time

from accel.tuning.clip_split import ClipSplit
from accel.tuning.trials import TrialRunner

RECORDED = 2  # clips that are recorded, each by a run of its own
JUDGING = 0.5  # of all the time, what verifying may take at most


class TimeBudget:
    """So many seconds from now on. lab: runs the clips of the search. screen: runs those that are held out. measured:
    each look at these needs the clock, as where a speed is the goal.
    """

    def __init__(self, seconds: float, lab: TrialRunner, screen: TrialRunner, *, measured: bool) -> None:
        self._started, self._seconds = time.monotonic(), seconds
        self._lab, self._screen, self._measured = lab, screen, measured
        self.held_out = len(screen.shots)

    @property
    def spent(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        return self._seconds - self.spent

    @property
    def for_search(self) -> float:
        """Seconds that are left to search in, those for one verification put aside."""
        return self.left - self.verification

    @property
    def verification(self) -> float:
        """Seconds that one takes: unaccelerated, accelerated, and with fewer steps in the same time; and once more
        unaccelerated for the first screening."""
        return (2.0 if self._screen.trials or self._measured else 3.0) * self.of_held_out_runs

    @property
    def look(self) -> float:
        """Seconds that a look at a candidate takes, on clips of which the unaccelerated ones may be missing."""
        return (1.0 if self._screen.trials else 2.0) * self.of_held_out_runs

    @property
    def of_held_out_runs(self) -> float:
        """Seconds of an unaccelerated run of each held-out clip."""
        return self.held_out * self._lab.wall

    def check(self, split: ClipSplit) -> None:
        """Raises ValueError where the time cannot suffice, before it has passed."""
        wall, fewest = self._lab.wall, split.judged_on(0).held_out
        runs = len(split.shots) + len(split.shots[:RECORDED]) + 2 * fewest
        if wall * runs > self._seconds:
            raise ValueError(
                f"minutes={self._seconds / 60.0:.3g} is too short: an unaccelerated run takes {wall:.1f} s here, "
                f"and recording, searching and judging on {fewest} clips takes at least {runs} of them; give "
                f"minutes={math.ceil(1.5 * wall * runs / 60.0)}, or fewer steps or frames."
            )

    def affordable(self, split: ClipSplit) -> ClipSplit:
        """With as many of the held-out clips as there is time to judge on."""
        split = split.judged_on(int(JUDGING * self._seconds / (3.0 * self._lab.wall)))
        self.held_out = split.held_out
        return split
