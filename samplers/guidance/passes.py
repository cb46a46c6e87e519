"""What each of the pipeline's calls is for: read off the first step, from what the pipeline makes of their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from accel import conventions
from accel.call import DenoiserCall, DenoiserResult, tensors
from accel.latents import arranged_like, repeats
from accel.samplers.guidance import batched_cfg
from accel.samplers.guidance.combination import main_output

# Steps in a row that may say nothing (a first one whose outputs are set to zero), before it is given up.
TRIES = 3

SAME_OUTPUT = "both passes gave the same output, as with one prompt for both, and nothing tells them apart"
NO_GUIDANCE = "several passes were seen, and what the scheduler is given is no classifier-free guidance of them"
CONDITIONAL_LATER = "the unconditional pass comes first here, when there is nothing yet to make it from"


@dataclass(frozen=True)
class BatchRoles:
    """A batch of several passes of the same latents: how many, and which of them is the conditional one.

    layout, guided: of the batches that this is known of. sizes: of one sample of the noisy latents in them.
    """

    parts: int
    main: int
    layout: object = None
    guided: bool | None = None
    sizes: tuple[int, ...] | None = None

    @property
    def others(self) -> list[int]:
        return [index for index in range(self.parts) if index != self.main]


@dataclass(frozen=True)
class PassRoles:
    """The streams of conditional and unconditional calls, and what is known of batches of both."""

    conditional: tuple[str, ...] = conventions.CONDITIONAL_CALLS
    unconditional: tuple[str, ...] = conventions.UNCONDITIONAL_CALLS
    batch: BatchRoles | None = None


UNKNOWN_ROLES = PassRoles()


@dataclass
class AnsweredCall:
    """A call and its result. splits: whether it is the one call of its step for such a batch."""

    call: DenoiserCall
    outcome: DenoiserResult
    splits: bool = False


@dataclass
class _Sight:
    """What was seen of one denoiser in the step that is in progress, and in how many before it."""

    answered: list[AnsweredCall] = field(default_factory=list)
    steps: int = 0
    tries: int = 0  # steps that had several outputs for the same latents, and said nothing


class PassObserver:
    """Finds out what each denoiser's calls are for, in a run: keeps the outputs of a step until it is seen what the
    pipeline makes of them, in the first step that has several.
    """

    def __init__(self) -> None:
        self.roles: dict[str, PassRoles] = {}
        self.heard = False  # whether there was an update
        self.why_none = "no unconditional pass was seen"
        self._seen: dict[str, _Sight] = {}

    def is_open(self, denoiser: str) -> bool:
        """Whether more is to be found out about this denoiser's calls."""
        known = self._seen.get(denoiser)
        return denoiser not in self.roles and (known is None or known.tries < TRIES)

    def observe(self, asked: AnsweredCall) -> None:
        """A call without a name has its output."""
        if self.is_open(asked.call.denoiser):
            self._seen.setdefault(asked.call.denoiser, _Sight()).answered.append(asked)

    def observe_step(self, arguments: Mapping[str, Any]) -> list[AnsweredCall]:
        """The scheduler has made an update with these arguments. Returns the calls whose roles that has told."""
        self.heard = True
        given, sample = arguments.get("model_output"), arguments.get("sample")
        told: list[AnsweredCall] = []
        for denoiser, sight in self._seen.items():
            answered, sight.answered = sight.answered, []
            sight.steps += 1
            if answered and isinstance(given, torch.Tensor) and isinstance(sample, torch.Tensor):
                told += self._found_out(denoiser, answered, given, sample)
        return told

    def _found_out(
        self, denoiser: str, answered: list[AnsweredCall], given: torch.Tensor, sample: torch.Tensor
    ) -> list[AnsweredCall]:
        first = answered[0]
        if len(answered) == 1 and not first.splits:
            return []
        if self._seen[denoiser].steps <= TRIES and _is_kept_twice(given, first):
            given, sample = given.chunk(2)[0], sample.chunk(2)[0]
        parts = _parts(first, given, sample)
        batch = first if parts > 1 else None
        shown = _outputs(first, parts) if batch is not None else []
        alone = [one for one in answered if one is not batch and _is_about(one.call, first.call, parts)]
        shown += [_first_output(one) for one in alone]
        if len(shown) < 2 or any(one.shape != shown[0].shape for one in shown):
            if first.splits and (first.call.guided or first.call.rows > given.shape[0]):
                self.why_none = NO_GUIDANCE
            return []
        self._seen[denoiser].tries += 1
        if all(torch.equal(shown[0], one) for one in shown[1:]):
            self.why_none = SAME_OUTPUT
            return []
        main = main_output(_arranged(shown, first, parts, sample), given, sample)
        if main is None:
            self.why_none = NO_GUIDANCE
        elif batch is not None and main < parts:
            call = batch.call
            roles = BatchRoles(parts, main, call.layout, call.guided, _sizes(call, parts, sample))
            self.roles[denoiser] = PassRoles(batch=roles)
            return [batch]
        elif batch is None and main == 0:
            streams = [one.call.stream for one in alone]
            self.roles[denoiser] = PassRoles((streams[0],), tuple(streams[1:]))
            return alone
        else:
            self.why_none = CONDITIONAL_LATER
            self._seen[denoiser].tries = TRIES
        return []


def _is_kept_twice(given: torch.Tensor, asked: AnsweredCall) -> bool:
    """Whether the loop keeps both halves of the latents and gives the scheduler the guided output twice (DiT)."""
    if not asked.splits or given.shape[0] != asked.call.rows or given.shape[0] % 2:
        return False
    return torch.equal(*given.chunk(2)) and repeats(asked.call, None)


def _parts(asked: AnsweredCall, given: torch.Tensor, sample: torch.Tensor) -> int:
    """Into how many parts the batch falls that are about the same latents, one of which is as much as the scheduler was
    given; 1 where it is no such batch.
    """
    if not asked.splits:
        return 1
    size = _first_output(asked).numel()
    return next(
        (
            parts
            for parts in range(2, batched_cfg.MOST_PARTS + 1)
            if asked.call.rows == parts * given.shape[0] or size == parts * given.numel()
            if _sizes(asked.call, parts, sample) is not None
        ),
        1,
    )


def _sizes(call: DenoiserCall, parts: int, sample: torch.Tensor) -> tuple[int, ...] | None:
    """How much of each sample of the latents is noisy: what all parts have in common, at most all that there is."""
    whole = tuple(call.latents[0].shape if call.is_list else call.latents[0].shape[1:])
    for sizes in (whole, tuple(sample.shape[1:])):
        if repeats(call, sizes, parts):
            return sizes
    return None


def _arranged(shown: list[torch.Tensor], asked: AnsweredCall, parts: int, sample: torch.Tensor) -> list[torch.Tensor]:
    """The outputs as the pipeline has arranged the latents for its scheduler (frames as samples of a batch)."""
    like = shown[0].shape
    latents = None if asked.call.is_list else asked.call.latents[0].chunk(parts)[0]
    if latents is not None and latents.ndim == len(like):
        latents = latents[tuple(slice(size) for size in like)]  # without the channels of a picture to start from
    if latents is None or latents.shape == sample.shape or latents.shape != like:
        return shown
    arrange = arranged_like(latents, sample)
    return shown if arrange is None else [arrange(one) for one in shown]


def _first_output(asked: AnsweredCall) -> torch.Tensor:
    found = tensors(asked.outcome.output)
    return torch.stack(found) if asked.call.is_list else found[0]


def _outputs(asked: AnsweredCall, parts: int) -> list[torch.Tensor]:
    call, output = asked.call, asked.outcome.output
    found = (tensors(batched_cfg.part_output(call, output, index, parts)) for index in range(parts))
    return [torch.stack(one) if call.is_list else one[0] for one in found]


def _is_about(call: DenoiserCall, first: DenoiserCall, parts: int) -> bool:
    """Whether a call is about the latents of the first call of its step, or of a part of these."""
    if parts == 1:
        return call is first or same_latents(call, first)
    size = first.rows // parts
    mine, theirs = (one.latents if one.is_list else list(one.latents[0]) for one in (call, first))
    return call.rows == size and all(torch.equal(a, b) for a, b in zip(mine, theirs[:size], strict=True))


def same_latents(call: DenoiserCall, asked: DenoiserCall) -> bool:
    """Whether both calls of the step are about the same latents. Mostly they are one object; else a host sync."""
    if call.context.run != asked.context.run or call.context.step != asked.context.step:
        return False
    return len(call.latents) == len(asked.latents) and all(
        mine is other or (mine.shape == other.shape and torch.equal(mine, other))
        for mine, other in zip(call.latents, asked.latents, strict=True)
    )
