"""A picture or clip larger than the model was trained for, led by one of the size at which the model is at home."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from accel.api import accelerate
from accel.call_forms import CallForms
from accel.components import schedulers_of
from accel.drafting.call_memory import Part
from accel.drafting.early_end import around_denoisers, scheduler_input
from accel.drafting.own_layers import own_layers
from accel.drafting.seeded_runs import SeededRuns, for_oneself
from accel.latents import packed_tokens
from accel.parametrization import output_from_clean
from accel.patch import Around
from accel.resolution.latent_grid import LatentGrid
from accel.session import Session
from accel.step_result import sample_of


def enlarge(
    pipe: Any,
    prompt: str | None = None,
    *,
    height: int,
    width: int,
    by: int = 2,
    seed: int = 0,
    recipe: Any = "lossless",
    **call: Any,
) -> Any:
    """What the pipeline returns for height x width, led by a first run at 1/`by` of both.

        frames = accel.enlarge(pipe, "a corgi surfing", height=1440, width=2560).frames[0]

    Far above the size that it was trained for a model repeats and loses its subject. Here a first run at home settles
    what is to be seen. In the second the means over blocks of by x by latents of each clean estimate are moved towards
    the first run's, all the way in the first step and less and less to the end: by (1 + cos(pi i / N)) / 2 in step i of
    N. What is finer than a block is the large run's own.
    Source: projected flow of I-Max (arXiv 2410.07536), here for clean estimates instead of velocities, which is the
    same for flows and defined for all other models too; without its changes to positions, attention and guidance.

    recipe: of both runs, what `accel.accelerate` takes. call: further arguments of the pipeline, such as
    num_inference_steps or negative_prompt. One picture or clip, with noise of `seed` in either run.
    Cost: the first run, about 1/by² of the second; memory for its latents.
    Pocket video model, at home at 64x64: docs/levers.md (`python -m benchmarks.enlarging`).
    Not for a size at which the model is at home anyway: it only loses freedom. Latents that an autoencoder makes of a
    smaller picture are only near the means of those of a larger one, and where they are not, edges are soft.
    Raises ValueError, in one sentence, for sizes that do not divide and where it is not known what the scheduler takes
    the denoiser's output to be; the pipeline comes back as it was.
    """
    whole = all(type(number) is int and number > 0 for number in (height, width, by))
    if not whole or by < 2 or height % by or width % by:
        raise ValueError(
            f"height and width are to be whole multiples of by, 2 or more, not {height!r}, {width!r} and {by!r}."
        )
    first = {**call, "height": height // by, "width": width // by}
    guide = _Guide(by)
    second = {**call, "height": height, "width": width}
    runs = [SeededRuns(pipe, prompt, each) for each in (first, second)]
    with _layers(pipe, recipe, guide, guide.keep):
        runs[0].once(seed)
    with _layers(pipe, recipe, guide, guide.lead):
        return runs[1].once(seed)


def lead_of(step: int, steps: int) -> float:
    """How far the coarse part of a clean estimate is moved to the guide's in a step, from 0 on."""
    return 0.5 * (1.0 + math.cos(math.pi * step / max(steps, 1)))


class _Guide:
    """The latents that the first run ended with, and what they do to the second."""

    def __init__(self, by: int) -> None:
        self._by, self._forms = by, CallForms()
        self._ended: dict[str, torch.Tensor] = {}  # by scheduler
        self._tokens: tuple[int, int, int] | None = None  # of the run at hand, where its latents are packed

    def listen(self, _: str, part: Part, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Around the denoisers of both runs."""
        self._tokens = packed_tokens(part.names.bind(args, kwargs))
        return inner(*args, **kwargs)

    def keep(self, _: Session, name: str, __: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Around a step of the first run."""
        result = inner(*args, **kwargs)
        self._ended[name] = sample_of(result).detach()
        return result

    def lead(
        self, session: Session, name: str, scheduler: Any, inner: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Around a step of the second: the scheduler is given an output that implies the moved estimate."""
        named = self._forms.named(inner, args, kwargs)
        given = scheduler_input(session, name, named)
        if given.output.shape != named["model_output"].shape:
            raise ValueError("A denoiser that predicts variances too cannot be led by a smaller picture.")
        lead = lead_of(session.report().calls[-1].position, len(scheduler.timesteps))
        if not lead:
            return inner(*args, **kwargs)
        grid, blocks = self._grid(session, given.latents, self._ended[name])
        clean, small = grid.open(given.clean), grid.smaller(blocks).open(self._ended[name].float())
        apart = grid.spread(small - grid.pooled(clean, blocks), blocks)
        moved = grid.close(clean + lead * apart)
        output = output_from_clean(moved, given.latents.float(), given.sigma, given.kind)
        output = output.to(given.output.dtype)
        args, kwargs = self._forms.with_argument(inner, args, kwargs, "model_output", output)
        return inner(*args, **kwargs)

    def _grid(self, session: Session, latents: torch.Tensor, small: torch.Tensor) -> tuple[LatentGrid, tuple[int, ...]]:
        """Where samples keep their pixels, and the blocks that one latent of the first run stands for."""
        if latents.ndim == 3:  # packed tokens (B, N, C p p)
            tokens, packed = self._tokens, max(part.family.packed for part in session.anatomy.denoisers.values())
            if (
                tokens is None
                or math.prod(tokens) != latents.shape[1]
                or small.shape[1] * self._by**2 != latents.shape[1]
            ):
                raise ValueError("How this pipeline packs its latents is not known, so it cannot be led.")
            pixels = (tokens[0], tokens[1] * packed, tokens[2] * packed)
            return LatentGrid((1, 2, 3), 4, pixels, latents.shape[2], tokens, packed), (1, self._by, self._by)
        axes = tuple(axis for axis in range(latents.ndim) if latents.shape[axis] == small.shape[axis] * self._by)
        others = [a for a, b in zip(latents.shape, small.shape, strict=True) if a == b]
        if len(axes) != 2 or len(others) != latents.ndim - 2:
            raise ValueError(
                "This pipeline rounds its sizes, so that one picture is no multiple of the other: try others."
            )
        sizes = tuple(latents.shape[axis] for axis in axes)
        return LatentGrid(axes, 1, sizes, latents.shape[1]), (self._by, self._by)


@contextmanager
def _layers(pipe: Any, recipe: Any, guide: _Guide, around: Around) -> Iterator[None]:
    """The accelerated pipeline, with something around each of its schedulers' steps, on top of the session."""
    with for_oneself(pipe), accelerate(pipe, recipe) as session, ExitStack() as layers:
        steps = ((one, "step", partial(around, session, name, one)) for name, one in schedulers_of(session.parts))
        layers.enter_context(own_layers([*around_denoisers(pipe, guide.listen), *steps]))
        yield
