"""What guidance must come to, written out with forward hooks on a twin that was never accelerated.

Every pass is evaluated there; a rule then says what takes the place of the unconditional output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.accel.witness import denoisers, flat, noise_levels, twin
from tests.tiny import TINY, run

# Which half of a batch is the conditional one, where it is not the last.
FIRST_HALF = ("z_image",)

# rule(step, sigma, latents, conditional, unconditional) -> what is answered instead, or None to leave it.
Rule = Callable[[int, float, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]


def by_rule(name: str, rule: Rule, *, pipe: Any = None, **options: Any) -> torch.Tensor:
    """The twin's output with the rule applied to every unconditional output."""
    pipe = twin(name) if pipe is None else pipe
    with overridden(name, pipe, rule):
        return run(pipe, TINY[name], **options)


@contextmanager
def overridden(name: str, pipe: Any, rule: Rule) -> Iterator[None]:
    hear = _TwoCalls(pipe, rule) if TINY[name].guidance != "batched" else _Batched(name, pipe, rule)
    handles = [module.register_forward_hook(hear, with_kwargs=True) for module in denoisers(pipe).values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def cut(first: int) -> Rule:
    """No guidance from this step on."""
    return lambda step, sigma, x, c, u: c if step >= first else None


def noise(args: Any, kwargs: Any) -> Any:
    return args[0] if args else next(kwargs[key] for key in ("hidden_states", "sample", "x") if key in kwargs)


def like(answer: Any, output: torch.Tensor) -> Any:
    return type(answer)(sample=output) if isinstance(answer, dict) else (output,)


class _TwoCalls:
    """The second call of each step, at the same latents as the first."""

    def __init__(self, pipe: Any, rule: Rule) -> None:
        self.pipe, self.rule, self.step, self.waiting = pipe, rule, -1, None

    def __call__(self, module: torch.nn.Module, args: Any, kwargs: Any, answer: Any) -> Any:
        x, out = flat(noise(args, kwargs))[0], flat(answer)[0]
        if self.waiting is None or not torch.equal(self.waiting[0], x):
            self.step, self.waiting = self.step + 1, (x, out)
            return answer
        conditional, self.waiting = self.waiting[1], None
        sigma = noise_levels(self.pipe.scheduler, self.step)[0]
        changed = self.rule(self.step, sigma, x, conditional, out)
        return answer if changed is None else like(answer, changed)


class _Batched:
    """Both halves of one call. Other passes, which have fewer rows, are left alone."""

    def __init__(self, name: str, pipe: Any, rule: Rule) -> None:
        self.name, self.pipe, self.rule, self.step, self.rows = name, pipe, rule, -1, 0

    def __call__(self, module: torch.nn.Module, args: Any, kwargs: Any, answer: Any) -> Any:
        given, listed = noise(args, kwargs), isinstance(noise(args, kwargs), list)
        out = torch.stack(answer[0]) if listed else flat(answer)[0]
        self.rows = self.rows or len(out)
        if len(out) != self.rows:
            return answer
        self.step += 1
        halves, x = list(out.chunk(2)), torch.stack(given) if listed else given
        own, other = (0, 1) if self.name in FIRST_HALF else (1, 0)
        sigma = noise_levels(self.pipe.scheduler, self.step)[0]
        changed = self.rule(self.step, sigma, x.chunk(2)[own], halves[own], halves[other])
        if changed is None:
            return answer
        halves[other] = changed
        whole = torch.cat(halves)
        return (list(whole),) if listed else like(answer, whole)
