"""Can guidance be planned together with the cache? `python -m benchmarks.guidance_split` asks the judges.

A step could evaluate both passes, the conditional one alone, with the difference d = conditional - unconditional
forecast, or none. That pays where d is easier to forecast than the conditional output. The first table says how the
error of a forecast divides between the two, both as they enter the guided output, c + (scale - 1) d. The second
compares the cache alone with levers of guidance beside it, by what the denoiser evaluated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from accel import AdaptiveGuidance, GuidanceDelta, OptimalSchedule, accelerate
from accel.measure.metrics import psnr
from benchmarks.judges import JUDGES, Judge

GUIDED = ("terrain", "films", "glyphs", "photos", "waves")  # cells takes its scale as an input
STEPS = 50
GAPS = (2, 4, 6)
ALONE = 0.6  # of the line through the last two outputs
RECIPES: dict[str, dict[str, Any]] = {
    "cache 0.6": {"cache": OptimalSchedule(0.6)},
    "every fifth d": {"cache": None, "guidance": GuidanceDelta(5)},
    "adaptive": {"cache": None, "guidance": AdaptiveGuidance()},
    "cache 0.34": {"cache": OptimalSchedule(0.34)},
    "cache 0.34, adaptive": {"cache": OptimalSchedule(0.34), "guidance": AdaptiveGuidance()},
    "cache 0.42, every third d": {"cache": OptimalSchedule(0.42), "guidance": GuidanceDelta(3)},
}


class Evaluations:
    """Samples that went through the denoiser's first block, and what came out of the denoiser."""

    def __init__(self, pipe: Any) -> None:
        self.samples, self.outputs = 0, list[torch.Tensor]()
        denoiser = getattr(pipe, "transformer", None) or pipe.unet
        ends = ("transformer_blocks.0", "blocks.0", "down_blocks.0")
        first = next(module for name, module in denoiser.named_modules() if name.endswith(ends))
        first.register_forward_pre_hook(self._count, with_kwargs=True)
        denoiser.register_forward_hook(self._keep)

    def _count(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.samples += len(given[0] if given else named["hidden_states"])

    def _keep(self, _: Any, given: tuple[Any, ...], output: Any) -> None:
        self.outputs.append(output[0].detach().float().clone())

    def passes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The unconditional and the conditional outputs of all steps so far, in one batch or in two calls."""
        if len(self.outputs[0]) == 2:
            both = torch.stack(self.outputs)
            return both[:, 0], both[:, 1]
        return torch.cat(self.outputs[1::2]), torch.cat(self.outputs[::2])


def clip(judge: Judge, pipe: Any, prompt: int) -> Any:
    return judge.clip(pipe, prompt, STEPS, judge.guidance_scales[1])


def forecast_error(values: torch.Tensor, gap: int) -> float:
    """Mean size of what a damped line gets wrong, `gap` steps ahead of two values as far apart."""
    last, before, then = values[gap:-gap], values[: -2 * gap], values[2 * gap :]
    return float((then - last - ALONE * (last - before)).flatten(1).norm(dim=1).mean())


def divided(judge: Judge) -> str:
    """A line of the first table."""
    pipe = judge.load(next(iter(judge.schedulers)))
    heard = Evaluations(pipe)
    clip(judge, pipe, 0)
    without, conditional = heard.passes()
    difference = (conditional - without) * (judge.guidance_scales[1] - 1.0)
    parts = (conditional, difference, conditional + difference)
    cells = [" / ".join(f"{forecast_error(part, gap):.1f}" for part in parts) for gap in GAPS]
    return f"| {judge.name} | {' | '.join(cells)} |"


def compared(judge: Judge, prompts: int) -> Iterator[str]:
    """Cells of the second table: the share of the samples evaluated, and mean PSNR."""
    pipe = judge.load(next(iter(judge.schedulers)))
    heard = Evaluations(pipe)
    references = [clip(judge, pipe, prompt) for prompt in range(prompts)]
    whole, heard.samples = heard.samples, 0
    for levers in RECIPES.values():
        with accelerate(pipe, **{"guidance": None, "attention": None, "sampler": None} | levers):
            found = [psnr(clip(judge, pipe, prompt), reference) for prompt, reference in enumerate(references)]
        yield f"{heard.samples / whole:.2f}: {np.mean(found):.1f} dB"
        heard.samples = 0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How forecast errors divide between the passes of guidance.")
    parser.add_argument("--prompts", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"| conditional / (scale - 1) d / both, at gaps of | {' | '.join(map(str, GAPS))} |")
    print("| --- " * (1 + len(GAPS)) + "|")
    for name in GUIDED:
        print(divided(JUDGES[name]), flush=True)
    print(f"\n| evaluated: PSNR | {' | '.join(RECIPES)} |")
    print("| --- " * (1 + len(RECIPES)) + "|")
    for name in GUIDED:
        print(f"| {name} | {' | '.join(compared(JUDGES[name], options.prompts))} |", flush=True)


if __name__ == "__main__":
    main()
