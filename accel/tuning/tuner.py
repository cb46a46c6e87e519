"""One tuning from beginning to end: record, simulate, search, verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.caching.calibration.calibration import Calibration
from accel.method import Method
from accel.tuning import evidence
from accel.tuning.clip_split import ClipSplit
from accel.tuning.foresight import foresight, outlooks_of
from accel.tuning.goal import TuningGoal
from accel.tuning.judge import CandidateJudge
from accel.tuning.narrowing import acting, allowed
from accel.tuning.search import CandidateSearch, Exhausted
from accel.tuning.simulate import Simulator
from accel.tuning.space import Candidate, Recipes, Structure, space_of
from accel.tuning.subject import TuningSubject
from accel.tuning.surrogate import IN_PIXELS, Surrogate
from accel.tuning.time_budget import RECORDED, TimeBudget
from accel.tuning.trial_log import TrialResult
from accel.tuning.trials import TrialRunner

VERIFICATIONS = 12
SCREEN = "screening"  # folder of the held-out clips
EARLY = 0.25  # of the time that is left, what verifying the first candidate may take


@dataclass
class Tuner:
    """One tuning: `prepare` records and simulates, `work` searches and has the judge verify. Runs are kept in `folder`.

    Raises ValueError for a calibration of another model.
    """

    subject: TuningSubject
    goal: TuningGoal
    split: ClipSplit
    folder: Path
    tell: Callable[[str], None]
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.calibration is not None and (problem := self.calibration.misfit(self.subject.anatomy)):
            raise ValueError(f"The calibration does not fit this pipeline. {problem}")

    def prepare(self, levers: Sequence[str], generic: bool, seconds: float) -> CandidateJudge:
        """Unaccelerated runs, the space of candidates, and what is expected of each. With little time the winner is
        judged on fewer clips."""
        subject, goal = self.subject, self.goal
        self.lab = subject.runner(self.split.shots, goal.metrics, self.folder)
        screen = subject.runner(self.split.unseen, goal.metrics, self.folder / SCREEN)
        self.budget = TimeBudget(seconds, self.lab, screen, measured=goal.speedup is not None)
        simulator = self._record(screen)
        self.split = self.budget.affordable(self.split)
        calibration = self.calibration or simulator.calibration
        self.recipes = Recipes(calibration, subject.steps)
        guided = bool(simulator.passes)
        space, told = acting(
            space_of(subject.anatomy, calibration, subject.steps, guided, levers, generic), self.lab, self.tell
        )
        space = allowed(space, self.lab, self.goal, self.tell)
        self.left_out = dict(space.left_out)
        self.tell("simulating")
        outlooks = outlooks_of(space, self.recipes, simulator, self.goal)
        surrogate, clips = Surrogate(self.lab.fixed, IN_PIXELS[self.goal.leading], told), len(self.split.shots)
        self.search = CandidateSearch(self.goal, outlooks, surrogate, self._run, clips, self.split.held_out, self.tell)
        if self.goal.allows_another_picture:  # those that `allowed` has run say how much time they save
            with suppress(Exhausted):
                for method in space.others["resolution"]:
                    self.search.measure(Candidate(Structure(resolution=method)), 0)
        return CandidateJudge(
            subject, self.split, self.search, self.recipes, screen, self.budget, self._account, self.tell
        )

    def work(self, judge: CandidateJudge) -> None:
        """Searches and verifies, until the winner is verified, nothing is left to try, or the time is over.

        The first candidate that meets the goal is verified at once where that is cheap, so that an interruption finds
        something to return.
        """
        search, budget = self.search, self.budget
        with suppress(Exhausted):
            search.start()
            first = search.best(first=True)
            if first is not None and budget.verification < EARLY * budget.for_search and judge.look(first):
                judge.confirm(first)
        while judge.looks < VERIFICATIONS and (budget.for_search > 0.0 or not judge.looks):
            best: Candidate | None = None
            with suppress(Exhausted):
                best = search.best()
            best = best or search.leader()
            if best is None or not judge.could_win(best) or budget.for_search < budget.look:
                break
            judge.look(best)
        judge.finish()

    def _record(self, screen: TrialRunner) -> Simulator:
        """Unaccelerated runs on the clips of the search, and a simulator of some of them."""
        subject, shots = self.subject, self.split.shots
        self.tell("warming up")
        self.lab.warm_up()
        if self.split.scope == "seeds":
            self.tell(evidence.NO_OTHERS)
        self.tell(f"unaccelerated, clip 1 of {len(shots)}")
        self.goal = self.goal.of(self.lab.reference(0), subject.anatomy.pipeline)
        self.lab.metrics = screen.metrics = self.goal.metrics
        self.budget.check(self.split)
        simulator = foresight(
            subject.pipe, shots[:RECORDED], subject.steps, subject.arguments, subject.given, self.folder, self.tell
        )
        for shot in range(1, len(shots)):
            self.tell(f"unaccelerated, clip {shot + 1} of {len(shots)}")
            self.lab.reference(shot)
        return simulator

    def _run(self, candidate: Candidate, shot: int) -> TrialResult:
        recipe = self.recipes.of(candidate)
        if recipe is None or self.budget.for_search < 0.0:
            raise Exhausted
        trial = self.lab.trial(recipe, shot)
        for lever, why in trial.idle.items():
            method = getattr(candidate.structure, lever, None)
            if method is not None and lever != "cache":
                self._leave_out(method, why)
        return TrialResult(dict(trial.values), trial.time, trial.computed)

    def _leave_out(self, method: Method, why: str) -> None:
        """A method does nothing here, as a run has shown."""
        self.left_out[str(method)] = why
        self.search.drop(lambda structure: method in structure.others().values())

    def _account(self) -> dict[str, Any]:
        """What the search has cost so far, for the evidence."""
        return {
            "simulated": len(self.search.outlooks),
            "runs": self.lab.runs,
            "asked": len(self.lab.asked),
            "minutes": self.budget.spent / 60.0,
            "left_out": dict(self.left_out),
        }
