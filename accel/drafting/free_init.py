"""FreeInit: a video is made again from noise that keeps the low frequencies of what became of it."""

from __future__ import annotations

from typing import Any

from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd
from accel.drafting.initial_noise import InitialNoise, check_noise
from accel.drafting.low_frequencies import channel_axis, check_stops, refilled
from accel.drafting.seeded_runs import SeededRuns


def free_init(
    pipe: Any,
    prompt: str | None = None,
    *,
    seed: int = 0,
    recipe: Any = "balanced",
    rounds: int = 2,
    spatial: float = 0.25,
    temporal: float = 0.25,
    **call: Any,
) -> Any:
    """What the pipeline returns in the last of several rounds, each from noise that the round before has refined.

    Video models are trained on first samples that still hold a trace of the clip, in low frequencies above all, and
    are asked to begin with none. So the clip is put under its own noise again, the low frequencies of that are kept,
    the high ones are drawn anew, and the pipeline runs once more: frames hang together better, and details change less
    from one to the next. Wu et al. 2023 (FreeInit); there over 3 to 5 rounds.

    recipe: what `accel.accelerate` takes, for every round. rounds: whole runs; 1 is the plain run of this seed.
    spatial, temporal: where the low frequencies end, as shares of the highest. A larger `spatial` keeps more of the
    first layout, and of its faults; a smaller `temporal` leaves more motion.
    call: further arguments of the pipeline.

    Costs `rounds` runs, and memory for one more latent. For models whose clips flicker or fall apart: it slows motion
    down, and one that is sure of itself gains nothing. Not for flows and schedules that end in noise alone, which have
    no trace to restore: on three such models it gained nothing (docs/best-of.md). Raises ValueError for pipelines that
    begin with no video latents (pictures, packed tokens); the pipeline comes back as it was.
    """
    check_stops(spatial=spatial, temporal=temporal)
    if not (isinstance(rounds, int) and rounds >= 1):
        raise ValueError(f"rounds is a whole number of runs from 1 on, not {rounds!r}.")
    check_noise(pipe)
    begin, runs = InitialNoise(), SeededRuns(pipe, prompt, call)
    with runs.accelerated(recipe) as run:
        for number in range(rounds):
            end = EarlyEnd(1.0)
            found = run(seed, CallMemory(), end, begin)
            if number + 1 < rounds:
                axis = channel_axis(end.latents, pipe)
                begin = InitialNoise(refilled(end.latents, pipe.scheduler, axis, seed + number + 1, spatial, temporal))
    return found.output
