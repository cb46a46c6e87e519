"""What a tiny pipeline is, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline

from tests.tiny.copies import copied
from tests.tiny.inputs import embeddings, generators

Guidance = Literal["two calls", "batched", "embedded", "none"]
Size = Literal["default", "other"]

NEGATIVE = 10_000
"""Added to the number of a prompt: every sample has a negative prompt of its own."""


@dataclass(frozen=True)
class Ask:
    """What a test asks for. Sample i of a batch has prompt number `prompt + i`."""

    batch: int = 1
    guidance: bool = True
    size: Size = "default"
    prompt: int = 0

    def extent(self, default: tuple[int, int], other: tuple[int, int]) -> dict[str, Any]:
        """Height and width in pixels, as keyword arguments."""
        height, width = default if self.size == "default" else other
        return {"height": height, "width": width}

    def words(self, *shape: int) -> torch.Tensor:
        """Embeddings of the prompts, `(batch, *shape)`."""
        return embeddings(self.prompt, self.batch, *shape)

    def negative_words(self, *shape: int) -> torch.Tensor:
        """Embeddings of the negative prompts, `(batch, *shape)`."""
        return embeddings(self.prompt + NEGATIVE, self.batch, *shape)


@dataclass(frozen=True)
class TinyPipeline:
    """A real diffusers pipeline class with two or three layers of random weights.

    make: makes it anew, always with the same weights.
    answer: keyword arguments of a call that gives what is asked for, but for seed and step count.
    guidance: how the conditional and unconditional predictions of one step are asked for; with "embedded" the
        scale is an input of the denoiser and there is one prediction.
    """

    name: str
    make: Callable[[], DiffusionPipeline]
    answer: Callable[[Ask], dict[str, Any]]
    guidance: Guidance
    video: bool

    def build(self) -> DiffusionPipeline:
        """Fresh objects each time, always with the same weights: copies of one that nobody else has."""
        return copied(self._untouched)

    @cached_property
    def _untouched(self) -> DiffusionPipeline:
        return self.make()

    def arguments(
        self,
        pipe: DiffusionPipeline,
        *,
        batch: int = 1,
        guidance: bool = True,
        size: Size = "default",
        prompt: int = 0,
    ) -> dict[str, Any]:
        """Keyword arguments for `pipe(...)`, on its device and in its dtype."""
        arguments = self.answer(Ask(batch, guidance, size, prompt))
        device, dtype = pipe.device, pipe.dtype  # which diffusers looks for in every module, each time
        return {name: _placed(value, device, dtype) for name, value in arguments.items()}


def run(
    pipe: DiffusionPipeline,
    tiny: TinyPipeline,
    *,
    seed: int = 0,
    steps: int = 8,
    batch: int = 1,
    guidance: bool = True,
    size: Size = "default",
    prompt: int = 0,
    **overrides: Any,
) -> torch.Tensor:
    """The final latents of one call (pictures with `output_type="np"`) as one float tensor.

    Sample i of a batch equals, up to rounding, a single run with `seed + i` and `prompt + i`. `overrides` win
    over everything else; `callback_on_step_end` may be among them. The global random state is seeded for the
    call and put back, because SD3's ControlNet pipeline draws from it, whatever generator it is given.
    """
    arguments = call_of(pipe, tiny, seed, steps, batch=batch, guidance=guidance, size=size, prompt=prompt)
    with torch.random.fork_rng(devices=[]):
        # Not `torch.manual_seed`: without a GPU it notes its whole stack of calls for the one that may come.
        torch.default_generator.manual_seed(seed)
        output = pipe(**(arguments | overrides))
    return as_tensor(output)


def call_of(
    pipe: DiffusionPipeline, tiny: TinyPipeline, seed: int, steps: int, *, batch: int = 1, **asked: Any
) -> dict[str, Any]:
    """The arguments of such a call."""
    return _common(pipe, steps, generators(seed, batch)) | tiny.arguments(pipe, batch=batch, **asked)


def as_tensor(output: Any) -> torch.Tensor:
    """What a pipeline has returned, as one float tensor."""
    # Stable Video Diffusion returns the frames themselves, and some an output object whatever they are asked for.
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return _tensor(output[0] if isinstance(output, tuple) else output)


def _common(pipe: DiffusionPipeline, steps: int, generator: Any) -> dict[str, Any]:
    """What every call is given, as far as this pipeline takes it."""
    blocks = getattr(pipe, "blocks", None)  # of a modular pipeline, whose call takes anything
    taken = [part.name for part in blocks.inputs if part.name] if blocks else _named(type(pipe))
    given = {"generator": generator, "output_type": "latent", "return_dict": False}
    given |= dict.fromkeys((name for name in taken if name.endswith("num_inference_steps")), steps)
    return {name: value for name, value in given.items() if name in taken}


@cache
def _named(kind: type) -> list[str]:
    """The arguments of its calls, by the class that names them: another may only pass them on."""
    calls = (signature(each.__call__).parameters.values() for each in kind.__mro__ if "__call__" in vars(each))
    names = ([one.name for one in call if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)] for call in calls)
    return next((found for found in names if len(found) > 1), [])  # besides `self`


def quiet(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _placed(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_placed(part, device, dtype) for part in value]
    if not torch.is_tensor(value):
        return value
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


def _tensor(output: Any) -> torch.Tensor:
    if isinstance(output, (list, tuple)):
        parts = [_tensor(part) for part in output]
        alike = all(part.shape == parts[0].shape for part in parts)
        return torch.stack(parts) if alike else torch.cat([part.flatten() for part in parts])
    return torch.as_tensor(output if torch.is_tensor(output) else np.asarray(output)).float()
