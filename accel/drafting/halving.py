"""Best of many seeds in the time of one: successive halving over clean estimates, or a search around the best.

Every seed runs the first part of a run with a fast recipe, its clean estimate is decoded and scored, the worse half is
dropped, and so on. What a round leaves of the budget, the next one spends on keeping more than half.

Successive halving: Karnin et al. 2013. Scoring clean estimates on the way: Video-T1 (Liu et al. 2025). Rollover of
the budget: rollover budget forcing (Kim et al. 2025).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd, steps_of
from accel.drafting.initial_noise import InitialNoise, check_noise
from accel.drafting.neighbours import Moves, check_closeness
from accel.drafting.seeded_runs import RunSeed, SeededRun, SeededRuns, check_share, several_seeds
from accel.measure.metrics import Clip, to_frames

LOOKS = (0.2, 0.35, 0.6)


@dataclass(frozen=True)
class BestOf:
    """The best of the seeds that were tried.

    seed, output: of the winner; output is what the pipeline returned. moves: how its noise came from that of the seed,
    without any but in a search among neighbours. rounds: for each look, and last for whole runs where there were any,
    the score of each seed that was in it, and of neighbours the number that they were drawn by. cost: in unaccelerated
    runs, by the samples that denoisers evaluated, the search and the winner's own run together; `search_cost` without
    the latter where it is another recipe's. seconds and cpu_seconds: of all runs, decoding included and scoring not.
    """

    seed: int
    output: Any = field(repr=False)
    rounds: tuple[dict[int, float], ...]
    search_cost: float
    cost: float
    seconds: float
    cpu_seconds: float
    moves: Moves = field(default_factory=Moves)

    @property
    def frames(self) -> Clip:
        """Its one picture or clip, float32 (frames, height, width, 3) in [0, 1]."""
        return to_frames(self.output)

    @property
    def tried(self) -> int:
        """How many seeds were looked at."""
        return len(self.rounds[0])

    def __str__(self) -> str:
        return f"seed {self.seed} of {self.tried}, for {self.cost:.2f} unaccelerated runs"


@dataclass
class Contender:
    """A seed that is still in, with its scores so far."""

    seed: int
    memory: CallMemory = field(default_factory=CallMemory)
    scores: list[float] = field(default_factory=list)
    output: Any = None
    moves: Moves = field(default_factory=Moves)

    @property
    def name(self) -> int:
        """Its seed; of a neighbour the number that it was drawn by."""
        return self.moves.numbers[-1] if self.moves.numbers else self.seed

    @property
    def rank(self) -> tuple[float, float]:
        """The last score; of equal ones, the better on the way."""
        return self.scores[-1], sum(self.scores)


def best_of(
    pipe: Any,
    prompt: str | None = None,
    seeds: int | Iterable[int] = 8,
    *,
    verifier: Callable[..., Any],
    budget: float = 1.0,
    recipe: Any = None,
    draft: Any = "fast",
    looks: Sequence[float] = LOOKS,
    near: float | None = None,
    **call: Any,
) -> BestOf:
    """The best of many seeds for a prompt, in about the time of one unaccelerated run.

        found = accel.best_of(pipe, "a corgi surfing", seeds=8, verifier=score)
        video = found.output

    seeds: the number that is tried, or the seeds themselves; fewer where the budget does not go so far.
    verifier: called as verifier(frames) or, if it takes two, verifier(frames, prompt), with float32 (frames, height,
        width, 3) in [0, 1]. Gives a score, higher for better, or an object with `matches`, such as
        `accel.pocket.verify`, whose score is the share that match. The gain is bounded by how well it tells good from
        bad, also in blurred clean estimates; one that knows nothing gains nothing.
    budget: what the search may cost, in unaccelerated runs. It is planned with what the draft's recipe computes if
        nothing surprises it; a recipe that adapts to the run may exceed that by what it computes more.
    recipe: what the winner is run with (what `accel.accelerate` takes; `accel.Recipe()` for none), outside of the
        budget; the output is then, bit for bit, what `pipe` gives with this seed and recipe. None: the draft's recipe,
        within the budget.
    draft: the recipe of the search.
    looks: at which shares of a run seeds are scored and dropped.
    near: search around the best seed instead of dropping half of them: a part of the budget looks at seeds, the rest at
        noises whose cosine with the best one's is `near`, such as 0.9; a better one takes its place. All are scored at
        the first look alone, and the best is finished. Not for pipelines that make no noise of their own.
    call: further arguments of the pipeline, such as num_inference_steps, height, negative_prompt or image.

    Evaluations that one look has made no later one makes again; each takes the memory of one output, until its seed is
    dropped. Decoding at each look costs time that the budget does not count. Not for a verifier that takes longer than
    a run. Raises ValueError or TypeError, in one sentence, for bad arguments; the pipeline comes back as it was.
    """
    score = Scorer(verifier, prompt)
    if not (isinstance(budget, (int, float)) and budget > 0.0):
        raise ValueError(f"The budget is a number of unaccelerated runs above 0, not {budget!r}.")
    stages = _stages(looks, whole=recipe is None)
    runs, tried = SeededRuns(pipe, prompt, call), several_seeds(seeds)
    if near is not None:
        check_closeness(near)
        check_noise(pipe)
    with runs.accelerated(draft) as run:
        search = Search(run, score, stages, budget)
        winner = search.winner(tried) if near is None else search.wanderer(tried, near)
    output, search_cost = winner.output, search.cost
    if recipe is not None:
        winner.memory.distrust()
        with runs.accelerated(recipe) as run:
            output = search.counted(run(winner.seed, winner.memory, begin=InitialNoise(winner.moves))).output
    return BestOf(
        winner.seed, output, tuple(search.rounds), search_cost, search.cost, search.seconds, search.cpu_seconds,
        winner.moves,
    )  # fmt: skip


class Search:
    """Looks at seeds and drops them, or moves on from the best, within a budget."""

    def __init__(self, run: RunSeed, score: Scorer, stages: Sequence[float], budget: float) -> None:
        self._run, self._score, self._stages, self._budget = run, score, stages, budget
        self._prices: list[float] = []  # of each stage for one seed, in unaccelerated runs
        self._unaccelerated = 1
        self._spent = 0
        self.seconds = self.cpu_seconds = 0.0
        self.rounds: list[dict[int, float]] = []

    @property
    def cost(self) -> float:
        """What was spent, in unaccelerated runs."""
        return self._spent / self._unaccelerated

    def counted(self, run: SeededRun) -> SeededRun:
        self._spent += run.spent
        self.seconds, self.cpu_seconds = self.seconds + run.seconds, self.cpu_seconds + run.cpu_seconds
        return run

    def winner(self, seeds: Sequence[int]) -> Contender:
        """Successive halving: the best when all stages are over."""
        left = [Contender(seed) for seed in seeds]
        self._look(left[0], 0)  # tells what everything costs
        del left[max(1, affordable(len(left), self._prices, self._budget)) :]
        for stage in range(len(self._stages)):
            if stage:
                del left[self._survivors(len(left), stage) :]
            for one in left:
                if len(one.scores) <= stage:
                    self._look(one, stage)
            self._close_round(left)
            left.sort(key=lambda one: one.rank, reverse=True)
        return left[0]

    def wanderer(self, seeds: Sequence[int], closeness: float) -> Contender:
        """Neighbourhood search: of the looks that the budget pays for, half are at seeds, half around the best."""
        tried = [Contender(seeds[0])]
        self._look(tried[0], 0)
        looks = max(1, int((self._budget - sum(self._prices[1:])) / self._prices[0] + 1e-9))
        tried += map(Contender, seeds[1 : max(1, looks // 2)])
        for one in tried[1:]:
            self._look(one, 0)
        self._close_round(tried)
        pivot, around = max(tried, key=lambda one: one.rank), list[Contender]()
        for number in range(looks - len(tried)):
            around.append(Contender(pivot.seed, moves=replace(pivot.moves, closeness=closeness).on(number)))
            self._look(around[-1], 0)
            pivot = max(pivot, around[-1], key=lambda one: one.rank)
        if around:
            self._close_round(around)
        if self._stages[-1] == 1.0 and len(self._stages) > 1:
            self._look(pivot, len(self._stages) - 1)
            self._close_round([pivot])
        return pivot

    def _close_round(self, looked_at: Sequence[Contender]) -> None:
        self.rounds.append({one.name: one.scores[-1] for one in looked_at})

    def _survivors(self, count: int, stage: int) -> int:
        """As many as what is left of the budget pays for: half of them as planned, more where it was not used up."""
        return max(1, affordable(count, self._prices[stage:], self._budget - self.cost))

    def _look(self, one: Contender, stage: int) -> None:
        end = EarlyEnd(self._stages[stage], foresee=not self._prices)
        one.output = self.counted(self._run(one.seed, one.memory, end, InitialNoise(one.moves))).output
        if not self._prices:
            self._unaccelerated = end.unaccelerated
            self._prices = prices(end.per_step, self._stages)
        one.scores.append(self._score(one.output))


def prices(per_step: Sequence[int], stages: Sequence[float]) -> list[float]:
    """What each stage costs one seed, in unaccelerated runs, by the samples that are evaluated in each step."""
    steps, whole = len(per_step), max(max(per_step) * len(per_step), 1)
    ends = [_end_from(per_step, steps_of(share, steps)) for share in stages]
    return [sum(per_step[start:end]) / whole for start, end in pairwise([0, *ends])]


def _end_from(per_step: Sequence[int], reached: int) -> int:
    """Where `EarlyEnd` ends a run that has reached so many steps: behind one that follows a computed one."""
    ends = range(reached, len(per_step))
    return next((end for end in ends if end == 1 or per_step[end - 2]), len(per_step))


def affordable(most: int, costs: Sequence[float], budget: float) -> int:
    """The most seeds that can begin these stages where half of them drop out after each; 0 where not even one can."""
    return next((count for count in range(most, 0, -1) if _total(count, costs) <= budget + 1e-9), 0)


def _total(count: int, costs: Sequence[float]) -> float:
    return sum(math.ceil(count / (1 << stage)) * cost for stage, cost in enumerate(costs))


class Scorer:
    """Asks the user's verifier about a pipeline's output."""

    def __init__(self, verifier: Callable[..., Any], prompt: str | None) -> None:
        if not callable(verifier):
            raise TypeError(f"The verifier is a function that gives frames a score, not {verifier!r}.")
        self._verifier = verifier
        self._further = (prompt,) if _takes(verifier, 2) else ()
        if not self._further and not _takes(verifier, 1, untold=True):
            raise TypeError(f"The verifier is called with frames, or with frames and the prompt, unlike {verifier!r}.")

    def __call__(self, output: Any) -> float:
        answer = self._verifier(to_frames(output), *self._further)
        matches = getattr(answer, "matches", None)
        try:
            score: float = float(answer) if matches is None else sum(map(bool, matches.values())) / max(len(matches), 1)
        except (TypeError, ValueError):
            raise TypeError(f"The verifier must give a number, not {answer!r}.") from None
        if not math.isfinite(score):
            raise ValueError(f"The verifier must give a finite number, not {score}.")
        return score


def _takes(verifier: Callable[..., Any], count: int, *, untold: bool = False) -> bool:
    """Whether it can be called with so many arguments; untold: what is said of one that does not tell."""
    try:
        inspect.signature(verifier).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a built-in function
        return untold
    return True


def _stages(looks: Sequence[float], *, whole: bool) -> list[float]:
    """The shares of a run at which seeds are compared, with its end where the search goes there."""
    if not isinstance(looks, Iterable):
        raise ValueError(f"looks are shares of a run in rising order, such as {LOOKS}, not {looks!r}.")
    for share in looks:
        check_share(share)
    if list(looks) != sorted(set(looks)):
        raise ValueError(f"looks are shares of a run in rising order, not {tuple(looks)!r}.")
    stages = [*looks, 1.0] if whole and 1.0 not in looks else list(looks)
    if not stages:
        raise ValueError("Without a look nothing can be chosen: give looks=(0.25, 0.5), or leave them as they are.")
    return stages
