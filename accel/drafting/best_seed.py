"""`accel.best_of`: the best of many seeds in the time of one.

Every seed runs the first part of a run with a fast recipe, its clean estimate is decoded and scored, the worse half is
dropped, and so on (`halving`). Scoring clean estimates on the way: Video-T1 (Liu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from accel.drafting.halving import Search
from accel.drafting.initial_noise import InitialNoise, check_noise
from accel.drafting.neighbours import Moves, check_closeness
from accel.drafting.scorer import Scorer
from accel.drafting.seeded_runs import SeededRuns, check_share, several_seeds
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
