"""An independent record of what denoisers are given and what they answer, and arithmetic to check it by.

Nothing here uses accel: the hooks sit outside of every layer, and the formulas are written out anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from diffusers import DiffusionPipeline

from tests.tiny import TINY, run

DENOISERS = ("transformer", "transformer_2", "unet")

# What the denoiser predicts; all others predict the flow from data to noise.
NOISE = {"pixart", "sd", "sdxl", "animatediff"}
VELOCITY = {"cogvideox", "cogvideox_dpm", "svd"}


@cache
def pipeline(name: str) -> DiffusionPipeline:
    """One pipeline for a whole module; tests leave it unaccelerated."""
    return TINY[name].build()


@cache
def twin(name: str) -> DiffusionPipeline:
    """The same weights in other objects, which no test ever accelerates."""
    return TINY[name].build()


@cache
def plain(name: str, **options: Any) -> torch.Tensor:
    """The unaccelerated output."""
    return run(twin(name), TINY[name], **options)


def denoisers(pipe: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    found = {name: getattr(pipe, name, None) for name in DENOISERS}
    return {name: module for name, module in found.items() if module is not None}


@dataclass
class Exchange:
    """One denoiser call as the pipeline saw it."""

    denoiser: str
    stream: int  # number of this conditioning, in order of appearance
    round: int  # how many calls of this stream came before
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: Any
    sigma: float
    next_sigma: float

    @property
    def latents(self) -> list[torch.Tensor]:
        given = self.args[0] if self.args else self.kwargs.get("hidden_states", self.kwargs.get("sample"))
        return flat(given)

    @property
    def outputs(self) -> list[torch.Tensor]:
        return flat(self.answer)


@dataclass
class Witness:
    exchanges: list[Exchange] = field(default_factory=list)

    def streams(self) -> dict[tuple[str, int], list[Exchange]]:
        """The exchanges of each denoiser and conditioning, in order."""
        found: dict[tuple[str, int], list[Exchange]] = {}
        for exchange in self.exchanges:
            found.setdefault((exchange.denoiser, exchange.stream), []).append(exchange)
        return found


@contextmanager
def witness(pipe: DiffusionPipeline) -> Iterator[Witness]:
    """Notes every denoiser call of `pipe` from outside of all layers."""
    seen, known, handles = Witness(), {}, []

    def listener(name: str) -> Any:
        def hear(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
            words = flat(kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None))
            key = (name, *(float(word.float().sum()) for word in words))
            stream = known.setdefault(key, sum(other[0] == name for other in known))
            before = sum(other.denoiser == name and other.stream == stream for other in seen.exchanges)
            seen.exchanges.append(
                Exchange(
                    name,
                    stream,
                    before,
                    copied(args),
                    copied(kwargs),
                    copied(answer),
                    *noise_levels(pipe.scheduler, before),
                )
            )

        return hear

    for name, module in denoisers(pipe).items():
        handles.append(module.register_forward_hook(listener(name), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def noise_levels(scheduler: Any, evaluation: int) -> tuple[float, float]:
    """The sigma of the evaluation that the scheduler waits for, by its own count of steps where it keeps one, and of
    the next."""
    index = evaluation
    if hasattr(scheduler, "step_index"):
        index = next(int(known) for known in (scheduler.step_index, scheduler.begin_index, 0) if known is not None)
    if getattr(scheduler, "sigmas", None) is not None:
        sigmas = [*scheduler.sigmas.tolist(), 0.0][index : index + 2]
        first, second = (1 - sigma if scheduler.config.get("invert_sigmas") else sigma for sigma in sigmas)
        return first, second
    alphas = [scheduler.alphas_cumprod[int(timestep)] for timestep in scheduler.timesteps[index : index + 2]]
    first, second = (
        math.sqrt((1 - float(alpha)) / max(float(alpha), 1e-12))
        for alpha in [*alphas, getattr(scheduler, "final_alpha_cumprod", 1.0)][:2]
    )
    return first, second


def flat(value: Any) -> list[torch.Tensor]:
    if torch.is_tensor(value):
        return [value]
    if isinstance(value, dict):
        return flat(list(value.values()))
    return [tensor for item in value for tensor in flat(item)] if isinstance(value, (list, tuple)) else []


def copied(value: Any) -> Any:
    """The same structure with tensors of its own."""
    if torch.is_tensor(value):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)(**{key: copied(item) for key, item in value.items()})
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value
