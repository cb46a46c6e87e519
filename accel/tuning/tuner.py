"""One tuning from beginning to end: record, simulate, search, verify."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from accel.anatomy import Anatomy, inspect
from accel.caching.calibration.calibration import Calibration
from accel.files import last_name
from accel.measure.call_arguments import call_arguments_of, steps_of
from accel.measure.comparison import compare
from accel.measure.environment import environment
from accel.measure.measurements import Verifier
from accel.measure.output import METRICS
from accel.measure.results import Comparison
from accel.measure.runner import check_judges
from accel.recipe import Recipe
from accel.rendering.fingerprint import fingerprint
from accel.tuning import evidence
from accel.tuning.clip_split import ClipSplit
from accel.tuning.foresight import foresight, outlooks_of
from accel.tuning.goal import TuningGoal
from accel.tuning.narrowing import acting, allowed
from accel.tuning.search import CandidateSearch, Exhausted
from accel.tuning.space import Candidate, Recipes, Structure, space_of
from accel.tuning.surrogate import IN_PIXELS, Surrogate
from accel.tuning.trial_log import TrialResult
from accel.tuning.trials import TrialRunner

RECORDED = 2
VERIFICATIONS = 12
SCREEN = "screening"  # folder of the held-out clips
JUDGING = 0.5  # of all the time, what verifying may take at most
EARLY = 0.25  # of the time that is left, what verifying the first candidate may take


@dataclass
class Tuner:
    """One tuning: `prepare` records and simulates, `work` searches and verifies, `outcome` says what came of it."""

    pipe: Any
    goal: TuningGoal
    split: ClipSplit
    given: Mapping[str, Any]
    asked_steps: int | None
    folder: Path
    verify: Verifier | None
    tell: Callable[[str], None]
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        self.steps = steps_of(self.pipe, self.asked_steps)
        self.arguments = call_arguments_of(self.pipe, self.given)
        check_judges({"verify": self.verify})
        self.anatomy: Anatomy = inspect(self.pipe)
        if self.calibration is not None and (problem := self.calibration.misfit(self.anatomy)):
            raise ValueError(f"The calibration does not fit this pipeline. {problem}")
        self.model = {
            "pipeline": self.anatomy.pipeline,
            "repository": last_name(self.anatomy.repository),
            "fingerprint": fingerprint(self.pipe),
        }
        self.winner: Candidate | None = None  # the best whose quality was seen to suffice on the held-out clips
        self.confirmed: Candidate | None = None  # the last of these that was measured with the clock, and its recipe:
        self.verified: Recipe | None = None
        self.comparison: Comparison | None = None
        self._nearest: tuple[Recipe, Comparison] | None = None
        self._missed: list[tuple[float, Candidate]] = []  # by how much each screened candidate missed the goal
        self._started = time.monotonic()
        self._checks = 0

    def prepare(self, levers: Sequence[str], generic: bool, seconds: float) -> None:
        """Unaccelerated runs, the space of candidates, and what is expected of each. With little time the winner is
        judged on fewer clips."""
        self._deadline = self._started + seconds
        identity = self._identity()
        self.lab, self.screen = (
            TrialRunner(self.pipe, shots, self.steps, self.arguments, self.goal.metrics, folder, identity)
            for shots, folder in ((self.split.shots, self.folder), (self.split.unseen, self.folder / SCREEN))
        )
        self.tell("warming up")
        self.lab.warm_up()
        if self.split.scope == "seeds":
            self.tell(evidence.NO_OTHERS)
        self.tell(f"unaccelerated, clip 1 of {len(self.split.shots)}")
        self.goal = self.goal.of(self.lab.reference(0), self.anatomy.pipeline)
        self.lab.metrics = self.screen.metrics = self.goal.metrics
        self._check_time(seconds)
        shots = self.split.shots[:RECORDED]
        self.foresight = foresight(self.pipe, shots, self.steps, self.arguments, self.given, self.folder, self.tell)
        for shot in range(1, len(self.split.shots)):
            self.tell(f"unaccelerated, clip {shot + 1} of {len(self.split.shots)}")
            self.lab.reference(shot)
        self.split = self.split.judged_on(int(JUDGING * seconds / (3.0 * self.lab.wall)))
        calibration = self.calibration or self.foresight.calibration
        guided = bool(self.foresight.passes)
        space = space_of(self.anatomy, calibration, self.steps, guided, levers, generic)
        space, told = acting(space, self.lab, self.tell)
        self.space = allowed(space, self.lab, self.goal, self.tell)
        self.recipes = Recipes(calibration, self.steps)
        self.tell("simulating")
        outlooks = outlooks_of(self.space, self.recipes, self.foresight, self.goal)
        scale = IN_PIXELS[self.goal.leading]
        surrogate, clips = Surrogate(self.lab.fixed, scale, told), len(self.split.shots)
        self.search = CandidateSearch(self.goal, outlooks, surrogate, self._run, clips, self.split.held_out, self.tell)
        if self.goal.allows_another_picture:  # those that `allowed` has run say how much time they save
            with _until_exhausted():
                for method in self.space.others["resolution"]:
                    self.search.measure(Candidate(Structure(resolution=method)), 0)

    def work(self) -> None:
        """Searches and verifies, until the winner is verified, nothing is left to try, or the time is over.

        The first candidate that meets the goal is verified at once where that is cheap, so that an interruption finds
        something to return.
        """
        with _until_exhausted():
            self.search.start()
            first = self.search.best(first=True)
            if first is not None and self._verification() < EARLY * self._left() and self._judge(first):
                self._confirm(first)
        while self._checks < VERIFICATIONS and (self._left() > 0.0 or not self._checks):
            best: Candidate | None = None
            with _until_exhausted():
                best = self.search.best()
            best = best or self.search.leader()
            if best is None or not self._worth_verifying(best):
                break
            if self._left() < self._judging():
                break
            self._judge(best)
        last = self.winner or (None if self._nearest is not None else self._any())
        if last is not None and last != self.confirmed:
            self._confirm(last)

    def outcome(self) -> Recipe | None:
        """The verified recipe, else the nearest one with `met` false; None where nothing could be run."""
        if self.verified is None and self._nearest is not None:
            recipe, self.comparison = self._nearest
            return recipe
        return self.verified

    def _identity(self) -> dict[str, Any]:
        """What runs must have in common to be runs of one tuning, besides clips and steps."""
        versions = {
            name: environment(self.pipe)[name] for name in ("torch", "diffusers", "accel", "device_name", "dtype")
        }
        return {
            **self.model,
            **versions,
            "arguments": {key: _named(value) for key, value in self.arguments.items()},
        }

    def _run(self, candidate: Candidate, shot: int) -> TrialResult:
        recipe = self.recipes.of(candidate)
        if recipe is None or self._left() < 0.0:
            raise Exhausted
        trial = self.lab.trial(recipe, shot)
        for lever, why in trial.idle.items():
            method = getattr(candidate.structure, lever, None)
            if method is not None and lever != "cache":
                self.space = self.space.without(lever, method, why)
                self.search.drop(lambda structure, m=method: m in structure.others().values())  # type: ignore[misc]
        return TrialResult(dict(trial.values), trial.time, trial.computed)

    def _left(self) -> float:
        """Seconds for the search, those for one verification put aside."""
        return self._deadline - time.monotonic() - self._verification()

    def _verification(self) -> float:
        """Seconds that one takes: unaccelerated, accelerated, and with fewer steps in the same time; and once more
        unaccelerated for the first screening."""
        screened = self.screen.trials or self.goal.speedup is not None
        return (2.0 if screened else 3.0) * self.split.held_out * self.lab.wall

    def _judging(self) -> float:
        """Seconds that a look at a candidate takes, on clips of which the unaccelerated ones may be missing."""
        return (1.0 if self.screen.trials else 2.0) * self.split.held_out * self.lab.wall

    def _check_time(self, seconds: float) -> None:
        """Raises ValueError where the time cannot suffice, before it has passed."""
        shots, fewest = self.split.shots, self.split.judged_on(0).held_out
        runs = len(shots) + len(shots[:RECORDED]) + 2 * fewest
        least = self.lab.wall * runs
        if least > seconds:
            raise ValueError(
                f"minutes={seconds / 60.0:.3g} is too short: an unaccelerated run takes {self.lab.wall:.1f} s here, "
                f"and recording, searching and judging on {fewest} clips takes at least {runs} of them; give "
                f"minutes={math.ceil(1.5 * least / 60.0)}, or fewer steps or frames."
            )

    def _judge(self, candidate: Candidate) -> bool:
        """Whether the candidate meets the goal on the held-out clips. For a quality these are kept, so a look at it
        takes an accelerated run each; a speed has to be measured.
        """
        self._checks += 1
        recipe = self.recipes.of(candidate)
        if self.goal.speedup is not None or recipe is None:
            return self._confirm(candidate)
        self.tell(f"{candidate} on {self._judged}")
        trials = [self.screen.trial(recipe, shot).values for shot in range(self.split.held_out)]
        quality = {name: [values[name] for values in trials] for name in self.goal.metrics}
        margin = self.goal.margin(quality)
        self.search.learn(candidate, quality, self.search.believe(candidate).speedup, margin >= 0.0)
        if margin >= 0.0:
            self.winner = candidate
        else:
            self._missed.append((margin, candidate))
        return margin >= 0.0

    def _confirm(self, candidate: Candidate) -> bool:
        """Measures quality and speed side by side with the unaccelerated pipeline: what is returned has passed here."""
        recipe = self.recipes.of(candidate)
        if recipe is None:
            return False
        self.tell(f"verifying {candidate} on {self._judged}")
        expected = self.search.believe(candidate).speedup
        others = {name: metric for name, metric in self.goal.metrics.items() if METRICS.get(name) is not metric}
        comparison = compare(
            self.pipe, [(evidence.TUNED, recipe)], self.split.prompts, self.split.seeds, steps=self.steps,
            call_arguments=self.given, verify=self.verify, metrics=others, progress=False,
            fewer_steps=self._fewer_steps(expected),
        )  # fmt: skip
        quality = evidence.qualities(comparison)
        speedup = comparison.row(evidence.TUNED).speedup
        margin = math.inf if self.goal.speedup is not None else self.goal.margin(quality)
        met = margin >= 0.0 and speedup >= (self.goal.speedup or 0.0)
        found = self._with_evidence(recipe, comparison, met, candidate)
        self.search.learn(candidate, quality, speedup, met)
        if met:
            self.winner = self.confirmed = candidate
            self.verified, self.comparison = found, comparison
            self.tell(f"verified: {evidence.sentence(found.evidence)}")
            return True
        self.winner = self.confirmed
        if self._nearest is None or self._closer(found, self._nearest[0]):
            self._nearest = (found, comparison)
        return False

    @property
    def _judged(self) -> str:
        return evidence.judged_on(self.split.held_out, self.split.scope)

    def _fewer_steps(self, speedup: float) -> list[int]:
        """The count that takes the time of the candidate; none where there is no time left to look at it."""
        if self._deadline - time.monotonic() < 3.0 * self.split.held_out * self.lab.wall:
            return []
        return [min(max(round(self.steps / max(speedup, 1.0)), self.lab.fewest), self.steps)]

    def _worth_verifying(self, candidate: Candidate) -> bool:
        """Whether it would be a better winner than the present one."""
        return self.winner is None or (
            candidate != self.winner
            and self.search.gain(candidate) >= self.search.gain(self.winner) + self.search.least
        )

    def _with_evidence(self, recipe: Recipe, comparison: Comparison, met: bool, candidate: Candidate) -> Recipe:
        standings = self.search.standings
        trials = [
            {
                "candidate": str(c),
                "clips": len(runs),
                "speedup": self.search.believe(c).speedup,
                self.goal.leading: fmean(standings.values(c, self.goal.leading)),
                "evaluations": self.search.outlooks[c].evaluations,
            }
            for c, runs in standings.runs.items()
            if c in self.search.outlooks
        ]
        search = {
            "simulated": len(self.search.outlooks),
            "runs": self.lab.runs,
            "asked": len(self.lab.asked),
            "verifications": self._checks,
            "minutes": (time.monotonic() - self._started) / 60.0,
            "left_out": dict(self.space.left_out),
        }
        proof = evidence.evidence_of(
            self.goal, comparison, met, str(candidate), trials, self.model, search, self.split.scope
        )
        return replace(recipe, name=f"tuned for {self.goal}", evidence=proof)

    def _closer(self, one: Recipe, other: Recipe) -> bool:
        """Whether the first of two that missed the goal came nearer to it."""
        if self.goal.speedup is not None:
            return bool(one.evidence["speedup"] > other.evidence["speedup"])
        worst = [recipe.evidence["quality"][self.goal.leading]["worst"] for recipe in (one, other)]
        return bool(worst[0] > worst[1])

    def _any(self) -> Candidate | None:
        """What comes nearest to a goal that nothing measured has met."""
        if self._missed:
            return max(self._missed, key=lambda missed: missed[0])[1]
        nearest = self.search.nearest()
        if nearest is not None:
            return nearest
        wanted = self.goal.speedup is not None
        return max(
            self.search.outlooks,
            key=lambda c: self.search.believe(c).speedup if wanted else self.search.believe(c).decibels,
            default=None,
        )


@contextmanager
def _until_exhausted() -> Iterator[None]:
    try:
        yield
    except Exhausted:
        return


def _named(value: Any) -> str:
    """An argument in the journal: pictures and arrays by their content, as their text has their place in memory."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_named, value))}]"
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else repr(value)
