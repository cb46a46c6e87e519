"""What the scripts that train pocket models share: optimisers, averaged weights, and a loop that can be interrupted."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from accel.journal import append_line
from accel.processor import multiplies_in_loops

SHIFT = 3.0
EMA_DECAY = 0.998


class Run(Protocol):
    """Something that trains: `proceed` repeats its steps, keeps its state, and exports its model now and then."""

    def step(self, index: int, progress: float) -> float:
        """One update, at a progress from 0 to 1; returns the loss."""

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...

    def export(self, folder: Path) -> None: ...


class Learner:
    """Optimisers and averaged weights for a denoiser and for other modules that are trained with it."""

    def __init__(self, denoiser: torch.nn.Module, rate: float, **others: torch.nn.Module) -> None:
        self.modules: dict[str, torch.nn.Module] = {"denoiser": denoiser, **others}
        self.averaged: dict[str, Any] = {name: copy.deepcopy(module) for name, module in self.modules.items()}
        matrices, self._kernels = _hidden(denoiser)
        chosen = {id(parameter) for parameter in (*matrices, *self._kernels)}
        self._parameters = [p for module in self.modules.values() for p in module.parameters()]
        # Muon orthogonalises the update of matrices; with its step matched to AdamW's, one rate serves both.
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                [*matrices, *self._kernels.values()], lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(
                [p for p in self._parameters if id(p) not in chosen], lr=rate, betas=(0.9, 0.98), weight_decay=0.0
            ),
        ]
        self._rate, self._updates = rate, 0
        self._in_loops = slow_in_16_bits(next(denoiser.parameters()).device.type)

    def update(self, loss: torch.Tensor, progress: float) -> float:
        """One step down the gradient; returns the loss. The rate warms up, stays, and falls over the last 45 %."""
        rate = self._rate * min(progress / 0.02 + 0.02, 1.0, max((1.0 - progress) / 0.45, 0.02))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for kernel, matrix in self._kernels.items():
            matrix.grad, kernel.grad = None if kernel.grad is None else kernel.grad.flatten(1), None
        with StaysFloat32() if self._in_loops else nullcontext():
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        # At first the average follows faster, so that an early export is not mostly the weights of the start.
        self._updates += 1
        decay = min(EMA_DECAY, (1 + self._updates) / (10 + self._updates))
        for name, module in self.modules.items():
            torch._foreach_lerp_(list(self.averaged[name].parameters()), list(module.parameters()), 1.0 - decay)

    def begin_with(self, **values: Mapping[str, torch.Tensor]) -> None:
        """Takes these weights for the modules and their averages; the optimisers begin anew."""
        for name, weights in values.items():
            self.modules[name].load_state_dict(weights)
            self.averaged[name].load_state_dict(weights)

    def state(self) -> dict[str, Any]:
        return {name: module.state_dict() for name, module in self.modules.items()} | {
            "averaged": {name: module.state_dict() for name, module in self.averaged.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "updates": self._updates,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
            self.averaged[name].load_state_dict(state["averaged"][name])
        for optimiser, values in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(values)
        self._updates = state["updates"]


class StaysFloat32(TorchFunctionMode):
    """Turns `.bfloat16()` into nothing. Muon makes its updates orthogonal in that type, which took two fifths of a step
    on a CPU that multiplies it in loops."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return args[0] if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))


def in_16_bits(device: str) -> torch.autocast:
    """Computes in bfloat16, but for CPUs that multiply it in loops."""
    return torch.autocast(device, torch.bfloat16, enabled=not slow_in_16_bits(device))


def slow_in_16_bits(device: str) -> bool:
    return device == "cpu" and multiplies_in_loops(torch.bfloat16)


def _hidden(
    denoiser: torch.nn.Module,
) -> tuple[list[torch.nn.Parameter], dict[torch.nn.Parameter, torch.nn.Parameter]]:
    """The weights between the first and the last layer: matrices, and kernels of convolutions with the same memory as
    matrices (output channels, all else), which is how Muon takes them."""
    weights = [p for name, p in denoiser.named_parameters() if "block" in name.partition(".")[0]]
    kernels = {p: torch.nn.Parameter(p.data.view(len(p), -1)) for p in weights if p.ndim == 4}
    return [p for p in weights if p.ndim == 2], kernels


def begin(options: argparse.Namespace) -> Path:
    """Seeds the random numbers and makes the folder of the run, which is returned."""
    torch.manual_seed(options.seed)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def proceed(run: Run, out: Path, options: argparse.Namespace) -> None:
    """Trains until `options.minutes` of training time have passed, over as many invocations as it takes."""
    step, elapsed = 0, 0.0
    if (out / "checkpoint.pt").exists():
        saved = torch.load(out / "checkpoint.pt", weights_only=True, map_location=options.device)
        run.load(saved["run"])
        step, elapsed = saved["step"], saved["elapsed"]
    budget, written, losses = options.minutes * 60, time.monotonic(), [0.0]
    while elapsed < budget and step < options.steps:
        start = time.monotonic()
        losses.append(run.step(step, elapsed / budget))
        step, elapsed = step + 1, elapsed + min(time.monotonic() - start, 60.0)
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"The loss is {losses[-1]} at step {step}; resume with a lower --rate.")
        if step % 50 == 0:
            log(out / "training_log.jsonl", step=step, minutes=elapsed / 60, loss=float(np.mean(losses[-50:])))
        if time.monotonic() - written > options.checkpoint_minutes * 60:
            save(run, out, step, elapsed)
            written = time.monotonic()
    save(run, out, step, elapsed)


def save(run: Run, out: Path, step: int, elapsed: float) -> None:
    """Checkpoint and exported model; the checkpoint appears whole or not at all."""
    run.export(out)
    partial = out / "checkpoint.part"
    torch.save({"run": run.state(), "step": step, "elapsed": elapsed}, partial)
    partial.replace(out / "checkpoint.pt")


def log(path: Path, **values: float) -> None:
    line = json.dumps({key: round(value, 4) for key, value in values.items()})
    print(line, flush=True)
    append_line(path, line)


def shifted(level: torch.Tensor) -> torch.Tensor:
    """Noise levels as the schedule of the pocket models shifts them: more steps where there is much noise."""
    return SHIFT * level / (1 + (SHIFT - 1) * level)


def parser_of(description: str, minutes: float, rate: float) -> argparse.ArgumentParser:
    """The options that every training script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", required=True, help="folder for the model, its log and its checkpoint")
    parser.add_argument("--minutes", type=float, default=minutes, help="training time in all, resumed runs included")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps")
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--checkpoint-minutes", type=float, default=4.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the blocks: twice as fast on a CPU")
    return parser
