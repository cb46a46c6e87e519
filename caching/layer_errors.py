"""Records how fast the outputs of each kind of module change, which is all that SmoothCache needs to know."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.caching.modules import KINDS, Site, attach, sites
from accel.caching.smoothcache import Curve
from accel.caching.store import Slot
from accel.calls import Call, Outcome, Proceed, tensors
from accel.lever import Lever
from accel.method import Method
from accel.patch import Layer, session_of
from accel.recipe import Recipe
from accel.report import CallRecord, LeverReport
from accel.session import Session

Sums = dict[tuple[str, str, int], dict[int, list[float]]]  # (denoiser, kind, step) -> lag -> errors


def record_layer_errors(
    pipe: Any,
    prompts: Sequence[str],
    *,
    lags: int = 3,
    generate: Callable[[Any, str, int], object] | None = None,
    **arguments: Any,
) -> tuple[Curve, ...]:
    """Runs the pipeline once for each prompt, unaccelerated, and returns SmoothCache's error curves.

    For each denoiser and kind of module: (denoiser, kind, ((sigma, E(1), ..., E(lags)), ...)), where E(k) is the mean
    over depth, streams and prompts of |L(t) - L(t + k)| / |L(t + k)| in the 1-norm; the last rows are shorter. Plain
    data. Record with as many steps as in production or more, and with lags in proportion: a lag that was not recorded
    is never reused. `arguments` go to every pipeline call; `generate(pipe, prompt, index)` replaces it. An attached
    session is put back afterwards. About 10 prompts suffice.
    Memory: `lags` outputs of every module and stream.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError('record_layer_errors wants a list of at least one prompt, such as ["a corgi surfing"].')
    if lags < 1:
        raise ValueError(f"lags must be a whole number from 1, not {lags!r}.")
    attached = session_of(pipe)
    previous = attached.recipe if attached is not None else None
    if attached is not None:
        attached.restore()
    method = _RecordLayers(lags)
    try:
        with Session(pipe, Recipe(cache=method, name="recording")):
            for index, prompt in enumerate(prompts):
                if generate is not None:
                    generate(pipe, prompt, index)
                else:
                    pipe(prompt, **{"generator": torch.Generator().manual_seed(index), **arguments})
    finally:
        if previous is not None:
            Session(pipe, previous)
    if not method.sums:
        raise ValueError("Nothing was recorded: no attention or feed-forward module ran, or only one step did.")
    return _curves(method)


def _curves(method: _RecordLayers) -> tuple[Curve, ...]:
    steps = {name: sorted(step for other, step in method.sigmas if other == name) for name, _ in method.sigmas}
    recorded = sorted({(name, kind) for name, kind, _ in method.sums})
    return tuple((name, kind, tuple(_row(method, name, kind, step) for step in steps[name])) for name, kind in recorded)


def _row(method: _RecordLayers, denoiser: str, kind: str, step: int) -> tuple[float, ...]:
    errors = method.sums.get((denoiser, kind, step), {})
    lags = takewhile(errors.__contains__, range(1, method.lags + 1))
    return (method.sigmas[denoiser, step], *(sum(errors[lag]) / len(errors[lag]) for lag in lags))


@dataclass(frozen=True)
class _RecordLayers(Method, lever="cache", abstract=True):
    """The recorder in the place of a cache; it fills during the runs."""

    lags: int
    sums: Sums = field(default_factory=dict)
    sigmas: dict[tuple[str, int], float] = field(default_factory=dict)

    def build(self, anatomy: Anatomy) -> Lever:
        return _LayerRecorder(self, anatomy)


class _LayerRecorder(Lever):
    """Computes everything, and compares each output of a module with its outputs of the steps before."""

    def __init__(self, method: _RecordLayers, anatomy: Anatomy) -> None:
        self.method, self._sites = method, sites(anatomy, KINDS)
        self._layers: list[Layer] = []
        self.reset()

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        self.end()
        self._layers, _ = attach(denoisers, self._sites, self._module)

    def reset(self) -> None:
        self._call: Call | None = None
        self._seen: Counter[str] = Counter()
        self._past: dict[Slot, deque[tuple[int, list[torch.Tensor]]]] = {}

    def end(self) -> None:
        for layer in reversed(self._layers):
            layer.detach()
        self._layers = []

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        self._call, self._seen = call, Counter()
        self.method.sigmas[call.denoiser, call.moment.step] = call.moment.sigma
        try:
            return proceed(call)
        finally:
            self._call = None

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport("cache", "recording", engaged=False, reason=f"{len(self.method.sums)} rows recorded")

    def _module(self, site: Site, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output, call = inner(*args, **kwargs), self._call
        if call is None or call.denoiser != site.denoiser:
            return output
        slot = Slot(call.denoiser, call.stream, site.path, self._seen[site.path])
        self._seen[site.path] += 1
        past = self._past.setdefault(slot, deque(maxlen=self.method.lags))
        values = [value.detach().clone() for value in tensors(output)]
        for step, before in past:
            self._compare(site, step, call.moment.step, before, values)
        past.append((call.moment.step, values))
        return output

    def _compare(
        self, site: Site, step: int, now_step: int, before: list[torch.Tensor], now: list[torch.Tensor]
    ) -> None:
        if [value.shape for value in before] != [value.shape for value in now] or now_step - step > self.method.lags:
            return
        change = sum(float((old.float() - new.float()).abs().sum()) for old, new in zip(before, now, strict=True))
        size = sum(float(new.float().abs().sum()) for new in now)
        row = self.method.sums.setdefault((site.denoiser, site.kind, step), {})
        row.setdefault(now_step - step, []).append(change / max(size, 1e-12))


# (denoiser, kind, step) -> lag -> errors of all modules and streams
Errors = dict[tuple[str, str, int], dict[int, list[float]]]


class LayerErrors:
    """Compares each output of an attention or feed-forward module with its outputs of up to `lags` steps before.

    E(k) = |L(t) - L(t + k)| / |L(t + k)| in the 1-norm (SmoothCache, arXiv 2411.10510, section 3). Costs `lags` outputs
    of every module and stream in memory, and a host sync for each comparison; lags = 0 attaches nothing.
    """

    def __init__(self, anatomy: Anatomy, lags: int) -> None:
        self.lags, self._sites = lags, sites(anatomy, KINDS) if lags else []
        self._layers: list[Layer] = []
        self._forget()

    def attach(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        self.detach()
        self._layers, _ = attach(denoisers, self._sites, self._module)

    def detach(self) -> None:
        for layer in reversed(self._layers):
            layer.detach()
        self._layers = []

    @contextmanager
    def within(self, call: Call) -> Iterator[None]:
        """What the modules do meanwhile belongs to this call."""
        self._call, self._seen = call, Counter()
        try:
            yield
        finally:
            self._call = None

    def take(self) -> Errors:
        """The errors of the run that is over; forgets the run."""
        errors = self._errors
        self._forget()
        return errors

    def _forget(self) -> None:
        self._call: Call | None = None
        self._seen: Counter[str] = Counter()
        self._past: dict[Slot, deque[tuple[int, list[torch.Tensor]]]] = {}
        self._errors: Errors = {}

    def _module(self, site: Site, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output, call = inner(*args, **kwargs), self._call
        if call is None or call.denoiser != site.denoiser:
            return output
        slot = Slot(call.denoiser, call.stream, site.path, self._seen[site.path])
        self._seen[site.path] += 1
        past = self._past.setdefault(slot, deque(maxlen=self.lags))
        values = [value.detach().clone() for value in tensors(output)]
        for step, before in past:
            self._compare(site, step, call.moment.step, before, values)
        past.append((call.moment.step, values))
        return output

    def _compare(
        self, site: Site, step: int, now_step: int, before: list[torch.Tensor], now: list[torch.Tensor]
    ) -> None:
        if [value.shape for value in before] != [value.shape for value in now] or now_step - step > self.lags:
            return
        change = sum(float((old.float() - new.float()).abs().sum()) for old, new in zip(before, now, strict=True))
        size = sum(float(new.float().abs().sum()) for new in now)
        row = self._errors.setdefault((site.denoiser, site.kind, step), {})
        row.setdefault(now_step - step, []).append(change / max(size, 1e-12))
