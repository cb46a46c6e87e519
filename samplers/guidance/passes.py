"""Which of two outputs is the conditional one: read off the first step, from what the pipeline makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from accel import conventions
from accel.call import DenoiserCall, DenoiserResult, noise_part, tensors

# What may be left unexplained, as a share of the guided difference: rounding in 16 bits, scales that differ by frame.
UNEXPLAINED = 0.25

SAME_PROMPTS = "both passes were given the same prompt, so their answers are equal and nothing tells them apart"


@dataclass(frozen=True)
class PassPair:
    """Two outputs for the same latents in one step, and the streams that they came in: one, if they are halves."""

    first: torch.Tensor
    second: torch.Tensor
    streams: tuple[str, ...]


def conditional_first(shown: PassPair, given: torch.Tensor, sample: torch.Tensor) -> bool | None:
    """Whether the first output is the conditional one; None where this is no guidance, or it cannot be decided.

    given: what the scheduler was given for this step; sample: the latents that it was given with it. Guidance gives
    u + s (c - u) with s > 1, which pipelines may negate, rescale or convert (a velocity to a clean sample, by the
    latents). So `given` is k (a first + b second), plus a share of the sample if need be, with a + b = 1, and that of
    the conditional output is the one above 1. Costs a host sync.
    """
    if given.shape[0] == 2 * shown.first.shape[0] and torch.equal(*given.chunk(2)):  # loops that keep both halves
        given, sample = given.chunk(2)[0], sample.chunk(2)[0]
    one, other = _like(shown.first, given), _like(shown.second, given)
    if one is None or other is None or sample.shape != given.shape:
        return None
    first, second, target, latents = (part.detach().double().flatten().cpu() for part in (one, other, given, sample))
    mean, difference = (first + second) / 2, second - first
    for columns in ([mean, difference], [mean, difference, latents]):
        table = torch.stack(columns, 1)
        weights = torch.linalg.lstsq(table, target[:, None]).solution[:, 0]
        missed, guided = target - table @ weights, weights[1] * difference
        if guided.norm() > 0 and missed.norm() <= UNEXPLAINED * guided.norm():
            share = float(weights[1] / weights[0]) if weights[0] else 0.0  # s - 1/2, if the second is conditional
            return share < 0 if abs(share) > 0.5 else None
    return None


def _like(answer: torch.Tensor, given: torch.Tensor) -> torch.Tensor | None:
    """What of an output the scheduler was given: learned variances are left out, axes of one entry squeezed."""
    return answer.reshape(given.shape) if answer.numel() == given.numel() else noise_part(answer, given)


@dataclass(frozen=True)
class PassRoles:
    """The streams of conditional and unconditional calls; of batches of both, whether the last half is conditional
    (None: a batch is not known to be of both).
    """

    conditional: tuple[str, ...] = conventions.CONDITIONAL_CALLS
    unconditional: tuple[str, ...] = conventions.UNCONDITIONAL_CALLS
    last: bool | None = None


@dataclass
class AnsweredCall:
    """A call and its result."""

    call: DenoiserCall
    outcome: DenoiserResult


class PassObserver:
    """Finds out what each denoiser's calls are for, in a run: keeps what may be the two outputs of guidance until it is
    seen what the pipeline makes of them, in the first step that has them.
    """

    def __init__(self) -> None:
        self.roles: dict[str, PassRoles] = {}
        self.why_none = "no unconditional pass was seen"
        self._asked: dict[str, AnsweredCall] = {}
        self._shown: dict[str, PassPair | None] = {}  # None: more outputs for the same latents than two

    def observe_halves(self, call: DenoiserCall, first: torch.Tensor, second: torch.Tensor) -> None:
        """The halves of a batch, for the same latents, have their outputs."""
        if call.denoiser not in self.roles:
            self._shown[call.denoiser] = PassPair(first, second, (call.stream,))

    def observe_call(self, asked: AnsweredCall) -> None:
        """A call without a name has its output."""
        name = asked.call.denoiser
        if name in self.roles:
            return
        before = self._asked.get(name)
        if before is None or not same_latents(asked.call, before.call):
            self._asked[name] = asked
        elif name in self._shown:
            self._shown[name] = None
        else:
            first, second = (tensors(one.outcome.output)[0] for one in (before, asked))
            if first.shape == second.shape:
                self._shown[name] = PassPair(first, second, (before.call.stream, asked.call.stream))

    def observe_step(self, arguments: Mapping[str, Any]) -> None:
        """The scheduler has made an update with these arguments."""
        given, sample = arguments.get("model_output"), arguments.get("sample")
        for denoiser, shown in self._shown.items():
            if shown is None:
                self.why_none = "more than two passes of each step are combined"
            elif isinstance(given, torch.Tensor) and isinstance(sample, torch.Tensor):
                self.roles[denoiser] = self._roles_of(shown, conditional_first(shown, given, sample))
        self._shown.clear()
        self._asked.clear()

    def _roles_of(self, shown: PassPair, first: bool | None) -> PassRoles:
        """What that has told of the calls to come."""
        if torch.equal(shown.first, shown.second):
            self.why_none = SAME_PROMPTS
        elif first is None:
            self.why_none = "two passes were seen, and what becomes of them is not classifier-free guidance"
        elif len(shown.streams) == 1:
            return PassRoles(last=not first)
        elif first:
            return PassRoles((shown.streams[0],), (shown.streams[1],))
        else:
            self.why_none = "the unconditional pass comes first here, when there is nothing yet to make it from"
        return PassRoles()


def same_latents(call: DenoiserCall, asked: DenoiserCall) -> bool:
    """Whether both calls of the step are about the same latents. Mostly they are one object; else a host sync."""
    if call.context.run != asked.context.run or call.context.step != asked.context.step:
        return False
    return len(call.latents) == len(asked.latents) and all(
        mine is other or (mine.shape == other.shape and torch.equal(mine, other))
        for mine, other in zip(call.latents, asked.latents, strict=True)
    )
