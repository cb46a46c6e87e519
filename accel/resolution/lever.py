"""The base of the levers that evaluate the denoiser at another size: next to it, so that those above see full size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from accel.anatomy import Anatomy
from accel.call import LATENTS, DenoiserCall, DenoiserResult, Proceed
from accel.lever import Lever
from accel.method import Method
from accel.report import CallRecord, LeverReport
from accel.resolution.latent_grid import LatentGrid, Unpoolable
from accel.resolution.positions import Size

NOT_ONE = "its output is not one prediction for the latents"


class ResizedCall(Protocol):
    """A denoiser call at another size, and how its output becomes one of full size."""

    @property
    def call(self) -> DenoiserCall: ...

    def at_full_size(self, output: Any) -> Any:
        """The output for the latents at full size, in the same structure. Raises Unpoolable for one of another kind."""
        ...


class ResolutionLever(Lever):
    """Answers calls by one of another size where a call shows how, and says where it does not."""

    did = ""  # what a report says of the calls that were answered so

    def __init__(self, method: Method, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._done, self._reasons = 0, Counter[str]()
        self.reset()

    def wants(self, call: DenoiserCall) -> bool:
        """Whether the method is about this call."""
        raise NotImplementedError

    def resized(self, call: DenoiserCall) -> ResizedCall:
        """The call at the other size. Raises Unpoolable where the call does not show how."""
        raise NotImplementedError

    def why_none(self, calls: Sequence[CallRecord]) -> str:
        """Why the method was about none of these."""
        raise NotImplementedError

    def reset(self) -> None:
        self._unfit: dict[str, str] = {}  # by denoiser: what its output has shown in this run

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        if not self.wants(call):
            return proceed(call)
        other = self._resized(call)
        outcome = other if isinstance(other, str) else self._at_full_size(other, proceed(other.call))
        if isinstance(outcome, str):
            self._reasons[outcome] += 1
            return proceed(call)
        self._done += 1
        call.raw_output = outcome.output
        return outcome

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        done, reasons = self._done, self._reasons
        self._done, self._reasons = 0, Counter()
        said = f"{done} of {len(calls)} calls {self.did}"
        if reasons:
            said += f"; at full size all the same: {', '.join(f'{n} ({why})' for why, n in reasons.items())}"
        elif not done:
            said += f" ({self.why_none(calls)})"
        return LeverReport("resolution", str(self.method), done > 0, said)

    def _resized(self, call: DenoiserCall) -> ResizedCall | str:
        """The other call, or why there is none."""
        try:
            return self._unfit.get(call.denoiser) or self.resized(call)
        except Unpoolable as reason:
            return str(reason)

    def _at_full_size(self, other: ResizedCall, outcome: DenoiserResult) -> DenoiserResult | str:
        """The result at full size, or why it cannot be told, which holds for the rest of the run."""
        try:
            return outcome._replace(output=other.at_full_size(outcome.output))
        except Unpoolable as reason:
            self._unfit[other.call.denoiser] = str(reason)
            return str(reason)


def instead(call: DenoiserCall, latents: torch.Tensor, others: Mapping[str, Any]) -> DenoiserCall:
    """The call with these latents and these other arguments in place of its own."""
    name = next(name for name in LATENTS if call.arguments.get(name) is not None)
    before = call.arguments[name]
    arguments = {**call.arguments, **others, name: latents if isinstance(before, torch.Tensor) else [latents]}
    return replace(call, args=(), kwargs=arguments, arguments=arguments, latents=[latents])


def token_size(grid: LatentGrid, config: Mapping[str, Any]) -> Size:
    """The latents that one token of the model holds, (T, H, W)."""
    if grid.tokens is not None:
        return 1, grid.packed, grid.packed
    patch = config.get("patch_size") or 1
    return three(patch) if isinstance(patch, (tuple, list)) else (config.get("patch_size_t") or 1, patch, patch)


def token_grid(size: Size, blocks: Size, token: Size) -> Size:
    """How many tokens there are along each axis. Raises Unpoolable where they do not divide into blocks."""
    if any(have % (block * unit) for have, block, unit in zip(size, blocks, token, strict=True)):
        raise Unpoolable(f"its latents, {' x '.join(map(str, size))}, do not divide into blocks of tokens")
    return size[0] // token[0], size[1] // token[1], size[2] // token[2]


def three(values: Sequence[int]) -> Size:
    """With a 1 in front of those that have no axis of time."""
    *_, frames, rows, columns = (1, *values)
    return frames, rows, columns
