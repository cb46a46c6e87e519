"""Training of a velocity refiner on the pipeline's own trajectories."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from accel.anatomy import inspect
from accel.call import LATENTS, Arguments, tensors
from accel.components import denoisers_of
from accel.samplers.trained.refiner import Refiner, channel_axis, last_layer, new_refiner
from benchmarks.refiner.recording import Point, Run, Stream, recorded

MINUTES = 10.0
STEP_COUNTS = (12, 18, 27)


def train_refiner(
    pipe: Any,
    prompts: Sequence[str],
    *,
    minutes: float = MINUTES,
    updates: int | None = None,
    step_counts: Sequence[int] = STEP_COUNTS,
    batch: int = 2,
    chain: int = 1,
    start: float = 0.5,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Refiner:
    """Trains a refiner for the denoisers of a flow pipeline, on what they answer along the pipeline's own runs.

    prompts: two or more; an eighth of them is held out to measure the error on, which is in `Refiner.facts`. All
    streams are learnt, as the pipeline calls its denoiser, and their difference with the weight that guidance gives it.
    minutes: for the updates, besides the time for recording one run per prompt; or a number of updates. step_counts:
    the runs have these numbers of steps in turn: the size of the steps in use, which a refiner is not told and must
    know. batch: prompts per pipeline call and per update. chain: up to so many answers in a row are the refiner's own;
    3 or so for FlowTurbo's placement="last", where it follows itself. start: it learns the part of a run after this
    share of the steps; early answers change more than one block can follow. options: go to every pipeline call, and
    should be those of later use: guidance scale and size. progress: is given a line now and then.

    Look at `Refiner.facts.error` before you use it: if it is not well below `extrapolated`, a cache does better at no
    cost. On the pocket model 2700 updates on 36 runs bring it to 0.80 on those and to 0.91 on others, where a straight
    line is 0.78: more prompts are needed before more updates are.

    Memory: two latents per call of all recorded runs, on the host. Training on the host takes minutes for a model of
    a million parameters. An attached session is suspended while runs are recorded. Raises ValueError for fewer than two
    prompts, other counts than these, or a pipeline whose denoiser has no refiner.
    """
    if len(prompts) < 2:
        raise ValueError("train_refiner needs at least two prompts: one to learn from and one to measure the error on.")
    if min(step_counts, default=0) < 3:
        raise ValueError(f"step_counts must be numbers of steps from 3 on, not {tuple(step_counts)}.")
    if batch < 1 or chain < 1 or (updates is not None and updates < 1) or not minutes > 0:
        raise ValueError("batch, chain, updates and minutes must be at least 1, 1, 1 and above 0.")
    if not 0.0 <= start < 1.0:
        raise ValueError(f"start must be a share of the run, from 0 to below 1, not {start}.")
    say = progress or (lambda _: None)
    anatomy = inspect(pipe)
    if "flow" not in anatomy.prediction:
        raise ValueError(f"Refiners are for flow models, and {anatomy.pipeline} predicts {anatomy.prediction}.")
    held_out = max(len(prompts) // 8, 1)
    runs = list(recorded(pipe, prompts, step_counts, batch, len(prompts) - held_out, seed, say, options))
    guidance = float(getattr(pipe, "guidance_scale", 1.0) or 1.0)
    aim = Aim(guidance, _is_batched(runs[0][1]), start)
    refiner = _begun(pipe, anatomy.pipeline, runs[0][1])
    learning = [run for seen, run in runs if seen]
    clock = Clock(minutes, updates)
    with _plain_attention(refiner.model):
        _fit(refiner, learning, aim, clock, chain, learning_rate, random.Random(seed), say)
        error, extrapolated = held_out_errors(refiner, [run for seen, run in runs if not seen], aim)
    refiner.facts = replace(
        refiner.facts,
        step_counts=tuple(step_counts),
        guidance=guidance,
        updates=clock.done,
        error=round(error, 4),
        extrapolated=round(extrapolated, 4),
    )
    return refiner


def _is_batched(run: Run) -> bool:
    """Whether each call is for two passes of the same latents."""
    latents = Arguments.pick(next(iter(run.values()))[0].arguments, LATENTS)
    return latents.shape[0] % 2 == 0 and torch.equal(*latents.chunk(2))


@dataclass
class Clock:
    """How far training has come, in minutes or in updates."""

    minutes: float
    updates: int | None
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        if self.updates is not None:
            return self.done / self.updates
        return (time.monotonic() - self.started) / (60.0 * self.minutes)


@dataclass(frozen=True)
class Aim:
    """The loss: the mean square error of every stream, and of the difference of two, which guidance multiplies, as a
    share of what saying the last answer again would be wrong by. So all places of a run count alike, from `start` on.
    """

    guidance: float
    batched: bool
    start: float

    def first(self, length: int) -> int:
        """The first place in a run of that length that counts."""
        return min(max(math.ceil(self.start * length), 2), length - 1)

    def __call__(self, errors: Sequence[torch.Tensor], reused: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._size(errors) / self._size(reused).clamp_min(1e-12)

    def _size(self, errors: Sequence[torch.Tensor]) -> torch.Tensor:
        loss = torch.stack([error.square().mean() for error in errors]).mean()
        two = list(errors)
        if self.batched and len(errors) == 1 and errors[0].shape[0] % 2 == 0:
            two = list(errors[0].chunk(2))
        if self.guidance > 1.0 and len(two) == 2 and two[0].shape == two[1].shape:
            loss = loss + self.guidance**2 / 2 * (two[0] - two[1]).square().mean()
        return loss


def held_out_errors(refiner: Refiner, runs: Sequence[Run], aim: Aim) -> tuple[float, float]:
    """What the refiner misses of the change from one answer to the next, given the true last one, and what a straight
    line through the last two answers misses: the square root of the loss, averaged over the places of all runs.
    """
    losses = []
    with torch.no_grad():
        for streams in (_streams(run, denoiser) for run in runs for denoiser in {name for name, _ in run}):
            length = min(map(len, streams))
            for place in range(aim.first(length), length):
                points = [stream[place - 2 : place + 1] for stream in streams]
                found = [tensors(refiner.refined_output(now.arguments, last.answer))[0] for _, last, now in points]
                ways = (found, [_straight(*three) for three in points])
                reused = [last.answer - now.answer for _, last, now in points]
                losses.append([float(aim(_minus(way, points), reused)) for way in ways])
    refined, extrapolated = torch.tensor(losses).mean(0).sqrt().tolist()
    return refined, extrapolated


def _straight(before: Point, last: Point, now: Point) -> torch.Tensor:
    """The answer that a straight line through the last two leads to."""
    ratio = (now.sigma - last.sigma) / (last.sigma - before.sigma)
    return last.answer + ratio * (last.answer - before.answer)


def _minus(answers: Sequence[torch.Tensor], points: Sequence[Stream]) -> list[torch.Tensor]:
    return [answer - point[-1].answer for answer, point in zip(answers, points, strict=True)]


def _fit(
    refiner: Refiner,
    runs: Sequence[Run],
    aim: Aim,
    clock: Clock,
    chain: int,
    learning_rate: float,
    random: random.Random,
    say: Callable[[str], None],
) -> None:
    """AdamW with a short warm-up and cosine decay, and an average of the weights over the last hundreds of updates."""
    model = refiner.model.train().requires_grad_(True)
    last = set(map(id, last_layer(model).parameters()))
    groups = [
        {"params": [weight for weight in model.parameters() if id(weight) not in last], "scale": 1.0},
        # Its steps are those of the answer, which change little from one to the next.
        {"params": [weight for weight in model.parameters() if id(weight) in last], "scale": 0.1},
    ]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.01)
    average, recent = {name: weight.clone() for name, weight in model.state_dict().items()}, 0.0
    while clock.share < 1.0:
        for group in optimiser.param_groups:
            warm = min((clock.done + 1) / 50, 1.0)
            group["lr"] = (
                group["scale"] * learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * clock.share)) / 2)
            )
        loss = _loss(refiner, random.choice(runs), aim, chain, random)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        clock.done += 1
        keep = min(0.998, clock.done / (clock.done + 10))
        for name, weight in model.state_dict().items():
            average[name].lerp_(weight, 1 - keep)
        recent += (loss.item() - recent) / min(clock.done, 100)
        if clock.done % 100 == 0:
            say(f"update {clock.done}, {clock.share:.0%}, loss {recent:.5f}")
    model.load_state_dict(average)
    model.eval().requires_grad_(False)


def _loss(refiner: Refiner, run: Run, aim: Aim, chain: int, random: random.Random) -> torch.Tensor:
    """The loss of all streams of one denoiser at one place of a run, after some answers of the refiner's own."""
    streams = _streams(run, _any_denoiser(run, random))
    length = min(map(len, streams))
    place = random.randrange(aim.first(length), length)
    last = place - 1 - random.randrange(min(chain, place))
    errors, reused = [], []
    for stream in streams:
        answer, now = stream[last].answer, stream[place]
        with torch.no_grad():
            for point in stream[last + 1 : place]:
                answer = tensors(refiner.refined_output(point.arguments, answer))[0]
        errors.append(tensors(refiner.refined_output(now.arguments, answer))[0] - now.answer)
        reused.append(stream[place - 1].answer - now.answer)
    return aim(errors, reused)


def _streams(run: Run, denoiser: str) -> list[Stream]:
    return [stream for (name, _), stream in run.items() if name == denoiser]


def _any_denoiser(run: Run, random: random.Random) -> str:
    long = sorted({denoiser for (denoiser, _), stream in run.items() if len(stream) > 2})
    return random.choice(long)


def _begun(pipe: Any, pipeline: str, run: Run) -> Refiner:
    """The untrained refiner for what was recorded, on the host."""
    name, stream = next((denoiser, stream) for (denoiser, _), stream in run.items())
    answer = stream[0].answer
    denoisers = dict(denoisers_of(pipe.components))
    refiner = new_refiner(denoisers[name], pipeline, answer.shape[channel_axis(answer)])
    latents = next(stream[0].arguments[key] for key in LATENTS if stream[0].arguments.get(key) is not None)
    if not refiner.fits(latents, answer):
        raise ValueError(
            f"{refiner.facts.denoiser} answers {tuple(answer.shape)} to {tuple(latents.shape)}, which cannot be stacked"
            f" along the channels, so no refiner can be made after it."
        )
    return refiner


def _plain_attention(model: torch.nn.Module) -> AbstractContextManager[Any]:
    """On the host, backward through fused attention is several times slower than through its formula."""
    on_host = next(model.parameters()).device.type == "cpu"
    return sdpa_kernel(SDPBackend.MATH) if on_host else nullcontext()
