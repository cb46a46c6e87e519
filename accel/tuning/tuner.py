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
from accel.caching.calibration.calibrate import record
from accel.caching.calibration.calibration import Calibration
from accel.files import last_name
from accel.measure.call_arguments import call_arguments_of, steps_of
from accel.measure.comparison import compare
from accel.measure.environment import environment
from accel.measure.measurements import Verifier
from accel.measure.output import METRICS, output_of
from accel.measure.results import Comparison
from accel.measure.runner import check_judges
from accel.recipe import Recipe
from accel.rendering.fingerprint import fingerprint
from accel.tuning import evidence
from accel.tuning.clip_split import ClipSplit
from accel.tuning.goal import TuningGoal
from accel.tuning.search import CandidateSearch, Exhausted
from accel.tuning.simulate import Estimate, Simulator
from accel.tuning.space import KEEPING, SEEN_IN_A_RUN, Candidate, Recipes, Space, Structure, space_of
from accel.tuning.surrogate import IN_PIXELS, Surrogate, TimeFactors
from accel.tuning.trial_log import TrialResult
from accel.tuning.trials import TrialRunner

RECORDED = 2
VERIFICATIONS = 12
SCREEN = "screening"  # folder of the held-out clips
JUDGING = 0.5  # of all the time, what verifying may take at most
EARLY = 0.25  # of the time that is left, what verifying the first candidate may take
WORTH = 0.97  # share of the evaluations that a guidance method must leave to be a candidate


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
        versions = {
            name: environment(self.pipe)[name] for name in ("torch", "diffusers", "accel", "device_name", "dtype")
        }
        identity = {
            **self.model,
            **versions,
            "arguments": {key: _named(value) for key, value in self.arguments.items()},
        }
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
        self.foresight = self._foresight()
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
        outlooks = self._outlooks()
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

    def _foresight(self) -> Simulator:
        """Recorded on the first prompts, or read from the folder."""
        found = Simulator.load(self.folder, self.anatomy)
        if found is not None:
            return found
        shots = self.split.shots[:RECORDED]

        def generate(pipe: Any, prompt: str, index: int) -> None:
            import torch

            self.tell(f"recording, clip {index + 1} of {len(shots)}")
            generator = torch.Generator("cpu").manual_seed(shots[index].seed)
            output_of(pipe(**self.arguments, prompt=prompt, num_inference_steps=self.steps, generator=generator), pipe)

        recording = record(
            self.pipe, [shot.prompt for shot in shots], generate=generate, layer_lags=0, **self._plain_arguments()
        )
        found = Simulator.of(recording)
        found.save(self.folder)
        return found

    def _outlooks(self) -> dict[Candidate, Estimate]:
        """Of every candidate, but for those whose guidance method finds little to save behind their cache."""
        found: dict[Candidate, Estimate] = {}
        for structure in self.space.structures():
            for share in self.space.dials(structure):
                candidate = Candidate(structure, share)
                recipe = self.recipes.of(candidate)
                if recipe is None:
                    continue
                outlook = self.foresight.outlook(recipe)
                if self.goal.allows_another_picture:
                    errors = {lever: error for lever, error in outlook.errors.items() if lever in KEEPING}
                    outlook = replace(outlook, errors=errors)
                if recipe.guidance is not None:
                    without = self.foresight.outlook(replace(recipe, guidance=None)).evaluations
                    if outlook.evaluations > WORTH * without:
                        continue
                found[candidate] = outlook
        return found

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
        return [min(max(round(self.steps / max(speedup, 1.0)), 1), self.steps)]

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

    def _plain_arguments(self) -> dict[str, Any]:
        """For the calibration's own record of what it belongs to."""
        return {**self.given, "num_inference_steps": self.steps}


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
