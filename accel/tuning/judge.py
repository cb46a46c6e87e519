"""Judges candidates on clips that the search has not seen: their quality first, then side by side with the clock."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from accel.measure.call_arguments import fewest_steps_of
from accel.measure.results import Comparison
from accel.recipe import Recipe
from accel.tuning import evidence
from accel.tuning.clip_split import ClipSplit
from accel.tuning.search import CandidateSearch
from accel.tuning.space import Candidate, Recipes
from accel.tuning.subject import TuningSubject
from accel.tuning.time_budget import TimeBudget
from accel.tuning.trials import TrialRunner

JudgedRecipe = tuple[Recipe, Comparison]
"""A recipe with its evidence, and the comparison that this is from."""


@dataclass
class CandidateJudge:
    """Knows what the held-out clips have shown of candidates, and tells the search, which learns from it.

    screen: runs recipes on these clips, whose unaccelerated outputs are kept. account: what the search has cost.
    """

    subject: TuningSubject
    split: ClipSplit
    search: CandidateSearch
    recipes: Recipes
    screen: TrialRunner
    budget: TimeBudget
    account: Callable[[], dict[str, Any]]
    tell: Callable[[str], None]
    looks: int = 0  # at candidates, however they ended
    winner: Candidate | None = None  # the best whose quality was seen to suffice
    confirmed: Candidate | None = None  # the last of these that was measured with the clock
    verified: JudgedRecipe | None = None  # the same
    _nearest: JudgedRecipe | None = None  # of those that missed the goal when they were measured with the clock
    _missed: list[tuple[float, Candidate]] = field(default_factory=list)  # by how much, of those that were looked at

    def outcome(self) -> JudgedRecipe | None:
        """The verified recipe, else the nearest one with `met` false; None where nothing could be run."""
        return self.verified or self._nearest

    def could_win(self, candidate: Candidate) -> bool:
        """Whether it would be a better winner than the present one."""
        return self.winner is None or (
            candidate != self.winner
            and self.search.gain(candidate) >= self.search.gain(self.winner) + self.search.least
        )

    def look(self, candidate: Candidate) -> bool:
        """Whether the candidate meets the goal. For a quality the unaccelerated clips are kept, so a look takes an
        accelerated run each; a speed has to be measured.
        """
        self.looks += 1
        recipe, goal = self.recipes.of(candidate), self.search.goal
        if goal.speedup is not None or recipe is None:
            return self.confirm(candidate)
        self.tell(f"{candidate} on {self._clips}")
        trials = [self.screen.trial(recipe, shot).values for shot in range(self.split.held_out)]
        quality = {name: [values[name] for values in trials] for name in goal.metrics}
        margin = goal.margin(quality)
        self.search.learn(candidate, quality, self.search.believe(candidate).speedup, margin >= 0.0)
        if margin >= 0.0:
            self.winner = candidate
        else:
            self._missed.append((margin, candidate))
        return margin >= 0.0

    def finish(self) -> None:
        """Measures with the clock what has won, or else, where nothing was measured, what comes nearest."""
        last = self.winner or (None if self._nearest is not None else self._closest())
        if last is not None and last != self.confirmed:
            self.confirm(last)

    def confirm(self, candidate: Candidate) -> bool:
        """Measures quality and speed side by side with the unaccelerated pipeline: what is returned has passed here."""
        recipe, goal = self.recipes.of(candidate), self.search.goal
        if recipe is None:
            return False
        self.tell(f"verifying {candidate} on {self._clips}")
        fewer_steps = self._fewer_steps(self.search.believe(candidate).speedup)
        comparison = self.subject.compare(recipe, self.split, goal.metrics, fewer_steps)
        quality, speedup = evidence.qualities(comparison), comparison.row(evidence.TUNED).speedup
        margin = math.inf if goal.speedup is not None else goal.margin(quality)
        met = margin >= 0.0 and speedup >= (goal.speedup or 0.0)
        found = self._with_evidence(recipe, comparison, met, candidate)
        self.search.learn(candidate, quality, speedup, met)
        if met:
            self.winner = self.confirmed = candidate
            self.verified = found, comparison
            self.tell(f"verified: {evidence.sentence(found.evidence)}")
            return True
        self.winner = self.confirmed
        if self._nearest is None or self._nearness(found) > self._nearness(self._nearest[0]):
            self._nearest = found, comparison
        return False

    @property
    def _clips(self) -> str:
        return evidence.judged_on(self.split.held_out, self.split.scope)

    def _fewer_steps(self, speedup: float) -> list[int]:
        """The count that takes the time of the candidate; none where there is no time left to look at it."""
        if self.budget.left < 3.0 * self.budget.of_held_out_runs:
            return []
        steps, fewest = self.subject.steps, fewest_steps_of(self.subject.pipe, self.subject.arguments)
        return [min(max(round(steps / max(speedup, 1.0)), fewest), steps)]

    def _with_evidence(self, recipe: Recipe, comparison: Comparison, met: bool, candidate: Candidate) -> Recipe:
        proof = evidence.evidence_of(
            self.search.goal, comparison, met, str(candidate), self.search.tried(), self.subject.model,
            self.account() | {"verifications": self.looks}, self.split.scope,
        )  # fmt: skip
        return replace(recipe, name=f"tuned for {self.search.goal}", evidence=proof)

    def _nearness(self, recipe: Recipe) -> float:
        """Of recipes that missed the goal, more for one that came nearer to it."""
        goal, found = self.search.goal, recipe.evidence
        return float(found["speedup"] if goal.speedup is not None else found["quality"][goal.leading]["worst"])

    def _closest(self) -> Candidate | None:
        """What comes nearest to a goal that nothing has met."""
        if self._missed:
            return max(self._missed, key=lambda missed: missed[0])[1]
        return self.search.nearest()
