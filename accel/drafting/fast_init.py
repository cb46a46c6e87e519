"""Refined noise for a video in a tenth of a run, where FreeInit takes whole ones."""

from __future__ import annotations

from typing import Any

from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd
from accel.drafting.initial_noise import InitialNoise, check_noise
from accel.drafting.low_frequencies import channel_axis, check_stops, refilled
from accel.drafting.seeded_runs import SeededRuns, check_share


def fast_init(
    pipe: Any,
    prompt: str | None = None,
    *,
    seed: int = 0,
    recipe: Any = "balanced",
    draft: Any = "turbo",
    share: float = 0.25,
    spatial: float = 0.25,
    temporal: float = 0.25,
    **call: Any,
) -> Any:
    """What the pipeline returns from noise with the low frequencies that a draft foresees.

    As `accel.drafting.free_init.free_init` with two rounds, but the first one is a draft: it goes `share` of the way
    with the fast recipe `draft`, and its clean estimate stands for the clip. That suffices, because only low
    frequencies are kept, and a run settles them first. FastInit (Bai et al. 2025) has the same aim, refined noise in
    one pass, and trains a network for it; this needs no training and works on any video pipeline, at the price of a
    draft.

    recipe: of the run that is returned. Other arguments, errors and advice: see `free_init`.
    """
    check_stops(spatial=spatial, temporal=temporal)
    check_share(share)
    check_noise(pipe)
    runs, end = SeededRuns(pipe, prompt, call), EarlyEnd(share)
    with runs.accelerated(draft) as run:
        run(seed, CallMemory(), end)
    axis = channel_axis(end.latents, pipe)
    with runs.accelerated(recipe) as run:
        begin = InitialNoise(refilled(end.latents, pipe.scheduler, axis, seed + 1, spatial, temporal))
        return run(seed, CallMemory(), begin=begin).output
