"""What a step costs at the shapes of published models, computed and skipped, with random weights.

    python -m benchmarks.real_shapes                                     a CPU: one block of each list, few tokens
    python -m benchmarks.real_shapes --device cuda --blocks 4 --tokens 1

Widths and head counts are the published ones; the blocks are a part of the published depth and, with --tokens below 1,
the pictures are smaller: the table says how much of either. All times are the median of the steps of one run. A run of
50 steps is what the parts add up to at the published depth, where blocks are all that grows with it.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from diffusers.utils import logging

import accel
from accel import cli
from accel.anatomy import inspect
from accel.attention import SlidingTile
from accel.attention.layout import TokenLayout
from accel.caching import FixedInterval, OptimalSchedule
from accel.recipe import Recipe
from accel.samplers import GuidanceDelta, UniPC
from accel.terminal import show
from benchmarks.command import command_of
from benchmarks.real_models import MODELS, RealModel

STEPS = 12
PUBLISHED_STEPS = 50
HALF = OptimalSchedule(0.5, min_steps=1)
DENSITY = 0.25
NEVER = FixedInterval(1, warmup=1, final=0, min_steps=1)
FOUR = Recipe(cache=HALF, guidance=GuidanceDelta(), sampler=UniPC(), attention=SlidingTile(DENSITY))
IDLE_FOUR = Recipe(
    cache=NEVER, sampler=UniPC(), guidance=GuidanceDelta(), attention=SlidingTile(DENSITY, min_tokens=1 << 30)
)
PLAIN, GUIDED = "none", "all four, two calls in a step"
LEVERS = {
    "a cache that never skips": Recipe(cache=NEVER),
    "UniPC": Recipe(sampler=UniPC()),
    "guidance": Recipe(guidance=GuidanceDelta()),
    "tiles that are too short to gain": Recipe(attention=SlidingTile(DENSITY, min_tokens=1 << 30)),
    "all four": IDLE_FOUR,
    GUIDED: IDLE_FOUR,
}


class Timing(NamedTuple):
    """Seconds of one step: in the denoiser's call, of this in its blocks, and in the scheduler's update."""

    computed: bool
    call: float
    blocks: float
    update: float


class Loop:
    """A denoising loop as pipelines have it: every step calls the denoiser and then the scheduler.

    guided: a step has two calls, named as pipelines name them, and their outputs are combined.
    """

    def __init__(self, model: RealModel, pipe: Any, layout: TokenLayout, guided: bool = False) -> None:
        self.model, self.pipe, self.guided = model, pipe, guided
        self.latents, self.given = model.inputs(pipe, layout)
        self.device = pipe.transformer.device

    def run(self, recipe: Recipe | None = None, steps: int = STEPS) -> tuple[list[Timing], Any]:
        """The times of a run's steps, and the report of an accelerated one."""
        if recipe is None:
            return self._steps(steps), None
        with accel.accelerate(self.pipe, recipe) as session:
            with session.running():
                times = self._steps(steps)
            return times, session.report()

    def _steps(self, steps: int) -> list[Timing]:
        scheduler = self.pipe.scheduler
        scheduler.set_timesteps(steps, device=self.device)
        latents, found = self.latents, list[Timing]()
        with torch.no_grad(), self._in_blocks() as inside:
            for timestep in scheduler.timesteps:
                inside.clear()
                start = self._now()
                output = self._output(latents, timestep.expand(1))
                called = self._now()
                latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
                latents = latents.to(output.dtype)
                found.append(Timing(bool(inside), called - start, sum(inside), self._now() - called))
        return found

    def _output(self, latents: torch.Tensor, timestep: torch.Tensor) -> Any:
        """What the scheduler is given in a step."""
        transformer, options = self.pipe.transformer, {"timestep": timestep, "return_dict": False, **self.given}
        if not self.guided:
            return transformer(latents, **options)[0]
        with transformer.cache_context("cond"):
            conditional = transformer(latents, **options)[0]
        with transformer.cache_context("uncond"):
            unconditional = transformer(latents, **options)[0]
        return unconditional + 3.0 * (conditional - unconditional)

    @contextmanager
    def _in_blocks(self) -> Iterator[list[float]]:
        """The seconds of every block that runs."""
        seconds: list[float] = []
        begun: list[float] = []
        handles = []
        for block in self.model.block_modules(self.pipe.transformer):
            handles.append(block.register_forward_pre_hook(lambda *_: begun.append(self._now())))
            handles.append(block.register_forward_hook(lambda *_: seconds.append(self._now() - begun.pop())))
        try:
            yield seconds
        finally:
            for handle in handles:
                handle.remove()

    def _now(self) -> float:
        """Wall-clock time on a GPU, and the processor time of this process elsewhere: machines are shared."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def measured(model: RealModel, options: argparse.Namespace) -> str:
    """The row of one model."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    layout = model.smaller(options.tokens)
    pipe = model.build(options.blocks, device, dtype)
    loop, blocks = Loop(model, pipe, layout), len(model.block_modules(pipe.transformer))
    loop.run(steps=1)  # the first is slower
    times, report = loop.run(Recipe(cache=HALF))
    computed = [one for one in times if one.computed]
    skipped = [one for one in times if not one.computed]
    call, inside = median(one.call for one in computed), median(one.blocks for one in computed)
    skip, update = median(one.call for one in skipped), median(one.update for one in times)
    sparse = Recipe(attention=SlidingTile(DENSITY, warmup=0.0, dense_layers=0, min_tokens=0))
    tiled = median(one.blocks for one in loop.run(sparse, steps=3)[0][1:])
    full = call - inside + inside * model.depth / blocks
    share, count = len(computed) / len(times), PUBLISHED_STEPS
    whole, fast = count * (full + update), count * (share * full + (1 - share) * skip + update)
    memory, expected = report.levers[0].extra_bytes, formula(loop)
    cells = (
        model.name, f"{blocks} of {model.depth}", f"{layout.tokens} of {model.layout.tokens}", _ms(call), _ms(skip),
        f"{call / skip:.0f}", f"{memory / 2**20:.2f} of {expected / 2**20:.2f}", f"{inside / tiled:.2f}",
        f"{whole:.0f} and {fast:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def formula(loop: Loop) -> int:
    """Bytes that the default predictor may hold: max(order + 2, corrector) outputs, clean estimates of them in float32,
    and one sum in float32.
    """
    predictor: Any = HALF.predictor
    size = 4 if predictor.clean(inspect(loop.pipe).prediction) else loop.latents.element_size()
    return int(loop.latents.numel() * (predictor.depth * size + 4))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def overhead(steps: int = 60, rounds: int = 12) -> Iterator[tuple[str, float, float]]:
    """For each recipe the microseconds of processor time that it adds to a step of a denoiser that does nothing, and
    those of a plain step. Runs take turns, because machines are shared: the median step of the quietest run of each.
    """
    model = MODELS["FLUX.1, 1024 px"]
    tiny = {"num_attention_heads": 1, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    narrow = replace(model, config={**model.config, **tiny})
    pipe = narrow.build(1, torch.device("cpu"), torch.float32)
    loops = [Loop(narrow, pipe, TokenLayout(1, 4, 4, 8, True), guided) for guided in (False, True)]
    answer = (loops[0].latents * 0.5,)
    cases = {label: (loops[label == GUIDED], recipe) for label, recipe in LEVERS.items()}
    plain = {PLAIN: (loops[0], None), PLAIN + GUIDED: (loops[1], None)}
    least = dict.fromkeys([*plain, *cases], math.inf)
    with patch.object(type(pipe.transformer), "forward", lambda self, hidden_states, **_: answer):
        for _ in range(rounds):
            for label, (loop, recipe) in {**plain, **cases}.items():
                least[label] = min(least[label], _median_step(loop, recipe, steps))
    for label in cases:
        without = least[PLAIN + GUIDED * (label == GUIDED)]
        yield label, least[label] - without, without


def _median_step(loop: Loop, recipe: Recipe | None, steps: int) -> float:
    """Microseconds of a step, without what is set up in the first."""
    gc.disable()
    try:
        return median(one.call + one.update for one in loop.run(recipe, steps)[0][2:]) * 1e6
    finally:
        gc.enable()


def table(options: argparse.Namespace) -> None:
    """What computed and skipped steps cost at real shapes."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no GPU that torch can use here; leave --device out to measure on the CPU.")
    unit = "wall-clock" if options.device == "cuda" else "processor"
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    show(f"{name}, {options.dtype}, {unit} time\n")
    show(
        "| model | blocks | tokens | computed step, ms | skipped step, ms | ratio | memory of the cache, MiB, of its "
        f"formula | blocks with tiles at {DENSITY:.0%}, times as fast | {PUBLISHED_STEPS} steps at full depth, plain "
        "and cached, s |\n|" + " --- |" * 9
    )
    for model in MODELS.values():
        if options.only.lower() in model.name.lower():
            show(measured(model, options))
            gc.collect()
    show("\n| levers | added to a step, us of processor time |\n| --- | --- |")
    for label, added, plain in overhead(rounds=options.rounds):
        show(f"| {label} | {added:.0f} (a plain step that computes nothing: {plain:.0f}) |")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    logging.set_verbosity_error()  # diffusers' advice on casting is about trained weights
    parser = command_of("benchmarks.real_shapes", table)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--blocks", type=int, default=1, help="of each list of blocks")
    parser.add_argument("--tokens", type=float, default=0.03, help="share of the published number of tokens")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--rounds", type=int, default=12, help="of the last table: the least counts")
    return cli.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
