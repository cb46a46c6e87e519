"""Records how fast the outputs of each kind of module change, which is all that SmoothCache needs to know."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from accel.anatomy import Anatomy
from accel.caching.module_store import ModuleCall
from accel.caching.modules import KINDS, ModuleSite, attach, sites
from accel.call import DenoiserCall, tensors
from accel.patch import Wrapper, unwrap_methods

# (denoiser, kind, step) -> lag -> errors of all modules and streams
Errors = dict[tuple[str, str, int], dict[int, list[float]]]


class LayerErrors:
    """Compares each output of an attention or feed-forward module with its outputs of up to `lags` steps before.

    E(k) = |L(t) - L(t + k)| / |L(t + k)| in the 1-norm (SmoothCache, arXiv 2411.10510, section 3). Costs `lags` outputs
    of every module and stream in memory, and a host sync for each comparison; lags = 0 attaches nothing.
    """

    def __init__(self, anatomy: Anatomy, lags: int) -> None:
        self.lags, self._sites = lags, sites(anatomy, KINDS) if lags else []
        self._wrappers: list[Wrapper] = []
        self._call: DenoiserCall | None = None
        self._seen: Counter[str] = Counter()
        self._forget()

    def attach(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        self.detach()
        self._wrappers, _ = attach(denoisers, self._sites, self._module)

    def detach(self) -> None:
        unwrap_methods(self._wrappers)

    @contextmanager
    def within(self, call: DenoiserCall) -> Iterator[None]:
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
        self._call, self._seen = None, Counter()
        self._past: dict[ModuleCall, deque[tuple[int, list[torch.Tensor]]]] = {}
        self._errors: Errors = {}

    def _module(self, site: ModuleSite, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output, call = inner(*args, **kwargs), self._call
        if call is None or call.denoiser != site.denoiser:
            return output
        slot = ModuleCall(call.denoiser, call.stream, site.path, self._seen[site.path])
        self._seen[site.path] += 1
        past = self._past.setdefault(slot, deque(maxlen=self.lags))
        values = [value.detach().clone() for value in tensors(output)]
        for step, before in past:
            self._compare(site, step, call.context.step, before, values)
        past.append((call.context.step, values))
        return output

    def _compare(
        self, site: ModuleSite, step: int, now_step: int, before: list[torch.Tensor], now: list[torch.Tensor]
    ) -> None:
        if [value.shape for value in before] != [value.shape for value in now] or now_step - step > self.lags:
            return
        change = sum(float((old.float() - new.float()).abs().sum()) for old, new in zip(before, now, strict=True))
        size = sum(float(new.float().abs().sum()) for new in now)
        row = self._errors.setdefault((site.denoiser, site.kind, step), {})
        row.setdefault(now_step - step, []).append(change / max(size, 1e-12))
