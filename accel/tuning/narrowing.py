"""Which methods are worth being candidates on this pipeline and machine: short real runs tell, before the search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accel.recipe import Recipe
from accel.tuning.goal import TuningGoal
from accel.tuning.space import SEEN_IN_A_RUN, Space
from accel.tuning.surrogate import TimeFactors
from accel.tuning.trials import TrialRunner


def acting(space: Space, lab: TrialRunner, tell: Callable[[str], None]) -> tuple[Space, dict[str, TimeFactors]]:
    """The space without methods that do nothing here, of which most say so only when they see the tokens; and what the
    others make of the time, by their names in a structure.

    A short run that is slower says nothing: some make in their first steps what they save later.
    """
    told: dict[str, TimeFactors] = {}
    for method in [method for lever in SEEN_IN_A_RUN for method in space.others[lever]]:
        tell(f"trying {method}")
        methods: dict[str, Any] = {method.lever: method}
        found = lab.glance(Recipe(**methods))
        if found.engaged:
            told[f"{method.lever} {method}"] = TimeFactors(min(found.denoise, 1.0), min(found.around, 1.0))
        else:
            space = space.without(method.lever, method, found.reason)
    return space, told


def allowed(space: Space, lab: TrialRunner, goal: TuningGoal, tell: Callable[[str], None]) -> Space:
    """The space without methods that make another picture which the goal does not allow, or no faster. One run tells:
    nothing can be simulated of another picture.
    """
    for method in space.others["resolution"] if goal.allows_another_picture else ():
        tell(f"trying {method} by itself")
        found = lab.trial(Recipe(resolution=method), 0)
        missed = [str(b) for b in goal.bounds if b.margin([found.values[b.name]], goal.coverage) < 0.0]
        if missed or found.time >= 1.0:
            why = f"alone it misses {' and '.join(missed)}" if missed else "alone it is no faster"
            space = space.without("resolution", method, why)
    return space
