"""How much of a denoiser can be left out without training? `python -m benchmarks.pruning` asks the judges.

The parts are heads of attentions and groups of a feed-forward's channels; all of a block's are the block. Each is left
out alone, and costs what that changes in the pictures at the end of a run (forward passes only, as EcoDiff
(arXiv 2412.02852), SLEB (2402.09025) and Bonsai (2402.05406) do for whole models). Then they go together, those first
that cost least for the parameters that they save, and the table shows what is left of *other* prompts' pictures: PSNR
against the whole model, beside as many percent fewer steps.

Weights that lead out of a part are zero meanwhile, which is the part left out, but saves nothing: what it would save is
at most its share of the parameters. So the table says what pruning could be worth before anything is folded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from accel.measure.metrics import psnr
from benchmarks.command import add_judges
from benchmarks.judged_runs import named
from benchmarks.judges import JUDGES

SHARES = (0.02, 0.05, 0.1, 0.2)
GROUPS = 8  # of each feed-forward's channels
HIGHEST = 99.0  # dB of what changes nothing


@dataclass(frozen=True)
class Removable:
    """Columns of the layer that leads out of a part: without them it adds nothing."""

    name: str
    out: nn.Linear
    columns: torch.Tensor
    parameters: int


def removables(denoiser: nn.Module) -> Iterator[Removable]:
    """Heads of all attentions and groups of channels of all feed-forwards, the weakest channels together."""
    for name, module in denoiser.named_modules():
        out = getattr(module, "to_out", None)
        if isinstance(out, nn.ModuleList) and isinstance(out[0], nn.Linear) and isinstance(module.heads, int):
            for head, columns in enumerate(torch.arange(out[0].in_features).chunk(module.heads)):
                yield Removable(f"{name} head {head}", out[0], columns, 4 * len(columns) * out[0].out_features)
        net = getattr(module, "net", None)
        if not isinstance(net, nn.ModuleList):
            continue
        last = [layer for layer in net if isinstance(layer, nn.Linear)]
        if last:
            into = sum(parameter.numel() for parameter in net.parameters())
            order = last[-1].weight.detach().norm(dim=0).argsort()
            for group, columns in enumerate(order.chunk(GROUPS)):
                yield Removable(f"{name} channels {group}", last[-1], columns, into * len(columns) // len(order))


@contextmanager
def without(parts: Sequence[Removable]) -> Iterator[None]:
    """The denoiser without these parts."""
    kept = [(part.out, part.out.weight.detach().clone()) for part in parts]
    try:
        with torch.no_grad():
            for part in parts:
                part.out.weight[:, part.columns] = 0.0
        yield
    finally:
        with torch.no_grad():
            for out, weight in reversed(kept):
                out.weight.copy_(weight)


class Pruning:
    """One judge, asked about some prompts and judged on others."""

    def __init__(self, name: str, steps: int, prompts: int) -> None:
        self.judge, self.steps = named(name), steps
        self.pipe = self.judge.load(next(iter(self.judge.schedulers)))
        self.pipe.set_progress_bar_config(disable=True)
        network: Any = self.pipe.unet if hasattr(self.pipe, "unet") else self.pipe.transformer
        self.parts = list(removables(network))
        self.whole = sum(parameter.numel() for parameter in network.parameters())
        self.asked, self.others = range(prompts), range(prompts, 2 * prompts)
        self._plain = {prompt: self._clip(prompt) for prompt in (*self.asked, *self.others)}

    def order(self) -> list[Removable]:
        """The parts, those first that cost least for what they save."""
        cost: dict[str, float] = {}
        for part in self.parts:
            with without([part]):
                errors = [np.mean((self._clip(prompt) - self._plain[prompt]) ** 2) for prompt in self.asked]
            cost[part.name] = float(np.mean(errors)) / part.parameters
        return sorted(self.parts, key=lambda part: cost[part.name])

    def taken(self, order: Sequence[Removable], share: float) -> list[Removable]:
        """As many of them as save this share of the parameters."""
        found: list[Removable] = []
        while sum(part.parameters for part in found) < share * self.whole and len(found) < len(order):
            found.append(order[len(found)])
        return found

    def decibels(self, parts: Sequence[Removable]) -> float:
        """Of other prompts' pictures without these parts: the mean."""
        with without(parts):
            return self._near([self._clip(prompt) for prompt in self.others])

    def fewer(self, share: float) -> float:
        """The same with all parts and so many fewer steps."""
        steps = round((1.0 - share) * self.steps)
        return self._near([self._clip(prompt, steps) for prompt in self.others])

    def _near(self, clips: Sequence[Any]) -> float:
        apart = zip(clips, self.others, strict=True)
        return float(np.mean([min(psnr(clip, self._plain[prompt]), HIGHEST) for clip, prompt in apart]))

    def _clip(self, prompt: int, steps: int | None = None) -> Any:
        return np.asarray(self.judge.clip(self.pipe, prompt, steps or self.steps, self.judge.guidance_scales[1]))


def row(name: str, steps: int, prompts: int) -> str:
    pruning = Pruning(name, steps, prompts)
    order = pruning.order()
    cells = []
    for share in SHARES:
        parts = pruning.taken(order, share)
        saved = sum(part.parameters for part in parts) / pruning.whole
        cells.append(f"{100 * saved:.0f} %: {pruning.decibels(parts):.1f} ({pruning.fewer(saved):.1f})")
    return f"| {name} | {len(pruning.parts)} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What the judges' denoisers can do without.")
    add_judges(parser, JUDGES)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| judge | parts |" + "".join(f" about {100 * share:.0f} % left out |" for share in SHARES))
    print("| --- " * (2 + len(SHARES)) + "|")
    for name in options.names:
        print(row(name, options.steps, options.prompts), flush=True)


if __name__ == "__main__":
    main()
